"""Pipeline schedules as data: for every pipeline rank the ordered slots it works through in one step.

A slot is a forward (F), a full backward (B), its two halves (I: gradient of the input, W: gradient of the
weights), or a forward and a backward that run overlapped (FB). A schedule knows nothing of time.

Sources of the orders: GPipe (arXiv 1811.06965); 1F1B and interleaved 1F1B as Megatron-Core runs them
(core/pipeline_parallel/schedules.py); ZB-H1, ZB-H2 (arXiv 2401.10241); ZB-V (arXiv 2405.15362); DualPipe and
DualPipeV (arXiv 2412.19437 and the deepseek-ai/DualPipe reference).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.plan.layout import held_stages

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
ScheduleFunction = Callable[[int, int, int, int], Slots]
Work = tuple[int, int]  # (microbatch, chunk)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The slots of every rank, and `stage_of_chunk` [pp, chunks]: which virtual stage a rank's chunk is."""

    name: str
    microbatches: int
    ranks: Slots
    stage_of_chunk: NDArray[np.int64]

    @property
    def pp(self) -> int:
        return len(self.ranks)

    @property
    def stages(self) -> int:
        return int(self.stage_of_chunk.max()) + 1


def _require(*rules: tuple[bool, str]) -> None:
    broken = [text for holds, text in rules if not holds]
    if broken:
        raise ValueError("; ".join(broken))


def _simple(name: str, pp: int, vpp: int, microbatches: int) -> None:
    _require(
        (pp >= 1, f"pp {pp}: at least 1"),
        (vpp == 1, f"vpp {vpp}: schedule {name!r} holds one chunk per rank, so vpp must be 1"),
        (microbatches >= 1, f"microbatches {microbatches}: at least 1"),
    )


def _weave(forwards: list[Work], backwards: list[Work], warmup: int, paired: bool = False) -> RankSlots:
    """`warmup` forwards, then forward and backward in turn (or as overlapped pairs), then the backwards left."""
    slots = [Slot("F", *work) for work in forwards[:warmup]]
    for forward, backward in zip(forwards[warmup:], backwards, strict=False):
        if paired:
            slots.append(Slot("FB", *forward, *backward))
        else:
            slots += (Slot("F", *forward), Slot("B", *backward))
    slots += [Slot("B", *work) for work in backwards[len(forwards) - warmup :]]
    return tuple(slots)


