"""What the rest of the house must know of a schedule: one record each, so that nobody compares names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from simulator.schedules.slots import SlotOrder

StagesOfRanks = tuple[tuple[int, ...], ...]
P2p = Literal["overlapped", "steady", "blocking"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Which virtual stages every pipeline rank holds: `of_ranks(pp, vpp)` lists them by rank and chunk.

    `chunks` per rank (None: as many as the plan's vpp); `copies` of every stage, on different ranks.
    """

    of_ranks: Callable[[int, int], StagesOfRanks]
    chunks: int | None = None
    copies: int = 1

    def chunks_per_rank(self, vpp: int) -> int:
        return self.chunks or vpp

    def stage_count(self, pp: int, vpp: int) -> int:
        """Distinct virtual stages of the model."""
        return pp * self.chunks_per_rank(vpp) // self.copies


def _looped(pp: int, vpp: int) -> StagesOfRanks:
    return tuple(tuple(chunk * pp + rank for chunk in range(vpp)) for rank in range(pp))


def _folded(pp: int, vpp: int) -> StagesOfRanks:
    return tuple((rank, 2 * pp - 1 - rank) for rank in range(pp))


def _mirrored(pp: int, vpp: int) -> StagesOfRanks:
    return tuple((rank, pp - 1 - rank) for rank in range(pp))


# Megatron-Core's: rank r holds stages chunk x pp + r.
LOOPED = Placement(_looped)
# A "V": rank r holds stages r and 2 pp - 1 - r.
FOLDED = Placement(_folded, chunks=2)
# Two pipelines in opposite directions: rank r holds stages r and pp - 1 - r, every stage twice.
MIRRORED = Placement(_mirrored, chunks=2, copies=2)


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    """One pipeline schedule.

    `order` gives the slots of every rank, `placement` the stages that they work on.
    `backward`: "whole", "split" into input and weight gradients throughout, or "mixed".
    `pairs`: a forward runs beside the backward of another micro-batch; `paired_as`: the schedule that does so where the
    plan overlaps expert traffic (None: this one pairs already, or cannot).
    `p2p`: how activations travel between stages where the plan overlaps them, `p2p_in_turn` where it does not (None:
    the same).
    `shares_ends`: first and last stage lie on one rank, which keeps one table for embedding and head.

    Rules: `needs_pipeline` (more than one rank), `needs_one_rank` (no pipeline at all), `interleaves` (two or more
    chunks per rank, micro-batches in groups of at least pp), `needs_even_counts` (of ranks and micro-batches),
    `least_microbatches_per_rank` (times pp), `in_megatron_core` (it plays it), `offered` (a plan may name it).
    """

    name: str
    order: SlotOrder
    placement: Placement = LOOPED
    backward: Literal["whole", "mixed", "split"] = "whole"
    pairs: bool = False
    paired_as: str | None = None
    p2p: P2p = "overlapped"
    p2p_in_turn: P2p | None = None
    shares_ends: bool = False
    needs_pipeline: bool = False
    needs_one_rank: bool = False
    interleaves: bool = False
    needs_even_counts: bool = False
    least_microbatches_per_rank: int = 0
    in_megatron_core: bool = False
    offered: bool = True

    @property
    def puts_off_weight_gradients(self) -> bool:
        """Whether some weight gradients run later than their input gradients."""
        return self.backward != "whole"

    @property
    def splits_every_backward(self) -> bool:
        return self.backward == "split"

    def p2p_mode(self, overlapped: bool) -> P2p:
        """How activations travel, where the plan overlaps point-to-point transfers and where it does not."""
        if overlapped or self.p2p_in_turn is None:
            return self.p2p
        return self.p2p_in_turn

    def faults(self, pp: int, vpp: int, microbatches: int, group_size: int) -> list[str]:
        """Every reason why the schedule cannot run these counts."""
        rules = [
            (pp >= 1, f"pp {pp}: at least 1"),
            (microbatches >= 1, f"microbatches {microbatches}: at least 1"),
            *self._chunk_rules(pp, vpp),
            *self._count_rules(pp, microbatches),
        ]
        if self.interleaves:
            rules += _group_rules(pp, microbatches, group_size)
        return [text for holds, text in rules if not holds]

    def _chunk_rules(self, pp: int, vpp: int) -> list[tuple[bool, str]]:
        if self.interleaves:
            return [
                (pp > 1, f"pp {pp}: interleaving needs pp > 1"),
                (vpp > 1, f"vpp {vpp}: interleaving needs vpp > 1"),
            ]
        if self.placement.chunks == 2:
            return [
                (pp > 1, f"pp {pp}: schedule {self.name!r} needs pp > 1"),
                (vpp in (1, 2), f"vpp {vpp}: schedule {self.name!r} always holds two chunks per rank"),
            ]
        return [
            (vpp == 1, f"vpp {vpp}: schedule {self.name!r} holds one chunk per rank, so vpp must be 1"),
            (pp == 1 or not self.needs_one_rank, f"pp {pp}: schedule {self.name!r} is for pp 1"),
        ]

    def _count_rules(self, pp: int, microbatches: int) -> list[tuple[bool, str]]:
        rules = []
        if self.needs_even_counts:
            rules += [
                (pp % 2 == 0, f"pp {pp}: {self.name} needs an even pp"),
                (microbatches % 2 == 0, f"microbatches {microbatches}: {self.name} needs an even count"),
            ]
        times = self.least_microbatches_per_rank
        fed = microbatches >= times * pp
        why = f"microbatches {microbatches}: {self.name} needs at least {times} pp ({times * pp})"
        return [*rules, (fed, why)]


def _group_rules(pp: int, microbatches: int, group_size: int) -> list[tuple[bool, str]]:
    rest = microbatches % group_size if group_size > 0 else 0
    in_range = pp <= group_size <= microbatches
    return [
        (in_range, f"group size {group_size}: from pp ({pp}) to microbatches ({microbatches})"),
        (rest == 0 or rest >= pp, f"microbatches {microbatches}: last group of {rest} is smaller than pp {pp}"),
    ]
