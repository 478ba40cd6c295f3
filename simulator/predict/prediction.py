"""One scenario in, one prediction out: the composition of placement, memory, costs and the simulated step."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from hardware.collectives import DISPATCHERS
from hardware.collectives.network_use import NetworkUse, network_use
from hardware.kernels import scaling_words
from hardware.units import format_bytes
from hardware.wiring import mismatches
from simulator.cost.inventory import beyond_profile
from simulator.cost.traffic import step_streams
from simulator.memory.host import HostMemory, host_memory
from simulator.memory.report import RESERVE_FRACTION
from simulator.model.flops import flops_per_token
from simulator.model.parameters import active_parameters, total_parameters
from simulator.plans.spec import Plan
from simulator.predict.confidence import unmeasured_warnings
from simulator.predict.evidence import evidence_shares, step_interval_s
from simulator.predict.job_schedule import JobsReport, jobs_report
from simulator.predict.premises import Premise, premises
from simulator.predict.run_spec import host_copy_bytes, stretch, stretches, tokens_per_step, whole_run_spec
from simulator.predict.simulate import Simulated, SimulatedPhase, simulate
from simulator.run.montecarlo import Progress
from simulator.run.montecarlo import simulate as simulate_run
from simulator.run.result import RunResult
from simulator.run.specs import Segment
from simulator.scenario.legal import validated
from simulator.scenario.phases import Phase, runs_as_written
from simulator.scenario.spec import Scenario, check_scenario
from simulator.workload.shape import padded_vocab

FLOPS_CONVENTION = "megatron"


@dataclass(frozen=True, slots=True)
class StageReport:
    """One pipeline rank: the layers it holds, its memory at the peak by owner, and its step by cause."""

    rank: int
    layers: tuple[str, ...]
    parameters: float
    memory_bytes: dict[str, float]
    outside_allocator_bytes: dict[str, float]
    peak_memory_bytes: float
    device_memory_bytes: float
    breakdown_s: dict[str, float]


@dataclass(frozen=True, slots=True)
class PhaseReport:
    """A phase of the run: its share of the tokens, its own step and memory, and whether that fits.

    `plan_changes` are the keys of its plan that differ from the scenario's. `training_time_s` is without failures.
    """

    name: str
    tokens: float
    seq_length: int
    global_batch_size: int
    plan_changes: dict[str, Any]
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    breakdown_s: dict[str, float]
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    model_flops_per_s_per_gpu: float
    gpu_hours_per_1e12_tokens: float
    mfu_fraction: float
    training_time_s: float
    peak_memory_bytes: float
    device_memory_bytes: float
    fits: bool


@dataclass(frozen=True, slots=True)
class Prediction:
    """What traincast says of a scenario; times in seconds, `breakdown_s` adds up to `step_time_s`.

    `training_time_s` is without failures, `run` with them. `peak_memory_bytes` is the allocator's peak on the fullest
    rank; `fits` compares what the device shows, and what the fullest node's `host_memory` holds.
    `step_time_interval_s` is where 80 % of like runs lie. `stated` and `assumed`: what else it rests on, given by the
    scenario or not. `network`: how far the step uses each class of links.
    `mfu_fraction` counts model FLOPs by `flops_convention` against `mfu_peak_flops_per_s`, the data sheet's.
    With `phases`, `training_time_s` and `run` contain all of them, and `fits` says whether all fit; the rest is of the
    step of `headline_phase`. `evaluation_pause_s`: one pause for evaluation, 0 without any. `jobs`: the schedule of all
    jobs of the cluster (None: this run alone). Clusters that train together (local SGD) are all in tokens, FLOPs,
    GPU-hours and the run.
    """

    scenario: Scenario
    parameters_total: int
    parameters_active: int
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    tokens_per_step: int
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    model_flops_per_s_per_gpu: float
    mfu_fraction: float
    mfu_peak_flops_per_s: float
    flops_convention: str
    gpu_hours_per_1e12_tokens: float
    training_time_s: float
    run: RunResult | None
    peak_memory_bytes: float
    device_memory_bytes: float
    memory_capacity_bytes: float
    host_memory: HostMemory
    fits: bool
    breakdown_s: dict[str, float]
    evidence: dict[str, float]
    stages: tuple[StageReport, ...]
    network: NetworkUse
    stated: tuple[Premise, ...]
    assumed: tuple[Premise, ...]
    warnings: tuple[str, ...]
    phases: tuple[PhaseReport, ...] = ()
    evaluation_pause_s: float = 0.0
    headline_phase: str | None = None
    jobs: JobsReport | None = None


def evaluate(scenario: Scenario) -> Prediction:
    """Predict a scenario: simulate one step, weigh the memory, and scale up to the run.

    Raises InputError with every rule that the scenario breaks, as reading it from a file does. `predict(simulate(...))`
    is the same without that check, for runs of the real world that break the rules of today's frameworks.
    """
    check_scenario(scenario, "evaluate")
    return predict(simulate(validated(scenario)))


def predict(done: Simulated, progress: Progress | None = None) -> Prediction:
    """What a simulated step says of the scenario; `progress` is told of the runs played."""
    scenario, step, memory = done.scenario, done.step, done.memory
    gpus = scenario.cluster.gpus * step.around.clusters
    interval_s = step_interval_s(done)
    spec = whole_run_spec(done, interval_s)
    whole = None if spec is None else simulate_run(spec, progress)
    rests_on = premises(scenario, spec, whole)
    network = link_use(done)
    host = host_of(done)
    tokens_per_s = tokens_per_step(done) / step.step_time_s
    parts = [each.done for each in done.phases] or [done]
    return Prediction(
        scenario=scenario,
        parameters_total=total_parameters(scenario.model),
        parameters_active=active_parameters(scenario.model),
        step_time_s=step.step_time_s,
        step_time_interval_s=interval_s,
        tokens_per_step=tokens_per_step(done),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_gpu=tokens_per_s / gpus,
        model_flops_per_s_per_gpu=model_flops_per_s_per_gpu(done),
        mfu_fraction=mfu_fraction(done),
        mfu_peak_flops_per_s=scenario.cluster.accelerator.mfu_peak_flops_per_s,
        flops_convention=FLOPS_CONVENTION,
        gpu_hours_per_1e12_tokens=1e12 / tokens_per_s * gpus / 3600,
        training_time_s=sum(full_speed_s(part.segment) for part in stretches(done)),
        run=whole,
        peak_memory_bytes=max(rank.allocated_bytes for rank in memory),
        device_memory_bytes=done.device_bytes,
        memory_capacity_bytes=scenario.cluster.accelerator.memory_capacity_bytes,
        host_memory=host,
        fits=all(fits_wholly(part) for part in parts),
        breakdown_s=step.breakdown(),
        evidence=evidence_shares(done),
        stages=stage_reports(done),
        network=network,
        stated=tuple(each for each in rests_on if not each.assumed),
        assumed=tuple(each for each in rests_on if each.assumed),
        warnings=(
            *warnings(done),
            *host_warnings(host),
            *overloads(network),
            *phase_warnings(done),
            *(whole.warnings if whole else ()),
        ),
        phases=phase_reports(done, interval_s),
        evaluation_pause_s=done.evaluation_pause_s,
        headline_phase=next((each.phase.name for each in done.phases if runs_as_written(scenario, each.phase)), None),
        jobs=None if spec is None or whole is None else jobs_report(scenario, spec, whole, job_runs(scenario)),
    )


def job_runs(scenario: Scenario) -> dict[str, RunResult]:
    """The whole runs of the scenarios that other jobs of the cluster run, by their names."""
    found = {name: predict(simulate(named)).run for name, named in scenario.job_scenarios.items()}
    return {name: run for name, run in found.items() if run is not None}


def host_of(done: Simulated) -> HostMemory:
    """What the job needs of the fullest node's own memory."""
    copies = host_copy_bytes(done.scenario)
    return host_memory(done.workload, done.step.schedule.ranks, done.scenario.cluster, copies)


