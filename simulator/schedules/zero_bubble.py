"""Schedules that split every backward, and fill the bubble with the weight gradients put off.

Sources of the orders: ZB-H1, ZB-H2 (arXiv 2401.10241); ZB-V (arXiv 2405.15362).
"""

from __future__ import annotations

from simulator.schedules.record import FOLDED, ScheduleRecord
from simulator.schedules.slots import Desk, Slot, Slots


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
    return _zero_bubble(pp, microbatches, depth=1)


def zb_h2(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """ZB-H2: 2 pp - 1 micro-batches in flight, no bubble between a rank's first and last slot."""
    return _zero_bubble(pp, microbatches, depth=2)


def zb_v(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """ZB-V: rank r holds stages r and 2 pp - 1 - r; pp micro-batches in flight, no bubble inside a rank.

    With fewer than 2 pp - 1 micro-batches the order is that of 2 pp - 1 with the missing ones left out.
    """
    return tuple(
        tuple(slot for slot in _zb_v_rank(pp, rank, max(microbatches, 2 * pp - 1)) if slot.microbatch < microbatches)
        for rank in range(pp)
    )


def _zb_v_rank(pp: int, rank: int, microbatches: int) -> list[Slot]:
    desk = Desk()
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


RECORDS = (
    ScheduleRecord("zb-h1", zb_h1, backward="split", needs_pipeline=True),
    ScheduleRecord("zb-h2", zb_h2, backward="split", needs_pipeline=True),
    ScheduleRecord("zb-v", zb_v, FOLDED, backward="split", needs_pipeline=True),
)
