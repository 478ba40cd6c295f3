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
        typer.Option(
            "--runs", metavar="CSV", help="Training runs in either published layout, instead of the own ones."
        ),
    ] = None,
    collectives: Annotated[
        Path | None,
        typer.Option("--collectives", metavar="CSV", help="Collectives in the published columns, or 'published'."),
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option("--failures", metavar="CSV", help="Failures in the published columns, or 'published'."),
    ] = None,
    plans: Annotated[
        bool, typer.Option("--plans", help="Search the plans of published recipes: is each found, or what beats it?")
    ] = False,
    scenario: Annotated[
        str | None,
        typer.Option("--scenario", metavar="ID", help="Print the scenario file of one training run, predict nothing."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE.html", help="With --collectives: sweeps as a picture.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="How many processes share the rows.")] = 2,
    as_json: AsJson = False,
) -> None:
    """Predicted against measured, for every published training run.

    Exit code 0 when every row could be read, 2 when a file or a row in scenario keys could not; rows whose source
    leaves too much unsaid are listed as unsupported, with the reason.
    """
    if sum((runs is not None, collectives is not None, failures is not None, plans)) > 1:
        raise typer.BadParameter("--runs, --collectives, --failures and --plans go one at a time")
    if scenario is not None and (collectives is not None or failures is not None):
        raise typer.BadParameter("--scenario prints a training run, of --runs or of the own ones")
    if plot is not None and collectives is None:
        raise typer.BadParameter("--plot needs --collectives")
    if plans:
        validate_plans(processes, as_json)
    elif collectives is not None:
        validate_collectives(collectives, plot, as_json)
    elif failures is not None:
        validate_failures(failures, as_json)
    elif scenario is not None:
        print_scenario(runs, scenario, as_json)
    else:
        validate_runs(runs, processes, as_json)


def validate_runs(runs: list[Path] | None, processes: int, as_json: bool) -> None:
    """Writes every row beside its prediction; ends with exit code 2 where a row could not be read."""
    from validate.report import runs_document, runs_text
    from validate.rows import read_rows
    from validate.runs import compare_all

    entries = compare_all(read_rows(runs or None), processes)
    document = runs_document(entries)
    print_json(document) if as_json else sys.stdout.write(runs_text(document))
    problems = [problem for entry in entries for problem in entry.problems]
    if problems:
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        sys.stderr.write("The rows with these problems were left out; the others were predicted.\n")
        raise typer.Exit(2)


def validate_plans(processes: int, as_json: bool) -> None:
    """Searches the plans of every chosen recipe, and writes each beside the best as it is done."""
    from simulator.planner.executors import Processes
    from validate.recipes import Recipe, all_recipes, line, recipes_document, summary_line

    def told(recipe: Recipe) -> None:
        if not as_json:
            sys.stdout.write(f"{line(recipe)}\n")
            sys.stdout.flush()

    found = all_recipes(told, Processes(processes))
    print_json(recipes_document(found)) if as_json else sys.stdout.write(f"{summary_line(found)}\n")


def print_scenario(runs: list[Path] | None, identifier: str, as_json: bool) -> None:
    """Writes the scenario of one row to stdout, as YAML or JSON.

    Raises InputError for an unknown id and for a row that has no scenario.
    """
    from hardware.problems import InputError, Problem, one_of
    from validate.row import Unsupported
    from validate.row_scenarios import mapping_of, scenario_file
    from validate.rows import read_rows

    rows = {row.id: row for row in read_rows(runs or None)}
    if identifier not in rows:
        raise InputError([Problem("--scenario", None, "", f"row {one_of(identifier, rows)}")])
    row = rows[identifier]
    try:
        text = scenario_file(row)
        print_json(mapping_of(row)) if as_json else sys.stdout.write(text)
    except Unsupported as reason:
        raise InputError([Problem("--scenario", None, identifier, str(reason))]) from None


def validate_collectives(path: Path, plot: Path | None, as_json: bool) -> None:
    from hardware.problems import InputError, Problem
    from validate.collectives import PUBLISHED, collectives_document, collectives_text, write_plot
    from validate.tables import why_unreadable

    try:
        document = collectives_document(PUBLISHED if str(path) == "published" else path)
    except (OSError, ValueError) as error:
        raise InputError([Problem(str(path), None, "", why_unreadable(error))]) from None
    if plot is not None:
        write_plot(document, plot)
    print_json(document) if as_json else sys.stdout.write(collectives_text(document))


def validate_failures(path: Path, as_json: bool) -> None:
    from validate.failures import PUBLISHED, failures_text, rows

    found, unsupported = rows(path=PUBLISHED if str(path) == "published" else path)
    if as_json:
        print_json({"rows": [row.to_dict() for row in found], "unsupported": unsupported})
    else:
        sys.stdout.write(failures_text(found, unsupported))
