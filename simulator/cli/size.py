"""`traincast size`: how many GPUs of which kind finish by a date within a budget, and what given GPUs can train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simulator.cli.common import AsJson, Overrides, ScenarioFile, print_json, progress_bar

Within = Annotated[
    str | None, typer.Option("--finish-within", metavar="TIME", help="By when the run must end, as 90d or 12 h.")
]
Confidence = Annotated[
    str, typer.Option("--confidence", metavar="SHARE", help="Share of runs that must end by then, as 90%.")
]
Budget = Annotated[str | None, typer.Option("--budget", metavar="USD", help="The most that the run may cost, as 60M.")]
NodeNames = Annotated[
    str | None, typer.Option("--node", metavar="A,B,...", help="Nodes to choose from; without it, the scenario's own.")
]
Gpus = Annotated[
    int | None, typer.Option("--gpus", min=1, help="All GPUs that there are, spares within: what can they train?")
]
SizingDir = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Also write result.json, report.txt and the answer's scenario here."),
]


def size(
    scenario: ScenarioFile,
    finish_within: Within = None,
    confidence: Confidence = "90%",
    budget: Budget = None,
    node: NodeNames = None,
    gpus: Gpus = None,
    set_: Overrides = None,
    as_json: AsJson = False,
    out: SizingDir = None,
) -> None:
    """How many GPUs of which kind, with which plan, finish by a date; or what the GPUs at hand can train by then.

    Exit code 0 with an answer, 1 when nothing is enough, 2 when the question cannot be read.
    """
    from simulator.planner.size import size as answer_of
    from simulator.report.sizing import print_sizing, sizing
    from simulator.scenario.schema import load_scenario

    within_s = quantity("--finish-within", finish_within, "s")
    budget_usd = quantity("--budget", budget, "usd")
    share = quantity("--confidence", confidence, "fraction") or 0.0
    nodes = [name.strip() for name in node.split(",")] if node else []
    loaded = load_scenario(scenario, set_ or [])
    with progress_bar("nodes") as progress:
        result = answer_of(
            loaded,
            finish_within_s=within_s,
            confidence=share,
            budget_usd=budget_usd,
            nodes=nodes,
            gpus=gpus,
            progress=progress,
        )
    document = result.to_dict()
    if out is not None:
        from simulator.report.folder import json_text, write_results
        from simulator.report.printing import report_text
        from simulator.scenario.resolved import scenario_yaml

        files = {"result.json": json_text(document), "report.txt": report_text(sizing(document))}
        if result.answer is not None and result.answer.scenario is not None:
            files["scenario.yaml"] = scenario_yaml(result.answer.scenario)
        write_results(out, files)
    if as_json:
        print_json(document)
    else:
        print_sizing(document)
    raise typer.Exit(0 if result.answer is not None else 1)


def quantity(option: str, text: str | None, dimension: str) -> float | None:
    """A quantity of the command line in SI units. Raises InputError for a text that is none."""
    from hardware.problems import InputError, Problem
    from hardware.units import QuantityError, parse

    if text is None:
        return None
    try:
        # A bare number of dollars can only be dollars; a bare time could be days as well as seconds.
        return parse(text, dimension, bare=dimension != "s")
    except QuantityError as error:
        is_bare = dimension == "s" and text.strip().replace(".", "", 1).isdigit()
        message = (
            f"'{text}' has no unit: write {text.strip()}d for days, {text.strip()}h for hours"
            if is_bare
            else str(error)
        )
        raise InputError([Problem(f"{option} {text}", None, "", message)]) from None
