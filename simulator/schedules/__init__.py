"""Pipeline schedules as data: for every pipeline rank the ordered slots it works through in one step.

`slots` are the pieces, `record` says what else the house must know of a schedule; `one_way`, `zero_bubble` and
`dualpipe` hold one record per schedule beside its order, `table` all of them by name. `live` counts activations.
"""

from simulator.schedules.live import live_counts, peak_in_flight
from simulator.schedules.record import P2p, ScheduleRecord
from simulator.schedules.slots import BACKWARD, FORWARD, RankSlots, Slot, Work, backward_work
from simulator.schedules.table import OFFERED, SCHEDULES, Schedule, default_schedule, make_schedule

__all__ = [
    "BACKWARD",
    "FORWARD",
    "OFFERED",
    "SCHEDULES",
    "P2p",
    "RankSlots",
    "Schedule",
    "ScheduleRecord",
    "Slot",
    "Work",
    "backward_work",
    "default_schedule",
    "live_counts",
    "make_schedule",
    "peak_in_flight",
]
