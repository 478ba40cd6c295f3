"""A schedule flattened: one row per slot, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.schedules import BACKWARD, Schedule
from simulator.step.graph import KIND, Ints

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FlatSlots:
    """The schedule flattened: one row per slot, with the virtual stages its halves belong to (-1: no such half)."""

    kind: Ints
    work: Ints
    rank: Ints
    position: Ints
    forward_stage: Ints
    backward_stage: Ints
    of_forward: Ints  # [microbatches, stages] -> slot
    of_backward: Ints

    def __len__(self) -> int:
        return len(self.kind)


def flatten(schedule: Schedule) -> FlatSlots:
    rows = [slot for slots in schedule.ranks for slot in slots]
    counts = np.array([len(slots) for slots in schedule.ranks])
    kind = np.array([KIND[row[0]] for row in rows])
    work = np.array([row[1:] for row in rows])
    rank = np.repeat(np.arange(schedule.pp), counts)
    position = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    own = schedule.stage_of_chunk[rank, work[:, 1]]
    pair = kind == KIND["FB"]
    other = np.where(pair, schedule.stage_of_chunk[rank, work[:, 3]], own)
    forward_stage = np.where(np.isin(kind, [KIND["F"], KIND["FB"]]), own, -1)
    backward_stage = np.where(kind == KIND["F"], -1, other)
    shape = (schedule.microbatches, schedule.stages)
    forward = _index(forward_stage >= 0, work[:, 0], forward_stage, shape, "forward")
    runs_backward = np.isin(kind, [KIND[k] for k in BACKWARD])
    backward_microbatch = np.where(pair, work[:, 2], work[:, 0])
    backward = _index(runs_backward, backward_microbatch, backward_stage, shape, "backward")
    if (position[forward] >= position[backward]).any():
        raise ValueError(f"schedule {schedule.name!r}: a backward stands before its forward on its rank")
    return FlatSlots(kind, work, rank, position, forward_stage, backward_stage, forward, backward)


def _index(mask: Bools, microbatch: Ints, stage: Ints, shape: tuple[int, int], what: str) -> Ints:
    """[microbatches, stages] -> the slot that does it. A stage held by two ranks still sees each micro-batch once."""
    slots = np.flatnonzero(mask)
    key = microbatch[slots] * shape[1] + stage[slots]
    counts = np.bincount(key, minlength=shape[0] * shape[1])
    if len(counts) != shape[0] * shape[1] or (counts != 1).any():
        bad = int(np.flatnonzero(counts != 1)[0])
        where = f"micro-batch {bad // shape[1]} on stage {bad % shape[1]}"
        raise ValueError(f"the schedule must hold one {what} of each micro-batch and stage; {where} has {counts[bad]}")
    table = np.empty(shape[0] * shape[1], dtype=np.int64)
    table[key] = slots
    return table.reshape(shape)
