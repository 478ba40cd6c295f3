"""Tables of measurements: collectives in the published column layout, products with a column per dimension."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

from hardware.collectives import OPERATIONS
from hardware.problems import InputError, Problem
from validate.calibrate.logs.reading import Reading, number_in, refusal, whole_in
from validate.calibrate.points import BenchCase, MeasuredPoint

COLLECTIVE_COLUMNS = {"op", "size_bytes", "n_gpus"}
PRODUCT_COLUMNS = {"m", "n", "k", "latency_us"}
COLLECTIVE_NUMBERS = ("size_bytes", "time_us", "algbw_GBps")  # columns that may be left empty
MOST_PROBLEMS = 20  # that are told of one table


def columns_of(text: str) -> set[str]:
    """The column names of a CSV file."""
    first = text.lstrip().partition("\n")[0]
    return {name.strip() for name in first.split(",")}


def rows_of(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, values by column) of every row. Raises InputError where the file breaks CSV's rules."""
    reader = csv.DictReader(StringIO(text.lstrip()), restval="")
    try:
        reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
        for row in reader:
            if None in row:
                raise refusal(path, "has more values than the first line has columns", reader.line_num)
            yield reader.line_num, row
    except csv.Error as error:
        raise refusal(path, f"is no CSV: {error}", reader.line_num) from None


def collective_table(text: str, path: Path) -> Reading:
    """Rows of the published column layout: sweep_id, op, gpu, n_gpus, n_nodes, size_bytes, time_us, algbw_GBps.

    Raises InputError with every value that is no number.
    """
    from validate.collectives import read_measurements

    check_numbers(text, path)
    try:
        table = read_measurements(path)
    except ValueError as error:
        raise refusal(path, str(error)) from None
    reading = Reading()
    for row in table.to_dict("records"):
        if row["reason"]:
            reading.leave_out(f"rows whose {row['reason']}")
            continue
        if row["operation"] not in OPERATIONS:
            reading.leave_out("rows of expert exchanges, which no group is fitted to")
            continue
        shape = {
            "operation": row["operation"],
            "size_bytes": whole_in(row["size_bytes"]),
            "n_gpus": whole_in(row["n_gpus"]),
            "stride": 1,
            "n_nodes": whole_in(row["n_nodes"]),
            "at_once": 1,
            "sweep": str(row["sweep_id"]),
        }
        where = {"gpu": str(row["gpu"]), "fabric": str(row["fabric"])}
        case = BenchCase("collective", "fp32", shape)
        seconds, source = float(row["measured_s"]), str(row["source"])
        reading.add(MeasuredPoint.logged(case, seconds, source, where))
    return reading


def check_numbers(text: str, path: Path) -> None:
    """Raises InputError with every cell that must be a number and is none."""
    problems = []
    for line, row in rows_of(text, path):
        for name in ("n_gpus", "n_nodes"):
            if name in row and whole_in(row[name]) < 1:
                problems.append(cell_problem(path, line, name, row, "no number of at least 1"))
        for name in COLLECTIVE_NUMBERS:
            if row.get(name) and number_in(row[name]) != number_in(row[name]):
                problems.append(cell_problem(path, line, name, row, "no number; leave it empty"))
    if problems:
        raise InputError(problems[:MOST_PROBLEMS])


def cell_problem(path: Path, line: int, column: str, row: Mapping[str, str], wrong: str) -> Problem:
    return Problem(str(path), line, column, f"{row[column][:40]!r} is {wrong}")


def product_table(text: str, path: Path) -> Reading:
    """Rows gpu, dtype, m, n, k, latency_us, and role where they are not forward products."""
    missing = {"gpu", "dtype"} - columns_of(text)
    if missing:
        raise refusal(path, f"lacks the columns {', '.join(sorted(missing))}", 1)
    reading = Reading()
    problems = []
    for line, row in rows_of(text, path):
        latency_us = number_in(row["latency_us"])
        wrong = [name for name in ("m", "n", "k") if whole_in(row[name]) < 1]
        if not latency_us > 0:
            wrong.append("latency_us")
        problems += [cell_problem(path, line, name, row, "no number above 0") for name in wrong]
        if not wrong:
            reading.add(product_point(row, latency_us * 1e-6, path.name))
    if problems:
        raise InputError(problems[:MOST_PROBLEMS])
    return reading


def product_point(row: Mapping[str, str], seconds: float, source: str) -> MeasuredPoint:
    shape = {
        "m": whole_in(row["m"]),
        "n": whole_in(row["n"]),
        "k": whole_in(row["k"]),
        "role": row.get("role") or "forward",
    }
    return MeasuredPoint.logged(BenchCase("gemm", row["dtype"], shape), seconds, source, {"gpu": row["gpu"]})
