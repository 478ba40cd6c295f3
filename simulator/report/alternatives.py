"""What other choices for the run would change, as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import format_count, format_fraction, format_seconds
from simulator.report.printing import signed


def alternatives_table(rows: list[Mapping[str, Any]]) -> RenderableType:
    """Other choices for the run: when it ends, its goodput and cost, and how that differs under equal faults."""
    count = rows[0]["runs"]
    runs = f"the same faults in {count:,} run{'s' if count > 1 else ''}; means but for P50, P90; * best of its kind"
    head = Text.assemble(("What would change", "bold"), f"  {runs}")
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("", "P50", "P90", "goodput", "USD", "later by", "USD more"):
        table.add_column(name, justify="right" if name else "left", overflow="fold", no_wrap=name != "")
    for row in rows:
        table.add_row(*_row(row), style="bold" if row["best"] else "")
    return Group("", head, Padding(table, (0, 0, 0, 2)))


def _row(row: Mapping[str, Any]) -> Iterable[str]:
    mark = "* " if row["best"] else "  "
    saves = row["checkpoint_every_s"].values()
    every_s = next((seconds for seconds in saves if seconds is not None), None)
    saved = f", {format_seconds(every_s)}" if row["kind"] in ("interval", "policy") and every_s else ""
    yield mark + row["change"] + saved
    for name in ("p50", "p90"):
        ends = row["finish_s"][name]
        yield "never" if ends is None else format_seconds(ends)
    yield format_fraction(row["goodput_fraction"])
    known = row["cost_usd"] is not None and row["finishes"]
    yield format_count(row["cost_usd"]) if known else "-"
    if row["kind"] == "planned":
        return
    error = row["later_error_s"]
    yield _signed(row["later_s"], format_seconds) + (f" +- {format_seconds(error)}" if error and error >= 0.5 else "")
    yield _signed(row["extra_cost_usd"], format_count)


def _signed(value: float | None, written: Callable[[float], str]) -> str:
    """With its sign; "-" where it is not known."""
    if value is None:
        return "-"
    return signed(value, written) if abs(value) >= 0.5 else "0"
