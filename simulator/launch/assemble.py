"""A launch: what is needed to start the plan that was predicted, and what the target cannot be told of it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hardware.documents import Document
from hardware.problems import InputError, Place, Problem, one_of
from hardware.units import format_bytes
from simulator.launch.answer import Answer, answer, nearest_plan
from simulator.launch.environment import Variable, cluster_facts, environment
from simulator.launch.express import Inexpressible
from simulator.launch.folder import write_folder
from simulator.launch.forecast import Forecast, forecast_of
from simulator.launch.job import Job, job_of
from simulator.launch.manifest import manifest
from simulator.launch.nearest import Nearest, differences
from simulator.launch.partial import launched_plan
from simulator.launch.phases import of_phase
from simulator.launch.placement_text import placement_lines
from simulator.launch.schedulers import SCHEDULERS, Work
from simulator.launch.tables import Table
from simulator.launch.targets import TARGETS, Target
from simulator.launch.text import render
from simulator.launch.told import Told
from simulator.launch.uncarried import change_what_runs, uncarried
from simulator.plain import plain
from simulator.plans.allocation import allocated
from simulator.predict.prediction import evaluate, predict
from simulator.predict.simulate import simulate
from simulator.report.beyond import step_seconds
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import Scenario, read_scenario
from simulator.scenario.spec import check_scenario
from simulator.scenario.stack_section import ASSUMED
from simulator.stack import Stack, release


@dataclass(frozen=True, slots=True)
class Launch:
    """The files of a launch by name; none where the target cannot be told everything and no partial launch was asked.

    `inexpressible` lists what it cannot be told, `nearest` the plan that it can (None: none near), which takes
    `nearest_step_time_s` a step and fits in memory (None: not evaluated). `scenario` is what was predicted, on the
    target's stack where the file names none. `notes` are things to mind.
    """

    scenario: Scenario
    table: Table
    files: Mapping[str, str]
    inexpressible: tuple[Inexpressible, ...]
    nearest: Nearest | None
    nearest_step_time_s: float | None
    notes: tuple[str, ...]
    forecast: Forecast

    @property
    def complete(self) -> bool:
        return not self.inexpressible

    def to_dict(self) -> dict[str, Any]:
        """The launch as a JSON document."""
        return {
            "target": self.table.name,
            "complete": self.complete,
            "prediction": self.forecast.to_dict(self.scenario.plan.stack.name),
            "files": sorted(self.files),
            "inexpressible": [
                {"key": each.key, "value": plain(each.value), "why": each.why} for each in self.inexpressible
            ],
            "nearest": None if self.nearest is None else self.nearest.overrides,
            "nearest_step_time_s": self.nearest_step_time_s,
            "nearest_stack": None if self.nearest is None else self.nearest.plan.stack.name,
            "notes": list(self.notes),
        }


def launch(
    scenario: Scenario,
    to: str = "megatron",
    on: str = "slurm",
    *,
    partial: bool = False,
    forecast: Forecast | None = None,
    phase: str | None = None,
) -> Launch:
    """The launch of a scenario for a framework (`megatron`, `megatron@0.16`, `bridge` ...) under a scheduler.

    `partial`: files are made though something cannot be said. `forecast`: a prediction at hand (None: the scenario is
    evaluated). `phase`: of a run of several, by name. Raises InputError for a target, release or scheduler that is not
    offered, and for a phase that the run does not have.
    """
    check_scenario(scenario, "launch")
    target, table = _target(to, scenario)
    if on not in SCHEDULERS:
        raise InputError([Problem("--on", None, "", one_of(on, SCHEDULERS))])
    asked, scenario = scenario, _on_stack(scenario, table)
    scenario, stretch = of_phase(scenario, phase) if phase is not None else (scenario, None)
    asked = of_phase(asked, phase)[0] if phase is not None else asked
    scenario = replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))
    evaluates = forecast is None
    warnings: tuple[str, ...] = ()
    if forecast is None:
        prediction = evaluate(scenario)
        forecast, warnings = forecast_of(prediction), prediction.warnings
    said = answer(target, table, scenario, forecast, stretch)
    near = nearest_plan(target, table, scenario, forecast) if said.inexpressible else None
    near_s, near_fits = _evaluated(scenario, near) if near is not None and evaluates else (None, True)
    # What the advice changes is counted from the file, which may name no stack.
    near = replace(near, changes=differences(asked.plan, near.plan)) if near is not None and near_fits else None
    job = job_of(scenario, forecast)
    of_run = (stretch.note,) if stretch is not None else ()
    of_stack = _notes_of_stack(asked, scenario, evaluates)
    unfit = () if near_fits else (NEAREST_UNFIT,)
    left = _notes_of_keys(table, scenario, said)
    notes = (*of_run, *of_stack, *unfit, *warnings, *_notes(scenario, job, forecast), *_notes_of_settings(said), *left)
    made = Launch(scenario, table, {}, said.inexpressible, near, near_s, notes, forecast)
    if said.inexpressible and not partial:
        return made
    return replace(made, files=_files(made, target, on, said, job))


def write_launch(made: Launch, folder: Path) -> None:
    """Writes the files into a new folder, all or none. Raises InputError where it exists or cannot be written."""
    write_folder(folder, made.files)


def _target(to: str, scenario: Scenario) -> tuple[Target, Table]:
    name, _, wanted = to.partition("@")
    if name not in TARGETS:
        raise InputError([Problem("--to", None, "", one_of(name, TARGETS))])
    target = TARGETS[name]
    if wanted and not target.offers(wanted):
        releases = [f"{name}@{each}" for each in target.offered]
        raise InputError([Problem("--to", None, "", one_of(to, releases))])
    return target, target.table_for(wanted or None, scenario.plan.stack.name)


def _on_stack(scenario: Scenario, table: Table) -> Scenario:
    """The scenario on the target's stack with what that brings, where its file names none.

    Behaviours that it changes stay changed, and nobody chose the release still: its interval is as wide as without.
    """
    if scenario.stack_choice != "default" or scenario.plan.stack.name == table.stack:
        return scenario
    loaded = _loaded_on(scenario, {})
    if loaded is not None and loaded.plan == scenario.plan:
        moved = _loaded_on(scenario, {"base": table.stack, ASSUMED: scenario.stack_choice})
        if moved is not None:
            return replace(scenario, plan=moved.plan, phase_plans=moved.phase_plans, written=moved.written,
                           stack_settings=moved.stack_settings)  # fmt: skip
    return _with_stack(scenario, table)


def _loaded_on(scenario: Scenario, stack: Mapping[str, Any]) -> Scenario | None:
    """The scenario as its file would be read with these keys of plan.stack; None where it cannot be."""
    data = deepcopy(dict(scenario.written))
    own = data["plan"].get("stack")
    if stack:
        data["plan"]["stack"] = {**(own if isinstance(own, Mapping) else {}), **stack}
    try:
        return read_scenario(Document(data, Place(scenario.file)), scenario.name)
    except InputError:
        return None


def _with_stack(scenario: Scenario, table: Table) -> Scenario:
    """The scenario's very plan on the target's stack, where its file does not read so."""
    own = scenario.plan.stack
    usual = release(own.name).stack
    values = {each.name: (getattr(own, each.name), getattr(usual, each.name)) for each in fields(Stack)}
    changed = {name: mine for name, (mine, theirs) in values.items() if mine != theirs}
    stack = replace(release(table.stack).stack, **changed)
    return replace(scenario, plan=replace(scenario.plan, stack=stack))


NEAREST_UNFIT = "The nearest plan that this target can be told does not fit in memory, so none is proposed."


def _evaluated(scenario: Scenario, near: Nearest) -> tuple[float, bool]:
    """What a step of the nearest plan would take, and whether it fits in memory."""
    prediction = predict(simulate(replace(scenario, plan=near.plan, phase_plans={})))
    return prediction.step_time_s, prediction.fits


def _notes(scenario: Scenario, job: Job, forecast: Forecast) -> list[str]:
    found = []
    if not forecast.fits:
        found.append("The prediction says that this plan does not fit in memory.")
    if job.spares and job.segment > 1:
        found.append(
            f"Domains must stay whole, so the {job.spares} spare nodes are not part of the allocation: keep them free "
            "in the partition, where a requeued job finds them."
        )
    if job.cold_spares:
        found.append(
            f"{job.cold_spares} cold spare nodes (run.spares.cold) are the cluster's to start; no file asks for them."
        )
    if scenario.cluster.node.scale_up.domain_gpus > scenario.cluster.node.gpus and job.segment == 1 and job.nodes > 1:
        found.append(
            "Nodes do not divide into whole scale-up domains: the scheduler may place them otherwise than predicted."
        )
    return found


def _notes_of_stack(asked: Scenario, launched: Scenario, evaluates: bool) -> list[str]:
    """Which stack the launch is predicted on and which `evaluate` takes, where the file names none of the two."""
    taken, usual = launched.plan.stack.name, asked.plan.stack.name
    if taken == usual:
        return []
    step = f", {step_seconds(simulate(asked).step.step_time_s)} a step" if evaluates else ""
    return [
        f"The scenario names no stack: the figures here are of {taken}, which is launched; those of `traincast "
        f"evaluate` on the same file are of {usual}{step}. With plan.stack={taken} both are of one stack."
    ]


def _notes_of_settings(said: Answer) -> list[str]:
    return [f"{each.name}: {each.note}." for each in said.expressed.settings if each.note]


def _notes_of_keys(table: Table, scenario: Scenario, said: Answer) -> list[str]:
    """Which keys change what runs and stand in no file."""
    keys = change_what_runs(uncarried(table, scenario, said.facts, said.inexpressible))
    if not keys:
        return []
    return [f"{', '.join(keys)}: not in these files; what runs decides. README.md says why of each."]


def _files(made: Launch, target: Target, on: str, said: Answer, job: Job) -> dict[str, str]:
    scenario, table = made.scenario, made.table
    fault_tolerant = any(each.key == "run.spares.hot" for each in said.expressed.settings)
    told = Told(table, scenario, said.facts, said.expressed, job, fault_tolerant)
    exported = environment(table, scenario, said.facts)
    files = target.files(told)
    files["environment.sh"] = render("environment.sh.j2", variables=exported)
    files["fill_in.sh"] = render("fill_in.sh.j2", fill_in=table.fill_in, mock=target.mock)
    vendor = cluster_facts(scenario)["cluster.vendor"]
    work = Work(scenario.name, job, vendor, fault_tolerant, tuple(sorted(files)))
    files |= SCHEDULERS[on].write(work)
    files["scenario.yaml"] = scenario_yaml(scenario)
    files["README.md"] = _readme(made, on, said, work, exported)
    files["manifest.json"] = manifest(made.scenario, table, on, said, made.forecast, exported, files)
    return files


def _readme(made: Launch, on: str, said: Answer, work: Work, exported: tuple[Variable, ...]) -> str:
    forecast = made.forecast
    low_s, high_s = forecast.step_time_interval_s
    launched = replace(made.scenario, plan=launched_plan(made.scenario.plan, made.inexpressible))
    return render(
        "README.md.j2",
        scenario=made.scenario,
        table=made.table,
        scheduler_name=on,
        scheduler=SCHEDULERS[on],
        start=SCHEDULERS[on].start(work),
        job=work.job,
        forecast=forecast,
        step_time=step_seconds(forecast.step_time_s),
        step_interval=f"{step_seconds(low_s)} to {step_seconds(high_s)}",
        peak_memory=format_bytes(forecast.peak_memory_bytes),
        inexpressible=made.inexpressible,
        notes=made.notes,
        fill_in=made.table.fill_in,
        placement=placement_lines(launched, work.job),
        settings=said.expressed.settings,
        variables=exported,
        unsaid={**uncarried(made.table, made.scenario, said.facts, made.inexpressible), **made.table.not_settings},
    )
