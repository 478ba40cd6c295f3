"""Schedules whose micro-batches enter at the first stage and whose backwards stay whole.

Sources of the orders: GPipe (arXiv 1811.06965); 1F1B, interleaved 1F1B and combined 1F1B as Megatron-Core runs them
(core/pipeline_parallel/schedules.py, combined_1f1b.py).
"""

from __future__ import annotations

from simulator.schedules.record import ScheduleRecord
from simulator.schedules.slots import Slots, Work, weave


def _microbatches(count: int) -> list[Work]:
    return [(microbatch, 0) for microbatch in range(count)]


def gpipe(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """All forwards, then all backwards."""
    work = _microbatches(microbatches)
    return tuple(weave(work, work, microbatches) for _ in range(pp))


def one_f_one_b(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """1F1B: rank r warms up with min(m, pp - r - 1) forwards. With one rank: each micro-batch in turn."""
    work = _microbatches(microbatches)
    return tuple(weave(work, work, min(microbatches, pp - rank - 1)) for rank in range(pp))


def one_f_one_b_overlap(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """1F1B of overlapped pairs. A pair's halves must not wait for each other through the neighbours, which takes
    a second forward in flight per hop: rank r warms up with min(m, 2 (pp - r - 1) + 1) forwards."""
    work = _microbatches(microbatches)
    warmups = [min(microbatches, 2 * (pp - rank - 1) + 1) for rank in range(pp)]
    return tuple(weave(work, work, warmup, paired=True) for warmup in warmups)


def _groups(vpp: int, microbatches: int, group_size: int) -> list[Work]:
    """Megatron's virtual micro-batches: group after group, inside a group chunk after chunk."""
    return [
        (microbatch, chunk)
        for start in range(0, microbatches, group_size)
        for chunk in range(vpp)
        for microbatch in range(start, min(start + group_size, microbatches))
    ]


def _interleave(pp: int, vpp: int, microbatches: int, group_size: int, overlap: bool) -> Slots:
    forwards = _groups(vpp, microbatches, group_size)
    backwards = [(microbatch, vpp - 1 - chunk) for microbatch, chunk in forwards]
    warmups = [2 * (pp - rank - 1) + (vpp - 1) * group_size + overlap for rank in range(pp)]
    return tuple(weave(forwards, backwards, min(len(forwards), warmup), paired=overlap) for warmup in warmups)


def interleaved(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """Interleaved 1F1B in Megatron's order: groups of `group_size` micro-batches, pp <= group_size <= m."""
    return _interleave(pp, vpp, microbatches, group_size, overlap=False)


def interleaved_overlap(pp: int, vpp: int, microbatches: int, group_size: int) -> Slots:
    """Interleaved 1F1B of overlapped pairs (Megatron's combined 1F1B): one more warm-up forward."""
    return _interleave(pp, vpp, microbatches, group_size, overlap=True)


# Megatron's 1F1B sends and receives in step; its interleaved schedule hides the steady phase.
RECORDS = (
    ScheduleRecord("none", one_f_one_b, needs_one_rank=True, paired_as="none-overlap", in_megatron_core=True),
    ScheduleRecord("gpipe", gpipe, p2p="blocking"),
    ScheduleRecord("1f1b", one_f_one_b, p2p="blocking", paired_as="1f1b-overlap", in_megatron_core=True),
    ScheduleRecord(
        "interleaved",
        interleaved,
        paired_as="interleaved-overlap",
        p2p="steady",
        p2p_in_turn="blocking",
        needs_pipeline=True,
        interleaves=True,
        in_megatron_core=True,
    ),
)
PAIRED_RECORDS = (
    ScheduleRecord("none-overlap", one_f_one_b_overlap, pairs=True, needs_one_rank=True, offered=False),
    ScheduleRecord("1f1b-overlap", one_f_one_b_overlap, pairs=True, offered=False),
    ScheduleRecord(
        "interleaved-overlap", interleaved_overlap, pairs=True, needs_pipeline=True, interleaves=True, offered=False
    ),
)
