"""One scenario in, one prediction out: the composition of placement, memory, costs and the simulated step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.cost.inventory import beyond_profile
from simulator.cost.step_times import SlotTimes, is_paired, pair_seconds, slot_times, update_times
from simulator.memory import RankMemory, memory_report
from simulator.model.flops import flops_per_token
from simulator.model.parameters import active_parameters, total_parameters
from simulator.plan.layout import StageLayers, stages
from simulator.plan.spec import Plan
from simulator.scenario.schema import Scenario
from simulator.step.build import build_graph
from simulator.step.player import play
from simulator.step.schedules import Schedule, make_schedule
from simulator.step.times import DataParallel, P2p, StageTimes
from simulator.step.timeline import Timeline
from simulator.workload.shape import padded_vocab, shape_of
from simulator.workload.states import stage_parameters

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

    `peak_memory_bytes` is the allocator's peak on the fullest rank; `fits` compares what the device shows.
    `mfu_fraction` counts model FLOPs by `flops_convention` against the dense 16-bit peak.
    """

    scenario: Scenario
    parameters_total: int
    parameters_active: int
    step_time_s: float
    tokens_per_step: int
    tokens_per_s: float
    tokens_per_s_per_gpu: float
    model_flops_per_s_per_gpu: float
    mfu_fraction: float
    flops_convention: str
    gpu_hours_per_1e12_tokens: float
    training_time_s: float
    peak_memory_bytes: float
    device_memory_bytes: float
    memory_capacity_bytes: float
    fits: bool
    breakdown_s: dict[str, float]
    evidence: dict[str, float]
    stages: tuple[StageReport, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A simulated step: its schedule, the costs of its stages, and when everything ran."""

    schedule: Schedule
    slots: SlotTimes
    timeline: Timeline


def evaluate(scenario: Scenario) -> Prediction:
    """Predict a scenario: place, price, simulate one step, weigh the memory, and scale up to the run."""
    model, plan, cluster, run = scenario.model, scenario.plan, scenario.cluster, scenario.run
    layers = stages(model, plan)
    step = simulate_step(scenario, layers)
    memory = memory_report(
        model, shape_of(model, plan, run.seq_length), layers, stage_parameters(model, plan, layers), step.schedule.ranks
    )
    step_time_s = step.timeline.step_time_s
    tokens = plan.global_batch_size * run.seq_length
    per_token = float(flops_per_token(model, run.seq_length, FLOPS_CONVENTION, int(padded_vocab(model.vocab, plan))))
    achieved = tokens * per_token / step_time_s / cluster.gpus
    peak = cluster.accelerator.peak_flops_per_s
    fullest = max(rank.device_bytes for rank in memory)
    capacity = cluster.accelerator.memory_capacity_bytes
    return Prediction(
        scenario=scenario,
        parameters_total=total_parameters(model),
        parameters_active=active_parameters(model),
        step_time_s=step_time_s,
        tokens_per_step=tokens,
        tokens_per_s=tokens / step_time_s,
        tokens_per_s_per_gpu=tokens / step_time_s / cluster.gpus,
        model_flops_per_s_per_gpu=achieved,
        mfu_fraction=achieved / peak.get("bf16", peak.get("fp16", 0.0)),
        flops_convention=FLOPS_CONVENTION,
        gpu_hours_per_1e12_tokens=1e12 / (tokens / step_time_s) * cluster.gpus / 3600,
        training_time_s=run.tokens / tokens * step_time_s,
        peak_memory_bytes=max(rank.allocated_bytes for rank in memory),
        device_memory_bytes=fullest,
        memory_capacity_bytes=capacity,
        fits=fullest <= capacity,
        breakdown_s=step.timeline.breakdown(),
        evidence=evidence_shares(step),
        stages=stage_reports(scenario, layers, memory, step.timeline),
        warnings=warnings(scenario, fullest),
    )


def simulate_step(scenario: Scenario, layers: tuple[StageLayers, ...]) -> Step:
    """Price every slot of the plan's schedule and play the step."""
    model, plan, cluster = scenario.model, scenario.plan, scenario.cluster
    slots = slot_times(model, shape_of(model, plan, scenario.run.seq_length), cluster, layers)
    updates = update_times(model, plan, cluster, layers, stage_parameters(model, plan, layers))
    schedule = make_schedule(schedule_name(plan), plan.pp, plan.vpp, plan.microbatches, plan.microbatch_group_size)
    times = StageTimes(
        forward_s=by_cause([stage.forward for stage in slots.stages]),
        input_backward_s=by_cause([stage.input for stage in slots.stages]),
        weight_backward_s=by_cause([stage.weight for stage in slots.stages]),
        pair_s=pair_seconds(slots, plan),
        send_forward_s=np.full(len(layers), slots.send_s),
        send_backward_s=np.full(len(layers), slots.send_s),
        p2p=p2p_mode(plan),
        data_parallel=DataParallel(
            gather_s=updates.gather_s,
            reduce_s=updates.reduce_s,
            gather_overlap=plan.overlap.param_gather,
            reduce_overlap=plan.overlap.grad_reduce,
            every_microbatch=plan.sharding == "full",
            grad_norm_s=updates.barrier_s,
            optimizer_s=updates.optimizer_s,
        ),
    )
    return Step(schedule, slots, play(build_graph(schedule, times)))


def schedule_name(plan: Plan) -> str:
    """The order of slots: with overlapped expert traffic Megatron's schedules pair forwards and backwards."""
    paired = is_paired(plan) and plan.schedule in ("none", "1f1b", "interleaved")
    return f"{plan.schedule}-overlap" if paired else plan.schedule


def p2p_mode(plan: Plan) -> P2p:
    """Megatron's 1F1B sends and receives in step; its interleaved schedule hides the steady phase (theory 4.1)."""
    if plan.schedule in ("1f1b", "gpipe"):
        return "blocking"
    if plan.schedule == "interleaved":
        return "steady" if plan.overlap.p2p else "blocking"
    return "overlapped"


def by_cause(stages: list) -> dict[str, np.ndarray]:
    """Seconds by cause as arrays over stages."""
    return {cause: np.array([float(s.by_cause()[cause]) for s in stages]) for cause in stages[0].by_cause()}


def evidence_shares(step: Step) -> dict[str, float]:
    """Share of the GPUs' busy time that rests on each kind of evidence; communication models are fitted."""
    seconds = {"fitted": 0.0}
    for stage in step.slots.stages:
        for kind, spent in stage.evidence_s.items():
            seconds[kind] = seconds.get(kind, 0.0) + float(spent)
        moved = (stage.forward, stage.input)
        seconds["fitted"] += sum(float(part.tp_s + part.cp_s + part.ep_s) for part in moved)
        seconds["assumed"] = seconds.get("assumed", 0.0) + sum(float(part.host_s) for part in moved)
    whole = sum(seconds.values())
    return {kind: spent / whole for kind, spent in sorted(seconds.items())}


def stage_reports(
    scenario: Scenario, layers: tuple[StageLayers, ...], memory: tuple[RankMemory, ...], timeline: Timeline
) -> tuple[StageReport, ...]:
    parameters = stage_parameters(scenario.model, scenario.plan, layers)
    spent = timeline.by_rank()
    return tuple(
        StageReport(
            rank=held.rank,
            layers=tuple(layers[stage].symbols for stage in held.stages),
            parameters=float(sum(parameters[s].dense + parameters[s].expert for s in dict.fromkeys(held.stages))),
            memory_bytes=held.owners,
            outside_allocator_bytes=held.outside,
            peak_memory_bytes=held.allocated_bytes,
            device_memory_bytes=held.device_bytes,
            breakdown_s={cause: float(seconds[held.rank]) for cause, seconds in spent.items()},
        )
        for held in memory
    )


def warnings(scenario: Scenario, fullest: float) -> tuple[str, ...]:
    """What the reader should know before trusting the figures."""
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    found = []
    if 0.94 * capacity < fullest <= capacity:
        found.append(f"memory fits with less than 6 % to spare ({fullest / 2**30:.1f} of {capacity / 2**30:.1f} GiB)")
    beyond = beyond_profile(scenario)
    if beyond:
        shown = "; ".join(beyond[:3]) + (f" and {len(beyond) - 3} more" if len(beyond) > 3 else "")
        found.append(f"beyond what the profile measured, so extrapolated: {shown}")
    return tuple(found)
