"""What a scenario holds, and reading one: every problem of the file at once, each with file, line, key and remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

from hardware import catalogue
from hardware.documents import Document, read_document
from hardware.precisions import OFFERED, PRECISIONS, UNSPECIFIED_FP8
from hardware.problems import InputError, Place, Problem, one_of
from hardware.profile import applied, profile_folder, read_profile
from hardware.sections import Section
from hardware.specs import Cluster
from simulator.fields import json_schema, read_fields
from simulator.model.catalogue import load
from simulator.model.catalogue import names as model_names
from simulator.model.flops import CONVENTIONS
from simulator.model.huggingface import from_huggingface
from simulator.model.inline import from_mapping
from simulator.model.overrides import from_base
from simulator.model.spec import Model, MoE
from simulator.optimizers import OPTIMIZERS
from simulator.plan.rules import check, without_effect
from simulator.plan.spec import Plan
from simulator.run.budget import Budget, read_budget
from simulator.run.read import KEYS as POLICIES
from simulator.run.read import RunPolicies, read_run, run_schema
from simulator.scenario.outer_sections import (
    NOTHING_AROUND,
    Surroundings,
    read_surroundings,
    surroundings_schema,
    unfit_surroundings,
)
from simulator.scenario.overrides import apply_overrides, attributed
from simulator.scenario.spread_section import fitted, read_spread, spread_schema, unfit
from simulator.scenario.stack_section import (
    ChosenStack,
    PlanFacts,
    read_stack,
    stack_schema,
    stack_settings,
    with_settings,
)
from simulator.schedules import default_schedule
from simulator.stack import default_stack
from simulator.step.spread import Spread

T = TypeVar("T")
MOST_GPUS = 10_000_000
MOST_SLOTS = 1_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """What is trained on: sequences of `seq_length` tokens, `tokens` in all; `policies` say how the run is kept up
    (None: nothing ever breaks, and the whole run is not simulated).

    `tokens` is nan for a `budget` in days (None: `tokens` is all that was said) until the step has been simulated.
    """

    seq_length: int
    tokens: float
    policies: RunPolicies | None = None
    budget: Budget | None = None

    def with_step_time(self, global_batch_size: int, step_time_s: float) -> Run:
        """The run with the tokens that its days leave time for."""
        if self.budget is None or self.budget.days is None:
            return self
        return replace(self, tokens=self.budget.tokens_in_all(global_batch_size, step_time_s))


@dataclass(frozen=True, slots=True)
class Published:
    """What the world measured for this very scenario, with its source; what is not known is left out.

    `flops_convention` names how FLOPs and MFU were counted (simulator.model.flops).
    """

    source: str
    step_time_s: float | None = None
    tokens_per_s_per_gpu: float | None = None
    model_flops_per_s_per_gpu: float | None = None
    mfu_fraction: float | None = None
    flops_convention: str | None = None
    training_time_s: float | None = None
    peak_memory_bytes: float | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One question: this model, on this cluster, laid out by this plan, for this run.

    `spread` says what makes GPUs unequal (None: nothing does), `around` what surrounds the step. `file` is where it
    was read and `written` its data with the overrides applied; `warnings` name settings that are legal and change
    nothing. `stack_named`: the file names the plan's software stack; `stack_settings` are the plan's keys, dotted, that
    the stack decided.
    """

    name: str
    question: str
    model: Model
    cluster: Cluster
    plan: Plan
    run: Run
    source: str | None = None
    published: Published | None = None
    spread: Spread | None = None
    around: Surroundings = NOTHING_AROUND
    file: str = "scenario"
    written: Mapping[str, Any] = field(default_factory=dict, repr=False)
    warnings: tuple[str, ...] = ()
    stack_named: bool = field(default=True, compare=False)
    stack_settings: Mapping[str, Any] = field(default_factory=dict, compare=False)


