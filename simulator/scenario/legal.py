"""May this plan run this model on this cluster? Every reason why not, of the scenario's plan and of every phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hardware.precisions import OFFERED, PRECISIONS
from hardware.problems import InputError, Place, Problem
from hardware.specs import Accelerator, Cluster, Failed
from hardware.wiring import impossible_failures
from simulator.fields import wrong_values
from simulator.model.spec import Model
from simulator.optimizers import OPTIMIZERS
from simulator.plans.rules import Violation, check
from simulator.plans.spec import Plan
from simulator.run.fault_log import beyond_nodes
from simulator.scenario.blame import with_blame
from simulator.scenario.outer_sections import unfit_surroundings
from simulator.scenario.phases import Phase, phase_scenario, phases_of
from simulator.scenario.precision_section import key_as_written
from simulator.scenario.spec import Run, Scenario
from simulator.scenario.spread_section import unfit
from simulator.scenario.teacher_plan import unfit_distillation

MOST_SLOTS = 1_000_000


def problems(scenario: Scenario, top: Place) -> list[Problem]:
    """Everything that keeps a scenario from being simulated, of its own plan first, then of each phase's."""
    found = wrong_fields(scenario)
    if not found:
        found = [*_unfit(scenario), *_unfit_phases(scenario)]
    placed = ((key_as_written(key, scenario.written), message) for key, message in dict.fromkeys(found))
    return [top.under(key).problem(message) for key, message in placed]


def validated(scenario: Scenario) -> Scenario:
    """The scenario itself. Raises InputError with every problem, as reading it from a file would."""
    found = problems(scenario, Place(scenario.file))
    if found:
        raise InputError(found)
    return scenario


def wrong_fields(scenario: Scenario) -> list[tuple[str, str]]:
    """Fields of the wrong type or out of their range, which no file can bring in but Python can."""
    counts = {"cluster.gpus": scenario.cluster.gpus, "run.seq_length": scenario.run.seq_length}
    found = [
        (key, f"must be a whole number from 1 up, not {value!r}")
        for key, value in counts.items()
        if type(value) is not int or value < 1
    ]
    found += wrong_values(scenario.plan, "plan")
    for number, plan in scenario.phase_plans.items():
        found += wrong_values(plan, f"run.phases.{number}.plan")
    for name in ("input", "local_sgd", "parameter_server"):
        section = getattr(scenario.around, name)
        found += wrong_values(section, name) if section is not None else []
    return found


