"""How many micro-batches a rank keeps activations of while it works through its slots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simulator.schedules.slots import BACKWARD, FORWARD, RankSlots, backward_work
from simulator.schedules.table import Schedule


def live_counts(slots: RankSlots, chunks: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Micro-batches held by a rank while each slot runs, by chunk: two arrays [slots, chunks].

    The first counts whole activations (forward begun, backward of the input not yet done), the second what
    waits for its weight gradient only (inputs of linears and output gradients).
    """
    whole, waiting = np.zeros((2, len(slots), chunks), dtype=np.int64)
    held, deferred = [0] * chunks, [0] * chunks
    for index, slot in enumerate(slots):
        if slot.kind in FORWARD:
            held[slot.chunk] += 1
        whole[index], waiting[index] = held, deferred
        _, chunk = backward_work(slot)
        if slot.kind in BACKWARD:
            held[chunk] -= 1
        deferred[chunk] += (slot.kind == "I") - (slot.kind == "W")
    return whole, waiting


def peak_in_flight(schedule: Schedule, rank: int, with_deferred: bool = True) -> int:
    """Most (micro-batch, chunk) activations that a rank holds at once; one full stage has all its chunks.

    `with_deferred` also counts those that wait for their weight gradient only.
    """
    whole, waiting = live_counts(schedule.ranks[rank], schedule.stage_of_chunk.shape[1])
    return int((whole + with_deferred * waiting).sum(axis=1).max())