def load_scenario(path: str | Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in a file, with `key=value` overrides on top.

    Raises InputError with every problem found, in the order of the file.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise InputError([document.place.problem("holds no scenario; write the sections model, cluster, plan and run")])
    apply_overrides(document.data, overrides)
    try:
        return read_scenario(document, Path(path).stem)
    except InputError as error:
        file = document.place.file
        placed = [attributed(each, overrides) if each.file == file else each for each in error.problems]
        raise InputError(sorted(placed, key=lambda each: (each.file != file, each.line is None, each.line))) from None


def read_scenario(document: Document, name: str) -> Scenario:
    """The scenario in a document that was read; `name` is its default name. Raises InputError with every problem."""
    top = Section(document.data, document.place)
    title, question = top.text("name", name), top.text("question", "")
    source = top.text("source", None)
    model = _whole(top, lambda: _read_model(top.take("model"), top.place.under("model")))
    cluster = _whole(top, lambda: _read_cluster(top.section("cluster")))
    spare_gpus = spare_gpus_within(top.data, cluster.node.gpus) if cluster else 0
    if cluster and spare_gpus:
        cluster = _without_spares(cluster, spare_gpus, top)
    if "hardware" in top.data:
        cluster = _whole(top, lambda: _with_profile(cluster, top.section("hardware")))
    chosen = _whole(top, lambda: _read_stack(top))
    settings: dict[str, Any] = {}
    plan = _whole(top, lambda: _read_plan(top.section("plan"), _gpus(top, spare_gpus), model, chosen, settings))
    run = _whole(top, lambda: _read_run(top.section("run"), plan))
    published = _whole(top, lambda: _read_published(top.section("published"))) if "published" in top.data else None
    spread = _whole(top, lambda: read_spread(top.section("spread"))) if "spread" in top.data else None
    around = _whole(top, lambda: read_surroundings(top))
    top.done()
    if model and cluster and plan and run and chosen:
        top.problems += illegal(model, cluster, plan, run, top.place)
    if cluster and plan and around:
        top.problems += [top.place.under(key).problem(why) for key, why in unfit_surroundings(around, cluster, plan)]
    if model and cluster and plan and spread:
        top.problems += [top.place.under(key).problem(why) for key, why in unfit(spread, model, cluster, plan)]
    top.raise_problems()
    if model is None or cluster is None or plan is None or run is None:
        raise AssertionError("a section is missing though no problem was found")
    idle = without_effect(model, plan, gpus=cluster.gpus, seq_length=run.seq_length)
    return Scenario(
        name=title,
        question=question,
        model=model,
        cluster=cluster,
        plan=plan,
        run=run,
        source=source,
        published=published,
        around=around or NOTHING_AROUND,
        spread=fitted(spread, model, plan, run.seq_length) if spread else None,
        file=document.place.file,
        written=document.data,
        warnings=tuple(f"{violation.key} {violation.message}" for violation in idle),
        stack_named=chosen is not None and chosen.named,
        stack_settings=settings,
    )


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
        if written not in model_names():
            raise InputError([at.problem(f"model {one_of(written, model_names())}")])
        return load(written)
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


def _read_cluster(section: Section) -> Cluster | None:
    at = section.place
    gpus, server, network = section.count("gpus"), section.take("node"), section.take("fabric")
    title = section.text("name", None)
    write = section.quantity("storage_write", "bytes_per_s", None)
    read = section.quantity("storage_read", "bytes_per_s", None)
    pue = section.quantity("pue", "count", None)
    section.done()
    node = _whole(section, lambda: catalogue.node(server, at.under("node"))) if server is not None else None
    fabric = _whole(section, lambda: catalogue.fabric(network, at.under("fabric"))) if network is not None else None
    if node is None or fabric is None or not isinstance(gpus, int):
        return None
    return catalogue.cluster(gpus, node, fabric, write, read, pue, title, at)


def _with_profile(cluster: Cluster | None, section: Section) -> Cluster | None:
    """The cluster priced by the measured profile that the scenario names."""
    folder, at = section.text("profile"), section.place.under("profile")
    section.done()
    section.raise_problems()
    profile = read_profile(profile_folder(folder, section.place.file), at)
    return applied(cluster, profile, at) if cluster else None


def _read_run(section: Section, plan: Plan | None) -> Run:
    """The run; `plan` None where it could not be read: the run is then checked, but comes to nothing."""
    budget = read_budget(section)
    section.seen.update(POLICIES)
    section.done()
    policies = read_run(section.data, section.place)
    sound = plan is not None and not section.problems
    tokens = budget.tokens_in_all(plan.global_batch_size) if plan is not None and sound else math.nan
    return Run(budget.seq_length, tokens, policies, budget)


def _read_published(section: Section) -> Published:
    published = read_fields(Published, section)
    counts_flops = published.mfu_fraction or published.model_flops_per_s_per_gpu
    if published.flops_convention is None and counts_flops:
        section.report("flops_convention", f"is missing: say how FLOPs were counted, {', '.join(CONVENTIONS)}")
    elif published.flops_convention is not None and published.flops_convention not in CONVENTIONS:
        section.report("flops_convention", one_of(published.flops_convention, CONVENTIONS))
    return published


def spare_gpus_within(data: Mapping[str, Any], gpus_per_node: int) -> int:
    """GPUs of the spare nodes that are among cluster.gpus (run.spares.within), as far as they can be read."""
    run = data.get("run")
    spares = run.get("spares") if isinstance(run, Mapping) else None
    if not isinstance(spares, Mapping) or spares.get("within") is not True:
        return 0
    counts = [spares.get(key) for key in ("hot", "cold")]
    return gpus_per_node * sum(count for count in counts if isinstance(count, int) and _is_count(count))


def _without_spares(cluster: Cluster, spare_gpus: int, top: Section) -> Cluster:
    """The cluster that is left for the job."""
    if spare_gpus < cluster.gpus:
        return replace(cluster, gpus=cluster.gpus - spare_gpus)
    message = f"takes {spare_gpus} of cluster.gpus {cluster.gpus}: nothing is left for the job; give fewer spares"
    top.problems.append(top.place.under("run").under("spares").problem(message))
    return cluster


def _gpus(top: Section, spare_gpus: int) -> int | None:
    """The job's number of GPUs as far as it can be read, whatever else is wrong with the cluster."""
    cluster = top.data.get("cluster")
    gpus = cluster.get("gpus") if isinstance(cluster, Mapping) else None
    if not isinstance(gpus, int) or not _is_count(gpus):
        return None
    return gpus - spare_gpus if gpus > spare_gpus else None


def _read_stack(top: Section) -> ChosenStack:
    """The software stack that the plan names, whatever else is wrong with the plan."""
    plan = top.data.get("plan")
    written = plan.get("stack") if isinstance(plan, Mapping) else None
    return read_stack(written, top.place.under("plan").under("stack"))


def _read_plan(
    section: Section, gpus: int | None, model: Model | None, chosen: ChosenStack | None, settings: dict[str, Any]
) -> Plan:
    """The plan as written, with what follows from the rest: what its stack sets unless it is written (added to
    `settings`), dp fills the GPUs, the schedule follows pp and vpp."""
    section.seen.add("stack")
    stack = chosen.stack if chosen else default_stack()
    if chosen:
        if section.data.get("precision") == UNSPECIFIED_FP8:
            section.data = {**section.data, "precision": chosen.release.plain_fp8}
            settings["precision"] = chosen.release.plain_fp8
        facts = _plan_facts(section.data, gpus, model)
        if facts:
            found = stack_settings(chosen, section.data, facts)
            section.data = with_settings(section.data, found)
            settings |= found
    degrees = {name: section.data.get(name, 1) for name in ("tp", "cp", "pp", "vpp")}
    if all(map(_is_count, degrees.values())):
        vpp = degrees.pop("vpp")
        schedule = default_schedule(degrees["pp"], vpp)
        section.data = {"schedule": schedule, **section.data}
        if gpus is not None:
            _fill_gpus(section, gpus, degrees)
    _leave_out_main_params(section)
    if not section.broken:
        section.data = {"dp": 1, **section.data}  # a stand-in where dp could not be derived: that was reported
    return read_fields(Plan, section, known={"stack": stack})


def _leave_out_main_params(section: Section) -> None:
    """32-bit weights have no main copy beside them unless one is asked for."""
    precision = PRECISIONS.get(str(section.data.get("precision")))
    optimizer = section.data.get("optimizer", {})
    if precision is None or not precision.full_width or not isinstance(optimizer, Mapping):
        return
    section.data = {**section.data, "optimizer": {"main_params": None, **optimizer}}


def _plan_facts(plan: Mapping[str, Any], gpus: int | None, model: Model | None) -> PlanFacts | None:
    """What decides which settings of a stack apply; None where the degrees cannot be read."""
    degrees = {name: plan.get(name, 1) for name in ("tp", "cp", "pp", "ep")}
    if not all(map(_is_count, degrees.values())):
        return None
    precision = PRECISIONS.get(str(plan.get("precision", "bf16")))
    return PlanFacts(
        **degrees,
        gpus=gpus or math.prod(degrees.values()),
        experts=model is not None and any(isinstance(layer.ffn, MoE) for layer in model.layers),
        quantized=precision is not None and precision.quantized,
        fp8=precision is not None and precision.gathers_low,
    )


def _fill_gpus(section: Section, gpus: int, degrees: Mapping[str, int]) -> None:
    """Derives dp where it was left out; reports a plan that does not use every GPU of the cluster exactly once."""
    replica = math.prod(degrees.values())
    written, dp = " x ".join(f"{name} {degree}" for name, degree in degrees.items()), section.data.get("dp")
    if gpus % replica:
        products = dict(zip(degrees, accumulate(degrees.values(), operator.mul), strict=True))
        culprit = next(name for name, product in products.items() if gpus % product)
        nearest = " or ".join(str(n * replica) for n in (gpus // replica, gpus // replica + 1) if n)
        section.report(culprit, f"{written} = {replica} GPUs to a replica does not divide the cluster's {gpus}; change "
                       f"a degree, or take {nearest} GPUs")  # fmt: skip
    elif dp is None:
        section.data = {"dp": gpus // replica, **section.data}
    elif _is_count(dp) and dp * replica != gpus:
        section.report("dp", f"is {dp}, but {written} x dp {dp} = {dp * replica} GPUs and the cluster has {gpus}; "
                       f"leave dp out, or write {gpus // replica}")  # fmt: skip


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < MOST_GPUS


def illegal(model: Model, cluster: Cluster, plan: Plan, run: Run, top: Place) -> list[Problem]:
    """What keeps a plan that can be read from running: broken rules, what the GPU lacks, what is not modelled."""
    broken = check(model, plan, gpus=cluster.gpus, seq_length=run.seq_length)
    found = [(violation.key, violation.message) for violation in broken]
    part = cluster.accelerator
    able = [name for name, each in PRECISIONS.items() if not each.lacks(part.peak_flops_per_s)]
    if plan.precision not in able:
        offered = ", ".join(name for name in OFFERED if name in able)
        found.append(("plan.precision", f"{part.name} cannot compute in {plan.precision}; it can in {offered}"))
    products = OPTIMIZERS[plan.optimizer.kind].products
    if products is not None and products.precision not in able:
        why = f"{plan.optimizer.kind} computes in {products.precision}, which {part.name} lacks; take adamw"
        found.append(("plan.optimizer.kind", why))
    found += _beyond(plan, run)
    if not found:
        found += _illegal_phases(model, cluster, plan, run)
    return [top.under(key).problem(message) for key, message in found]


def _illegal_phases(model: Model, cluster: Cluster, plan: Plan, run: Run) -> list[tuple[str, str]]:
    """What a phase's own batch or sequence length breaks of a plan that is legal with the scenario's."""
    found = []
    for number, phase in enumerate(run.policies.phases if run.policies else ()):
        changed = replace(plan, global_batch_size=phase.global_batch_size or plan.global_batch_size)
        length = phase.seq_length or run.seq_length
        for violation in check(model, changed, gpus=cluster.gpus, seq_length=length):
            found.append((f"run.phases.{number}", f"phase {phase.name}: {violation.key}: {violation.message}"))
    return found


def _beyond(plan: Plan, run: Run) -> list[tuple[str, str]]:
    """Figures far beyond any real run, which would only exhaust memory or arithmetic, as (key, message)."""
    slots = plan.microbatches * plan.pp * plan.vpp
    limits = {
        "run.seq_length": (run.seq_length, 10**9),
        "run.tokens": (run.tokens, 1e18),
        "plan.micro_batch_size": (plan.micro_batch_size, 10**6),
        "plan.vocab_divisible_by": (plan.vocab_divisible_by, 10**6),
        "plan.expert_imbalance": (plan.expert_imbalance, 1e4),
        "plan.capacity_factor": (plan.capacity_factor or 0, 1e4),
    }
    found = [(key, f"{value:g} is beyond {most:g}, the most that is modelled") for key, (value, most) in limits.items()
             if value > most]  # fmt: skip
    if run.tokens < plan.global_batch_size * run.seq_length:
        key = "run.samples" if run.budget is not None and run.budget.samples is not None else "run.tokens"
        amount = f"{run.tokens:g} is" if key == "run.tokens" else f"{run.tokens:g} tokens are"
        found.append((key, f"{amount} less than one step: {plan.global_batch_size} x {run.seq_length}"))
    if slots > MOST_SLOTS:
        what = f"{plan.microbatches} micro-batches per replica make {slots} slots; at most {MOST_SLOTS} are simulated"
        found.append(("plan.global_batch_size", f"{what}, take a larger micro_batch_size"))
    return found


def scenario_schema() -> dict[str, Any]:
    """The JSON Schema of scenario files, for editors; own hardware and models written out stay free-form in it."""
    plan = json_schema(Plan)
    plan["required"] = [name for name in plan["required"] if name != "dp"]
    plan["properties"]["stack"] = stack_schema()
    part = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    cluster = {
        "gpus": {"type": "integer", "minimum": 1},
        "node": {**part, "examples": catalogue.names("nodes")},
        "fabric": {**part, "examples": catalogue.names("fabrics")},
        "name": {"type": "string"},
        "pue": {
            "type": "number",
            "minimum": 1,
            "description": "Total over IT power; without it, that of the servers' cooling (air 1.3, liquid 1.1).",
        },
        **{name: {"type": "string", "examples": ["1 TB/s"]} for name in ("storage_write", "storage_read")},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "traincast scenario",
        "type": "object",
        "properties": {
            **{key: {"type": "string"} for key in ("name", "question", "source")},
            "model": {**part, "examples": model_names()},
            "cluster": {
                "type": "object",
                "properties": cluster,
                "required": ["gpus", "node", "fabric"],
                "additionalProperties": False,
            },
            "hardware": {
                "type": "object",
                "properties": {"profile": {"type": "string", "examples": ["profiles/mycluster"]}},
                "required": ["profile"],
                "additionalProperties": False,
            },
            "plan": plan,
            "run": run_schema(),
            "published": json_schema(Published),
            "spread": spread_schema(),
            **surroundings_schema(),
        },
        "required": ["model", "cluster", "plan", "run"],
        "additionalProperties": False,
    }
