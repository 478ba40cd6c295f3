"""What the command line asks of a calibration, and the scenario that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.scenario.schema import Scenario

PARTS = ("kernels", "collectives")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure, and where it goes. `budget_s` bounds measuring; `parts` says of what (PARTS)."""

    out: Path
    scenario: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    part: str = ""
    budget_s: float = 420.0
    case_s: float = 0.5
    parts: tuple[str, ...] = PARTS
    shared: bool = False

    @property
    def points_file(self) -> Path:
        """Where every measured point is kept."""
        return self.out / "points.jsonl"


@dataclass(frozen=True, slots=True)
class VerbOptions(Options):
    """The verb's arguments: what to measure, and what else to do with it."""

    processes: int = 1
    fit_only: bool = False
    imports: tuple[Path, ...] = ()
    slurm_nodes: int = 0
    step: bool = False


def scenario_of(options: Options) -> Scenario | None:
    """The scenario that cases are chosen from; None where none was named. Raises InputError."""
    if options.scenario is None:
        return None
    from simulator.scenario.schema import load_scenario

    return load_scenario(options.scenario, list(options.overrides))
