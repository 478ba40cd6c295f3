"""Memory along the schedule: its peak is the static one for every schedule; all that is allocated is freed."""

from __future__ import annotations

import pickle
from itertools import pairwise

import numpy as np
import pytest

from simulator.step.build import build_graph
from simulator.step.graph import KIND
from simulator.step.memory_timeline import (
    Allocation,
    StageBytes,
    allocations,
    memory_over_time,
    memory_snapshot,
    static_peak_activations,
)
from simulator.step.player import play
from simulator.step.schedules import SCHEDULES, Schedule, make_schedule, peak_in_flight
from simulator.step.timeline import Timeline
from simulator.step.times import DataParallel, StageTimes


def played(name: str, seed: int = 1) -> tuple[Schedule, Timeline]:
    pp = 1 if name.startswith("none") else 4
    schedule = make_schedule(name, pp, 2 if name.startswith("interleaved") else 1, 12)
    rng, n = np.random.default_rng(seed), schedule.stages
    data = DataParallel(gather_s=((0.1,) * 3,) * n, reduce_s=((0.1,) * 2,) * n)
    halves = ({"compute": rng.random(n) + 0.1} for _ in range(3))
    return schedule, play(build_graph(schedule, StageTimes(*halves, rng.random(n), rng.random(n), data_parallel=data)))


def stage_bytes(stages: int, layers: int, seed: int) -> list[StageBytes]:
    sizes = np.random.default_rng(seed).integers(1, 1000, (stages, 2))
    return [StageBytes(float(a + b), float(b), 0.0, layers) for a, b in sizes]


@pytest.mark.parametrize("layers", [1, 4])
@pytest.mark.parametrize("name", SCHEDULES)
def test_peak_is_the_static_peak(name: str, layers: int) -> None:
    schedule, timeline = played(name)
    sizes = stage_bytes(schedule.stages, layers, 2)
    for rank, slots in enumerate(schedule.ranks):
        held = memory_over_time(allocations(timeline, schedule, sizes, rank), {"weights": 5e4})
        own = [sizes[stage] for stage in schedule.stage_of_chunk[rank]]
        peak, moment, owners = held.peak()
        assert peak == pytest.approx(5e4 + static_peak_activations(slots, own))
        assert owners["weights"] == 5e4
        assert 0 <= moment <= timeline.step_time_s
        assert held.by_owner["activations"][-1] == pytest.approx(0.0, abs=1e-6)
        assert held.by_owner["activations"].min() > -1e-6


@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_stages_hold_the_published_count(name: str) -> None:
    """Bytes over time are the in-flight count of the schedule when every stage keeps one byte."""
    schedule, timeline = played(name)
    for rank in range(schedule.pp):
        sizes = [StageBytes(1.0, 1.0)] * schedule.stages
        peak = memory_over_time(allocations(timeline, schedule, sizes, rank), {}).peak()[0]
        assert peak == peak_in_flight(schedule, rank)


def test_pairs_free_while_they_fill() -> None:
    """Layer by layer, an overlapped pair needs room for one more layer, not for one more stage; but the middle
    ranks of DualPipe run the halves of their first pair apart."""
    schedule, timeline = played("dualpipe")
    for layers in (1, 4, 8):
        sizes = [StageBytes(1.0, 0.0, 0.0, layers)] * schedule.stages
        peaks = [memory_over_time(allocations(timeline, schedule, sizes, r), {}).peak()[0] for r in range(4)]
        assert peaks == pytest.approx([4 + 1 / layers, 5, 5, 4 + 1 / layers])


def test_working_memory_is_held_while_backward_runs() -> None:
    schedule, timeline = played("1f1b")
    sizes = [StageBytes(10.0, working=7.0)] * 4
    held = allocations(timeline, schedule, sizes, 3)
    assert memory_over_time(held, {}).peak()[2] == {"activations": 10.0, "working": 7.0}
    seconds = sum(a.end_s - a.begin_s for a in held if a.owner == "working")
    own = (timeline.graph.rank == 3) & (timeline.graph.kind == KIND["B"])
    assert seconds == pytest.approx((timeline.end_s - timeline.start_s)[own].sum())


def test_snapshot_is_balanced() -> None:
    held = [Allocation("activations", 100.0, 0.0, 2.0, 0, 1), Allocation("working", 50.0, 1.0, 2.0, 0, 1)]
    snapshot = pickle.loads(pickle.dumps(memory_snapshot(held, {"weights": 1000.0})))
    trace = snapshot["device_traces"][0]
    assert [(e["action"], e["size"]) for e in trace] == [
        ("alloc", 1000), ("alloc", 100), ("alloc", 50), ("free_completed", 100), ("free_completed", 50)
    ]  # fmt: skip
    alive = {e["addr"]: e["size"] for e in trace if e["action"] == "alloc"}
    for event in trace:
        if event["action"] == "free_completed":
            alive.pop(event["addr"])
    assert sum(alive.values()) == 1000
    spans = sorted((e["addr"], e["addr"] + e["size"]) for e in trace if e["action"] == "alloc")
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
