"""Measured against predicted: step, tokens, memory by stage, time lost; and what could explain the difference."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.precisions import PRECISIONS, half_precision_peak
from hardware.problems import InputError, Problem
from hardware.units import format_bytes
from simulator.launch.explain.causes import Cause, StackChange, causes, stack_changes, together_fraction
from simulator.launch.explain.figures import (
    Figure,
    StageMemory,
    TraceFigure,
    figures,
    figures_without_model,
    stage_memory,
    trace_figures,
)
from simulator.launch.explain.kineto import TracedStep
from simulator.launch.explain.lost import LostTime, lost_time
from simulator.launch.explain.other_plan import OtherPlan, other_plan
from simulator.launch.explain.records import Job, Log
from simulator.launch.explain.steady import Drift, SteadySteps, steady_steps
from simulator.launch.explain.work import as_logged, flops_ratio, work_apart, work_notes, workpiece
from simulator.predict.prediction import Prediction, predict
from simulator.predict.simulate import simulate, simulate_step
from simulator.scenario.schema import Scenario
from simulator.scenario.site_section import SiteRun

# Judged: a difference below this is none.
AGREES_FRACTION = 0.01
# Time lost is worth a look from this share of the wall time on.
TELLING_FRACTION = 0.02


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a log says beside its prediction; `others` names the log's other jobs, `notes` what a reader must know.

    `other_plan` is what the job ran otherwise than the scenario, `own_step_time_s` the step predicted for what it ran;
    causes and stacks explain what that leaves of the gap, all causes together `together_fraction` of it. Figures,
    memory and trace stand beside `beside`: the scenario's prediction, or that of the log's own model and GPUs where
    these are others (None: it cannot be made). `run` is the job's steady step beside the prediction of what it ran, as
    a site correction takes it; `no_run` says why there is none. `next` says what to look at, first things first.
    """

    scenario: Scenario
    prediction: Prediction
    beside: Prediction | None
    uncorrected_s: float
    log: Log
    job: Job
    others: tuple[str, ...]
    steady: SteadySteps
    lost: LostTime
    figures: tuple[Figure, ...]
    memory: tuple[StageMemory, ...]
    other_plan: OtherPlan | None
    own_step_time_s: float
    causes: tuple[Cause, ...]
    together_fraction: float
    stacks: tuple[StackChange, ...]
    trace: tuple[TraceFigure, ...]
    run: SiteRun
    no_run: str
    next: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def gap_s(self) -> float:
        return self.steady.step_time_s - self.prediction.step_time_s

    @property
    def rest_s(self) -> float:
        """The gap that the log's own plan leaves."""
        return self.steady.step_time_s - self.own_step_time_s

    @property
    def comparable(self) -> bool:
        """Whether the log's step can be set beside the scenario's."""
        return self.other_plan is None or self.other_plan.comparable

    @property
    def drift(self) -> Drift | None:
        return self.steady.drift


def explain(scenario: Scenario, log: Log, trace: TracedStep | None = None, job: int | None = None) -> Explanation:
    """Sets a log's job against the scenario's prediction; `job` counts from 1 (None: the one that fits best).

    Predicted is the log's own step: its batch and sequence, where the log says them and the plan is legal with them.

    Raises InputError where there is no such job.
    """
    chosen = chosen_job(log, scenario, job)
    work = workpiece(scenario, chosen)
    steady = steady_steps(chosen, work)
    asked, scenario = scenario, as_logged(scenario, chosen)
    done = simulate(scenario)
    prediction = predict(done)
    uncorrected_s = simulate(replace(scenario, site=None)).step.step_time_s if scenario.site else done.step.step_time_s
    measured_s = steady.step_time_s
    other = other_plan(scenario, chosen)
    beside = _beside(other, prediction)
    if beside is None:
        shown = figures_without_model(steady, work, prediction)
    else:
        shown = figures(steady, work, beside, flops_ratio(beside.scenario, chosen))
        check_possible(shown, beside.scenario, log, chosen)
    ran, ran_s = _as_ran(other, scenario, uncorrected_s)
    apart = beside is not None and abs(measured_s / ran_s - 1) > AGREES_FRACTION
    faster = apart and measured_s < ran_s
    found = causes(ran, measured_s, ran_s) if apart else ()
    stacks = stack_changes(ran, measured_s, ran_s) if apart else ()
    traced = trace_figures(trace, beside) if trace and beside else ()
    lost = lost_time(steady, chosen.pauses)
    return Explanation(
        scenario=scenario,
        prediction=prediction,
        beside=beside,
        uncorrected_s=uncorrected_s,
        log=log,
        job=chosen,
        others=tuple(f"{number}: {each.name()}" for number, each in enumerate(log.jobs, 1) if each is not chosen),
        steady=steady,
        lost=lost,
        figures=shown,
        memory=stage_memory(log.memory, beside.scenario, beside) if beside else (),
        other_plan=other,
        own_step_time_s=ran_s,
        causes=found,
        together_fraction=together_fraction(found, ran, measured_s, ran_s),
        stacks=stacks,
        trace=traced,
        run=SiteRun(measured_s, ran_s, _run_name(scenario, other), ran.cluster.gpus, steady.steps),
        no_run=no_run(other, ran, chosen),
        next=(*_compare_own(other), *what_next(found, stacks, traced, steady, lost, faster)),
        notes=(
            *work_notes(asked, scenario, chosen, predicted=beside is not None),
            *notes(log, beside.scenario if beside else scenario, steady),
            *_note_of_memory(other, log),
            *_note_of_capacity(scenario, log),
            *stamp_notes(lost),
        ),
    )


