"""Plays the steps of many plans at once: one task graph for all that share it, durations as arrays.

The graph is the one that `simulator.predict` plays for a single plan. Which of a plan's times every task takes is found
by building it twice with times that are numbered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats
from simulator.cost.stages import StageCost
from simulator.cost.step_times import UpdateTimes, side_by_side, update_times
from simulator.planner.bounds import Weighed, slot_seconds
from simulator.planner.columns import Ints
from simulator.planner.frames import Frame, Order, plan_from
from simulator.planner.reads import one_by_one
from simulator.planner.shapes import Setting
from simulator.planner.stages import StageTable
from simulator.planner.structures import Content
from simulator.planner.trees import taken
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import stages, stages_of_ranks
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES, P2p, make_schedule
from simulator.step.build import build_graph
from simulator.step.graph import TaskGraph, topological_levels
from simulator.step.sweep import sweep
from simulator.step.times import DataParallel, StageTimes
from simulator.workload.derive import Workload
from simulator.workload.states import gathers_as_reached, reduces_every_microbatch, stage_parameters

# Seconds of all tasks of all plans that are played at once, as numbers in memory.
MOST_NUMBERS = 4_000_000


@dataclass(frozen=True, slots=True)
class Pattern:
    """What decides the graph of a step beside its schedule: the buckets of every stage, and what overlaps."""

    gathers: tuple[int, ...]
    reduces: tuple[int, ...]
    gather_overlap: bool
    reduce_overlap: bool
    gather_every_microbatch: bool
    reduce_every_microbatch: bool
    gather_as_reached: bool
    paired: bool
    p2p: P2p


@dataclass(frozen=True, slots=True)
class Labelled:
    """A task graph whose tasks take sums of a plan's times: task i `fraction[i]` of the sum of `first[i]` to `last[i]`.

    The times in order: forward, input, weight and whole backward of each stage, pairs, a send, gathers and reductions
    stage by stage, gradient norm, optimizers.
    """

    graph: TaskGraph
    levels: list[NDArray[np.int64]]
    first: Ints
    last: Ints
    fraction: Floats

    def play(self, times: Floats) -> Floats:
        """Step seconds [plans] of plans with these `times` [times, plans]."""
        sums = np.concatenate([np.zeros((1, times.shape[1])), np.cumsum(times, axis=0)])
        single = self.first == self.last
        seconds = times[self.first] * self.fraction[:, None]
        if not single.all():
            several = np.flatnonzero(~single)
            seconds[several] = sums[self.last[several] + 1] - sums[self.first[several]]
        return np.asarray(sweep(self.graph, seconds, self.levels)[1].max(axis=0))


@lru_cache(maxsize=48)
def labelled(order: Order, pattern: Pattern) -> Labelled:
    """The task graph of a schedule with these buckets, its tasks labelled by the times that they take."""
    schedule = make_schedule(order.name, order.pp, order.vpp, order.microbatches, order.group)
    count = time_count(schedule.stages, schedule.pp, pattern)
    ones = build_graph(schedule, stage_times(np.ones(count), schedule.stages, schedule.pp, pattern))
    numbered = build_graph(schedule, stage_times(1.0 + np.arange(count), schedule.stages, schedule.pp, pattern))
    fraction = ones.duration_s
    middle = numbered.duration_s / fraction - 1
    reach = (np.maximum(fraction, 1.0) - 1) / 2
    first, last = np.rint(middle - reach).astype(int), np.rint(middle + reach).astype(int)
    return Labelled(ones, topological_levels(ones), first, last, np.minimum(fraction, 1.0))


def time_count(stage_count: int, ranks: int, pattern: Pattern) -> int:
    pairs = stage_count**2 if pattern.paired else 0
    return 4 * stage_count + pairs + 1 + sum(pattern.gathers) + sum(pattern.reduces) + 1 + ranks


def stage_times(times: np.ndarray, stage_count: int, ranks: int, pattern: Pattern) -> StageTimes:
    """A plan's times, in the order of `Labelled`, as a step takes them."""
    parts = iter(np.split(times, np.cumsum(_sizes(stage_count, ranks, pattern))[:-1]))
    forward, back, weight, whole, pairs, send = (next(parts) for _ in range(6))
    gathers = tuple(tuple(next(parts).tolist()) for _ in pattern.gathers)
    reduces = tuple(tuple(next(parts).tolist()) for _ in pattern.reduces)
    norm, optimizers = next(parts), next(parts)
    sends = np.full(stage_count, send[0])
    return StageTimes(
        forward_s={"compute": forward},
        input_backward_s={"compute": back},
        weight_backward_s={"compute": weight},
        backward_s={"compute": whole},
        pair_s={"compute": pairs.reshape(stage_count, stage_count)} if pattern.paired else None,
        send_forward_s=sends,
        send_backward_s=sends,
        p2p=pattern.p2p,
        data_parallel=DataParallel(
            gather_s=gathers,
            reduce_s=reduces,
            gather_overlap=pattern.gather_overlap,
            reduce_overlap=pattern.reduce_overlap,
            gather_every_microbatch=pattern.gather_every_microbatch,
            reduce_every_microbatch=pattern.reduce_every_microbatch,
            gather_as_reached=pattern.gather_as_reached,
            grad_norm_s=float(norm[0]),
            optimizer_s=tuple(optimizers.tolist()),
        ),
    )


