"""Looks into a simulated step: memory over time, the trace, its picture, every GPU by itself."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.memory.activations import Kept
from simulator.memory.report import kept_until_reduced
from simulator.one_step import Simulated
from simulator.step.contention import beside_communication
from simulator.step.gantt import gantt_svg
from simulator.step.inequality import InequalityReport
from simulator.step.layer_programs import Programs, study_plan
from simulator.step.memory_chart import memory_svg
from simulator.step.memory_timeline import MemoryTimeline, allocations, memory_snapshot, rank_memory
from simulator.step.player import play
from simulator.step.spread import Spread
from simulator.step.trace import Event, chrome_trace, collectives_of
from simulator.workload.shape import shape_of

TRANSFER_SMS = 16  # NCCL's channels for rings over a network: 16 to 32


def kept_by_stage(done: Simulated) -> tuple[Kept, ...]:
    """What one micro-batch leaves on every virtual stage."""
    scenario = done.scenario
    shape = shape_of(scenario.model, scenario.plan, scenario.run.seq_length)
    return kept_until_reduced(scenario.model, shape, done.layers, done.parameters)


def memory_over_step(done: Simulated) -> dict[int, MemoryTimeline]:
    """Memory of every pipeline rank along the step."""
    kept = kept_by_stage(done)
    return {held.rank: rank_memory(done.step.timeline, done.step.schedule, kept, held) for held in done.memory}


def step_trace(done: Simulated) -> Event:
    """The step as a Chrome / Perfetto trace document, with memory counters."""
    scenario = done.scenario
    plan, shape = scenario.plan, shape_of(scenario.model, scenario.plan, scenario.run.seq_length)
    collectives = collectives_of(plan, int(shape.sharded_tokens * shape.hidden), done.parameters, done.step.schedule)
    return chrome_trace(done.step.timeline, collectives, memory_over_step(done), scenario.name)


def step_picture(done: Simulated) -> str:
    """The step as an SVG: a row per pipeline rank."""
    plan = done.scenario.plan
    title = f"{done.scenario.name}: {plan.schedule}, pp {plan.pp}, {plan.microbatches} micro-batches"
    return gantt_svg(done.step.timeline, title)


def fullest_rank(done: Simulated) -> int:
    """The pipeline rank with the highest peak."""
    return max(done.memory, key=lambda held: held.device_bytes).rank


def memory_picture(done: Simulated) -> str:
    """Memory of the fullest pipeline rank over the step as an SVG."""
    rank = fullest_rank(done)
    title = f"{done.scenario.name}: memory allocated on pipeline rank {rank}, the fullest"
    capacity = done.scenario.cluster.accelerator.memory_capacity_bytes
    return memory_svg(memory_over_step(done)[rank], title, capacity)


def torch_snapshot(done: Simulated) -> dict[str, object]:
    """Memory of the fullest pipeline rank as a PyTorch memory snapshot."""
    rank = fullest_rank(done)
    held = allocations(done.step.timeline, done.step.schedule, kept_by_stage(done), rank)
    owners = done.memory[rank].owners
    constant = {owner: size for owner, size in owners.items() if owner not in ("activations", "working")}
    return memory_snapshot(held, constant)


def every_gpu(done: Simulated, samples: int) -> InequalityReport:
    """Every GPU by itself, `samples` steps with what the scenario says makes them unequal; where it says nothing,
    their speeds spread as published runs say."""
    scenario = done.scenario
    programs = Programs(done.step.slots, scenario.plan)
    node_gpus, spread = scenario.cluster.node.gpus, scenario.spread
    if spread is None:
        spread = Spread(gpu_sigma=done.step.slots.constants.rank_noise)
    return study_plan(done.step.timeline, done.step.schedule, programs, node_gpus, spread, range(samples))


@dataclass(frozen=True, slots=True)
class ContentionReport:
    """The step when transfers beside computation take `communication_sms` of its SMs and share their GPU's port, and by
    which fraction it is longer; the calibrated step holds such effects in its rates already."""

    step_time_s: float
    slowdown_fraction: float
    communication_sms: int


def contention(done: Simulated) -> ContentionReport:
    """Plays the step again with pipeline and data-parallel transfers that slow down what runs beside them."""
    timeline, sm_count = done.step.timeline, done.scenario.cluster.accelerator.sm_count
    slowed = play(timeline.graph, beside_communication(timeline.graph, sm_count, TRANSFER_SMS))
    return ContentionReport(slowed.step_time_s, slowed.step_time_s / timeline.step_time_s - 1, TRANSFER_SMS)


def phase_seconds(done: Simulated) -> dict[str, float]:
    """The step as DeepSeek counts its own (arXiv 2505.09343 table 4), mean over pipeline ranks; adds up to the step.

    1F, 1B, 1W: forwards, backwards (whole ones and input gradients) and weight gradients that run alone; 1F1B:
    overlapped pairs; bubble: waiting for another stage and its transfers; opt: gradient reduction and parameter
    gathering that nothing hides, gradient norm, optimizer. Waiting for stragglers stretches all of them alike: the
    exchanges inside every phase wait for the slowest rank of their groups.
    """
    timeline = done.step.timeline
    alone = {kind: float(seconds.mean()) for kind, seconds in timeline.by_kind().items()}
    spent = done.step.breakdown()
    stretch = done.step.step_time_s / (done.step.step_time_s - spent["straggler"])
    phases = {
        "1F": alone.get("F", 0.0),
        "bubble": spent["bubble"] + spent["pp"],
        "1B": alone.get("B", 0.0) + alone.get("I", 0.0),
        "1W": alone.get("W", 0.0),
        "1F1B": alone.get("FB", 0.0),
        "opt": spent["dp"] + spent["optimizer"] + spent["barrier"],
    }
    return {name: seconds * stretch for name, seconds in phases.items()}