def _as_ran(other: OtherPlan | None, scenario: Scenario, predicted_s: float) -> tuple[Scenario, float]:
    """The scenario as the log ran it, as far as it can be predicted, and its step without a site correction."""
    if other is None or other.scenario is None:
        return scenario, predicted_s
    ran = replace(other.scenario, site=None)
    return ran, simulate_step(ran).step_time_s


def _beside(other: OtherPlan | None, prediction: Prediction) -> Prediction | None:
    """The prediction that the log's figures are set beside: of its own model and GPUs, where it says others."""
    if other is None or other.comparable:
        return prediction
    return predict(simulate(other.scenario)) if other.scenario is not None else None


def _run_name(scenario: Scenario, other: OtherPlan | None) -> str:
    """What a site correction calls the run: the scenario, with what the log ran otherwise."""
    return " ".join((scenario.name, *(other.overrides if other else ())))


def no_run(other: OtherPlan | None, ran: Scenario, job: Job) -> str:
    """Why the run is none for a site correction: nothing that was predicted is what the log ran; else empty."""
    if other is not None and other.scenario is None:
        return f"{other.text}; that cannot be predicted: {other.why_not}"
    apart = work_apart(ran, job)
    if apart:
        return f"the log has {apart}, which cannot be predicted"
    return ""


def check_possible(shown: Sequence[Figure], scenario: Scenario, log: Log, job: Job) -> None:
    """Raises InputError where the log's step would compute more than the GPUs can."""
    mfu = next(each.measured for each in shown if each.quantity == "mfu_fraction")
    peaks = scenario.cluster.accelerator.peak_flops_per_s
    usual = half_precision_peak(peaks)
    most = max(peaks.get(PRECISIONS[scenario.plan.precision].format, usual), usual) / usual if usual else np.inf
    if mfu <= most:
        return
    step_s = next(each.measured for each in shown if each.quantity == "step_time_s")
    message = (
        f"states steps ({job.name()}) of {step_s:.4g} s, an MFU of {100 * mfu:.0f} %, which the GPUs cannot reach "
        f"({100 * most:.0f} %). Either the log's times are in other units, or it is the log of another model, batch, "
        f"sequence length or number of GPUs: set those of the log (--set plan.global_batch_size=..., --set "
        "run.seq_length=..., --set cluster.gpus=..., --set model=...)"
    )
    raise InputError([Problem(log.file, job.lines[0], "--log", message)])


def _compare_own(other: OtherPlan | None) -> tuple[str, ...]:
    """What to do first where the log ran another plan."""
    if other is None:
        return ()
    sets = " ".join(f"--set {shlex.quote(each)}" for each in other.overrides)
    return (f"another plan: compare the log with its own ({sets})" if sets else "another plan: find its scenario",)


def _note_of_memory(other: OtherPlan | None, log: Log) -> tuple[str, ...]:
    if other is None or not log.memory or (not other.comparable and other.scenario is not None):
        return ()
    if not other.comparable:
        return ("memory is left out: the log's own model and GPUs cannot be predicted",)
    return ("memory is set against the scenario's plan, which the log did not run",)


def _note_of_capacity(scenario: Scenario, log: Log) -> tuple[str, ...]:
    """Memory that no such GPU has."""
    part = scenario.cluster.accelerator
    most = {rank: float(np.fmax(held.allocated_bytes, held.reserved_bytes)) for rank, held in log.memory.items()}
    rank = max(most, key=lambda each: np.nan_to_num(most[each]), default=None)
    if rank is None or not most[rank] > part.memory_capacity_bytes:
        return ()
    found, capacity = format_bytes(most[rank]), format_bytes(part.memory_capacity_bytes)
    return (
        f"memory of rank {rank} is {found}, more than the {capacity} of {part.name}: the log is of other GPUs "
        "(--set cluster.node=...), or its figures are in another unit",
    )


