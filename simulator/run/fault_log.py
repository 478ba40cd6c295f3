"""A user's own fault log (CSV) as the timeline of a run, and as rows to fit."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware.problems import InputError, Problem
from simulator.run.durations import fixed
from simulator.run.faults import CRASH, FailureModel, FaultClass, FaultTimeline

COLUMNS = ("start_day", "end_day", "node", "level", "class", "description")
DAY_S = 86400.0
MAX_ROWS = 1_000_000
DETECT_S = 30.0  # a crashed node: 10 s to a lost GPU, 30 s to a crashed NIC (ByteRobust, arXiv 2509.16293)


@dataclass(frozen=True, slots=True)
class LogRow:
    """One fault of one node: `start_s` and `end_s` from the start of the log; `end_s` is infinite while still down."""

    start_s: float
    end_s: float
    node: int
    level: str
    component: str
    description: str


def read_log(path: str | Path) -> tuple[LogRow, ...]:
    """Rows of a log in the columns start_day, end_day (empty: still down), node, level, class, description, by start.

    Raises InputError naming every bad row.
    """
    name, problems, rows = str(path), list[Problem](), list[LogRow]()
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or ())]
            if missing:
                wanted = ", ".join(COLUMNS)
                message = f"is missing; a fault log has the columns {wanted}"
                raise InputError([Problem(name, 1, ", ".join(missing), message)])
            for row in reader:
                if reader.line_num > MAX_ROWS:
                    raise InputError([Problem(name, reader.line_num, "", f"has more than {MAX_ROWS} rows")])
                cells = {key: cell or "" for key, cell in row.items() if key is not None}
                _read_row(cells, Problem(name, reader.line_num, "", ""), rows, problems)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(name, None, "", f"cannot be read: {reason}")]) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError([Problem(name, None, "", f"is not a CSV file in UTF-8: {error}")]) from None
    if problems:
        raise InputError(problems)
    if not rows:
        raise InputError([Problem(name, None, "", "holds no faults")])
    return tuple(sorted(rows, key=lambda r: (r.start_s, r.node)))


def _read_row(row: dict[str, str], at: Problem, rows: list[LogRow], problems: list[Problem]) -> None:
    def number(key: str, empty: float | None = None) -> float:
        text = row[key].strip()
        if not text and empty is not None:
            return empty
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            problems.append(Problem(at.file, at.line, key, f"{text!r} is not a number of at least 0"))
        return value

    start, end, node = number("start_day"), number("end_day", math.inf), number("node")
    if end < start:
        problems.append(Problem(at.file, at.line, "end_day", f"{end:g} lies before start_day {start:g}"))
    if math.isfinite(node) and node != int(node):
        problems.append(Problem(at.file, at.line, "node", f"{node:g} is not a whole number"))
        return
    if math.isfinite(node):
        rows.append(LogRow(start * DAY_S, end * DAY_S, int(node), row["level"], row["class"], row["description"]))


def components(rows: Sequence[LogRow]) -> tuple[str, ...]:
    """The classes of the log, sorted."""
    return tuple(sorted({row.component for row in rows}))


def model_of(rows: Sequence[LogRow], nodes: int, gpus_per_node: int) -> FailureModel:
    """The log's mean rates by class, for the closed form, the interval and the names; not for drawing."""
    gpu_seconds = max(row.start_s for row in rows) * nodes * gpus_per_node
    counts = Counter(row.component for row in rows)
    classes = tuple(
        FaultClass(
            name=name,
            kind="crash",
            rate_per_gpu_s=counts[name] / gpu_seconds,
            detect=fixed(DETECT_S),
            repair=fixed(_mean_away_s(rows, name)),
        )
        for name in components(rows)
    )
    return FailureModel("log", classes, source="the user's log")


def _mean_away_s(rows: Sequence[LogRow], component: str) -> float:
    """Mean of the finished repairs of one class."""
    away = [r.end_s - r.start_s for r in rows if r.component == component and math.isfinite(r.end_s)]
    return sum(away) / len(away) if away else 0.0


def timeline_of(rows: Sequence[LogRow], nodes: int, detect_s: float = DETECT_S) -> FaultTimeline:
    """The log as crashes of single nodes, each noticed after `detect_s`, back exactly when the log says.

    Raises ValueError if the log names nodes that the cluster of `nodes` (job and spares) does not have.
    """
    beyond = sorted({row.node for row in rows if row.node >= nodes})
    if beyond:
        raise ValueError(f"the log names node {beyond[-1]}, the job and its spares have nodes 0 to {nodes - 1}")
    names = components(rows)
    count = len(rows)
    start, end = np.array([r.start_s for r in rows]), np.array([r.end_s for r in rows])
    # A node is away from its fault to the end in the log; what detection takes of that is not repair.
    repair = np.maximum(end - start - detect_s, 0.0)
    zero = np.zeros(count)
    return FaultTimeline(
        time_s=start,
        component=np.array([names.index(r.component) for r in rows], int),
        kind=np.full(count, CRASH),
        node=np.array([r.node for r in rows], int),
        breadth=np.ones(count, int),
        detect_s=np.full(count, detect_s),
        repair_s=repair,
        outage_s=zero,
        lasts_s=zero,
        speed=np.ones(count),
    )
