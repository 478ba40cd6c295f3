"""Measured against predicted: step, tokens, memory by stage, time lost; and what could explain the difference."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.precisions import PRECISIONS, half_precision_peak
from hardware.problems import InputError, Problem
from simulator.launch.explain.causes import Cause, StackChange, causes, stack_changes, together_fraction
from simulator.launch.explain.kineto import TracedStep
from simulator.launch.explain.lost import LostTime, lost_time
from simulator.launch.explain.other_plan import OtherPlan, other_plan
from simulator.launch.explain.records import Job, Log, Memory
from simulator.launch.explain.steady import Drift, SteadySteps, Workpiece, steady_steps
from simulator.launch.explain.work import as_logged, flops_ratio, work_notes, workpiece
from simulator.plans.placement import coordinates
from simulator.predict.prediction import Prediction, predict
from simulator.predict.simulate import simulate, simulate_step
from simulator.scenario.schema import Scenario
from simulator.scenario.site_section import SiteRun

# Judged: a difference below this is none.
AGREES_FRACTION = 0.01
# Time lost is worth a look from this share of the wall time on.
TELLING_FRACTION = 0.02


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity measured and predicted; `interval` is where 80 % of like runs lie (None: none is known)."""

    quantity: str
    measured: float
    predicted: float
    interval: tuple[float, float] | None = None

    @property
    def difference_fraction(self) -> float:
        return self.measured / self.predicted - 1


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The fullest rank of a pipeline stage that the log names, beside the prediction for the stage, in bytes.

    `reserved` is compared with the allocator's peak and its fragmentation; nan where the log does not say.
    """

    stage: int
    ranks: int
    allocated_bytes: float
    predicted_allocated_bytes: float
    reserved_bytes: float
    predicted_reserved_bytes: float


@dataclass(frozen=True, slots=True)
class TraceFigure:
    """One cause of a rank's step: traced (exposed, on that rank) and predicted (of its stage), in seconds."""

    cause: str
    traced_s: float
    predicted_s: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a log says beside its prediction; `others` names the log's other jobs, `notes` what a reader must know.

    `other_plan` is what the job ran otherwise than the scenario, `own_step_time_s` the step predicted for what it ran;
    causes and stacks explain what that leaves of the gap, all causes together `together_fraction` of it.
    `run` is the job's steady step as a site correction takes it. `next` says what to look at, first things first.
    """

    scenario: Scenario
    prediction: Prediction
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
    shown = figures(steady, work, prediction, flops_ratio(scenario, chosen))
    check_possible(shown, scenario, log, chosen)
    other = other_plan(scenario, chosen)
    ran, ran_s = _as_ran(other, scenario, uncorrected_s)
    apart = abs(measured_s / ran_s - 1) > AGREES_FRACTION
    found = causes(ran, measured_s, ran_s) if apart else ()
    stacks = stack_changes(ran, measured_s, ran_s) if apart else ()
    traced = trace_figures(trace, prediction) if trace else ()
    lost = lost_time(steady, chosen.pauses)
    return Explanation(
        scenario=scenario,
        prediction=prediction,
        log=log,
        job=chosen,
        others=tuple(f"{number}: {each.name()}" for number, each in enumerate(log.jobs, 1) if each is not chosen),
        steady=steady,
        lost=lost,
        figures=shown,
        memory=stage_memory(log.memory, scenario, prediction),
        other_plan=other,
        own_step_time_s=ran_s,
        causes=found,
        together_fraction=together_fraction(found, ran, measured_s, ran_s),
        stacks=stacks,
        trace=traced,
        run=SiteRun(measured_s, uncorrected_s, scenario.name, scenario.cluster.gpus, steady.steps),
        next=(*_compare_own(other), *what_next(found, stacks, traced, steady, lost)),
        notes=(*work_notes(asked, scenario, chosen), *notes(log, scenario, steady), *_note_of_memory(other, log)),
    )


def _as_ran(other: OtherPlan | None, scenario: Scenario, predicted_s: float) -> tuple[Scenario, float]:
    """The scenario as the log ran it, as far as it can be predicted, and its step without a site correction."""
    if other is None or other.scenario is None:
        return scenario, predicted_s
    ran = replace(other.scenario, site=None)
    return ran, simulate_step(ran).step_time_s


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
    return ("memory is set against the scenario's plan, which the log did not run",) if other and log.memory else ()


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


def figures(
    steady: SteadySteps, work: Workpiece, prediction: Prediction, flops_ratio: float = 1.0
) -> tuple[Figure, ...]:
    """Step time and what follows from it; `flops_ratio`: model FLOPs of the log's step over the predicted one's."""
    measured_s, predicted_s = steady.step_time_s, prediction.step_time_s
    low, high = prediction.step_time_interval_s
    per_gpu = work.tokens / work.gpus
    measured_mfu = prediction.mfu_fraction * flops_ratio * predicted_s / measured_s
    return (
        Figure("step_time_s", measured_s, predicted_s, (low, high)),
        Figure(
            "tokens_per_s", work.tokens / measured_s, prediction.tokens_per_s, (work.tokens / high, work.tokens / low)
        ),
        Figure(
            "tokens_per_s_per_gpu",
            per_gpu / measured_s,
            prediction.tokens_per_s_per_gpu,
            (per_gpu / high, per_gpu / low),
        ),
        Figure("mfu_fraction", measured_mfu, prediction.mfu_fraction),
    )


def stage_memory(memory: Mapping[int, Memory], scenario: Scenario, prediction: Prediction) -> tuple[StageMemory, ...]:
    """Memory of the ranks that the log names, by the pipeline stage that each is of."""
    plan = scenario.plan
    by_stage: dict[int, list[Memory]] = {}
    for rank, held in memory.items():
        if 0 <= rank < plan.gpus:
            by_stage.setdefault(int(coordinates(plan, rank).pp), []).append(held)
    found = []
    for stage, ranks in sorted(by_stage.items()):
        report = prediction.stages[stage]
        fragments = report.outside_allocator_bytes.get("fragmentation", 0.0)
        found.append(
            StageMemory(
                stage=stage,
                ranks=len(ranks),
                allocated_bytes=float(np.fmax.reduce([each.allocated_bytes for each in ranks])),
                predicted_allocated_bytes=report.peak_memory_bytes,
                reserved_bytes=float(np.fmax.reduce([each.reserved_bytes for each in ranks])),
                predicted_reserved_bytes=report.peak_memory_bytes + fragments,
            )
        )
    return tuple(found)


def trace_figures(trace: TracedStep, prediction: Prediction) -> tuple[TraceFigure, ...]:
    """A traced step by cause beside the prediction of the rank's stage (of the mean where the rank is not known).

    On the device a rank waits inside its communication kernels: the bubble stands with pipeline sends there.
    """
    scenario = prediction.scenario
    spent = prediction.breakdown_s
    if 0 <= trace.rank < scenario.plan.gpus:
        spent = prediction.stages[int(coordinates(scenario.plan, trace.rank).pp)].breakdown_s
    own = {"compute": trace.compute_s, **trace.exposed_s, "idle": trace.idle_s}
    predicted = {
        "compute": spent["compute"] + spent["optimizer"],
        **{cause: spent[cause] for cause in ("tp", "cp", "ep", "dp")},
        "pp": spent["pp"] + spent["bubble"],
        "idle": spent["host"],
        "communication": spent["barrier"] + spent["straggler"],
    }
    names = [name for name in (*predicted, *own) if own.get(name, 0.0) or predicted.get(name, 0.0)]
    return tuple(TraceFigure(name, own.get(name, 0.0), predicted.get(name, 0.0)) for name in dict.fromkeys(names))


def what_next(
    found: Sequence[Cause],
    stacks: Sequence[StackChange],
    trace: Sequence[TraceFigure],
    steady: SteadySteps,
    lost: LostTime,
) -> tuple[str, ...]:
    """What to look at, first what the evidence points at."""
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
    steps += [f"{each.name}: {each.look_at}" for each in found[:3]]
    if stacks and stacks[0].explains_fraction > 0.5:
        steps.append(
            f"software: compare the launch with the scenario's stack; '{stacks[0].name}' would explain most of it"
        )
    if found and not trace:
        steps.append("a profiler's trace of one step (--trace) tells these causes apart")
    return tuple(steps)


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