def stamp_notes(lost: LostTime) -> tuple[str, ...]:
    """Time stamps that cannot be those of the steps."""
    if not lost.jump_line:
        return ()
    text = f"time stamps jump back at line {lost.jump_line}, so they are not used: gaps and restarts are not known"
    return (text,)


def chosen_job(log: Log, scenario: Scenario, number: int | None) -> Job:
    """The job of that number, or the one with the scenario's batch, the longest of several."""
    if number is not None:
        if not 1 <= number <= len(log.jobs):
            names = "; ".join(f"{count}: {job.name()}" for count, job in enumerate(log.jobs, 1))
            message = f"{number} does not exist; the log holds {names}"
            raise InputError([Problem(log.file, None, "--job", message)])
        return log.jobs[number - 1]
    fitting = [job for job in log.jobs if job.batch in (0, scenario.plan.global_batch_size)] or list(log.jobs)
    return max(fitting, key=lambda job: sum(len(each) for each in job.attempts))


def what_next(
    found: Sequence[Cause],
    stacks: Sequence[StackChange],
    trace: Sequence[TraceFigure],
    steady: SteadySteps,
    lost: LostTime,
    faster: bool = False,
) -> tuple[str, ...]:
    """What to look at, first what the evidence points at; a run that is `faster` than predicted has nothing to mend."""
    steps: list[str] = []
    if trace:
        worst = max(trace, key=lambda each: abs(each.traced_s - each.predicted_s))
        steps.append(
            f"the trace differs most in {worst.cause}: {worst.traced_s:.3g} s, predicted {worst.predicted_s:.3g} s"
        )
    if steady.drift is not None:
        steps.append(
            "the step drifts: watch clocks and temperatures, memory of the host, and the data loaders over hours"
        )
    worst_loss = max(lost.lost_s.items(), key=lambda each: each[1], default=None)
    if worst_loss and worst_loss[1] > TELLING_FRACTION * lost.wall_s:
        steps.append(
            f"beside steady steps most time goes to {worst_loss[0].replace('_', ' ')}: {LOSS_REMEDIES[worst_loss[0]]}"
        )
    if faster:
        steps.append(FASTER)
    else:
        steps += [f"{each.name}: {each.look_at}" for each in found[:3]]
    if stacks and stacks[0].explains_fraction > 0.5:
        steps.append(
            f"software: compare the launch with the scenario's stack; '{stacks[0].name}' would explain most of it"
        )
    if found and not trace and not faster:
        steps.append("a profiler's trace of one step (--trace) tells these causes apart")
    return tuple(steps)


FASTER = (
    "the run is faster than predicted: check that model, batch, sequence and GPUs are the log's; if they are, --fit "
    "corrects predictions for this site"
)
LOSS_REMEDIES: Mapping[str, str] = {
    "warm_up": "compilation and caches; long-lived runs do not feel it",
    "spikes": "look for garbage collection, evaluation of data loaders, or one slow node at these steps",
    "checkpoint": "save asynchronously or less often ('traincast evaluate --alternatives' finds the interval)",
    "evaluation": "evaluate less often, or on fewer batches",
    "checkpoint_and_evaluation": "save asynchronously, evaluate less often",
    "gaps": "something between the steps takes time that no line explains: data loading, logging, saving by hand",
    "restarts": "see what ended the attempts, and how long a restart takes",
    "repeated": "save more often: steps since the last checkpoint were trained again",
}


def notes(log: Log, scenario: Scenario, steady: SteadySteps) -> tuple[str, ...]:
    """What a reader must know of the log before trusting the comparison."""
    found = []
    if len(log.jobs) > 1:
        found.append(f"the log holds {len(log.jobs)} jobs; --job chooses another one")
    if log.broken:
        found.append(f"{log.broken} lines were cut off or damaged and are left out")
    if log.other_ranks:
        found.append(f"{log.other_ranks} lines of further ranks repeat steps and are left out")
    if steady.steps < 10:
        found.append(f"only {steady.steps} steady steps: the figure may still move")
    foreign = [rank for rank in log.memory if rank >= scenario.plan.gpus]
    if foreign:
        found.append(f"memory of rank {foreign[0]} is left out: the scenario has {scenario.plan.gpus} GPUs")
    return tuple(found)