def fits_wholly(done: Simulated) -> bool:
    """Whether GPUs and hosts hold what the plan needs."""
    return done.fits and host_of(done).fits


def full_speed_s(segment: Segment) -> float:
    """Seconds of a stretch of the run without failures, evaluation included."""
    return segment.tokens / segment.tokens_per_step * segment.step_time_s + segment.evaluation_s


def model_flops_per_s_per_gpu(done: Simulated) -> float:
    """FLOP/s that the model's arithmetic comes to on each GPU, by FLOPS_CONVENTION."""
    scenario, step = done.scenario, done.step
    vocab = int(padded_vocab(scenario.model.vocab, scenario.plan))
    per_token = float(flops_per_token(scenario.model, scenario.run.seq_length, FLOPS_CONVENTION, vocab))
    gpus = scenario.cluster.gpus * step.around.clusters
    return tokens_per_step(done) * per_token / step.step_time_s / gpus


def mfu_fraction(done: Simulated) -> float:
    """Model FLOPs over the dense 16-bit peak of the GPU's data sheet."""
    return model_flops_per_s_per_gpu(done) / done.scenario.cluster.accelerator.mfu_peak_flops_per_s


def phase_reports(done: Simulated, interval_s: tuple[float, float]) -> tuple[PhaseReport, ...]:
    """Every phase's own figures; the interval of each distinct step is found once, `interval_s` is the main one's."""
    intervals_s = {id(done.step): interval_s}
    for each in done.phases:
        if id(each.done.step) not in intervals_s:
            intervals_s[id(each.done.step)] = step_interval_s(each.done)
    return tuple(phase_report(each, done.scenario, intervals_s[id(each.done.step)]) for each in done.phases)


