"""`traincast validate`: published measurements beside their predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.common import AsJson, print_json


def validate(
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", metavar="CSV", help="Training runs in the published columns, instead of the own ones."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the rows.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Predicted against measured, for every published training run.

    Exit code 0 when every row could be read, 2 when a file could not; unsupported rows are listed with the reason.
    """
    from validate.report import runs_document, runs_text
    from validate.rows import read_rows
    from validate.runs import compare_all

    document = runs_document(compare_all(read_rows(runs or None), processes))
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(runs_text(document))
