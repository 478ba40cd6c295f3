"""Published training runs, predicted: each row becomes a scenario and is held against what it measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.problems import Problem
from simulator.predict.meters import metered_memory_bytes
from simulator.predict.prediction import Prediction, predict
from simulator.predict.simulate import simulate
from validate.row import Measured, Row, Unsupported
from validate.row_scenarios import scenario_of, step_only

# How much wider the interval of a row is for each word of its source that is not understood, on the logarithm of time:
# judged, as a setting that is missed (a recomputation, an overlap) moves a step by about half an interval.
WIDER_PER_WORD = 0.5


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of one row: measured, predicted (None where unsupported), and all that was assumed.

    `problems` say what of a row in scenario keys could not be read.
    """

    row: Row
    quantity: str
    measured: float | None
    predicted: float | None
    reason: str
    assumptions: tuple[str, ...]
    prediction: Prediction | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def error_fraction(self) -> float | None:
        if self.measured is None or self.predicted is None:
            return None
        return self.predicted / self.measured - 1

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 80 % interval of a predicted step time in seconds, wider for every word not understood."""
        if self.prediction is None or self.quantity != "step_time_s":
            return None
        middle_s = self.prediction.step_time_s
        wider = 1 + WIDER_PER_WORD * len(self.row.unknown_words)
        low_s, high_s = (middle_s * (end_s / middle_s) ** wider for end_s in self.prediction.step_time_interval_s)
        return low_s, high_s


def compare(row: Row) -> list[Compared]:
    """Every quantity that a row measured beside its prediction; one entry with the reason where there is none."""
    try:
        scenario, assumptions = scenario_of(row)
    except Unsupported as reason:
        problems = tuple(_of_row(row, each) for each in reason.problems) if row.in_scenario_keys else ()
        return [Compared(row, "step_time_s", None, None, str(reason), row.assumed, problems=problems)]
    if not row.measured:
        return [Compared(row, "step_time_s", None, None, "the row measured neither time nor memory", assumptions)]
    try:
        prediction = predict(simulate(step_only(scenario)))  # what was run may break the rules of frameworks
    except ValueError as error:
        why = f"cannot be laid out: {error}"
        return [Compared(row, each.quantity, each.value, None, why, assumptions) for each in row.measured]
    return [compared(row, each, prediction, assumptions) for each in row.measured]


def _of_row(row: Row, problem: Problem) -> Problem:
    """A problem of a row's scenario at the row's place in its file."""
    return Problem(row.place.file, row.place.line, f"{row.place.key}, {problem.key}", problem.message)


def compared(row: Row, measured: Measured, prediction: Prediction, assumptions: tuple[str, ...]) -> Compared:
    noted = (*assumptions, f"measured: {measured.how}")
    return Compared(row, measured.quantity, measured.value, predicted(prediction, measured), "", noted, prediction)


def predicted(prediction: Prediction, measured: Measured) -> float:
    """The same quantity of a prediction, memory by the same meter."""
    if measured.quantity == "step_time_s":
        return prediction.step_time_s
    return metered_memory_bytes(prediction, measured.meter)


def compare_all(rows: Sequence[Row], processes: int = 1) -> list[Compared]:
    """Every row in its order, on one or more processes."""
    if processes == 1:
        return [entry for row in rows for entry in compare(row)]
    with ProcessPoolExecutor(processes) as pool:
        return [entry for entries in pool.map(compare, rows, chunksize=8) for entry in entries]


# Ways to group rows in the summary: name -> label of a row.
GROUPS: dict[str, Callable[[Row], str]] = {
    "gpu": lambda row: row.gpu.split()[0] if row.gpu else "unknown",
    "model_kind": lambda row: row.kind or "unknown",
    "source": lambda row: row.origin,
    "scale": lambda row: scale_of(row.count("cluster.gpus") or 0),
}


def scale_of(gpus: int) -> str:
    limits = ((8, "1-8"), (64, "9-64"), (512, "65-512"), (2048, "513-2048"))
    return next((label for limit, label in limits if gpus <= limit), "above 2048")


def statistics(entries: Sequence[Compared]) -> dict[str, Any]:
    """Counts and errors of entries; errors are fractions of the measured value, None where nothing is supported."""
    errors = np.array([e.error_fraction for e in entries if e.error_fraction is not None], dtype=float)
    found: dict[str, Any] = {"n": len(entries), "supported": len(errors)}
    sizes = np.abs(errors)
    figures: dict[str, Callable[[Any], Any]] = {
        "median_abs_error": np.median,
        "mean_abs_error": np.mean,
        "p90_abs_error": lambda values: np.quantile(values, 0.9),
    }
    for name, figure in figures.items():
        found[name] = float(figure(sizes)) if len(errors) else None
    found["bias"] = float(np.mean(errors)) if len(errors) else None
    return found


def summary(entries: Sequence[Compared]) -> dict[str, Any]:
    """Statistics of all entries and by group."""
    by: dict[str, Mapping[str, Any]] = {}
    for name, label in GROUPS.items():
        labels = sorted({label(entry.row) for entry in entries})
        by[name] = {each: statistics([e for e in entries if label(e.row) == each]) for each in labels}
    return {**statistics(entries), "by": by}
