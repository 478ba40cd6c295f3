"""Fits the few global constants of the cost model on published step times, and says how sure they are.

`python -m validate.fit [--write]`: least squares on the logarithm of step time over the rows of quality A and B, drawn
to a prior, robust to single rows; the step is linearised around the constants in force, so run it again until nothing
moves. Families (source and model) are left out in turn for the errors that matter; two sources are never seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from simulator.cost import constants
from simulator.predict import residuals
from validate.fit_files import constants_text, replace_file, residuals_text
from validate.fit_points import Entries, Floats, Point, design, points_of
from validate.fit_solve import (
    LEFT_OUT,
    Fit,
    Fitted,
    errors_at,
    errors_without,
    fitted_values,
    left_out_errors,
    log_errors,
    solve,
)
from validate.row import Row
from validate.rows import read_rows

PROCESSES = 2


def counted(rows: Sequence[Row]) -> list[Row]:
    """The rows whose configuration is known well enough to fit on."""
    return [row for row in rows if row.counts]


def figures(errors: Floats) -> str:
    """Errors in one line, from log(predicted / measured)."""
    size = np.abs(np.expm1(errors))
    return (f"median {np.median(size):6.1%}  mean {size.mean():6.1%}  p90 {np.quantile(size, 0.9):6.1%}  "
            f"bias {np.expm1(errors).mean():+6.1%}  ({len(errors)} rows)")  # fmt: skip


def report(
    fit: Fit, points: Sequence[Point], matrix: Floats, entries: Entries, left_out: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Errors before, after and without the own family, source and generation, and how every entry moved."""
    lines = [
        f"in force        {figures(log_errors(points))}",
        f"fitted          {figures(errors_at(fit, points, matrix, entries))}",
    ]
    for name, by_id in left_out.items():
        lines.append(f"{name + ' left out':<19} {figures(np.array(list(by_id.values())))}")
        for kind in sorted({point.case.kind for point in points}):
            errors = np.array([by_id[point.id] for point in points if point.case.kind == kind])
            lines.append(f"  {kind:<17} {figures(errors)}")
    values = fitted_values(fit, entries)
    return lines + [entry_line(str(e["name"]), float(e["value"]), v) for e, v in zip(entries, values, strict=True)]


def entry_line(name: str, value: float, fitted: Fitted) -> str:
    return f"{name:<46} {value:>9.4g} -> {fitted.value:>9.4g}  [{fitted.low:.4g}, {fitted.high:.4g}]"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the fitted values into the data file")
    parser.add_argument("--processes", type=int, default=PROCESSES)
    arguments = parser.parse_args(argv)
    entries = constants.entries()
    points = points_of(counted(read_rows()), entries, arguments.processes)
    matrix = design(points, entries)
    fit = solve(points, matrix, entries)
    left_out = {name: left_out_errors(points, matrix, entries, name) for name in LEFT_OUT}
    print("\n".join(report(fit, points, matrix, entries, left_out)))
    if arguments.write:
        without = errors_without(fit, points, matrix, entries)
        text = constants_text(constants.DATA.read_text(encoding="utf-8"), fitted_values(fit, entries), without)
        replace_file(constants.DATA, text)
        replace_file(residuals.DATA, residuals_text(points, left_out))


if __name__ == "__main__":
    main()