def _sizes(stage_count: int, ranks: int, pattern: Pattern) -> list[int]:
    pairs = stage_count**2 if pattern.paired else 0
    return [*[stage_count] * 4, pairs, 1, *pattern.gathers, *pattern.reduces, 1, ranks]


def updates_of(setting: Setting, plan: Any) -> UpdateTimes:
    """Gathers, reductions and optimizer of a plan."""
    model, cluster = setting.model, setting.cluster(plan)
    held = stages(model, plan)
    parameters = stage_parameters(model, plan, held)
    workload = Workload(model, setting.shape(plan), held, parameters, {}, {}, {})
    return update_times(workload, cluster, plan.column("constants"))


def played_s(setting: Setting, chunk: Weighed, rows: Ints) -> Floats:
    """Step seconds of the plans of these rows, exactly."""
    columns = chunk.columns.take(rows)
    outcomes = one_by_one(setting.base, columns, lambda plan: updates_of(setting, plan))
    result = np.zeros(len(rows))
    groups: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(rows.tolist()):
        frame = chunk.frames[chunk.frame_of[row]]
        updates = outcomes.results[outcomes.index[place]]
        pattern = pattern_of(plan_from(setting.base, columns.row(place)), frame.order, updates)
        groups.setdefault((int(chunk.frame_of[row]), pattern), []).append(place)
    for (number, pattern), places in groups.items():
        frame = chunk.frames[number]
        graph = labelled(frame.order, pattern)
        most = max(1, MOST_NUMBERS // len(graph.graph))
        for part in np.array_split(np.array(places), -(-len(places) // most)):
            updates = [outcomes.results[outcomes.index[place]] for place in part]
            times = times_of(setting, chunk, frame, rows[part], updates, pattern)
            result[part] = graph.play(times)
    return result * (1 + chunk.late[rows])


def pattern_of(plan: Plan, order: Order, updates: UpdateTimes) -> Pattern:
    return Pattern(
        gathers=tuple(map(len, updates.gather_s)),
        reduces=tuple(map(len, updates.reduce_s)),
        gather_overlap=plan.overlap.param_gather,
        reduce_overlap=plan.overlap.grad_reduce,
        gather_every_microbatch=SHARDINGS[plan.sharding].shards_weights,
        reduce_every_microbatch=reduces_every_microbatch(plan),
        gather_as_reached=gathers_as_reached(plan),
        paired=SCHEDULES[order.name].pairs,
        p2p=SCHEDULES[plan.schedule].p2p_mode(plan.overlap.p2p),
    )


def times_of(
    setting: Setting, chunk: Weighed, frame: Frame, rows: Ints, updates: Sequence[UpdateTimes], pattern: Pattern
) -> Floats:
    """The times of `Labelled` [times, plans]."""
    structure, table = frame.structure, chunk.table
    shape, send_s = table.shapes.index[rows], chunk.send_s[rows]
    halves = np.array(
        [
            [slot_seconds(table, structure.contents, (kind, content), shape, send_s) for content in structure.of_stage]
            for kind in "FIW"
        ]
    )
    halves, updates = beside_collectives(setting, chunk, frame, rows, halves, updates)
    count = len(structure.of_stage)
    pairs = np.zeros((count**2 if pattern.paired else 0, len(rows)))
    if pattern.paired:
        for held in stages_of_ranks(frame.example):
            for ahead in held:
                for back in held:
                    kind = ("FB", structure.of_stage[ahead], structure.of_stage[back])
                    pairs[ahead * count + back] = slot_seconds(table, structure.contents, kind, shape, send_s)
    flat = [[*_flat(each.gather_s), *_flat(each.reduce_s), each.barrier_s, *each.optimizer_s] for each in updates]
    return np.concatenate([*halves, halves[1] + halves[2], pairs, send_s[None], np.array(flat).T])


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [second for row in rows for second in row]


def beside_collectives(
    setting: Setting, chunk: Weighed, frame: Frame, rows: Ints, halves: Floats, updates: Sequence[UpdateTimes]
) -> tuple[Floats, list[UpdateTimes]]:
    """Slots and updates once computing and collectives slow each other.

    `halves`: forwards, input and weight gradients [3, stages, plans] that stand alone.
    """
    slots, slowed = halves.copy(), []
    table, structure = chunk.table, frame.structure
    contents = [structure.contents[number] for number in structure.of_stage]
    for place, (row, own) in enumerate(zip(rows.tolist(), updates, strict=True)):
        values = chunk.columns.row(row)
        plan, constants = plan_from(setting.base, values), values["constants"]
        shape = int(table.shapes.index[row])
        alone = {content: _stage(table, content, shape) for content in set(contents)}
        stages_alone = [alone[content] for content in contents]
        beside, together = side_by_side(stages_alone, own, plan, setting.cluster_of(values["domain"]), constants)
        slowed.append(together)
        for stage, found in enumerate(beside):
            slots[:, stage, place] = found.forward.total_s, found.input.total_s, found.weight.total_s
    return slots, slowed


def _stage(table: StageTable, content: Content, shape: int) -> StageCost:
    """A stage of which only the seconds count."""
    forward, back, weight = (taken(table.parts[kind, content], shape) for kind in "FIW")
    return StageCost((), forward, back, weight, {}, 0.0)
