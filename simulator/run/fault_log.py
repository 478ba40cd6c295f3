"""A user's own fault log (CSV): its rows, the timeline that replays it, and the failure model that it amounts to."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hardware.problems import InputError, Problem, one_of
from simulator.run.durations import Duration, empirical, fixed
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.faults import CRASH, FailureModel, FaultClass

COLUMNS = ("start_day", "end_day", "node", "level", "class", "description")
# Levels as the StepFun trace names them; each also without "Failure", in any case, or left empty.
LEVELS = ("Hardware Failure", "Software Failure", "Other Failure")
DAY_S = 86400.0
MAX_ROWS = 1_000_000
MAX_DAY, MAX_NODE = 100_000, 10_000_000  # no log reaches so far; beyond, arithmetic overflows
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


# -- reading ------------------------------------------------------------------------------------------------------


def read_log(path: str | Path) -> tuple[LogRow, ...]:
    """Rows of a log in the columns start_day, end_day (empty: still down), node, level, class, description, by start.

    Raises InputError naming every bad row.
    """
    name, problems, rows = str(path), list[Problem](), list[LogRow]()
    try:
        if not Path(path).is_file():
            raise InputError([Problem(name, None, "", "cannot be read: no such file")])
        with open(path, newline="", encoding="utf-8-sig") as file:
            for line, cells in _lines(csv.DictReader(file), name):
                _read_row(cells, name, line, rows, problems)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(name, None, "", f"cannot be read: {reason}")]) from None
    except (ValueError, csv.Error) as error:  # not UTF-8, a NUL in the name, a cell without end
        raise InputError([Problem(name, None, "", f"is not a CSV file in UTF-8: {error}")]) from None
    if not problems and not rows:
        problems.append(Problem(name, None, "", "holds no faults"))
    if problems:
        raise InputError(problems)
    return tuple(sorted(rows, key=lambda row: (row.start_s, row.node)))


def _lines(reader: csv.DictReader[str], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells by column) of each row. Raises InputError where columns are missing or rows too many."""
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        message = f"is missing; a fault log has the columns {', '.join(COLUMNS)}"
        raise InputError([Problem(name, 1, ", ".join(missing), message)])
    for row in reader:
        if reader.line_num > MAX_ROWS:
            raise InputError([Problem(name, reader.line_num, "", f"has more than {MAX_ROWS} rows")])
        yield reader.line_num, {column: row[column] or "" for column in COLUMNS}


def _read_row(cells: dict[str, str], name: str, line: int, rows: list[LogRow], problems: list[Problem]) -> None:
    """Adds the row, or what is wrong with it."""

    def report(column: str, message: str) -> None:
        problems.append(Problem(name, line, column, message))

    def number(column: str, most: float) -> float:
        """The cell's number; nan where it has none, which is reported."""
        text = cells[column].strip()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            report(column, f"{_shown(text)} is not a number of at least 0")
        elif value > most:
            report(column, f"{_shown(text)} is beyond {most:,}")
        return value if 0 <= value <= most else math.nan

    before = len(problems)
    start_day = number("start_day", MAX_DAY)
    end_day = number("end_day", MAX_DAY) if cells["end_day"].strip() else math.inf
    node = number("node", MAX_NODE)
    if end_day < start_day:
        report("end_day", f"{end_day:g} lies before start_day {start_day:g}")
    if math.isfinite(node) and node != int(node):
        report("node", f"{node:g} is not a whole number")
    if cells["level"].strip() and level_of(cells["level"]) is None:
        report("level", one_of(cells["level"][:40], LEVELS))
    if len(problems) == before:
        level = level_of(cells["level"]) or ""
        rows.append(LogRow(start_day * DAY_S, end_day * DAY_S, int(node), level, cells["class"], cells["description"]))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


def level_of(text: str) -> str | None:
    """The level that a cell names, None if it is none of them."""
    word = text.strip().lower().removesuffix("failure").strip()
    return next((level for level in LEVELS if level.lower().split()[0] == word), None)