def _none(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """No pipeline: forward and backward of each micro-batch in turn."""
    _simple("none", pp, vpp, microbatches)
    _require((pp == 1, f"pp {pp}: schedule 'none' is for pp 1"))
    return one_f_one_b(1, 1, microbatches, group_size)


def _none_overlap(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """No pipeline; forward of the next micro-batch overlaps backward of this one."""
    _simple("none-overlap", pp, vpp, microbatches)
    _require((pp == 1, f"pp {pp}: schedule 'none-overlap' is for pp 1"))
    return one_f_one_b_overlap(1, 1, microbatches, group_size)


def gpipe(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """All forwards, then all backwards."""
    _simple("gpipe", pp, vpp, microbatches)
    work = [(microbatch, 0) for microbatch in range(microbatches)]
    return tuple(_weave(work, work, microbatches) for _ in range(pp))


def one_f_one_b(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """1F1B: rank r warms up with min(m, pp - r - 1) forwards."""
    _simple("1f1b", pp, vpp, microbatches)
    work = [(microbatch, 0) for microbatch in range(microbatches)]
    return tuple(_weave(work, work, min(microbatches, pp - rank - 1)) for rank in range(pp))


def one_f_one_b_overlap(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """1F1B of overlapped pairs. A pair's halves must not wait for each other through the neighbours, which takes
    a second forward in flight per hop: rank r warms up with min(m, 2 (pp - r - 1) + 1) forwards."""
    _simple("1f1b-overlap", pp, vpp, microbatches)
    work = [(microbatch, 0) for microbatch in range(microbatches)]
    return tuple(_weave(work, work, min(microbatches, 2 * (pp - rank - 1) + 1), paired=True) for rank in range(pp))


def _groups(vpp: int, microbatches: int, group_size: int) -> list[Work]:
    """Megatron's virtual micro-batches: group after group, inside a group chunk after chunk."""
    return [
        (microbatch, chunk)
        for start in range(0, microbatches, group_size)
        for chunk in range(vpp)
        for microbatch in range(start, min(start + group_size, microbatches))
    ]


def _interleave(pp: int, vpp: int, microbatches: int, group_size: int, overlap: bool) -> Slots:
    left = microbatches % group_size if group_size > 0 else 0
    _require(
        (pp > 1, f"pp {pp}: interleaving needs pp > 1"),
        (vpp > 1, f"vpp {vpp}: interleaving needs vpp > 1"),
        (pp <= group_size <= microbatches, f"group size {group_size}: from pp ({pp}) to microbatches ({microbatches})"),
        (left == 0 or left >= pp, f"microbatches {microbatches}: last group of {left} is smaller than pp {pp}"),
    )
    forwards = _groups(vpp, microbatches, group_size)
    backwards = [(microbatch, vpp - 1 - chunk) for microbatch, chunk in forwards]
    return tuple(
        _weave(forwards, backwards, min(len(forwards), warmup), paired=overlap)
        for warmup in (2 * (pp - rank - 1) + (vpp - 1) * group_size + overlap for rank in range(pp))
    )


def interleaved(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """Interleaved 1F1B in Megatron's order: groups of `group_size` micro-batches, pp <= group_size <= m."""
    return _interleave(pp, vpp, microbatches, group_size, overlap=False)


def interleaved_overlap(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """Interleaved 1F1B of overlapped pairs (Megatron's combined 1F1B): one more warm-up forward."""
    return _interleave(pp, vpp, microbatches, group_size, overlap=True)


def _zero_bubble(pp: int, microbatches: int, depth: int) -> Slots:
    """1F1B with split backwards: rank r warms up with depth (pp - r - 1) forwards and puts off depth * r weight
    gradients, so that as many micro-batches are held on every rank."""
    ranks = []
    for rank in range(pp):
        warmup, deferred = min(microbatches, depth * (pp - rank - 1)), depth * rank
        slots = [Slot("F", microbatch, 0) for microbatch in range(warmup)]
        for backward in range(microbatches):
            forward = backward + warmup
            if forward < microbatches:
                slots.append(Slot("F", forward, 0))
            slots.append(Slot("I", backward, 0))
            if backward >= deferred:
                slots.append(Slot("W", backward - deferred, 0))
        slots += [Slot("W", backward, 0) for backward in range(max(0, microbatches - deferred), microbatches)]
        ranks.append(tuple(slots))
    return tuple(ranks)


def zb_h1(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """ZB-H1: as many micro-batches in flight as 1F1B holds on its first rank, a third of its bubble."""
    _simple("zb-h1", pp, vpp, microbatches)
    return _zero_bubble(pp, microbatches, depth=1)


def zb_h2(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """ZB-H2: 2 pp - 1 micro-batches in flight, no bubble between a rank's first and last slot."""
    _simple("zb-h2", pp, vpp, microbatches)
    return _zero_bubble(pp, microbatches, depth=2)


def _two_chunks(name: str, pp: int, vpp: int) -> None:
    _require(
        (pp > 1, f"pp {pp}: schedule {name!r} needs pp > 1"),
        (vpp in (1, 2), f"vpp {vpp}: schedule {name!r} always holds two chunks per rank"),
    )


class _Desk:
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


def zb_v(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """ZB-V: rank r holds stages r and 2 pp - 1 - r; pp micro-batches in flight, no bubble inside a rank.

    With fewer than 2 pp - 1 micro-batches the order is that of 2 pp - 1 with the missing ones left out.
    """
    _two_chunks("zb-v", pp, vpp)
    _require((microbatches >= 1, f"microbatches {microbatches}: at least 1"))
    return tuple(
        tuple(slot for slot in _zb_v_rank(pp, rank, max(microbatches, 2 * pp - 1)) if slot.microbatch < microbatches)
        for rank in range(pp)
    )


def _zb_v_rank(pp: int, rank: int, microbatches: int) -> list[Slot]:
    desk = _Desk()
    for _ in range(2 * (pp - rank) - 1):
        desk.forward(0)
    for _ in range(rank):
        desk.forward(1)
        desk.forward(0)
    for _ in range(pp - rank):
        desk.forward(1)
        desk.backward(1, split=True)
        desk.weight()
    while desk.next_forward[1] < microbatches:
        if desk.next_forward[0] < microbatches:
            desk.forward(0)
        desk.backward(0, split=True)
        desk.weight()
        desk.forward(1)
        desk.backward(1, split=True)
        desk.weight()
    for _ in range(rank):
        desk.backward(0, split=True)
        desk.backward(1, split=True)
    for _ in range(pp - rank):
        desk.backward(0, split=True)
        desk.weight()
    while desk.put_off:
        desk.weight()
    return desk.slots


def _bidirectional(desk: _Desk, near: int, distance: int, half: int, microbatches: int) -> RankSlots:
    """The eight phases of DualPipe for a rank `distance` hops from its own end of `half` hops.

    `near` is the chunk whose micro-batches enter at the rank's own end, `microbatches` how many each chunk runs.
    """
    far, hops, middle = 1 - near, half - distance - 1, distance == half - 1
    for _ in range(2 * hops):
        desk.forward(near)
    for _ in range(distance + 1):
        desk.forward(near)
        desk.forward(far)
    for _ in range(hops):
        desk.backward(far, split=True)
        desk.weight()
        desk.forward(far)
    for turn in range(microbatches - 2 * half + distance + 1):
        if turn == 0 and middle:
            desk.forward(near)
            desk.backward(far)
        else:
            desk.pair(near, far)
        desk.pair(far, near)
    for _ in range(hops):
        desk.backward(far)
        desk.pair(far, near)
    for turn in range(2 * (distance + 1)):
        desk.backward((far, near)[turn % 2], split=turn > distance)
    for _ in range(hops):
        desk.weight()
        desk.backward(near, split=True)
    while desk.put_off:
        desk.weight()
    return tuple(desk.slots)


def dualpipe(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """DualPipe: half the micro-batches enter at each end; rank r holds stages r (chunk 0) and pp - 1 - r (chunk 1)."""
    _two_chunks("dualpipe", pp, vpp)
    _require(
        (pp % 2 == 0, f"pp {pp}: dualpipe needs an even pp"),
        (microbatches % 2 == 0, f"microbatches {microbatches}: dualpipe needs an even count"),
        (microbatches >= 2 * pp, f"microbatches {microbatches}: dualpipe needs at least 2 pp ({2 * pp})"),
    )
    half = microbatches // 2
    return tuple(
        _bidirectional(_Desk((0, half)), int(rank >= pp // 2), min(rank, pp - 1 - rank), pp // 2, half)
        for rank in range(pp)
    )


def dualpipe_v(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """DualPipeV: DualPipe cut in half and folded; rank r holds stages r (chunk 0) and 2 pp - 1 - r (chunk 1)."""
    _two_chunks("dualpipe-v", pp, vpp)
    _require(
        (microbatches >= 2 * pp, f"microbatches {microbatches}: dualpipe-v needs at least 2 pp ({2 * pp})"),
    )
    return tuple(_bidirectional(_Desk(), 0, rank, pp, microbatches) for rank in range(pp))


SCHEDULES: dict[str, ScheduleFunction] = {
    "none": _none,
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved": interleaved,
    "zb-h1": zb_h1,
    "zb-h2": zb_h2,
    "zb-v": zb_v,
    "dualpipe": dualpipe,
    "dualpipe-v": dualpipe_v,
    "none-overlap": _none_overlap,
    "1f1b-overlap": one_f_one_b_overlap,
    "interleaved-overlap": interleaved_overlap,
}


def make_schedule(name: str, pp: int, vpp: int, microbatches: int, group_size: int | None = None) -> Schedule:
    """The named schedule. `group_size` (interleaved only): micro-batches per chunk turn, by default pp.

    Raises ValueError with every broken rule when the schedule cannot run these counts.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is not known; one of {', '.join(SCHEDULES)}")
    slots = SCHEDULES[name](pp, vpp, microbatches, group_size or pp)
    return Schedule(name, microbatches, slots, np.array(held_stages(name, pp, vpp)))


def backward_work(slot: Slot) -> Work:
    """(microbatch, chunk) whose backward, or a half of it, this slot runs."""
    return (slot.backward_microbatch, slot.backward_chunk) if slot.kind == "FB" else (slot.microbatch, slot.chunk)


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
