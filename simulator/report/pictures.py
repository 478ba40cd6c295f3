"""Pictures and traces of a simulated step: what happens when, and what memory holds meanwhile."""

from __future__ import annotations

from simulator.predict.simulate import Simulated
from simulator.predict.views import fullest_rank, kept_by_stage, memory_over_step
from simulator.report.gantt import gantt_svg
from simulator.report.memory_chart import memory_svg
from simulator.report.step_trace import Event, chrome_trace, collectives_of
from simulator.step.memory_timeline import allocations, memory_snapshot


def step_trace(done: Simulated) -> Event:
    """The step as a Chrome / Perfetto trace document, with memory counters."""
    workload, schedule = done.workload, done.step.schedule
    elements = int(workload.shape.sharded_tokens * workload.shape.hidden)
    collectives = collectives_of(workload.plan, elements, workload.parameters, schedule)
    return chrome_trace(done.step.timeline, collectives, memory_over_step(done), done.scenario.name)


def step_picture(done: Simulated) -> str:
    """The step as an SVG: a row per pipeline rank."""
    plan = done.scenario.plan
    title = f"{done.scenario.name}: {plan.schedule}, pp {plan.pp}, {plan.microbatches} micro-batches"
    return gantt_svg(done.step.timeline, title)


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
