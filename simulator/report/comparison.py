"""A comparison for people: what differs on top, then a line for every figure with its difference from the first column.

Works from the document of `traincast compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hardware.units import format_bytes, format_energy, format_fraction, format_seconds, format_usd
from simulator.report.beyond import step_seconds
from simulator.report.printing import pairs, print_report, printable_values, signed, with_error

COLUMNS = 5  # side by side in 100 letters; more follow below
ROUNDING = 1e-6  # of a figure: a difference below is none
Written = Callable[[float], str]


def print_comparison(document: Mapping[str, Any]) -> None:
    """Prints the report on stdout: in colour on a terminal, as plain text elsewhere."""
    print_report(comparison(document))


def comparison(document: Mapping[str, Any]) -> Group:
    """The whole report: tables of at most COLUMNS columns, then what was refused and what does not fit. No text of the
    document steers the terminal."""
    document = printable_values(document)
    numbers = range(0, len(document["columns"]), COLUMNS)
    tables: list[RenderableType] = [_table(document, range(len(document["columns"]))[n : n + COLUMNS]) for n in numbers]
    notes = list(_notes(document))
    return Group(*tables, *([Group("", pairs(notes))] if notes else []))


def _table(document: Mapping[str, Any], chosen: Sequence[int]) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("", overflow="fold")
    columns = [document["columns"][number] for number in chosen]
    for column in columns:
        table.add_column(Text(column["name"], style="bold"), justify="right", overflow="fold")
    for row in document["inputs"]:
        table.add_row(Text(row["key"], style="bold"), *(_value(row["values"][number]) for number in chosen))
    table.add_section()
    for name, cells in _rows(columns):
        table.add_row(name, *cells)
    return Group(table, "")


def _value(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rows(columns: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str | Text, list[str | Text]]]:
    """Every figure's line; a column without figures says so once and stays empty."""
    yield Text("against first", style="bold"), [_verdict(column) for column in columns]
    yield Text("step time", style="bold"), [_step(column) for column in columns]
    yield "  80 % interval", [_interval(column) for column in columns]
    yield "  against first", [_against(column) for column in columns]
    for cause in _names(columns, "breakdown_s"):
        yield f"  {cause}", _cells(columns, ("breakdown_s", cause), step_seconds)
    yield "MFU", _cells(columns, ("mfu_fraction",), format_fraction)
    yield Text("memory", style="bold"), _cells(columns, ("device_memory_bytes",), format_bytes)
    for owner in _names(columns, "memory_bytes"):
        yield f"  {owner}", _cells(columns, ("memory_bytes", owner), format_bytes)
    yield Text("training", style="bold"), _cells(columns, ("training_time_s",), format_seconds)
    for percent in ("p10", "p50", "p90"):
        yield f"  {percent.upper()} in all", _cells(columns, ("finish_s", percent), format_seconds)
    yield "cost, mean run", _cells(columns, ("cost_usd",), format_usd, "cost_error_usd")
    yield "energy, mean run", _cells(columns, ("energy_j",), format_energy)


def _names(columns: Sequence[Mapping[str, Any]], part: str) -> list[str]:
    """Names of a figure's parts that any column has seconds or bytes of worth a line."""
    shown: dict[str, None] = {}
    for column in columns:
        figures = column["figures"]
        if figures:
            whole = sum(figures[part].values())
            shown |= dict.fromkeys(name for name, size in figures[part].items() if abs(size) > 5e-4 * whole)
    return list(shown)


def _step(column: Mapping[str, Any]) -> Text:
    if column["figures"] is None:
        return Text("refused", style="red")
    step = step_seconds(column["figures"]["step_time_s"])
    return Text(f"{step}\n{_no(column['unfit'])}", style="red") if column["unfit"] else Text(step, style="bold green")


def _no(unfit: Sequence[str]) -> str:
    """Why the answer is no, in the few words that a column has room for; the notes below say it all."""
    return "does not finish" if all("does not finish" in reason for reason in unfit) else "does not fit"


def _interval(column: Mapping[str, Any]) -> str:
    if column["figures"] is None:
        return ""
    return _between(column["figures"]["step_time_interval_s"], step_seconds)


def _between(interval: Sequence[float], written: Written) -> str:
    low, high = map(written, interval)
    return f"{low} ..\n{high}"


def _verdict(column: Mapping[str, Any]) -> Text:
    """The word for the whole run, and what it was judged by."""
    difference = column["difference"]
    if difference is None:
        return Text("")
    word, measure = difference["verdict"], difference["judged_by"]
    if word in ("does not finish", "does not fit"):
        return Text(word, style="red")
    told_by = f"\nby {measure}" if measure and word != "fits" else ""
    return Text(word + told_by, style="yellow" if word == "cannot be told apart" else "")


def _against(column: Mapping[str, Any]) -> str:
    """The interval of the step's difference."""
    difference = column["difference"]
    if difference is None:
        return ""
    interval = difference["step_time_interval_s"]
    if max(map(abs, interval)) <= ROUNDING * column["figures"]["step_time_s"]:
        return "the same"
    return _between(interval, lambda change: _signed(change, step_seconds))


def _cells(
    columns: Sequence[Mapping[str, Any]], path: Sequence[str], written: Written, error: str = ""
) -> list[str | Text]:
    """The figure of each column, with its standard error where that has a name, and below it its difference from the
    first."""
    cells: list[str | Text] = []
    for column in columns:
        value, change = _at(column["figures"], path), _at(column["difference"], path)
        if value is None:
            cells.append("-" if column["figures"] else "")
            continue
        figure = with_error(value, _at(column["figures"], (error,)), written)
        if change is None or abs(change) <= ROUNDING * abs(value):
            cells.append(figure)
        else:
            cells.append(Text.assemble(figure, "\n", (_signed(change, written), "dim")))
    return cells


def _at(data: Any, path: Sequence[str]) -> float | None:
    for key in path:
        data = data.get(key) if isinstance(data, Mapping) else None
    return data if isinstance(data, int | float) else None


def _signed(value: float, written: Written) -> str:
    return signed(value, written) if value else "0"


def _notes(document: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    yield from _warnings(document["columns"])
    for column in document["columns"]:
        yield from ((column["name"], f"refused: {reason}") for reason in column["refused"])
        yield from ((column["name"], reason) for reason in column["unfit"])
        if column["difference"] is not None and column["difference"]["verdict"] == "cannot be told apart":
            yield column["name"], f"cannot be told apart from {document['reference']}: {_untold(column['difference'])}"


def _untold(difference: Mapping[str, Any]) -> str:
    """Why neither of two columns is better."""
    of_run = difference["finish_interval_s"]
    what = "the median run takes" if of_run is not None else "training takes"
    interval_s = of_run if of_run is not None else difference["training_time_interval_s"]
    interval = _between(interval_s, lambda change: _signed(change, format_seconds))
    spread = " ".join(interval.split())
    return f"{what} {spread} longer, an interval that holds zero"


def _warnings(columns: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Every warning once, with the columns that it is of."""
    evaluated = [column for column in columns if column["figures"]]
    for warning in dict.fromkeys(warning for column in evaluated for warning in column["warnings"]):
        names = [column["name"] for column in evaluated if warning in column["warnings"]]
        yield "Warning", warning if len(names) == len(evaluated) else f"{', '.join(names)}: {warning}"
