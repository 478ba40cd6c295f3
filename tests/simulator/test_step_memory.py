"""Memory along the schedule: its peak is the static one for every schedule; all that is allocated is freed."""

from __future__ import annotations

import pickle
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from simulator.memory import memory_report
from simulator.memory.activations import Kept, stage_kept
from simulator.memory.peak import peak_activations
from simulator.predict.simulate import scenario_workload, simulate_step
from simulator.report.memory_chart import memory_svg
from simulator.scenario.schema import load_scenario
from simulator.schedules import SCHEDULES, Schedule, make_schedule, peak_in_flight
from simulator.step.build import build_graph
from simulator.step.graph import KIND
from simulator.step.memory_timeline import (
    Allocation,
    allocations,
    memory_over_time,
    memory_snapshot,
    rank_memory,
)
from simulator.step.player import play
from simulator.step.timeline import Timeline
from simulator.step.times import DataParallel, StageTimes


def played(name: str, seed: int = 1) -> tuple[Schedule, Timeline]:
    pp = 1 if name.startswith("none") else 4
    schedule = make_schedule(name, pp, 2 if name.startswith("interleaved") else 1, 12)
    rng, n = np.random.default_rng(seed), schedule.stages
    data = DataParallel(gather_s=((0.1,) * 3,) * n, reduce_s=((0.1,) * 2,) * n)
    halves = ({"compute": rng.random(n) + 0.1} for _ in range(3))
    return schedule, play(build_graph(schedule, StageTimes(*halves, rng.random(n), rng.random(n), data_parallel=data)))


def stage_bytes(stages: int, seed: int) -> list[Kept]:
    sizes = np.random.default_rng(seed).integers(1, 1000, (stages, 3))
    return [Kept(float(a + b), float(b), float(c)) for a, b, c in sizes]


@pytest.mark.parametrize("layers", [(1, 1), (4, 4), (2, 3), (5, 2)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_peak_is_the_static_peak(name: str, layers: tuple[int, int]) -> None:
    """The walk over slots, which knows no time, finds the peak that the timeline has, and its owners."""
    schedule, timeline = played(name)
    sizes = [replace(kept, layers=layers[stage % 2]) for stage, kept in enumerate(stage_bytes(schedule.stages, 2))]
    for rank, slots in enumerate(schedule.ranks):
        held = memory_over_time(allocations(timeline, schedule, sizes, rank), {"weights": 5e4})
        activations, working = peak_activations(slots, [sizes[stage] for stage in schedule.stage_of_chunk[rank]])
        peak, moment, owners = held.peak()
        assert peak == pytest.approx(5e4 + activations + working, rel=1e-12)
        assert owners == pytest.approx({"weights": 5e4, "activations": activations, "working": working})
        assert 0 <= moment <= timeline.step_time_s
        assert held.by_owner["activations"][-1] == pytest.approx(0.0, abs=1e-6)
        assert held.by_owner["activations"].min() > -1e-6


@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_stages_hold_the_published_count(name: str) -> None:
    """Bytes over time are the in-flight count of the schedule when every stage keeps one byte."""
    schedule, timeline = played(name)
    for rank in range(schedule.pp):
        sizes = [Kept(1.0, 1.0, layers=1)] * schedule.stages
        peak = memory_over_time(allocations(timeline, schedule, sizes, rank), {}).peak()[0]
        assert peak == peak_in_flight(schedule, rank)


def test_pairs_free_while_they_fill() -> None:
    """Layer by layer, an overlapped pair needs room for one more layer, not for one more stage; but the middle
    ranks of DualPipe run the halves of their first pair apart."""
    schedule, timeline = played("dualpipe")
    for layers in (1, 4, 8):
        held = [allocations(timeline, schedule, [Kept(1.0, layers=layers)] * 4, rank) for rank in range(4)]
        peaks = [memory_over_time(rank_held, {}).peak()[0] for rank_held in held]
        assert peaks == pytest.approx([4 + 1 / layers, 5, 5, 4 + 1 / layers])


def test_working_memory_is_held_while_backward_runs() -> None:
    schedule, timeline = played("1f1b")
    held = allocations(timeline, schedule, [Kept(10.0, working=7.0, layers=2)] * 4, 3)
    assert memory_over_time(held, {}).peak()[2] == {"activations": 10.0, "working": 7.0}
    assert [a.microbatch for a in held if a.owner == "working"] == list(range(12)), "1F1B ends them in their order"
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
    names = [e["frames"][0]["name"] for e in trace if e["action"] == "alloc"]
    assert names == ["weights", "activations, micro-batch 0, stage 1", "working, micro-batch 0, stage 1"]
    alive = {e["addr"]: e["size"] for e in trace if e["action"] == "alloc"}
    for event in trace:
        if event["action"] == "free_completed":
            alive.pop(event["addr"])
    assert sum(alive.values()) == 1000
    spans = sorted((e["addr"], e["addr"] + e["size"]) for e in trace if e["action"] == "alloc")
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


@pytest.mark.parametrize("name", ["tiny", "deepseek-v3-256xgb200", "deepseek-v3-2048xh800", "kimi-k2-10240xh100"])
def test_real_plans_peak_where_the_report_says(name: str) -> None:
    """The peak over time, and its owners, are the static report's on every rank."""
    scenario = load_scenario(Path(__file__).parents[2] / "scenarios" / f"{name}.yaml")
    workload = scenario_workload(scenario)
    step, kept = simulate_step(scenario, workload), stage_kept(workload)
    report = memory_report(workload, step.schedule.ranks)
    for rank in report:
        peak, _, owners = rank_memory(step.timeline, step.schedule, kept, rank).peak()
        assert peak == pytest.approx(rank.allocated_bytes, rel=1e-9)
        assert owners == pytest.approx(rank.owners, rel=1e-9)


def test_chart_draws_every_owner_within_the_frame() -> None:
    schedule, timeline = played("1f1b")
    held = allocations(timeline, schedule, [Kept(8e9, working=1e9)] * 4, 0)
    picture = ET.fromstring(memory_svg(memory_over_time(held, {"weights & more": 3e10}), "<rank 0>", 80e9))
    paths = [e for e in picture.iter("{http://www.w3.org/2000/svg}path") if e.get("class") == "owner"]
    assert len(paths) == 3
    numbers = [float(y) for path in paths for y in re.findall(r"V([\d.]+)", path.get("d", ""))]
    assert min(numbers) >= 46
    assert max(numbers) <= 420 - 40
    texts = [e.text or "" for e in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "weights & more" in texts
    assert any(text.startswith("peak 58.7 GiB") for text in texts)  # 30 + 4 x 8 + 1 GB
