"""Reading a scenario file: every problem of it at once, each with file, line, key and remedy; and its JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from hardware.documents import Document, read_document
from hardware.problems import InputError, Place, Problem, attributed, known_name, one_of
from hardware.profile import applied, profile_folder, read_profile
from hardware.sections import Section
from hardware.specs import Cluster
from simulator.fields import json_schema, object_schema, read_fields
from simulator.model.catalogue import load
from simulator.model.catalogue import names as model_names
from simulator.model.flops import CONVENTIONS
from simulator.model.huggingface import from_huggingface
from simulator.model.inline import from_mapping
from simulator.model.overrides import from_base
from simulator.model.spec import Model
from simulator.plans.balancing import stated_imbalance
from simulator.plans.rules import without_effect
from simulator.plans.spec import Plan
from simulator.run.budget import read_budget
from simulator.run.read import KEYS as POLICIES
from simulator.run.read import RunPolicies, read_run_in_part, run_schema
from simulator.scenario.auto_layout import with_best_layouts, with_even_layout, with_even_layouts
from simulator.scenario.cluster_section import ClusterKeys, read_cluster
from simulator.scenario.distillation_section import MODEL, Distillation, DistillationKeys, read_distillation
from simulator.scenario.idle_keys import idle_keys
from simulator.scenario.jobs import lists_jobs, unfit_job
from simulator.scenario.legal import broken_rules, problems
from simulator.scenario.outer_sections import NOTHING_AROUND, Surroundings, read_surroundings, surroundings_schema
from simulator.scenario.overrides import apply_overrides
from simulator.scenario.phases import read_phase_plans
from simulator.scenario.plan_section import (
    machines_of,
    read_plan,
    read_plan_stack,
    spare_gpus_within,
    without_spares,
)
from simulator.scenario.precision_section import key_as_written, precision_schema
from simulator.scenario.short_forms import with_short_forms, with_whole_numbers, written_out
from simulator.scenario.site_section import Site, read_site_key
from simulator.scenario.spec import Published, Run, Scenario
from simulator.scenario.spread_section import fitted, read_spread, spread_schema
from simulator.scenario.stack_section import ChosenStack, stack_schema
from simulator.scenario.words import translated
from simulator.step.spread import Spread

__all__ = ["Published", "Run", "Scenario", "load_scenario", "read_scenario", "scenario_schema"]
T = TypeVar("T")
AUTO = "auto"
TITLES = {
    "name": "What the scenario is called; without it, the file's name.",
    "question": "What is asked, in plain words.",
    "source": "Where the setting comes from.",
}


def load_scenario(path: str | Path, overrides: Sequence[str] = (), starts_search: bool = False) -> Scenario:
    """The scenario in a file, with `key=value` overrides on top.

    `starts_search`: its plan is where a search starts, so that it may leave the micro-batch out and break rules; the
    word auto stands for no plan at all. Raises InputError with every problem found, in the order of the file.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise InputError([document.place.problem("holds no scenario; write the sections model, cluster, plan and run")])
    if starts_search and document.data.get("plan") == AUTO:
        document.data["plan"] = {}
    place = replace(document.place, overrides=tuple(overrides))
    document = replace(document, data=written_out(document.data), place=place)
    apply_overrides(document.data, overrides)
    if starts_search and isinstance(document.data.get("plan"), dict):
        document.data["plan"] = {"micro_batch_size": 1, **document.data["plan"]}
    try:
        return read_scenario(document, Path(path).stem, starts_search)
    except InputError as error:
        file = document.place.file
        placed = [attributed(each, overrides) if each.file == file else each for each in error.problems]
        raise InputError(sorted(placed, key=lambda each: (each.file != file, each.line is None, each.line))) from None


