"""Published training runs, predicted: each row becomes a scenario and is held against what it measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.precisions import half_precision_peak
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import Run, Scenario
from validate.rows import Row, Unsupported
from validate.rows_cluster import cluster_of
from validate.rows_measured import Measured, peak_memory, predicted, step_time
from validate.rows_model import model_of
from validate.rows_plan import plan_of

# Tokens of the whole training; a step's time does not depend on it.
TOKENS = 1e12


@dataclass(frozen=True, slots=True)
class Compared:
    """One quantity of one row: measured, predicted (None where unsupported), and all that was assumed."""

    row: Row
    quantity: str
    measured: float | None
    predicted: float | None
    reason: str
    assumptions: tuple[str, ...]
    prediction: Prediction | None = None

    @property
    def error_fraction(self) -> float | None:
        if self.measured is None or self.predicted is None:
            return None
        return self.predicted / self.measured - 1


def scenario_of(row: Row) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario of a row and what was assumed. Raises Unsupported with the reason."""
    model, about_model = model_of(row)
    cluster, about_cluster = cluster_of(row)
    plan, about_plan = plan_of(row, model, cluster.gpus)
    run = Run(row.need("seq_len"), TOKENS)
    scenario = Scenario(row.id, f"{row.text('model_name')} on {row.text('gpu_type')}", model, cluster, plan, run,
                        source=row.text("source"), file=row.place.file)  # fmt: skip
    return scenario, (*about_model, *about_cluster, *about_plan)


def compare(row: Row) -> list[Compared]:
    """Every quantity that a row measured beside its prediction; one entry with the reason where there is none."""
    try:
        scenario, assumptions = scenario_of(row)
    except Unsupported as reason:
        return [Compared(row, "step_time_s", None, None, str(reason), ())]
    peak = scenario.cluster.accelerator.peak_flops_per_s
    wanted = [step_time(row, scenario.model, scenario.plan, half_precision_peak(peak)), peak_memory(row)]
    found = [measured for measured in wanted if measured is not None]
    if not found:
        return [Compared(row, "step_time_s", None, None, "the row measured neither time nor memory", assumptions)]
    try:
        prediction = evaluate(scenario)
    except ValueError as error:
        return [Compared(row, m.quantity, m.value, None, f"cannot be laid out: {error}", assumptions) for m in found]
    return [compared(row, measured, prediction, assumptions) for measured in found]


def compared(row: Row, measured: Measured, prediction: Prediction, assumptions: tuple[str, ...]) -> Compared:
    noted = (*assumptions, f"measured: {measured.how}")
    return Compared(row, measured.quantity, measured.value, predicted(prediction, measured), "", noted, prediction)


def compare_all(rows: Sequence[Row], processes: int = 1) -> list[Compared]:
    """Every row in its order, on one or more processes."""
    if processes == 1:
        return [entry for row in rows for entry in compare(row)]
    with ProcessPoolExecutor(processes) as pool:
        return [entry for entries in pool.map(compare, rows, chunksize=8) for entry in entries]


# Ways to group rows in the summary: name -> label of a row.
GROUPS: dict[str, Callable[[Row], str]] = {
    "gpu": lambda row: row.text("gpu_type").split()[0],
    "model_kind": lambda row: row.text("dense_or_moe") or "unknown",
    "source": lambda row: row.id.split("-")[0],
    "scale": lambda row: scale_of(row.count("n_gpus") or 0),
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
