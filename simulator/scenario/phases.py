"""The phases of a run: each is the scenario on the same cluster with its own sequence length, batch and plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from hardware.problems import InputError
from hardware.sections import Section
from simulator.model.spec import Model
from simulator.plans.spec import Plan
from simulator.run.read import RunPhase, RunPolicies
from simulator.scenario.plan_section import Machines, read_plan
from simulator.scenario.short_forms import written_out
from simulator.scenario.spec import Run, Scenario
from simulator.scenario.stack_section import read_stack

# Sections of a plan in which one key says which of the others mean anything: writing it writes the section anew.
RESTATED = {"recompute": "granularity"}


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the run, wholly resolved: its tokens, its sequence length, its plan.

    `key` is where the scenario writes it; `batch_apart`: its batch stands beside its plan, not in it.
    """

    name: str
    tokens: float
    seq_length: int
    plan: Plan
    key: str
    batch_apart: bool = False


def phases_of(scenario: Scenario) -> tuple[Phase, ...]:
    """The phases in their order; none where the run has none."""
    policies, tokens = scenario.run.policies, scenario.run.tokens
    if policies is None:
        return ()
    rest = tokens - sum(phase.tokens or 0.0 for phase in policies.phases)
    return tuple(_resolved(scenario, number, phase, rest) for number, phase in enumerate(policies.phases))


def _resolved(scenario: Scenario, number: int, phase: RunPhase, rest: float) -> Phase:
    plan = scenario.phase_plans.get(number)
    if plan is None and phase.plan:
        raise ValueError(f"phase {phase.name} has a plan of its own that was not read: give scenario.phase_plans")
    if plan is None:
        batch = phase.global_batch_size or scenario.plan.global_batch_size
        plan = replace(scenario.plan, global_batch_size=batch)
    return Phase(
        name=phase.name,
        tokens=rest if phase.tokens is None else phase.tokens,
        seq_length=phase.seq_length or scenario.run.seq_length,
        plan=plan,
        key=f"run.phases.{number}",
        batch_apart=phase.global_batch_size is not None,
    )


def phase_scenario(scenario: Scenario, phase: Phase) -> Scenario:
    """The phase as a scenario of its own."""
    policies = scenario.run.policies
    run = Run(phase.seq_length, phase.tokens, None if policies is None else replace(policies, phases=()))
    return replace(scenario, plan=phase.plan, run=run, phase_plans={})


def runs_as_written(scenario: Scenario, phase: Phase) -> bool:
    """Whether a phase is the scenario's own plan, batch and sequence length."""
    return phase.plan == scenario.plan and phase.seq_length == scenario.run.seq_length


def headline(scenario: Scenario) -> Scenario:
    """The scenario whose step is shown first: its own plan, or, where no phase runs that, the phase that takes the
    tokens that the others leave."""
    phases = phases_of(scenario)
    if not phases or any(runs_as_written(scenario, phase) for phase in phases):
        return scenario
    policies = scenario.run.policies
    main = next(at for at, phase in enumerate(policies.phases) if phase.tokens is None) if policies else 0
    chosen = phases[main]
    plans = {number: phase.plan for number, phase in enumerate(phases)}
    lengths = tuple(phase.seq_length for phase in phases)
    told = f"no phase runs the scenario's own plan; the step shown first is that of phase {chosen.name}"
    run = replace(scenario.run, seq_length=chosen.seq_length, policies=_with_lengths(policies, lengths))
    warnings = (*scenario.warnings, told)
    return replace(scenario, plan=chosen.plan, run=run, phase_plans=plans, warnings=warnings)


def _with_lengths(policies: RunPolicies | None, lengths: tuple[int, ...]) -> RunPolicies | None:
    if policies is None:
        return None
    paired = zip(policies.phases, lengths, strict=True)
    return replace(policies, phases=tuple(replace(phase, seq_length=length) for phase, length in paired))


def read_phase_plans(
    top: Section, policies: RunPolicies, machines: Machines, model: Model | None, own: Plan
) -> dict[int, Plan]:
    """The plans of the phases that change the scenario's: their keys over its own, read by the same rules.

    A changed section keeps the keys that it does not name; dp fills the cluster again. Problems are added to `top`; the
    scenario's `own` plan then stands in for the phase's.
    """
    written = top.data["plan"]
    plans = {}
    for number, phase in enumerate(policies.phases):
        if not phase.plan:
            continue
        before = len(top.problems)
        at = top.place.under(f"run.phases.{number}")
        if phase.global_batch_size is not None:
            if "global_batch_size" in phase.plan:
                top.problems.append(at.under("global_batch_size").problem("is given in the phase's plan too; drop one"))
            written_batch = {"global_batch_size": phase.global_batch_size}
        else:
            written_batch = {}
        changed = written_out({"plan": phase.plan})["plan"]
        section = Section(merged(written, {**changed, **written_batch}), at.under("plan"), top)
        plan = _phase_plan(section, machines, model)
        plans[number] = own if plan is None or len(top.problems) > before else plan
    return plans


def _phase_plan(section: Section, machines: Machines, model: Model | None) -> Plan | None:
    """The plan of a phase; None where its stack cannot be read."""
    try:
        chosen = read_stack(section.data.get("stack"), section.place.under("stack"))
    except InputError as error:
        section.problems += error.problems
        return None
    return read_plan(section, machines, model, chosen, {})


def merged(written: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A plan as written with a phase's keys over it; dp is left to follow unless the phase writes it."""
    whole = {key: value for key, value in written.items() if key != "dp"}
    for key, value in changes.items():
        whole[key] = _changed(key, whole.get(key), value)
    return whole


def _changed(key: str, before: Any, value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    if key == "stack" and isinstance(before, str):
        return {"base": before, **value} if "base" not in value and "framework" not in value else value
    if key == "precision" and isinstance(before, str):
        return {"base": before, **value}
    if not isinstance(before, Mapping) or RESTATED.get(key) in value:
        return value
    return {**before, **value}
