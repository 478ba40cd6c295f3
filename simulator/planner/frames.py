"""Plans of a chunk that run the same schedule on the same stages, and what their ranks hold besides activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from hardware.arrays import Floats
from simulator.memory.outside import optimizer_step_bytes, outside_bytes
from simulator.memory.pipeline_buffers import PIPELINE_BUFFERS
from simulator.memory.states import frees_logits_before_layers, reduction_bytes, state_bytes
from simulator.plan.spec import Plan
from simulator.planner.columns import Columns, Ints
from simulator.planner.reads import PlanView, Unbound, alike, one_by_one, together
from simulator.planner.shapes import Setting, with_values
from simulator.planner.space import SPLIT_KEYS, plan_of
from simulator.planner.structures import Holding, Structure, Walk, structure_of, walk_from
from simulator.predict.simulate import schedule_name
from simulator.schedules import SCHEDULES
from simulator.workload.states import replica_ranks, shares_states, stage_parameters

# Keys that states and buffers of a rank do not depend on, beside those of its stages.
OUTSIDE_STATES = ("recompute", "overlap.delay_wgrad", "overlap.shared_experts", "overlap.moe_ep")
STRUCTURE = ("order", "pp", "vpp", "microbatches", "microbatch_group_size", "blocking", *SPLIT_KEYS)


@dataclass(frozen=True, slots=True)
class Frame:
    """Plans (`rows`) of one structure, and an example of them."""

    structure: Structure
    example: Plan
    rows: Ints


@dataclass(frozen=True, slots=True)
class States:
    """What one rank holds beside activations, bytes by plan of a frame: on the allocator for the whole step, outside of
    it, pipeline buffers; `reduced` is the least that a backward works with."""

    resident: Floats
    outside: Floats
    buffers: Floats
    reduced: Floats


def with_structure(setting: Setting, columns: Columns) -> Columns:
    """The plans with what their structure depends on: the order of slots, micro-batches, whether sends block."""
    found = {
        "order": schedule_name,
        "microbatches": lambda plan: plan.microbatches,
        "blocking": lambda plan: SCHEDULES[plan.schedule].p2p_mode(plan.overlap.p2p) == "blocking",
        "several": several_ranks,
    }
    for key, of in found.items():
        outcomes = one_by_one(setting.base, columns, of)
        columns = with_values(columns, key, outcomes.results, outcomes.index)
    return columns


def several_ranks(plan: Any) -> tuple[bool, ...]:
    """Which communicators of a plan have several ranks: what else a rank holds depends on it."""
    sizes = (plan.tp, plan.cp, plan.dp * plan.cp, plan.pp, plan.ep * plan.etp, plan.expert_dp)
    return (*(size > 1 for size in sizes), shares_states(plan), *(ranks > 1 for ranks in replica_ranks(plan).values()))


def frames_of(setting: Setting, columns: Columns) -> list[Frame]:
    """All plans, by structure."""
    keys = [key for key in STRUCTURE if key in columns.codes]
    buffers = setting.base.stack.pipeline_engine in PIPELINE_BUFFERS
    found = []
    for rows in alike(columns, np.arange(len(columns)), keys):
        row = columns.row(int(rows[0]))
        example = plan_from(setting.base, row)
        walk = known_walk(
            row["order"], example.pp, example.vpp, row["microbatches"], example.microbatch_group_size, row["blocking"]
        )
        found.append(Frame(structure_of(setting.model, example, walk, buffers), example, rows))
    return found


def plan_from(base: Plan, row: dict[str, Any]) -> Plan:
    """The plan of a row that has other columns beside the plan's keys."""
    names = {*Plan.__dataclass_fields__}
    return plan_of(base, {key: row[key] for key in row if key in names or key.startswith("overlap.")})


@lru_cache(maxsize=4096)
def known_walk(order: str, pp: int, vpp: int, microbatches: int, group: int | None, blocking: bool) -> Walk:
    return walk_from(order, pp, vpp, microbatches, group, blocking)


def states_of(setting: Setting, columns: Columns, frame: Frame) -> list[States]:
    """What every kind of rank holds beside activations, by plan of the frame."""
    outside = set(OUTSIDE_STATES)
    plans = columns.take(frame.rows)
    while True:
        keys = [key for key in plans.codes if key not in outside]
        rows, index = plans.distinct(keys)
        try:
            found = _states(setting, plans.take(rows).only(keys), frame.structure, frozenset(outside))
        except Unbound as key:
            outside.discard(str(key))
            continue
        return [States(*(size[index] for size in sizes)) for sizes in found]


def _states(setting: Setting, plans: Columns, structure: Structure, unbound: frozenset[str]) -> list[Sequence[Floats]]:
    def run(view: PlanView, rows: Ints) -> list[tuple[Any, ...]]:
        distinct = [structure.stages[stage] for stage in structure.examples]
        known = stage_parameters(setting.model, view, distinct)  # type: ignore[arg-type]
        parameters = [known[content] for content in structure.of_stage]
        shape = setting.shape(view)
        return [rank_states(setting, view, shape, parameters, holding) for holding in structure.holdings]

    batches = together(setting.base, plans, run, apart=["several"], unbound=unbound)
    count = len(structure.holdings)
    return [[batches.array(_Item(holding, size)) for size in range(4)] for holding in range(count)]


@dataclass(frozen=True, slots=True)
class _Item:
    """One size of one kind of rank."""

    holding: int
    size: int

    def __call__(self, found: list[tuple[Any, ...]]) -> Any:
        return found[self.holding][self.size]


def rank_states(setting: Setting, view: Any, shape: Any, parameters: Any, holding: Holding) -> tuple[Any, ...]:
    """Resident, outside, pipeline buffers, and what reductions work with, bytes of one kind of rank."""
    held = [parameters[stage] for stage in dict.fromkeys(holding.stages)]
    stack = view.stack
    outside = sum(outside_bytes(view, {}).values())
    if stack.optimizer_step == "flat_copies":
        outside = outside + optimizer_step_bytes([parameters[stage] for stage in holding.stages], view)
    buffers: Any = 0.0
    if stack.pipeline_engine in PIPELINE_BUFFERS and view.pp > 1:
        buffers = PIPELINE_BUFFERS[stack.pipeline_engine](setting.model, shape, holding.stages, holding.in_flight)
    reduced: Any = 0.0
    if frees_logits_before_layers(view) and shares_states(view):
        reduced = reduction_bytes(parameters[holding.stages[0]], view)
    return sum(state_bytes(held, view).values()), outside, buffers, reduced
