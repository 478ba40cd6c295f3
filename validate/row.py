"""A published training run: a scenario in its keys, what was measured, and what its source leaves unsaid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hardware.problems import Place, Problem
from simulator.scenario.spec import Meter

Quantity = Literal["step_time_s", "peak_memory_bytes"]
# A: layout, batch and sequence known; B: one of them, or recomputation, is not; C: for reference alone.
QUALITIES = ("A", "B", "C", "")


# Rows of quality C (layout or architecture uncertain) are shown but do not count.
COUNTED = ("A", "B", "")


class Unsupported(Exception):
    """A row that cannot become a scenario; the message says why, `problems` which of its keys are at fault."""

    def __init__(self, reason: str, problems: tuple[Problem, ...] = ()) -> None:
        self.problems = problems
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured quantity in SI units, and how it was read from the source; `meter` is memory's."""

    quantity: Quantity
    value: float
    how: str
    meter: Meter = "allocated"


@dataclass(frozen=True, slots=True)
class Row:
    """One published run.

    `settings` are the scenario's keys, dotted, with their values; a key that is left out follows from the software
    stack or the other keys. `assumed` says what the source leaves unsaid and where the value comes from.
    `unknown_words` are words of the source that no table reads; `unsupported` says why no scenario can be written
    (empty: one can); `ambiguous` says what the source contradicts or leaves to a guess, marked before prediction
    (empty: nothing). `in_scenario_keys`: the file is written in them, so what cannot be read is its fault. `gpu`,
    `network`, `kind` (dense or moe), `quality`, `group` and `family` are labels.
    """

    id: str
    place: Place
    settings: Mapping[str, Any]
    measured: tuple[Measured, ...]
    source: str = ""
    gpu: str = ""
    network: str = ""
    kind: str = ""
    quality: str = ""
    group: str = ""
    family: str = ""
    notes: str = ""
    assumed: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    unsupported: str = ""
    in_scenario_keys: bool = False
    ambiguous: str = ""

    @property
    def counts(self) -> bool:
        """Whether its configuration is known well enough to be fitted on and counted among the errors."""
        return self.quality in COUNTED and not self.ambiguous

    @property
    def origin(self) -> str:
        """The short name of the source: the first part of the id."""
        return self.id.split("-")[0]

    def measurement(self, quantity: Quantity) -> Measured | None:
        """What the row measured of a quantity; None where it did not."""
        return next((each for each in self.measured if each.quantity == quantity), None)

    def count(self, key: str) -> int | None:
        """A whole number among the settings; None where the key is left out or holds something else."""
        value = self.settings.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None
