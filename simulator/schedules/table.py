"""The table of schedules, by name, and the schedule of given counts. A new record joins its module's `RECORDS`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.schedules import dualpipe, one_way, zero_bubble
from simulator.schedules.record import ScheduleRecord
from simulator.schedules.slots import Slots

_RECORDS = (*one_way.RECORDS, *zero_bubble.RECORDS, *dualpipe.RECORDS, *one_way.PAIRED_RECORDS)
SCHEDULES: dict[str, ScheduleRecord] = {record.name: record for record in _RECORDS}
# The names that a plan may give.
OFFERED = tuple(name for name, record in SCHEDULES.items() if record.offered)


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


def make_schedule(name: str, pp: int, vpp: int, microbatches: int, group_size: int | None = None) -> Schedule:
    """The named schedule. `group_size` (interleaved only): micro-batches per chunk turn, by default pp.

    Raises ValueError with every broken rule when the schedule cannot run these counts.
    """
    if name not in SCHEDULES:
        raise ValueError(f"schedule {name!r} is not known; one of {', '.join(SCHEDULES)}")
    record = SCHEDULES[name]
    group = group_size or pp
    faults = record.faults(pp, vpp, microbatches, group)
    if faults:
        raise ValueError("; ".join(faults))
    stage_of_chunk = np.array(record.placement.of_ranks(pp, vpp))
    return Schedule(name, microbatches, record.order(pp, vpp, microbatches, group), stage_of_chunk)


def default_schedule(pp: int, vpp: int) -> str:
    """What a plan that names no schedule runs."""
    if pp == 1:
        return "none"
    return "1f1b" if vpp == 1 else "interleaved"
