"""A phase of a run as a launch of its own: its scenario, and how its checkpoints go on from the phase before."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hardware.problems import InputError, Problem, one_of
from simulator.plans.spec import Plan
from simulator.scenario.phases import Phase, phase_scenario, phases_of
from simulator.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Stretch:
    """Where a launch stands in a run of several phases: `number` from 1 of `count`.

    `steps_before` and `steps` count optimizer steps; `reshards`: the next phase splits the model otherwise, so its
    checkpoints must be readable under other degrees.
    """

    name: str
    number: int
    count: int
    steps_before: int
    steps: int
    reshards: bool

    @property
    def goes_on(self) -> bool:
        """Whether it starts from the checkpoint of a phase before it."""
        return self.number > 1

    @property
    def note(self) -> str:
        """How it is started, for the README of a launch."""
        last = self.steps_before + self.steps
        steps = f"phase {self.number} of {self.count} ({self.name}): steps {self.steps_before + 1} to {last}"
        if not self.goes_on:
            return f"{steps}; the next phase goes on from its last checkpoint, so set CHECKPOINT_DIR."
        return f"{steps}; start it after the phase before, whose last checkpoint it loads: the same CHECKPOINT_DIR."


def step_count(tokens: float, global_batch_size: int, seq_length: int) -> int:
    """Optimizer steps that a number of tokens takes."""
    return math.ceil(tokens / (global_batch_size * seq_length) - 1e-9)


def phase_names(scenario: Scenario) -> tuple[str, ...]:
    """Names of the phases, in their order, where a run has several; none where it has one batch throughout."""
    phases = phases_of(scenario)
    return tuple(phase.name for phase in phases) if len(phases) > 1 else ()


def of_phase(scenario: Scenario, name: str) -> tuple[Scenario, Stretch]:
    """A phase as a scenario of its own, and its place in the run. Raises InputError where there is no such phase."""
    phases = phases_of(scenario)
    names = [phase.name for phase in phases]
    if not phases:
        message = "the run has one phase; leave --phase out"
        raise InputError([Problem("--phase", None, "", message)])
    if name not in names:
        raise InputError([Problem("--phase", None, "", one_of(name, names))])
    number = names.index(name)
    steps = [_steps(phase) for phase in phases]
    later = phases[number + 1 :]
    reshards = bool(later) and _split(later[0].plan) != _split(phases[number].plan)
    stretch = Stretch(name, number + 1, len(phases), sum(steps[:number]), steps[number], reshards)
    return _alone(scenario, phases[number]), stretch


def _steps(phase: Phase) -> int:
    return step_count(phase.tokens, phase.plan.global_batch_size, phase.seq_length)


def _split(plan: Plan) -> tuple[object, ...]:
    """What decides which rank holds which part of the model."""
    return plan.tp, plan.pp, plan.vpp, plan.ep, plan.etp, plan.layout


def _alone(scenario: Scenario, phase: Phase) -> Scenario:
    """The phase's scenario, written out without the others."""
    own = phase_scenario(scenario, phase)
    run = {key: value for key, value in scenario.written["run"].items() if key not in AMOUNTS}
    run |= {"seq_length": phase.seq_length, "tokens": phase.tokens}
    written = {**scenario.written, "run": run}
    return replace(own, name=f"{scenario.name}-{phase.name}", written=written)


# Keys of a run that say how much is trained, and in what phases.
AMOUNTS = ("tokens", "steps", "samples", "seq_length", "phases")
