"""`traincast plan`: searches every legal parallelism plan around a scenario's own and ranks the best."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.common import AsJson, Overrides, ScenarioFile, print_json, progress_line

if TYPE_CHECKING:
    from simulator.planner.executors import Executor
    from simulator.planner.planning import Progress
    from simulator.planner.result import PlanSearch
    from simulator.plans.spec import Plan
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
    from simulator.planner.options import SearchOptions
    from simulator.planner.planning import plan as search_plans
    from simulator.planner.planning import searched_part
    from simulator.report.plans import plan_files, print_phases, print_search, print_start, progress_words

    kept, values = read_keep(keep or [])
    overrides = [*(set_ or []), *values]
    origins = {value: f"--keep {value}" for value in values}
    whole = load_start(scenario, overrides, origins)

    def plan_with(override: str, option: str) -> Plan:
        return load_start(scenario, [*overrides, override], origins | {override: option}).plan

    freed = read_free(free or [], plan_with)
    options = SearchOptions(kept, freed, top, objective.value, read_headroom(headroom))
    loaded = searched_part(whole, phase)
    if out is not None:
        from simulator.report.folder import claim_folder

        claim_folder(out)
    if not as_json:
        if phase is None:
            print_phases(whole)
        print_start(loaded)
    with progress_line("making plans") as line:

        def told(progress: Progress) -> None:
            if line is not None:
                line(progress.share_done, progress_words(progress))

        found = search_plans(
            loaded, options, executor=executor_of(executor, workers, address), folder=out, progress=told
        )
    if out is not None:
        from simulator.report.folder import write_results

        write_results(out, plan_files(whole if phase is None else loaded, found))
        write_parquet(out, found)
    if as_json:
        print_json(found.to_dict())
    else:
        print_search(loaded, found)
    raise typer.Exit(0 if found.plans else 1)


def load_start(path: Path, overrides: list[str], options: Mapping[str, str]) -> Scenario:
    """The scenario that a search starts from; its own plan may be left out or break rules.

    `options`: those that brought overrides in, by override, where that is not --set. Raises InputError.
    """
    from hardware.problems import InputError
    from simulator.scenario.overrides import laid_at
    from simulator.scenario.schema import load_scenario

    try:
        return load_scenario(path, overrides, starts_search=True)
    except InputError as error:
        raise InputError(laid_at(error.problems, options)) from None


def read_keep(options: list[str]) -> tuple[list[str], list[str]]:
    """The keys that are kept, and the values that are set first."""
    keys = [plan_key("--keep", option) for option in options]
    return keys, [option for option in options if "=" in option]


def read_free(options: list[str], plan_with: Callable[[str, str], Plan]) -> dict[str, list[Any] | None]:
    """The keys that are freed, each with the values to try (None: the usual ones).

    A value is read as the scenario's own would be: `plan_with` gives the plan with one setting changed by an option,
    and raises InputError where that cannot be read.
    """
    from simulator.planner.candidates import KEYS, own_value

    found: dict[str, list[Any] | None] = {}
    for option in options:
        _, equals, text = option.partition("=")
        key = plan_key("--free", option)
        if not equals or key not in KEYS:
            found[key] = None
            continue
        changed = [plan_with(f"plan.{key}={word}", f"--free {option}") for word in text.split(",")]
        found[key] = [own_value(each, key) for each in changed]
    return found


def plan_key(option: str, text: str) -> str:
    """The key of the plan that an option names. Raises InputError where it names no such key."""
    from hardware.problems import InputError, Problem

    key = text.partition("=")[0].strip()
    if not key.startswith("plan."):
        message = "must name a key of the plan, as plan.tp"
        raise InputError([Problem(f"{option} {text}", None, "", message)])
    own = key.removeprefix("plan.")
    return own if own.startswith("overlap.") else own.partition(".")[0]  # recomputation, for one, is kept as a whole


def read_headroom(text: str) -> float:
    """A share of the memory, as 6% or 0.06. Raises InputError for anything else."""
    from hardware.problems import InputError, Problem

    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise InputError([Problem("--headroom", None, "", f"is {text!r}; write a share of the memory, as 6%")])
    return number


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
