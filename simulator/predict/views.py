"""Looks into a simulated step: memory over time on every pipeline rank, and its seconds by phase."""

from __future__ import annotations

from simulator.memory.activations import Kept
from simulator.memory.report import kept_until_reduced
from simulator.predict.simulate import Simulated
from simulator.step.memory_timeline import MemoryTimeline, rank_memory


def kept_by_stage(done: Simulated) -> tuple[Kept, ...]:
    """What one micro-batch leaves on every virtual stage."""
    return kept_until_reduced(done.workload)


def memory_over_step(done: Simulated) -> dict[int, MemoryTimeline]:
    """Memory of every pipeline rank along the step."""
    kept = kept_by_stage(done)
    return {held.rank: rank_memory(done.step.timeline, done.step.schedule, kept, held) for held in done.memory}


def fullest_rank(done: Simulated) -> int:
    """The pipeline rank with the highest peak."""
    return max(done.memory, key=lambda held: held.device_bytes).rank


def phase_seconds(done: Simulated) -> dict[str, float]:
    """The step as DeepSeek counts its own (arXiv 2505.09343 table 4), mean over pipeline ranks; adds up to the step.

    1F, 1B, 1W: forwards, backwards (whole ones and input gradients) and weight gradients that run alone; 1F1B:
    overlapped pairs; bubble: waiting for another stage and its transfers; opt: gradient reduction and parameter
    gathering that nothing hides, gradient norm, optimizer. Waiting for stragglers stretches all of them alike: the
    exchanges inside every phase wait for the slowest rank of their groups.
    """
    timeline, around = done.step.timeline, done.step.around
    alone = {kind: float(seconds.mean()) for kind, seconds in timeline.by_kind().items()}
    spent = done.step.breakdown()
    inside_s = done.step.step_time_s - sum(around.waiting_s.values())
    stretch = inside_s / (inside_s - spent["straggler"])
    phases = {
        "1F": alone.get("F", 0.0),
        "bubble": spent["bubble"] + spent["pp"],
        "1B": alone.get("B", 0.0) + alone.get("I", 0.0),
        "1W": alone.get("W", 0.0),
        "1F1B": alone.get("FB", 0.0),
        "opt": spent["dp"] + spent["optimizer"] + spent["barrier"],
    }
    stretched = {name: seconds * stretch for name, seconds in phases.items()}
    return stretched | dict(around.waiting_s)
