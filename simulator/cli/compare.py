"""`traincast compare`: scenarios or plans side by side, and how sure their differences are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.common import AsJson, Overrides, print_json, progress_bar

Files = Annotated[list[Path], typer.Argument(metavar="SCENARIO...", help="Scenario files (YAML).")]
Others = Annotated[
    list[str] | None,
    typer.Option(
        "--with", metavar="KEY=VALUE", help="A column with these instead: plan.pp=8, or plan.pp=8,plan.ep=32."
    ),
]
Over = Annotated[
    list[str] | None,
    typer.Option(
        "--over", metavar="KEY=A,B,...", help="A column for each value; of several keys, for each combination."
    ),
]
ComparisonDir = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Also write result.json, table.csv and report.txt here.")
]


def compare(
    scenarios: Files,
    set_: Overrides = None,
    with_: Others = None,
    over: Over = None,
    as_json: AsJson = False,
    out: ComparisonDir = None,
) -> None:
    """Scenarios or plans side by side: what differs, by how much, and whether that can be told.

    Exit code 0 when some column fits and finishes, 1 when none does, 2 when none can be read.
    """
    from simulator.planner.compare import compare as compare_entries
    from simulator.planner.variants import entries
    from simulator.report.comparison import comparison, print_comparison

    columns = entries(scenarios, set_ or [], with_ or [], over or [])
    with progress_bar("scenarios") as progress:
        result = compare_entries(columns, progress)
    document = result.to_dict()
    if out is not None:
        from simulator.report.folder import json_text, write_results
        from simulator.report.printing import report_text

        table = result.to_frame().to_csv(index_label="figure")
        report = report_text(comparison(document))
        write_results(out, {"result.json": json_text(document), "table.csv": table, "report.txt": report})
    if as_json:
        print_json(document)
    else:
        print_comparison(document)
    raise typer.Exit(0 if any(column.works for column in result.columns) else 1)