def _unfit(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What is wrong with the scenario's own plan, as (key, message)."""
    model, cluster, plan, run = scenario.model, scenario.cluster, scenario.plan, scenario.run
    yield from illegal(model, cluster, plan, run, scenario.stack_settings)
    if scenario.distillation is not None:
        yield from unfit_distillation(scenario.distillation, model, cluster, plan, run.seq_length)
    yield from ((f"cluster.failed.{key}", message) for key, message in impossible_failures(cluster))
    yield from unfit_failures(scenario)
    yield from unfit_surroundings(scenario.around, cluster, plan)
    if scenario.spread is not None:
        yield from unfit(scenario.spread, model, cluster, plan)
    yield from _unfit_log(scenario)


def _unfit_log(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Nodes of a fault log that the cluster does not have. Of spares that are left open the run, which counts them,
    checks it."""
    policies, cluster = scenario.run.policies, scenario.cluster
    if policies is None or policies.auto_spares:
        return
    beyond = beyond_nodes(policies.fault_log, cluster.nodes, policies.recovery.spares)
    if beyond is not None:
        yield "run.fault_log", beyond


def unfit_failures(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Classes of failures that strike parts which the cluster's network does not have."""
    policies, cluster = scenario.run.policies, scenario.cluster
    classes = policies.failures.classes if policies else ()
    for fault in classes:
        state = fault.network_state
        if fault.scope == "switch" and cluster.fabric.rails:
            why = (
                f"is switch, and leaves of {cluster.fabric.name} join rails: none takes a server. Write rail, kind slow"
            )
            yield f"run.failures.classes.{fault.name}.scope", why
        if state is None:
            continue
        for _, message in impossible_failures(replace(cluster, failed=Failed(**state))):
            yield f"run.failures.classes.{fault.name}.scope", f"{fault.scope}: {message}"


def _unfit_phases(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """What a phase's own plan, batch or sequence length breaks of what the scenario's keeps."""
    own = set(_unfit(scenario))
    for phase in phases_of(scenario):
        changed = phase_scenario(scenario, phase)
        broken = illegal(changed.model, changed.cluster, changed.plan, changed.run, changed.stack_settings)
        unfed = unfit_surroundings(changed.around, changed.cluster, changed.plan)
        for key, message in (*broken, *unfed):
            if (key, message) not in own:
                yield _phase_key(phase, key), f"phase {phase.name}: {message}"


def _phase_key(phase: Phase, key: str) -> str:
    """Where a phase says what the scenario says under `key`."""
    section, _, name = key.partition(".")
    if section == "run":
        return f"{phase.key}.{name}"
    if name == "global_batch_size" and phase.batch_apart:
        return f"{phase.key}.{name}"
    return f"{phase.key}.{key}" if section == "plan" else key


def illegal(model: Model, cluster: Cluster, plan: Plan, run: Run, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What keeps a plan from running, as (key, message): broken rules, what the GPU lacks, what is not modelled.

    `settings` are the plan keys, dotted, that its stack decided: a message says where one of them is to blame.
    """
    broken, found = broken_rules(model, plan, cluster.gpus, run.seq_length, settings)
    found += beyond_part(plan, cluster.accelerator)
    if not any(violation.rule == "counts_are_positive" for violation in broken):
        found += _beyond(plan, run)
    return found


def beyond_part(plan: Plan, part: Accelerator) -> list[tuple[str, str]]:
    """Precisions that a plan computes in and the part does not have, as (key, message)."""
    found = []
    able = [name for name, each in PRECISIONS.items() if not each.lacks(part.peak_flops_per_s)]
    if plan.precision not in able:
        offered = ", ".join(name for name in OFFERED if name in able)
        found.append(("plan.precision", f"{part.name} cannot compute in {plan.precision}; it can in {offered}"))
    products = OPTIMIZERS[plan.optimizer.kind].products
    if products is not None and products.precision not in able:
        why = f"{plan.optimizer.kind} computes in {products.precision}, which {part.name} lacks; take adamw"
        found.append(("plan.optimizer.kind", why))
    return found


def broken_rules(
    model: Model, plan: Plan, gpus: int, seq_length: int, settings: Mapping[str, Any]
) -> tuple[list[Violation], list[tuple[str, str]]]:
    """The rules that a plan breaks on any machine, and what is said of them as (key, message)."""
    broken = check(model, plan, gpus=gpus, seq_length=seq_length)
    return broken, with_blame(broken, model, plan, gpus=gpus, seq_length=seq_length, settings=settings)


def _beyond(plan: Plan, run: Run) -> list[tuple[str, str]]:
    """Figures far beyond any real run, which would only exhaust memory or arithmetic, as (key, message)."""
    slots = plan.microbatches * plan.pp * plan.vpp
    limits = {
        "run.seq_length": (run.seq_length, 10**9),
        "run.tokens": (run.tokens, 1e18),
        "plan.micro_batch_size": (plan.micro_batch_size, 10**6),
        "plan.vocab_divisible_by": (plan.vocab_divisible_by, 10**6),
        "plan.expert_imbalance": (plan.expert_imbalance, 1e4),
    }
    found = [(key, f"{value:g} is beyond {most:g}, the most that is modelled") for key, (value, most) in limits.items()
             if value > most]  # fmt: skip
    step_tokens = plan.global_batch_size * run.seq_length
    if run.tokens < step_tokens:
        key = "run.samples" if run.budget is not None and run.budget.samples is not None else "run.tokens"
        amount = f"{run.tokens:g} is" if key == "run.tokens" else f"{run.tokens:g} tokens are"
        step = f"{plan.global_batch_size} x {run.seq_length} = {step_tokens:,} tokens"
        found.append((key, f"{amount} less than one step: {step}. Write as much or more"))
    if slots > MOST_SLOTS:
        what = f"{plan.microbatches} micro-batches per replica make {slots} slots; at most {MOST_SLOTS} are simulated"
        found.append(("plan.global_batch_size", f"{what}, take a larger micro_batch_size"))
    return found
