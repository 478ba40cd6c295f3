"""Published runs and how far predictions of them were off, each by a model that was fitted without its family.

`data/residuals.csv` holds, for every published run, what it is and log(measured / predicted); `validate` makes it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data" / "residuals.csv"


@dataclass(frozen=True, slots=True)
class Case:
    """What makes runs alike: accelerator generation, dense or MoE, software stack, number of GPUs."""

    generation: str
    kind: str
    stack: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Residuals:
    """Published cases, the family of each, and log(measured / predicted) without that family."""

    cases: tuple[Case, ...]
    families: tuple[str, ...]
    errors: NDArray[np.float64]


@cache
def residuals() -> Residuals:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Residuals(
        tuple(Case(row["generation"], row["kind"], row["stack"], int(row["gpus"])) for row in rows),
        tuple(row["family"] for row in rows),
        np.array([float(row["log_error"]) for row in rows]),
    )
