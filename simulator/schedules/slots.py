"""The pieces of a schedule: slots of work, and the tools that put them in order.

A slot is a forward (F), a full backward (B), its two halves (I: gradient of the input, W: gradient of the
weights), or a forward and a backward that run overlapped (FB). A slot knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

SlotKind = Literal["F", "B", "I", "W", "FB"]
FORWARD: frozenset[str] = frozenset({"F", "FB"})
BACKWARD: frozenset[str] = frozenset({"B", "I", "FB"})


class Slot(NamedTuple):
    """One piece of work of a rank: `kind` on a micro-batch and a model chunk of that rank.

    An overlapped pair ("FB") runs forward `microbatch`/`chunk` together with the full backward of
    `backward_microbatch`/`backward_chunk`; in every other kind these two are -1.
    """

    kind: SlotKind
    microbatch: int
    chunk: int
    backward_microbatch: int = -1
    backward_chunk: int = -1


RankSlots = tuple[Slot, ...]
Slots = tuple[RankSlots, ...]
# (pp, vpp, microbatches, group size) -> the slots of every rank.
SlotOrder = Callable[[int, int, int, int], Slots]
Work = tuple[int, int]  # (microbatch, chunk)


def backward_work(slot: Slot) -> Work:
    """(microbatch, chunk) whose backward, or a half of it, this slot runs."""
    if slot.kind == "FB":
        return slot.backward_microbatch, slot.backward_chunk
    return slot.microbatch, slot.chunk


def weave(forwards: list[Work], backwards: list[Work], warmup: int, paired: bool = False) -> RankSlots:
    """`warmup` forwards, then forward and backward in turn (or as overlapped pairs), then the backwards left."""
    slots = [Slot("F", *work) for work in forwards[:warmup]]
    for forward, backward in zip(forwards[warmup:], backwards, strict=False):
        if paired:
            slots.append(Slot("FB", *forward, *backward))
        else:
            slots += (Slot("F", *forward), Slot("B", *backward))
    slots += [Slot("B", *work) for work in backwards[len(forwards) - warmup :]]
    return tuple(slots)


class Desk:
    """Hands out slots in order: the next forward, backward or oldest put-off weight gradient of each chunk."""

    def __init__(self, first: tuple[int, int] = (0, 0)) -> None:
        self.slots: list[Slot] = []
        self.next_forward = list(first)
        self.next_backward = list(first)
        self.put_off: list[Work] = []

    def _take(self, counters: list[int], chunk: int) -> Work:
        counters[chunk] += 1
        return counters[chunk] - 1, chunk

    def forward(self, chunk: int) -> None:
        self.slots.append(Slot("F", *self._take(self.next_forward, chunk)))

    def backward(self, chunk: int, split: bool = False) -> None:
        work = self._take(self.next_backward, chunk)
        self.slots.append(Slot("I" if split else "B", *work))
        if split:
            self.put_off.append(work)

    def weight(self) -> None:
        self.slots.append(Slot("W", *self.put_off.pop(0)))

    def pair(self, forward: int, backward: int) -> None:
        works = self._take(self.next_forward, forward) + self._take(self.next_backward, backward)
        self.slots.append(Slot("FB", *works))
