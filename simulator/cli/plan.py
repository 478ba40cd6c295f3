"""`traincast plan`: searches every legal parallelism plan around a scenario's own and ranks the best."""

from __future__ import annotations

import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.common import AsJson, Overrides, ScenarioFile, print_json, progress_line

if TYPE_CHECKING:
    from simulator.planner.executors import Executor
    from simulator.planner.options import SearchOptions
    from simulator.planner.planning import Progress
    from simulator.planner.result import PlanSearch
    from simulator.scenario.schema import Scenario


class Objective(StrEnum):
    """What is minimised."""

    time = "time"
    cost = "cost"
    energy = "energy"
    finish = "finish"


class Where(StrEnum):
    """Where the chunks of a search run."""

    serial = "serial"
    processes = "processes"
    ray = "ray"


Keep = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="KEY[=VALUE]", help="Leave a key as it is, or at this value: plan.tp=2."),
]
Free = Annotated[
    list[str] | None,
    typer.Option("--free", metavar="KEY[=VALUES]", help="Search a further key: plan.precision, plan.etp=1,2,8."),
]
Top = Annotated[int, typer.Option("--top", min=1, max=1000, help="Plans to show.")]
Goal = Annotated[Objective, typer.Option("--objective", help="What the best plan has least of.")]
Headroom = Annotated[str, typer.Option("--headroom", help="Share of the GPU's memory that stays free.")]
PhaseName = Annotated[
    str | None,
    typer.Option("--phase", metavar="NAME", help="Search the plan of this phase of the run, instead of the own plan."),
]
Place = Annotated[Where, typer.Option("--executor", help="One process, several, or a Ray cluster.")]
Workers = Annotated[
    int | None, typer.Option("--workers", min=1, max=1024, help="Processes; without it as many as there are cores.")
]
Address = Annotated[str | None, typer.Option("--address", help="Of the Ray cluster; without it one is started here.")]
OutDir = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="Also write best.yaml, plans.csv, plans.parquet and result.json; resumes."
    ),
]


def plan(
    scenario: ScenarioFile,
    set_: Overrides = None,
    keep: Keep = None,
    free: Free = None,
    top: Top = 10,
    objective: Goal = Objective.time,
    headroom: Headroom = "6%",
    phase: PhaseName = None,
    executor: Place = Where.processes,
    workers: Workers = None,
    address: Address = None,
    as_json: AsJson = False,
    out: OutDir = None,
) -> None:
    """Search every legal parallelism plan and rank the best.

    Exit code 0 when a plan fits, 1 when none does, 2 when the scenario or an option cannot be read.
    """
    from simulator.cli.plan_options import asked_of, read_headroom
    from simulator.planner.planning import searched_part
    from simulator.report.plans import print_phases, print_search, print_start

    asked = asked_of(scenario, set_ or [], keep or [], free or [])
    options = replace(
        asked.options, top=top, objective=objective.value, headroom_fraction=read_headroom(headroom), phase=phase
    )
    whole = asked.scenario
    loaded = searched_part(whole, phase)
    if out is not None:
        from simulator.report.folder import claim_folder

        claim_folder(out)
    if not as_json:
        if phase is None:
            print_phases(whole)
        print_start(loaded)
    found = shown_search(whole, options, executor_of(executor, workers, address), out)
    if out is not None:
        leave_files(out, whole if phase is None else loaded, found)
    if as_json:
        print_json(found.to_dict())
    else:
        print_search(loaded, found)
    raise typer.Exit(0 if found.plans else 1)


def shown_search(scenario: Scenario, options: SearchOptions, executor: Executor, folder: Path | None) -> PlanSearch:
    """The search, with a line that tells how far it is."""
    from simulator.planner.planning import plan as search
    from simulator.report.plans import progress_words

    with progress_line("making plans") as line:

        def told(progress: Progress) -> None:
            if line is not None:
                line(progress.share_done, progress_words(progress))

        return search(scenario, options, executor=executor, folder=folder, progress=told)


def leave_files(folder: Path, scenario: Scenario, found: PlanSearch) -> None:
    """What a search leaves in a folder."""
    from simulator.report.folder import write_results
    from simulator.report.plans import plan_files

    write_results(folder, plan_files(scenario, found))
    write_parquet(folder, found)


def executor_of(where: Where, workers: int | None, address: str | None) -> Executor:
    import os

    from simulator.planner.executors import Processes, Ray, Serial

    if where is Where.ray:
        return Ray(address)
    return Processes(workers or os.cpu_count() or 1) if where is Where.processes else Serial()


def write_parquet(folder: Path, found: PlanSearch) -> None:
    """The table as Parquet, where pyarrow is there."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        sys.stderr.write('no plans.parquet, which needs pyarrow: pip install "traincast[parquet]"\n')
        return
    found.to_frame().astype({"layout": "string"}).to_parquet(folder / "plans.parquet")
