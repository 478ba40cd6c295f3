"""Fits the few global constants of the cost model on published step times, and says how sure they are.

`python -m validate.fit [--write]`: least squares on the logarithm of step time over the rows of quality A and B, drawn
to a prior, robust to single rows; the step is linearised around the constants in force, so run it again until nothing
moves. Families (source and model) are left out in turn for the errors that matter; two sources are never seen.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cost import constants as data
from simulator.cost.constants import Constants, constants_for
from simulator.plan.allocation import allocated
from simulator.predict import confidence
from simulator.predict.simulate import simulate_step
from simulator.scenario.schema import Scenario
from validate.rows import Row, Unsupported, read_rows
from validate.rows_measured import step_time
from validate.runs import scenario_of

Floats = NDArray[np.float64]
COUNTED = ("A", "B")
# Sources (the first part of a row's id) that the fit never sees: their rows test the constants.
UNTOUCHED = ("DSV3", "KORTH")
NUDGE = 0.05  # by which rates and host costs are moved for a derivative
ROBUST_ERROR = 0.05  # residuals beyond this count linearly: what half of the fitted rows stay below
PROCESSES = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One row at the constants in force: measured and predicted seconds, and how the logarithm of the prediction
    answers to each constant (per unit of log for rates, per unit otherwise)."""

    id: str
    family: str
    measured_s: float
    predicted_s: float
    slopes: Mapping[str, float]
    entries: tuple[int, ...]
    case: confidence.Case


def is_rate(constant: str) -> bool:
    return constant.endswith("_rate")


def predicted_s(scenario: Scenario, constants: Constants) -> float:
    return simulate_step(scenario, constants=constants).step_time_s


def point_of(row: Row) -> Point | None:
    """A row linearised; None where it is unsupported or measured no step time."""
    try:
        scenario, _ = scenario_of(row)
    except Unsupported:
        return None
    peak = scenario.cluster.accelerator.peak_flops_per_s
    measured = step_time(row, scenario.model, scenario.plan, peak.get("bf16", peak.get("fp16", 0.0)))
    if measured is None:
        return None
    scenario = replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))
    entries = tuple(
        number
        for number, entry in enumerate(data.entries())
        if data.holds_for(entry, scenario.cluster.accelerator, scenario.plan)
    )
    here = constants_for(scenario.cluster.accelerator, scenario.plan)
    base_s = predicted_s(scenario, here)
    slopes = {}
    for name in sorted({data.entries()[number]["constant"] for number in entries}):
        value = getattr(here, name)
        moved = predicted_s(scenario, replace(here, **{name: value * (1 + NUDGE)}))
        slopes[name] = float(np.log(moved / base_s)) / (np.log1p(NUDGE) if is_rate(name) else value * NUDGE)
    family = f"{row.id.split('-')[0]} {scenario.model.name}"
    return Point(row.id, family, measured.value, base_s, slopes, entries, confidence.case_of(scenario))


def points(rows: Sequence[Row], processes: int = PROCESSES) -> list[Point]:
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(point_of, rows, chunksize=4)
        return [point for point in found if point is not None]


def design(found: Sequence[Point], entries: Sequence[Mapping[str, Any]]) -> Floats:
    """Slopes [point, entry]; of constants that are no rates only the last entry that holds moves."""
    matrix = np.zeros((len(found), len(entries)))
    for index, point in enumerate(found):
        for number in point.entries:
            name = entries[number]["constant"]
            if is_rate(name) or number == max(n for n in point.entries if entries[n]["constant"] == name):
                matrix[index, number] = point.slopes[name]
    return matrix


def coordinate(entry: Mapping[str, Any], key: str) -> float:
    """Where an entry's value lies on the axis that is fitted."""
    return float(np.log(entry[key])) if is_rate(entry["constant"]) else float(entry[key])


