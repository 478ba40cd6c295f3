"""What the command line asks of a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Asked(Options):
    """The verb's arguments: what to measure, and what else to do with it."""

    processes: int = 1
    fit_only: bool = False
    imports: tuple[Path, ...] = ()
    slurm_nodes: int = 0
    step: bool = False