def phase_report(each: SimulatedPhase, scenario: Scenario, interval_s: tuple[float, float]) -> PhaseReport:
    """A phase's own figures; `scenario` has the plan that it changes, `interval_s` is that of the phase's step."""
    phase, done = each.phase, each.done
    step_time_s, tokens = done.step.step_time_s, tokens_per_step(done)
    gpus = done.scenario.cluster.gpus * done.step.around.clusters
    tokens_per_s = tokens / step_time_s
    return PhaseReport(
        name=phase.name,
        tokens=phase.tokens,
        seq_length=phase.seq_length,
        global_batch_size=phase.plan.global_batch_size,
        plan_changes=plan_changes(phase, scenario.plan),
        step_time_s=step_time_s,
        step_time_interval_s=interval_s,
        breakdown_s=done.step.breakdown(),
        tokens_per_s=tokens_per_s,
        tokens_per_s_per_gpu=tokens_per_s / gpus,
        model_flops_per_s_per_gpu=model_flops_per_s_per_gpu(done),
        gpu_hours_per_1e12_tokens=1e12 / tokens_per_s * gpus / 3600,
        mfu_fraction=mfu_fraction(done),
        training_time_s=full_speed_s(stretch(phase.name, phase.tokens, done).segment),
        peak_memory_bytes=max(rank.allocated_bytes for rank in done.memory),
        device_memory_bytes=done.device_bytes,
        fits=fits_wholly(done),
    )


def plan_changes(phase: Phase, plan: Plan) -> dict[str, Any]:
    """Keys of a phase's plan, dotted, that differ from the scenario's."""
    return _changes(phase.plan, plan, "")


