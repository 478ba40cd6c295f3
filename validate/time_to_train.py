"""Whole runs of MLPerf Training: steps, first step and evaluations against the measured time; what initialisation took.

`python -m validate.time_to_train` prints both.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

PUBLISHED = Path(__file__).parent / "published" / "time_to_train.csv"


@dataclass(frozen=True, slots=True)
class WholeRun:
    """One run. `composed_s` is steps x median step + first step + evaluations; None where the log lacks one of them."""

    id: str
    gpus: int
    initialisation_s: float | None
    measured_s: float
    composed_s: float | None

    @property
    def error_fraction(self) -> float | None:
        return None if self.composed_s is None else self.composed_s / self.measured_s - 1


def read_runs(path: Path = PUBLISHED) -> list[WholeRun]:
    """The runs of a file in the published columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return [_run(row) for row in csv.DictReader(file)]


def _run(row: dict[str, str]) -> WholeRun:
    steps, median_s = _number(row["steps"]), _number(row["step_median_s"])
    first_s, evaluations_s = _number(row["first_step_s"]), _number(row["eval_total_s"])
    composed_s = None
    if steps is not None and median_s is not None and evaluations_s is not None:
        composed_s = steps * median_s + (first_s or 0.0) + evaluations_s
    return WholeRun(row["id"], int(row["n_gpus"]), _number(row["init_s"]), float(row["run_s"]), composed_s)


def _number(text: str) -> float | None:
    return float(text) if text else None


def summary_lines(runs: list[WholeRun]) -> list[str]:
    """How well steps, first step and evaluations make up a run, and the range of initialisations."""
    errors = np.array([each.error_fraction for each in runs if each.error_fraction is not None])
    starts = np.array([each.initialisation_s for each in runs if each.initialisation_s is not None])
    low, middle, high = np.quantile(starts, (0.1, 0.5, 0.9))
    return [
        f"{len(errors)} of {len(runs)} runs log all parts: steps x median + first step + evaluations are off by "
        f"{np.abs(errors).mean():.1%} in the mean, {np.abs(errors).max():.1%} at most.",
        f"Initialisation took {low:.0f} to {high:.0f} s (10th to 90th percentile), {middle:.0f} s in the median.",
    ]


def main() -> None:
    print("\n".join(summary_lines(read_runs())))


if __name__ == "__main__":
    main()
