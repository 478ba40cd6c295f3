"""What the verbs share: their common arguments, and how problems and documents are written out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hardware.problems import InputError

ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO", help="The scenario file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as plan.tp=2; may be given many times."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
OutDir = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Also write result.json, scenario.yaml and report.txt here.")
]


def explain(error: InputError) -> str:
    """Every problem on a line of its own: `file:line: key: what is wrong and what would be right`."""
    from hardware.problems import printable

    count = len(error.problems)
    lines = [printable(str(problem)) for problem in error.problems]
    return "\n".join([*lines, f"{count} {'problem' if count == 1 else 'problems'}; nothing was run", ""])


def check_known(kind: str, text: str, known: Sequence[str]) -> str:
    """The known name that the text spells in any case. Raises InputError with the nearest names where there is none."""
    from hardware.problems import InputError, Problem, known_name, one_of

    name = known_name(text, known)
    if name not in known:
        raise InputError([Problem(kind, None, "", one_of(text, known))])
    return name


def print_json(document: Mapping[str, Any]) -> None:
    """The document on stdout; NaN and infinity would not be JSON and are refused."""
    from simulator.report.folder import json_text

    sys.stdout.write(json_text(document))


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr, where that is a terminal; gives a function of (done, in all) that draws it, or None.

    The bar appears with the first part that is not the last: what takes one part leaves no trace.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    bar = Progress(console=Console(stderr=True), transient=True)

    def told(done: int, total: int) -> None:
        if not bar.tasks and done < total:
            bar.start()
            bar.add_task(what, total=total)
        for task in bar.tasks:
            bar.update(task.id, completed=done)

    try:
        yield told
    finally:
        bar.stop()


@contextmanager
def progress_line(what: str) -> Iterator[Callable[[float, str], None] | None]:
    """A bar with words beside it on stderr, where that is a terminal; gives a function of (share done, words), or None.

    The line stands there from the first moment, and its clock runs while nothing is told.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), BarColumn(20), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=1.0)

        def told(share: float, words: str) -> None:
            bar.update(task, completed=share, description=words)
            bar.refresh()

        yield told