def _changes(changed: Any, base: Any, prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spec in fields(changed):
        now, before = getattr(changed, spec.name), getattr(base, spec.name)
        if now == before:
            continue
        if is_dataclass(now) and is_dataclass(before):
            found |= _changes(now, before, f"{prefix}{spec.name}.")
        else:
            found[f"{prefix}{spec.name}"] = now
    return found


def stage_reports(done: Simulated) -> tuple[StageReport, ...]:
    parameters, spent = done.workload.parameters, done.step.by_rank()
    return tuple(
        StageReport(
            rank=held.rank,
            layers=tuple(done.workload.stages[stage].symbols for stage in held.stages),
            parameters=float(sum(parameters[s].dense + parameters[s].expert for s in dict.fromkeys(held.stages))),
            memory_bytes=held.owners,
            outside_allocator_bytes=held.outside,
            peak_memory_bytes=held.allocated_bytes,
            device_memory_bytes=held.device_bytes,
            breakdown_s=spent[held.rank],
        )
        for held in done.memory
    )


def link_use(done: Simulated) -> NetworkUse:
    """Everything the plan's groups send in the step, on the cluster's real links."""
    cluster = done.scenario.cluster
    return network_use(cluster, step_streams(done.workload, cluster), done.step.step_time_s)


def overloads(network: NetworkUse) -> tuple[str, ...]:
    """Classes of links that the step uses beyond what they carry: a fault of the prediction, said aloud."""
    return tuple(
        f"the step's time is too short for its own traffic: links {use.name!r} would be used {use.mean_fraction:.0%}; "
        f"do not rely on it"
        for use in network.classes
        if use.mean_fraction > 1 + 1e-9
    )


def warnings(done: Simulated) -> tuple[str, ...]:
    """What the reader should know before trusting the figures."""
    scenario, fullest = done.scenario, done.device_bytes
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    found = [
        *scenario.warnings,
        *scaling_words(scenario.cluster.accelerator),
        *mismatches(scenario.cluster.node, scenario.cluster.fabric),
        *unmeasured_warnings(scenario),
        *dispatcher_warnings(scenario),
    ]
    if (1 - RESERVE_FRACTION) * capacity < fullest <= capacity:
        spare = f"less than {100 * RESERVE_FRACTION:g} % to spare"
        found.append(f"memory fits with {spare} ({fullest / 2**30:.1f} of {capacity / 2**30:.1f} GiB)")
    if scenario.distillation is not None:
        found.append(
            "MFU, model FLOPs and network use are the student's alone; the teacher is in the step and in memory"
        )
    if scenario.plan.adapters is not None:
        found.append("MFU counts the weight gradients of frozen weights, which adapters leave out")
    beyond = beyond_profile(done.workload, scenario.cluster)
    if beyond:
        shown = "; ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        found.append(f"beyond what the profile measured, so extrapolated: {shown}")
    return tuple(found)


def dispatcher_warnings(scenario: Scenario) -> tuple[str, ...]:
    """A word on a dispatcher whose kernels are not written for the part."""
    part, dispatcher = scenario.cluster.accelerator, DISPATCHERS[scenario.plan.dispatcher]
    if not scenario.model.has_experts or dispatcher.runs_on(part.generation):
        return ()
    known = ", ".join(dispatcher.generations)
    remedy = f"{part.name} needs a port of it; without one write plan.dispatcher alltoall"
    return (f"plan.dispatcher {dispatcher.name}: its kernels are written for {known}; {remedy}",)


def host_warnings(host: HostMemory) -> tuple[str, ...]:
    """What the reader should know of the hosts' memory: that it is too little, or not known."""
    if not host.owners:
        return ()
    shares = ", ".join(f"{owner} {format_bytes(size)}" for owner, size in host.owners.items())
    needed = f"a node needs {format_bytes(host.used_bytes)} of host memory ({shares})"
    if host.capacity_bytes is None:
        return (f"{needed}; the node names none to compare it with: write cluster.node.host_memory",)
    if not host.fits:
        return (f"does not fit in host memory: {needed} and has {format_bytes(host.capacity_bytes)}",)
    return ()


def phase_warnings(done: Simulated) -> tuple[str, ...]:
    """Every phase whose own plan does not fit."""
    found = []
    for each in done.phases:
        used, capacity = each.done.device_bytes, each.done.scenario.cluster.accelerator.memory_capacity_bytes
        if not each.done.fits:
            needs = f"it needs {used / 2**30:,.1f} GiB on the fullest GPU of {capacity / 2**30:.1f}"
            found.append(f"phase {each.phase.name} does not fit: {needs}")
        host = host_of(each.done)
        if not host.fits:
            found.append(f"phase {each.phase.name}: {'; '.join(host_warnings(host))}")
    return tuple(found)
