"""What is asked of a search of plans: keys, how many plans, what they are ranked by, what they leave of the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardware.problems import InputError, Problem
from simulator.memory.report import RESERVE_FRACTION
from simulator.planner.search import Asked

# What is minimised. Of all but time the fastest plans are looked at, so many for each that is shown.
OBJECTIVES = ("time", "cost", "energy", "finish")
LOOKED_AT = 3


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What is asked of a search.

    `keep`: keys that stay as they are; `free`: further keys, with the values to try (None: the usual ones).
    `headroom_fraction`: share of the GPU's memory that stays free. `only_best`: without the front of time against
    memory and what each key brought, which takes less time. `phase`: the phase of the run whose plan is searched
    (None: the scenario's own plan). Raises InputError for an objective that is not known.
    """

    keep: Sequence[str] = ()
    free: Mapping[str, Sequence[Any] | None] | None = None
    top: int = 10
    objective: str = "time"
    headroom_fraction: float = RESERVE_FRACTION
    only_best: bool = False
    phase: str | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            message = f"is {self.objective!r}; choose from {', '.join(OBJECTIVES)}"
            raise InputError([Problem("--objective", None, "", message)])

    @property
    def asked(self) -> Asked:
        """What the chunks are asked for: the fastest plans, among which another objective chooses."""
        wanted = self.top if self.objective == "time" else LOOKED_AT * self.top
        return Asked(wanted, self.headroom_fraction, self.only_best)
