"""How reports reach people: 100 columns, colours on a terminal, plain text elsewhere."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from hardware.problems import printable

WIDTH = 100
LEAST_ERROR = 5e-4  # of a mean: smaller ones do not reach the four digits that are printed


def print_report(report: RenderableType) -> None:
    """Prints a report on stdout: in colour on a terminal, as plain text elsewhere."""
    console = Console(highlight=False)
    if console.is_terminal:
        Console(highlight=False, width=max(60, min(WIDTH, console.width))).print(report)
    else:
        sys.stdout.write(report_text(report))


def report_text(report: RenderableType) -> str:
    """A report as plain text, for a file or a pipe."""
    stream = io.StringIO()
    Console(file=stream, highlight=False, width=WIDTH, no_color=True).print(report)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def signed(value: float, written: Callable[[float], str]) -> str:
    """A change with its sign, in the form that `written` gives sizes."""
    return ("-" if value < 0 else "+") + written(abs(value))


def with_error(mean: float, error: float | None, written: Callable[[float], str]) -> str:
    """A mean over simulated runs, in the digits that its standard error leaves, and that error where it is seen in
    them."""
    share = error / mean if error and mean > 0 else 0.0
    if share < LEAST_ERROR:
        return written(mean)
    digits = 1 + max(1, math.ceil(-math.log10(share)))
    return f"{_rounded(written(mean), digits)} +- {100 * share:.2g} %"


def _rounded(text: str, digits: int) -> str:
    """A figure with its unit, such as "12,345 USD", to so many digits in that unit: not in the one it was kept in."""
    figure, *unit = text.split(" ", 1)
    value = float(figure.replace(",", ""))
    rounded = float(f"{value:.{digits}g}")
    grouped = f"{rounded:,.10g}" if "," in figure else f"{rounded:.10g}"
    return " ".join([grouped, *unit])


def printable_values(value: Any) -> Any:
    """A document whose texts steer no terminal."""
    if isinstance(value, str):
        return printable(value.strip())
    if isinstance(value, Mapping):
        return {key: printable_values(item) for key, item in value.items()}
    return [printable_values(item) for item in value] if isinstance(value, list) else value


def can_print_blocks() -> bool:
    """Whether stdout takes the letters that bars are drawn of."""
    try:
        "█░".encode(Console().encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def pairs(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and texts; a name that repeats the one above is left out."""
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=12)
    table.add_column(overflow="fold")
    last = ""
    for name, text in rows:
        table.add_row("" if name == last else name, Text(text))
        last = name
    return table