def read_scenario(document: Document, name: str, starts_search: bool = False) -> Scenario:
    """The scenario in a document that was read; `name` is its default name. `starts_search`: its plan may break rules.

    Raises InputError with every problem.
    """
    known = translated(written_out(document.data), document.place, own_keys())
    document = replace(document, data=with_whole_numbers(known.data))
    top = Section(document.data, document.place)
    top.problems += known.problems
    parts = _read_parts(top)
    top.done()
    if not parts.are_whole:
        if not starts_search:
            _report_rules_of(parts, top)
        top.raise_problems()
        raise AssertionError("a section is missing though no problem was found")
    return _with_layouts(_made_of(parts, name, document), top, starts_search)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The sections of a scenario as far as they could be read (None where not), whatever is wrong with the others."""

    title: str | None
    question: str
    source: str | None
    model: Model | None
    cluster: Cluster | None
    plan: Plan | None
    run: Run | None
    chosen: ChosenStack | None
    settings: dict[str, Any]
    phase_plans: dict[int, Plan]
    published: Published | None
    spread: Spread | None
    around: Surroundings | None
    site: Site | None
    distillation: Distillation | None
    jobs: dict[str, Scenario] | None

    @property
    def are_whole(self) -> bool:
        return None not in (self.model, self.cluster, self.plan, self.run)


def _read_parts(top: Section) -> _Parts:
    """Every section; problems are added to `top`."""
    title, question, source = top.text("name", None), top.text("question", ""), top.text("source", None)
    model = _whole(top, lambda: _read_model(top.take("model"), top.place.under("model")))
    cluster = _whole(top, lambda: read_cluster(top.section("cluster")))
    spare_gpus = spare_gpus_within(top.data, cluster.node.gpus) if cluster else 0
    if cluster and spare_gpus:
        cluster = without_spares(cluster, spare_gpus, top)
    cluster, site = _read_hardware(top, cluster)
    chosen = _whole(top, lambda: read_plan_stack(top))
    settings: dict[str, Any] = {}
    machines = machines_of(top, cluster, spare_gpus)
    plan = _whole(top, lambda: read_plan(top.section("plan"), machines, model, chosen, settings))
    run = _read_run(top.section("run"), plan)
    policies = run.policies if run is not None else None
    phase_plans: dict[int, Plan] = {}
    if plan is not None and policies is not None:
        phase_plans = read_phase_plans(top, policies, machines, model, plan)
    return _Parts(
        title=title,
        question=question,
        source=source,
        model=model,
        cluster=cluster,
        plan=plan,
        run=run,
        chosen=chosen,
        settings=settings,
        phase_plans=phase_plans,
        published=_optional(top, "published", _read_published),
        spread=_optional(top, "spread", read_spread),
        around=_whole(top, lambda: read_surroundings(top)),
        site=site,
        distillation=_optional(top, "distillation", lambda section: read_distillation(section, _read_model)),
        jobs=_whole(top, lambda: _read_job_scenarios(top.place.under("run.jobs"), policies, cluster)),
    )


def _optional(top: Section, key: str, read: Callable[[Section], T]) -> T | None:
    """A section that may be left out."""
    return _whole(top, lambda: read(top.section(key))) if key in top.data else None


def _read_hardware(top: Section, cluster: Cluster | None) -> tuple[Cluster | None, Site | None]:
    """The cluster priced by the profile that was measured on it, and what was measured of its site."""
    if "hardware" not in top.data:
        return cluster, None
    measured = top.section("hardware")
    site = _whole(top, lambda: read_site_key(measured))
    return _whole(top, lambda: _with_profile(cluster, measured)), site


def _report_rules_of(parts: _Parts, top: Section) -> None:
    """Adds the rules that a plan breaks beside a section that could not be read."""
    model, plan, run = parts.model, parts.plan, parts.run
    has_gpus = not any(each.key in ("cluster", "cluster.gpus", "run.spares") for each in top.problems)
    if model is None or plan is None or run is None or not has_gpus:
        return
    _, broken = broken_rules(model, with_even_layout(model, plan), plan.gpus, run.seq_length, parts.settings)
    placed = ((key_as_written(key, top.data), message) for key, message in broken)
    top.problems += [top.place.under(key).problem(message) for key, message in placed]


def _made_of(parts: _Parts, name: str, document: Document) -> Scenario:
    """The scenario of parts that are whole."""
    model, cluster, plan, run = (cast("Any", part) for part in (parts.model, parts.cluster, parts.plan, parts.run))
    if parts.spread is not None and parts.spread.experts is not None and stated_imbalance(document.data) is None:
        plan = replace(plan, expert_imbalance=1.0)  # the spread draws it
    return Scenario(
        name=parts.title or name,
        question=parts.question,
        model=model,
        cluster=cluster,
        plan=plan,
        run=run,
        source=parts.source,
        published=parts.published,
        around=parts.around or NOTHING_AROUND,
        spread=parts.spread,
        phase_plans=parts.phase_plans,
        site=parts.site,
        distillation=parts.distillation,
        job_scenarios=parts.jobs or {},
        file=document.place.file,
        written=document.data,
        stack_choice=parts.chosen.choice if parts.chosen else "default",
        stack_settings=parts.settings,
    )


def _with_layouts(scenario: Scenario, top: Section, starts_search: bool) -> Scenario:
    """The scenario with its layers on stages and what does nothing in it. Raises InputError with every problem."""
    even, faults = with_even_layouts(scenario)
    if not starts_search:
        top.problems += [top.place.under(key).problem(message) for key, message in faults]
        top.problems += problems(even, top.place)
    top.raise_problems()
    scenario, remarks = (even, ()) if starts_search else with_best_layouts(even, scenario)
    model, plan, seq_length = scenario.model, scenario.plan, scenario.run.seq_length
    idle = without_effect(model, plan, gpus=scenario.cluster.gpus, seq_length=seq_length)
    remarks = (*remarks, *idle_keys(scenario, starts_search))
    return replace(
        scenario,
        spread=fitted(scenario.spread, model, plan, seq_length) if scenario.spread else None,
        warnings=(*remarks, *(f"{violation.key} {violation.message}" for violation in idle)),
    )


@cache
def own_keys() -> Mapping[str, frozenset[str]]:
    """The keys of a scenario's sections, "" for the top, which no other tool's word can be mistaken for."""
    properties = scenario_schema()["properties"]
    return {"": frozenset(properties)} | {
        name: frozenset(part["properties"]) for name, part in properties.items() if "properties" in part
    }


def _whole(top: Section, read: Callable[[], T]) -> T | None:
    """What `read` gives, or None where it found problems; they are kept in `top`."""
    before = len(top.problems)
    try:
        made = read()
    except InputError as error:
        top.problems += error.problems
        return None
    return made if len(top.problems) == before else None


def _read_model(written: Any, at: Place) -> Model | None:
    """A catalogue name, {base: a name, with changes}, {huggingface: path to a config.json}, or a model written out."""
    if written is None:
        return None
    if isinstance(written, str):
        name = known_name(written, model_names())
        if name not in model_names():
            raise InputError([at.problem(one_of(written, model_names()))])
        return load(name)
    if not isinstance(written, Mapping):
        raise InputError(
            [at.problem("must be a catalogue name, {base: name}, {huggingface: path} or a model written out")]
        )
    if "huggingface" in written:
        return _read_huggingface(Section(written, at))
    if "base" in written:
        return from_base(written, at)
    return from_mapping(written, "model", at)


def _read_huggingface(section: Section) -> Model:
    path, name = section.text("huggingface"), section.text("name", None)
    section.done()
    section.raise_problems()
    file = Path(section.place.file).parent / str(path)
    if not file.is_file():
        section.report("huggingface", f"there is no file {file}; the path is read from the scenario's folder")
        section.raise_problems()
    config = read_document(file)
    if not isinstance(config.data, Mapping):
        raise InputError([config.place.problem("holds no mapping; a Hugging Face config.json is one")])
    return from_huggingface(config.data, name or file.parent.name or file.stem, config.place, str(path))


def _with_profile(cluster: Cluster | None, section: Section) -> Cluster | None:
    """The cluster priced by the measured profile that the scenario names, if it does."""
    folder, at = section.text("profile", None), section.place.under("profile")
    if folder is None and "site" not in section.data and not section.broken:
        section.report("profile", "is missing; name a folder that 'traincast calibrate' made, or a site correction")
    section.done()
    section.raise_problems()
    if folder is None:
        return cluster
    profile = read_profile(profile_folder(folder, section.place.file), at)
    return applied(cluster, profile, at) if cluster else None


def _read_run(section: Section, plan: Plan | None) -> Run | None:
    """The run as far as it can be read, so that the plan is checked whatever is wrong with its policies; None where its
    length or amount cannot be. `plan` None where it could not be read: tokens that follow from its batch are nan."""
    before = len(section.problems)
    budget = read_budget(section)
    is_readable = not section.broken and len(section.problems) == before
    section.seen.update(POLICIES)
    section.done()
    policies, problems_of_policies = read_run_in_part(section.data, section.place)
    section.problems += problems_of_policies
    if not is_readable:
        return None
    tokens = budget.tokens_in_all(plan.global_batch_size) if plan is not None else math.nan
    return Run(budget.seq_length, tokens, policies, budget)


def _read_job_scenarios(at: Place, policies: RunPolicies | None, cluster: Cluster | None) -> dict[str, Scenario]:
    """The scenarios that other jobs of the cluster run, by their names. Raises InputError with every problem."""
    found: dict[str, Scenario] = {}
    problems: list[Problem] = []
    for number, job in enumerate(policies.jobs if policies else ()):
        here = at.under(str(number))
        try:
            if job.scenario is not None:
                found[job.name] = _job_scenario(Path(at.file).parent / job.scenario, here.under("scenario"))
        except InputError as error:
            problems += error.problems
            continue
        fault = unfit_job(job, found.get(job.name), cluster) if cluster else None
        if fault is not None:
            problems.append(here.under(fault[0]).problem(fault[1]))
    if problems:
        raise InputError(problems)
    return found


def _job_scenario(path: Path, at: Place) -> Scenario:
    if lists_jobs(read_document(path).data):
        why = f"{path.name} lists jobs of its own, which are not scheduled within others. Leave them out"
        raise InputError([at.problem(why)])
    return load_scenario(path)


def _read_published(section: Section) -> Published:
    published = read_fields(Published, section)
    counts_flops = published.mfu_fraction or published.model_flops_per_s_per_gpu
    if published.flops_convention is None and counts_flops:
        section.report("flops_convention", f"is missing: say how FLOPs were counted, {', '.join(CONVENTIONS)}")
    elif published.flops_convention is not None and published.flops_convention not in CONVENTIONS:
        section.report("flops_convention", one_of(published.flops_convention, CONVENTIONS))
    return published


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors; own hardware and models written out stay free-form in it."""
    plan = json_schema(Plan)
    plan["required"] = [name for name in plan["required"] if name != "dp"]
    plan["properties"]["stack"] = stack_schema()
    properties = {
        **{key: {"type": "string", "description": text} for key, text in TITLES.items()},
        "model": {**MODEL.schema, "description": "What is trained.", "examples": model_names()},
        "cluster": object_schema(ClusterKeys),
        "hardware": {
            "type": "object",
            "description": "What was measured on these machines, or on this site.",
            "properties": {
                "profile": {
                    "type": "string",
                    "description": "Folder of curves measured by 'traincast calibrate'.",
                    "examples": ["profiles/mycluster"],
                },
                "site": {
                    "type": "string",
                    "description": "File of runs measured on this site, by 'traincast explain --fit'.",
                    "examples": ["site.yaml"],
                },
            },
            "additionalProperties": False,
        },
        "plan": plan,
        "run": run_schema(),
        "published": json_schema(Published),
        "spread": spread_schema(),
        "distillation": object_schema(DistillationKeys),
        **surroundings_schema(),
    }
    properties = with_short_forms(properties)
    plan["properties"]["precision"] = precision_schema(plan["properties"]["precision"])
    phase = properties["run"]["properties"]["phases"]["items"]["properties"]
    phase["plan"] = {**phase["plan"], "properties": plan["properties"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "traincast scenario",
        "type": "object",
        "properties": properties,
        "required": ["model", "cluster", "plan", "run"],
        "additionalProperties": False,
    }
