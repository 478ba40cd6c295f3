"""What the command line asks of a calibration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Asked:
    """The verb's arguments, as the command line has them."""

    out: Path
    scenario: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    part: str = ""
    budget_s: float = 420.0
    case_s: float = 0.5
    processes: int = 1
    shared: bool = False
    fit_only: bool = False
    imports: tuple[Path, ...] = ()
    slurm_nodes: int = 0
    step: bool = False
