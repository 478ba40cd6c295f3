"""Published runs and how far predictions of them were off.

`data/residuals.csv` holds, for every published run, what it is and log(measured / predicted) by a model that was
fitted without its family (source and model), without its source and without its accelerator generation; `validate`
makes it. Intervals are drawn from what is left out by source: the next run comes from a source of its own.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DATA = Path(__file__).parent / "data" / "residuals.csv"


@dataclass(frozen=True, slots=True)
class Case:
    """What makes runs alike: accelerator generation, dense or MoE, software stack, number of GPUs; part, server and
    network; micro-batches of a step."""

    generation: str
    kind: str
    stack: str
    gpus: int
    part: str = ""
    node: str = ""
    fabric: str = ""
    microbatches: int = 64


@dataclass(frozen=True, slots=True)
class Residuals:
    """Published cases, the family of each, and log(measured / predicted) without its source."""

    cases: tuple[Case, ...]
    families: tuple[str, ...]
    errors: NDArray[np.float64]


@cache
def residuals() -> Residuals:
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Residuals(
        tuple(_case_of_row(row) for row in rows),
        tuple(row["family"] for row in rows),
        np.array([float(row["without_source"]) for row in rows]),
    )


def _case_of_row(row: Mapping[str, str]) -> Case:
    kind_of_run = (row["generation"], row["kind"], row["stack"])
    return Case(*kind_of_run, int(row["gpus"]), row["part"], row["node"], row["fabric"], int(row["microbatches"]))


def source_of(family: str) -> str:
    """The source of a family's rows: its first word."""
    return family.split(" ")[0]
