"""Parameter gathers and gradient reductions of a step: which slots they stand at, and who waits for whom.

All of a rank's run one after the other on its dp stream, since they share its network links. What data parallelism does
for every micro-batch without overlap stands between two slots: the gather waits for the slot before (and for what the
stage receives), the slot after waits for the reduction. So overlap never loses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.step.flat_slots import Bools, FlatSlots
from simulator.step.graph import KIND, STREAM, Ints, Links, Tasks
from simulator.step.times import SLOT_CAUSES, DataParallel

Durations = tuple[float, ...]
Buckets = list[tuple[int, Durations]]  # (slot, durations)


@dataclass(frozen=True, slots=True)
class SlotBuckets:
    """What is gathered before a slot runs and reduced after it, bucket by bucket."""

    gathers: Buckets
    reduces: Buckets


def slot_buckets(slots: FlatSlots, data: DataParallel) -> SlotBuckets:
    """The buckets of every slot that gathers or reduces.

    Raises ValueError for parameters gathered for every micro-batch under a schedule of overlapped pairs.
    """
    if data.gather_every_microbatch and (slots.kind == KIND["FB"]).any():
        raise ValueError("parameters gathered for every micro-batch (ZeRO-3) with overlapped pairs is not modelled")
    forwards = _users(slots, slots.forward_stage, data.gather_every_microbatch, last=False)
    gathers = _durations(forwards, data.gather_s)
    ends = np.where(slots.kind == KIND["I"], -1, slots.backward_stage)
    reduces = _durations(_users(slots, ends, data.reduce_every_microbatch, last=True), data.reduce_s)
    if data.gather_every_microbatch:
        opens = np.where(slots.kind == KIND["W"], -1, slots.backward_stage)
        backwards = _durations(_users(slots, opens, True, last=False), data.gather_s)
        gathers += [(slot, row[::-1]) for slot, row in backwards]
    if data.gathers_block:
        gathers = [(slot, (sum(row),)) for slot, row in gathers]
    if data.reduces_block:
        reduces = [(slot, (sum(row),)) for slot, row in reduces]
    return SlotBuckets(gathers, reduces)


def slot_pieces(slots: FlatSlots, buckets: SlotBuckets, data: DataParallel) -> Ints:
    """Into how many pieces each slot is cut, so that its buckets run beside them."""
    pieces = np.ones(len(slots), dtype=np.int64)
    overlapped = buckets.gathers if data.gather_overlap else []
    overlapped = overlapped + (buckets.reduces if data.reduce_overlap else [])
    for slot, row in overlapped:
        pieces[slot] = max(pieces[slot], len(row))
    return pieces


@dataclass(frozen=True, slots=True)
class Blocking:
    """By slot [slots] the gather that must end before it begins, and the reduction that must end before what it hands
    over leaves; numbers of the new tasks, -1 where there is none."""

    gather: Ints
    reduce: Ints

    def shifted(self, offset: int) -> Blocking:
        """The same once the new tasks are numbered from `offset`."""
        return Blocking(*(np.where(tasks < 0, -1, tasks + offset) for tasks in (self.gather, self.reduce)))


def data_parallel_tasks(
    slots: FlatSlots, data: DataParallel, buckets: SlotBuckets, first: Ints
) -> tuple[Tasks, Links, Blocking]:
    """The tasks of the dp streams, their links, and which of them block slots.

    `first` [slots + 1]: first piece of every slot.
    """
    begin, end = _rank_span(slots, first)
    gather_slot, used_by = _spread(buckets.gathers, first, before=True)
    reduce_slot, filled_by = _spread(buckets.reduces, first, before=False)
    if not (data.gather_overlap or data.gathers_block):
        used_by = begin[slots.rank[gather_slot]]
    if not (data.reduce_overlap or data.reduces_block):
        filled_by = end[slots.rank[reduce_slot]]
    slot = np.concatenate([gather_slot, reduce_slot])
    gathers, reduces = np.arange(len(gather_slot)), np.arange(len(gather_slot), len(slot))
    # A rank's dp stream: what task i + 1 gathers, then what task i reduces, then what task i + 2 gathers; a gather
    # that is asked for only after the task before it lets that task's gradients go first.
    late = _asked_for_late(buckets.gathers, data)
    gather_place = 2 * used_by - 2 * ~late
    turn = np.concatenate([gather_place, 2 * filled_by + 1])
    durations = [second for group in (buckets.gathers, buckets.reduces) for _, row in group for second in row]
    tasks = Tasks(
        duration_s=np.array(durations, dtype=np.float64),
        rank=slots.rank[slot],
        stream=np.full(len(slot), STREAM["dp"]),
        kind=np.repeat([KIND["gather"], KIND["reduce"]], [len(gathers), len(reduces)]),
        work=slots.work[slot],
        place=np.stack([turn, np.arange(len(slot))], axis=1),
        cause_fraction=np.zeros((len(slot), len(SLOT_CAUSES))),
    )
    links: Links = [(gathers, used_by, True, False), (filled_by, reduces, False, True)]
    if late.any():
        starts = begin[slots.rank[gather_slot[late]]]
        links.append(_after_the_task_before(gathers[late], used_by[late], starts, 1))
    elif data.gather_every_microbatch:
        # Memory for gathered parameters is for the layer in use and the next one only.
        starts = begin[slots.rank[gather_slot]]
        links.append(_after_the_task_before(gathers, used_by, starts, 2))
    if data.reduces_block:
        followed = np.flatnonzero(filled_by < end[slots.rank[reduce_slot]])
        links.append((reduces[followed], filled_by[followed] + 1, True, False))
    blocking = Blocking(np.full(len(slots), -1), np.full(len(slots), -1))
    blocking.gather[gather_slot[late]] = gathers[late]
    if data.reduces_block:
        blocking.reduce[reduce_slot] = reduces
    return tasks, links, blocking


def _asked_for_late(gathers: Buckets, data: DataParallel) -> Bools:
    """Which gathers [gathers] wait until their slot is reached: all that block, or a stage's first; the others follow
    it while the stage runs."""
    if data.gathers_block:
        return np.ones(len(gathers), dtype=bool)
    asked = data.gather_as_reached and data.gather_overlap and not data.gather_every_microbatch
    return np.array([asked and index == 0 for _, row in gathers for index in range(len(row))], dtype=bool)


def _after_the_task_before(gathers: Ints, used_by: Ints, begin: Ints, distance: int) -> tuple[Ints, Ints, bool, bool]:
    """Gathers that wait for the compute task `distance` before the one that uses them, where their rank has one."""
    waiting = np.flatnonzero(used_by - distance >= begin)
    return used_by[waiting] - distance, gathers[waiting], False, True


def _users(slots: FlatSlots, stage: Ints, every: bool, last: bool) -> list[tuple[int, int]]:
    """(slot, stage) of every slot with a stage, or only the first (last) of each rank and stage."""
    rows = np.flatnonzero(stage >= 0)
    if every:
        return list(zip(rows.tolist(), stage[rows].tolist(), strict=True))
    rows = rows[::-1] if last else rows
    _, first = np.unique(slots.rank[rows] * (stage.max() + 1) + stage[rows], return_index=True)
    return list(zip(rows[first].tolist(), stage[rows[first]].tolist(), strict=True))


def _durations(users: list[tuple[int, int]], seconds: tuple[Durations, ...]) -> Buckets:
    return [(slot, seconds[stage]) for slot, stage in users if seconds and seconds[stage]]


def _spread(buckets: Buckets, first: Ints, before: bool) -> tuple[Ints, Ints]:
    """Slot of every single bucket, and the piece of the slot it is needed before (or filled after)."""
    slot = np.array([slot for slot, row in buckets for _ in row], dtype=np.int64)
    of = np.array([len(row) for _, row in buckets for _ in row], dtype=np.int64)
    index = np.array([index for _, row in buckets for index in range(len(row))], dtype=np.int64)
    pieces = first[slot + 1] - first[slot]
    piece = index * pieces // of if before else -(-(index + 1) * pieces // of) - 1
    return slot, first[slot] + piece


def _rank_span(slots: FlatSlots, first: Ints) -> tuple[Ints, Ints]:
    """First and last compute task of every rank."""
    starts = np.flatnonzero(np.diff(slots.rank, prepend=-1))
    return first[starts], first[np.append(starts[1:], len(slots))] - 1