def weights(found: Sequence[Point]) -> Floats:
    """Large families count less than their number of rows and more than one: the square root of their size. Rows of
    the sources kept apart count nothing."""
    sizes = {family: sum(point.family == family for point in found) for family in {p.family for p in found}}
    seen = [not point.family.startswith(UNTOUCHED) for point in found]
    return np.array([sizes[point.family] ** -0.25 * counts for point, counts in zip(found, seen, strict=True)])


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted coordinates [entry], their covariance, and what the linear model then predicts."""

    at: Floats
    covariance: Floats


def solve(found: Sequence[Point], matrix: Floats, entries: Sequence[Mapping[str, Any]]) -> Fit:
    """Robust least squares on log(predicted / measured), with the prior as further residuals."""
    from scipy.optimize import least_squares

    now = np.array([coordinate(entry, "value") for entry in entries])
    prior = np.array([coordinate(entry, "prior") for entry in entries])
    spread = np.array([float(entry["spread"]) for entry in entries])
    error = np.array([np.log(point.predicted_s / point.measured_s) for point in found])
    weight = weights(found)
    least = np.array([-np.inf if is_rate(entry["constant"]) else 0.0 for entry in entries])

    def residuals(at: Floats) -> Floats:
        missed = error + matrix @ (at - now)
        soft = np.sign(missed) * np.sqrt(2 * (np.sqrt(1 + (missed / ROBUST_ERROR) ** 2) - 1))
        return np.concatenate([weight * soft, (at - prior) / spread])

    start = np.maximum(now, least + 1e-9)
    result = least_squares(residuals, start, bounds=(least, np.full(len(entries), np.inf)), x_scale=spread)
    hessian = result.jac.T @ result.jac
    return Fit(result.x, np.linalg.inv(hessian))


def left_out_errors(found: Sequence[Point], matrix: Floats, entries: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """log(predicted / measured) of every row, by constants fitted without its family."""
    now = np.array([coordinate(entry, "value") for entry in entries])
    errors = {}
    for family in sorted({point.family for point in found}):
        inside = [point.family == family for point in found]
        kept = [point for point, out in zip(found, inside, strict=True) if not out]
        fit = solve(kept, matrix[[not out for out in inside]], entries)
        for point, row, out in zip(found, matrix, inside, strict=True):
            if out:
                errors[point.id] = float(np.log(point.predicted_s / point.measured_s) + row @ (fit.at - now))
    return errors


def value_at(entry: Mapping[str, Any], at: float) -> float:
    return float(np.exp(at)) if is_rate(entry["constant"]) else max(0.0, at)


def fitted_values(fit: Fit, entries: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    """Value and 80 % interval of every entry."""
    half = 1.2816 * np.sqrt(np.diag(fit.covariance))
    return [
        (value_at(entry, at), value_at(entry, at - width), value_at(entry, at + width))
        for entry, at, width in zip(entries, fit.at, half, strict=True)
    ]


def errors_without(found: Sequence[Point], matrix: Floats, entries: Sequence[Mapping[str, Any]], fit: Fit) -> Floats:
    """Mean error of all rows with one constant at a time at its neutral value, the others as fitted."""
    now = np.array([coordinate(entry, "value") for entry in entries])
    neutral = [0.0 if is_rate(e["constant"]) else float(getattr(data.NEUTRAL, e["constant"])) for e in entries]
    error = np.array([np.log(point.predicted_s / point.measured_s) for point in found]) + matrix @ (fit.at - now)
    without = [error + matrix[:, i] * (neutral[i] - fit.at[i]) for i in range(len(entries))]
    return np.array([np.abs(np.expm1(each)).mean() for each in without])


def write_residuals(found: Sequence[Point], left_out: Mapping[str, float]) -> None:
    """What the intervals are drawn from: every row's case, family and log(measured / predicted) without its family."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "family", "generation", "kind", "stack", "gpus", "log_error"))
    for p in found:
        case = (p.case.generation, p.case.kind, p.case.stack, p.case.gpus)
        table.writerow((p.id, p.family, *case, f"{-left_out[p.id]:.4f}"))
    write_aside(confidence.DATA, text.getvalue())


def write_aside(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_values(values: Sequence[tuple[float, float, float]], without: Floats) -> None:
    """Puts what was fitted into the data file, entry by entry, and leaves every other line as it is."""
    text = data.DATA.read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=\[\[constants\]\]$)", text)
    assert len(blocks) == len(values) + 1, "one block to an entry"
    written = [blocks[0]]
    for block, (value, low, high), error in zip(blocks[1:], values, without, strict=True):
        kept = re.sub(r"(?m)^(value|low|high|mean_error_without) = .*\n?", "", block).rstrip("\n")
        figures = f"value = {value:.4g}\nlow = {low:.4g}\nhigh = {high:.4g}\nmean_error_without = {error:.4g}"
        written.append(f"{kept}\n{figures}\n\n")
    write_aside(data.DATA, "".join(written).rstrip("\n") + "\n")


def figures(errors: Floats) -> str:
    size = np.abs(np.expm1(errors))
    return (f"median {np.median(size):6.1%}  mean {size.mean():6.1%}  p90 {np.quantile(size, 0.9):6.1%}  "
            f"bias {np.expm1(errors).mean():+6.1%}  ({len(errors)} rows)")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the fitted values into the data file")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args()
    entries = data.entries()
    found = points([row for row in read_rows() if row.text("quality") in COUNTED], arguments.processes)
    matrix = design(found, entries)
    fit = solve(found, matrix, entries)
    now = np.array([coordinate(entry, "value") for entry in entries])
    error = np.array([np.log(point.predicted_s / point.measured_s) for point in found])
    print("in force       ", figures(error))
    print("fitted         ", figures(error + matrix @ (fit.at - now)))
    left_out = left_out_errors(found, matrix, entries)
    print("family left out", figures(np.array(list(left_out.values()))))
    for kind in ("dense", "moe"):
        print(f"  {kind:<13} ", figures(np.array([left_out[p.id] for p in found if p.case.kind == kind])))
    for entry, (value, low, high) in zip(entries, fitted_values(fit, entries), strict=True):
        print(f"{entry['name']:<46} {entry['value']:>9.4g} -> {value:>9.4g}  [{low:.4g}, {high:.4g}]")
    if arguments.write:
        write_values(fitted_values(fit, entries), errors_without(found, matrix, entries, fit))
        write_residuals(found, left_out)


if __name__ == "__main__":
    main()
