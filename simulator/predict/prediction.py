"""One scenario in, one prediction out: the composition of placement, memory, costs and the simulated step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from hardware.collectives import evidence
from hardware.collectives.network_use import NetworkUse, network_use
from hardware.kernels import scaling_words
from hardware.precisions import half_precision_peak
from hardware.specs import Cluster
from hardware.units import format_bytes
from simulator.cost.groups import plan_groups
from simulator.cost.inventory import beyond_profile
from simulator.cost.traffic import step_streams
from simulator.memory.host import HostMemory, host_memory
from simulator.model.flops import flops_per_token
from simulator.model.parameters import active_parameters, total_parameters
from simulator.plan.spec import Plan
from simulator.predict.confidence import step_time_interval_s
from simulator.predict.premises import Premise, premises
from simulator.predict.run_spec import host_copy_bytes, whole_run_spec
from simulator.predict.simulate import Simulated, Step, simulate
from simulator.run.montecarlo import Progress
from simulator.run.montecarlo import simulate as simulate_run
from simulator.run.result import RunResult
from simulator.scenario.schema import Scenario
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
class Prediction:
    """What traincast says of a scenario; times in seconds, `breakdown_s` adds up to `step_time_s`.

    `training_time_s` is without failures, `run` with them. `peak_memory_bytes` is the allocator's peak on the fullest
    rank; `fits` compares what the device shows, and what the fullest node's `host_memory` holds.
    `step_time_interval_s` is where 80 % of like runs lie. `stated` and `assumed`: what else it rests on, given by the
    scenario or not. `network`: how far the step uses each class of links.
    `mfu_fraction` counts model FLOPs by `flops_convention` against the dense 16-bit peak.
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


def evaluate(scenario: Scenario) -> Prediction:
    """Predict a scenario: simulate one step, weigh the memory, and scale up to the run."""
    return predict(simulate(scenario))


def predict(done: Simulated, progress: Progress | None = None) -> Prediction:
    """What a simulated step says of the scenario; `progress` is told of the runs played."""
    scenario, step, memory = done.scenario, done.step, done.memory
    model, plan, cluster, run = scenario.model, scenario.plan, scenario.cluster, scenario.run
    step_time_s = step.step_time_s
    spec = whole_run_spec(done)
    whole = None if spec is None else simulate_run(spec, progress)
    rests_on = premises(scenario, spec, whole)
    tokens = plan.global_batch_size * run.seq_length
    per_token = float(flops_per_token(model, run.seq_length, FLOPS_CONVENTION, int(padded_vocab(model.vocab, plan))))
    achieved = tokens * per_token / step_time_s / cluster.gpus
    fullest = max(rank.device_bytes for rank in memory)
    capacity = cluster.accelerator.memory_capacity_bytes
    host = host_memory(done.workload, step.schedule.ranks, cluster, host_copy_bytes(scenario))
    return Prediction(
        scenario=scenario,
        parameters_total=total_parameters(model),
        parameters_active=active_parameters(model),
        step_time_s=step_time_s,
        step_time_interval_s=step_time_interval_s(scenario, step_time_s),
        tokens_per_step=tokens,
        tokens_per_s=tokens / step_time_s,
        tokens_per_s_per_gpu=tokens / step_time_s / cluster.gpus,
        model_flops_per_s_per_gpu=achieved,
        mfu_fraction=achieved / half_precision_peak(cluster.accelerator.peak_flops_per_s),
        flops_convention=FLOPS_CONVENTION,
        gpu_hours_per_1e12_tokens=1e12 / (tokens / step_time_s) * cluster.gpus / 3600,
        training_time_s=run.tokens / tokens * step_time_s,
        run=whole,
        peak_memory_bytes=max(rank.allocated_bytes for rank in memory),
        device_memory_bytes=fullest,
        memory_capacity_bytes=capacity,
        host_memory=host,
        fits=fullest <= capacity and host.fits,
        breakdown_s=step.breakdown(),
        evidence=evidence_shares(step, comm_evidence(plan, cluster)),
        stages=stage_reports(done),
        network=link_use(done),
        stated=tuple(each for each in rests_on if not each.assumed),
        assumed=tuple(each for each in rests_on if each.assumed),
        warnings=(*warnings(done, fullest), *host_warnings(host), *(whole.warnings if whole else ())),
    )


# The collective whose coefficients decide each cause of communication within a layer.
COLLECTIVES = {
    "tp": ("all_gather", "ring", "Simple"),
    "cp": ("all_gather", "ring", "Simple"),
    "ep": ("all_to_all", "pairwise", "Simple"),
}


def comm_evidence(plan: Plan, cluster: Cluster) -> dict[str, str]:
    """How the collectives of each cause are known: fitted to sweeps of these GPUs and NICs, or assumed from others."""
    groups = plan_groups(plan, cluster)
    return {cause: evidence(*how, groups[cause], cluster) for cause, how in COLLECTIVES.items()}


def evidence_shares(step: Step, comm: Mapping[str, str]) -> dict[str, float]:
    """Share of the GPUs' busy time that rests on each kind of evidence; `comm`: the kind by cause of communication."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for stage in step.slots.stages:
        for kind, spent in stage.evidence_s.items():
            seconds[kind] += float(spent)
        for part in (stage.forward, stage.input):
            seconds[comm["tp"]] += float(part.tp_s)
            seconds[comm["cp"]] += float(part.cp_s)
            seconds[comm["ep"]] += float(part.ep_s)
            seconds["assumed"] += float(part.host_s)
    whole = sum(seconds.values())
    return {kind: spent / whole for kind, spent in sorted(seconds.items())}


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


def warnings(done: Simulated, fullest: float) -> tuple[str, ...]:
    """What the reader should know before trusting the figures."""
    scenario = done.scenario
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    found = [*scenario.warnings, *scaling_words(scenario.cluster.accelerator)]
    if 0.94 * capacity < fullest <= capacity:
        found.append(f"memory fits with less than 6 % to spare ({fullest / 2**30:.1f} of {capacity / 2**30:.1f} GiB)")
    if scenario.plan.adapters is not None:
        found.append("MFU counts the weight gradients of frozen weights, which adapters leave out")
    beyond = beyond_profile(done.workload, scenario.cluster)
    if beyond:
        shown = "; ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        found.append(f"beyond what the profile measured, so extrapolated: {shown}")
    return tuple(found)


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
