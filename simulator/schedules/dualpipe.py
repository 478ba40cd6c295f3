"""Schedules that run forwards beside backwards from both ends: DualPipe and DualPipeV.

Sources of the orders: arXiv 2412.19437 and the deepseek-ai/DualPipe reference.
"""

from __future__ import annotations

from simulator.schedules.record import FOLDED, MIRRORED, ScheduleRecord
from simulator.schedules.slots import Desk, RankSlots, Slots


def _bidirectional(desk: Desk, near: int, distance: int, half: int, microbatches: int) -> RankSlots:
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
    half = microbatches // 2
    return tuple(
        _bidirectional(Desk((0, half)), int(rank >= pp // 2), min(rank, pp - 1 - rank), pp // 2, half)
        for rank in range(pp)
    )


def dualpipe_v(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """DualPipeV: DualPipe cut in half and folded; rank r holds stages r (chunk 0) and 2 pp - 1 - r (chunk 1)."""
    return tuple(_bidirectional(Desk(), 0, rank, pp, microbatches) for rank in range(pp))


RECORDS = (
    ScheduleRecord(
        "dualpipe",
        dualpipe,
        MIRRORED,
        backward="mixed",
        pairs=True,
        shares_ends=True,
        needs_pipeline=True,
        needs_even_counts=True,
        least_microbatches_per_rank=2,
    ),
    ScheduleRecord(
        "dualpipe-v",
        dualpipe_v,
        FOLDED,
        backward="mixed",
        pairs=True,
        shares_ends=True,
        needs_pipeline=True,
        least_microbatches_per_rank=2,
    ),
)