def beyond_nodes(rows: Sequence[LogRow], job_nodes: int, spares: int) -> str | None:
    """What is wrong with a log that names a node which neither the job nor its spares have; None where none is."""
    last = max((row.node for row in rows), default=0)
    nodes = job_nodes + spares
    if last < nodes:
        return None
    beside = f" and {spares:,} spare" if spares else ""
    return (
        f"names node {last}, which the cluster does not have: its {job_nodes:,}{beside} nodes are 0 to {nodes - 1}. "
        f"Number the log's nodes from 0, or give cluster.gpus of the cluster that the log is of"
    )


# -- what it says -------------------------------------------------------------------------------------------------


def components(rows: Sequence[LogRow]) -> tuple[str, ...]:
    """The classes of the log, sorted."""
    return tuple(sorted({row.component for row in rows}))


def observed_s(rows: Sequence[LogRow]) -> float:
    """How long the log covers at least: to the last fault, or the last repair that it saw the end of."""
    ends = [row.end_s for row in rows if math.isfinite(row.end_s)]
    return max(row.start_s for row in rows) if not ends else max(*ends, max(row.start_s for row in rows))


def model_of(rows: Sequence[LogRow], nodes: int, gpus_per_node: int, covers_s: float | None = None) -> FailureModel:
    """The log's mean rates and observed repairs by class, memoryless, on `nodes` nodes over `covers_s` (None: what it
    was seen to cover).

    A class of which no repair has ended takes those of all. Raises ValueError for a log that covers no time.
    """
    covered_s = covers_s if covers_s is not None else observed_s(rows)
    if covered_s <= 0:
        raise ValueError("a log whose faults all start at day 0 has no rate; say how long it covers")
    counts = Counter(row.component for row in rows)
    gpu_seconds = covered_s * nodes * gpus_per_node
    classes = tuple(
        FaultClass(
            name=name,
            kind="crash",
            rate_per_gpu_s=counts[name] / gpu_seconds,
            detect=fixed(DETECT_S),
            repair=_repair_of(rows, name),
        )
        for name in components(rows)
    )
    return FailureModel("log", classes, source="the user's log")


def _repair_of(rows: Sequence[LogRow], component: str) -> Duration | None:
    """The observed repairs of a class, less what detection takes of them."""
    ended = [row for row in rows if math.isfinite(row.end_s)]
    own = [row for row in ended if row.component == component] or ended
    return empirical([_repair_s(row) for row in own]) if own else None


def _repair_s(row: LogRow, detect_s: float = DETECT_S) -> float:
    """A node is away from its fault to the end in the log; what detection takes of that is not repair."""
    return max(row.end_s - row.start_s - detect_s, 0.0)


def timeline_of(rows: Sequence[LogRow], nodes: int, detect_s: float = DETECT_S) -> FaultTimeline:
    """The log as crashes of single nodes, each noticed after `detect_s`, back exactly when the log says.

    Raises ValueError if the log names nodes that the cluster of `nodes` (job and spares) does not have.
    """
    beyond = sorted({row.node for row in rows if row.node >= nodes})
    if beyond:
        raise ValueError(f"the log names node {beyond[-1]}, the job and its spares have nodes 0 to {nodes - 1}")
    names = {name: number for number, name in enumerate(components(rows))}
    count = len(rows)
    return FaultTimeline(
        time_s=np.array([row.start_s for row in rows]),
        component=np.array([names[row.component] for row in rows], int),
        kind=np.full(count, CRASH),
        node=np.array([row.node for row in rows], int),
        breadth=np.ones(count, int),
        detect_s=np.full(count, detect_s),
        repair_s=np.array([_repair_s(row, detect_s) for row in rows]),
        outage_s=np.zeros(count),
        lasts_s=np.zeros(count),
        speed=np.ones(count),
    )
