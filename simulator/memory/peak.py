"""The walk through a rank's slots to the moment when its activations are largest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import numpy as np

from hardware.arrays import Number
from simulator.memory.activations import Kept


class ScheduleSlot(Protocol):
    """What the memory walk needs of a schedule's slot."""

    @property
    def kind(self) -> str: ...
    @property
    def chunk(self) -> int: ...
    @property
    def backward_chunk(self) -> int: ...


def peak_activations(slots: Sequence[ScheduleSlot], kept: Sequence[Kept]) -> tuple[float, float]:
    """Walk a rank's slots to the moment it holds most: bytes of live micro-batches, and of the backward's working set.

    A forward adds its chunk's tensors; a full backward or input gradient frees them when it is done, except the
    inputs of linears, which wait for their weight gradient. `kept` is by chunk.
    """

    @cache
    def rise(chunk: int, backward_chunk: int) -> float:
        return float(pair_rise(kept[chunk], kept[backward_chunk]))

    live: Number = 0.0
    peak: Number = 0.0
    working = 0.0
    for slot in slots:
        back = kept[slot.backward_chunk if slot.kind == "FB" else slot.chunk]
        beside = 0.0
        held: Number = live
        if slot.kind in ("F", "FB"):
            held += rise(slot.chunk, slot.backward_chunk) if slot.kind == "FB" else kept[slot.chunk].until_backward
            live += kept[slot.chunk].until_backward
        if slot.kind in ("B", "I", "FB"):
            beside = float(back.working)
            live -= back.until_backward - (back.until_wgrad if slot.kind == "I" else 0.0)
        if slot.kind == "W":
            live -= back.until_wgrad
        if held + beside > peak + working:
            peak, working = held, beside
    return float(peak), working


def pair_rise(ahead: Kept, back: Kept) -> Number:
    """Most that an overlapped pair holds beyond what it began with: its halves work layer by layer at an even pace,
    so that a forward's layer fills after the backward's layers before it were freed."""
    fills, frees = max(1, ahead.layers), max(1, back.layers)
    most: Number = -np.inf
    for step in range(fills):
        filled, freed = (step + 1) / fills, step * frees // fills / frees
        most = np.maximum(most, filled * ahead.until_backward - freed * back.until_backward)
    return most


def most_in_flight(slots: Sequence[ScheduleSlot], chunk: int) -> int:
    """Most micro-batches of a chunk between forward and backward at once."""
    live = most = 0
    for slot in slots:
        live += slot.kind in ("F", "FB") and slot.chunk == chunk
        most = max(most, live)
        live -= slot.kind in ("B", "I", "FB") and (slot.backward_chunk if slot.kind == "FB" else slot.chunk) == chunk
    return most
