"""Schedules: every entry is complete and runs; bubbles and activations in flight follow the published formulas."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from simulator.schedules import (
    SCHEDULES,
    Schedule,
    backward_work,
    live_counts,
    make_schedule,
    peak_in_flight,
)
from simulator.step.build import build_graph
from simulator.step.sweep import sweep_timeline
from simulator.step.timeline import Timeline
from simulator.step.times import StageTimes

MEGATRON = Path(__file__).parent / "data" / "megatron_schedules.json"


def legal(name: str) -> list[tuple[int, int, int, int]]:
    """A grid of (pp, vpp, microbatches, group size) that the schedule's published rules allow."""
    cases = []
    for pp in (1, 2, 3, 4, 6, 8):
        for m in (1, 2, 3, 5, 8, 12, 16, 17, 24):
            if name.startswith("none"):
                cases += [(1, 1, m, 1)] if pp == 1 else []
            elif name.startswith("interleaved"):
                for vpp in (2, 3):
                    for group in {pp, pp + 1, m}:
                        if pp > 1 and pp <= group <= m and (m % group == 0 or m % group >= pp):
                            cases.append((pp, vpp, m, group))
            elif name == "dualpipe":
                cases += [(pp, 1, m, pp)] if pp % 2 == 0 and m % 2 == 0 and m >= 2 * pp else []
            elif name == "dualpipe-v":
                cases += [(pp, 2, m, pp)] if pp > 1 and m >= 2 * pp else []
            elif name == "zb-v":
                cases += [(pp, 2, m, pp)] if pp > 1 else []
            else:
                cases.append((pp, 1, m, pp))
    return cases


def played(schedule: Schedule, forward: float, inputs: float, weights: float, pair: float | None = None) -> Timeline:
    """Equal stages, free links."""
    n = schedule.stages
    one = np.ones(n)
    pairs = None if pair is None else {"compute": np.full((n, n), pair)}
    times = StageTimes(
        {"compute": forward * one},
        {"compute": inputs * one},
        {"compute": weights * one},
        0 * one,
        0 * one,
        pair_s=pairs,
    )
    return sweep_timeline(build_graph(schedule, times))


def idle_within(timeline: Timeline) -> np.ndarray:
    """Idle seconds of each rank between its first and last task."""
    graph = timeline.graph
    idle = []
    for rank in range(graph.ranks):
        own = (graph.rank == rank) & (graph.stream == 0)
        idle.append(timeline.end_s[own].max() - timeline.start_s[own].min() - graph.duration_s[own].sum())
    return np.array(idle)


@pytest.mark.parametrize("name", SCHEDULES)
def test_contract(name: str) -> None:
    """Each micro-batch passes each stage once forward and once backward, every weight gradient follows its input
    gradient, all that is allocated is freed, and no order deadlocks."""
    cases = legal(name)
    assert len(cases) >= 8
    for pp, vpp, m, group in cases:
        schedule = make_schedule(name, pp, vpp, m, group)
        done: Counter[tuple[str, int, int]] = Counter()
        for rank, slots in enumerate(schedule.ranks):
            split = Counter(slot[1:] for slot in slots if slot.kind == "I")
            assert split == Counter(slot[1:] for slot in slots if slot.kind == "W")
            opened: set[tuple[int, int]] = set()
            for slot in slots:
                if slot.kind in ("F", "FB"):
                    done["F", slot.microbatch, int(schedule.stage_of_chunk[rank, slot.chunk])] += 1
                if slot.kind in ("B", "I", "FB"):
                    microbatch, chunk = backward_work(slot)
                    done["B", microbatch, int(schedule.stage_of_chunk[rank, chunk])] += 1
                    opened.add((microbatch, chunk))
                if slot.kind == "W":
                    assert (slot.microbatch, slot.chunk) in opened
            whole, waiting = live_counts(slots, schedule.stage_of_chunk.shape[1])
            assert whole.min() >= 0
            assert waiting.min() >= 0
            last = slots[-1]
            assert whole[-1].sum() == (last.kind != "W")
            assert waiting[-1].sum() == (last.kind == "W")
        assert set(done.values()) == {1}
        assert len(done) == 2 * m * schedule.stages
        timeline = played(schedule, 1.0, 1.0, 1.0)
        assert timeline.step_time_s >= 3 * m * schedule.stages / pp


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("interleaved", (4, 2, 6, 4), "last group of 2"),
        ("interleaved", (4, 2, 8, 3), "group size 3"),
        ("interleaved", (1, 1, 8, 1), "pp > 1; vpp 1"),
        ("dualpipe", (3, 1, 5, 3), "even pp; microbatches 5"),
        ("dualpipe", (4, 1, 6, 4), "at least 2 pp"),
        ("1f1b", (4, 2, 8, 4), "vpp must be 1"),
        ("none", (2, 1, 8, 2), "for pp 1"),
        ("2f2b", (2, 1, 8, 2), "not known"),
    ],
)
def test_illegal_counts_are_named(name: str, arguments: tuple[int, int, int, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_schedule(name, *arguments)


def test_interleaved_order_is_megatrons() -> None:
    """Against tables that Megatron-Core itself computed."""
    # With one chunk Megatron takes its other code path, plain 1F1B, and the table goes unused.
    cases = [case for case in json.loads(MEGATRON.read_text())["cases"] if case["vpp"] > 1]
    assert len(cases) > 20
    for case in cases:
        name = "interleaved-overlap" if case["moe_ep_overlap"] else "interleaved"
        table, vpp = [tuple(entry) for entry in case["table"]], case["vpp"]
        schedule = make_schedule(name, case["pp"], vpp, case["microbatches"], case["microbatch_group_size"])
        for slots, warmup in zip(schedule.ranks, case["warmup_forwards"], strict=True):
            assert [(s.microbatch, s.chunk) for s in slots if s.kind in ("F", "FB")] == table
            backwards = [backward_work(s) for s in slots if s.kind in ("B", "FB")]
            assert backwards == [(microbatch, vpp - 1 - chunk) for microbatch, chunk in table]
            first = next(index for index, slot in enumerate(slots) if slot.kind != "F")
            steady = "FB" if case["moe_ep_overlap"] else "B"
            done = len(table)
            assert first == (warmup if warmup == done else warmup + (steady == "B"))


COSTS = [(1.0, 1.0, 1.0), (3.0, 3.0, 2.0), (2.0, 3.0, 1.0), (4.0, 5.0, 4.0)]


@pytest.mark.parametrize("costs", COSTS)
@pytest.mark.parametrize("pp", [2, 4, 8])
def test_bubbles_of_one_chunk_schedules(pp: int, costs: tuple[float, float, float]) -> None:
    """(p-1)(F+B) for GPipe and 1F1B, (p-1)(F+I-W) for ZB-H1; ZB-H2 idles (p-1)(F+I-2W) on its first rank and,
    as its ranks end one after the other, never more."""
    f, i, w = costs
    for m in (pp, 2 * pp + 1, 4 * pp):
        work = m * (f + i + w)
        for name in ("gpipe", "1f1b"):
            timeline = played(make_schedule(name, pp, 1, m), *costs)
            assert timeline.by_rank()["bubble"] == pytest.approx(np.full(pp, (pp - 1) * (f + i + w)))
        if m >= 2 * pp:
            h1 = played(make_schedule("zb-h1", pp, 1, m), *costs)
            assert h1.step_time_s - work == pytest.approx((pp - 1) * (f + i - w))
            h2 = idle_within(played(make_schedule("zb-h2", pp, 1, m), *costs))
            assert h2.max() == pytest.approx((pp - 1) * (f + i - 2 * w))


@pytest.mark.parametrize(("pp", "vpp"), [(2, 2), (4, 2), (4, 3), (8, 4)])
@pytest.mark.parametrize("groups", [1, 2, 5])
def test_interleaving_divides_the_bubble(pp: int, vpp: int, groups: int) -> None:
    """(p-1)(F+B)/v, F and B those of the whole rank, for groups of p."""
    timeline = played(make_schedule("interleaved", pp, vpp, groups * pp), 2.0, 2.0, 1.0)
    assert timeline.by_rank()["bubble"] == pytest.approx(np.full(pp, (pp - 1) * 5.0))


@pytest.mark.parametrize("pp", [2, 4, 8])
def test_zb_v_has_no_bubble_inside_a_rank(pp: int) -> None:
    assert idle_within(played(make_schedule("zb-v", pp, 1, 3 * pp), 1.0, 1.0, 1.0)) == pytest.approx(np.zeros(pp))


@pytest.mark.parametrize("pp", [2, 4, 8, 16])
def test_dualpipe_bubble(pp: int) -> None:
    """(p/2-1)(F&B + B - 3W) of the DualPipe README; p counts stages, so 2 pp for DualPipeV."""
    for m in (2 * pp, 4 * pp):
        bubble = played(make_schedule("dualpipe", pp, 1, m), 1.0, 1.0, 1.0, 3.0).by_rank()["bubble"]
        assert bubble == pytest.approx(np.full(pp, (pp / 2 - 1) * (3 + 2 - 3)))
        bubble = played(make_schedule("dualpipe-v", pp, 1, m), 1.0, 1.0, 1.0, 3.0).by_rank()["bubble"]
        assert bubble == pytest.approx(np.full(pp, (pp - 1) * (3 + 2 - 3)))


def test_dualpipe_counts() -> None:
    """Lone forwards, split backwards and overlapped pairs per rank for p = 16, M = 120, counted from the
    reference implementation: 23-a, 15-a and 97+a; the middle ranks run their first pair apart."""
    schedule = make_schedule("dualpipe", 16, 1, 120)
    for rank, slots in enumerate(schedule.ranks):
        a = min(rank, 15 - rank)
        count = Counter(slot.kind for slot in slots)
        lone, pairs = (17, 103) if a == 7 else (23 - a, 97 + a)
        assert (count["F"], count["B"] + count["I"], count["FB"]) == (lone, lone, pairs)
        assert count["I"] == count["W"] == 15 - a


def test_dualpipe_step_of_deepseek_v3() -> None:
    """F 58, I 85, W 42, F&B 139 ms at p = 16, M = 120: 18.38 s, 0.80 s idle (an independent simulation)."""
    timeline = played(make_schedule("dualpipe", 16, 1, 120), 0.058, 0.085, 0.042, 0.139)
    assert timeline.step_time_s == pytest.approx(18.38, abs=0.005)
    assert timeline.breakdown()["bubble"] == pytest.approx(0.80, abs=0.005)


@pytest.mark.parametrize("pp", [2, 4, 8])
@pytest.mark.parametrize("m", [1, 3, 8, 16, 24])
def test_activations_in_flight(pp: int, m: int) -> None:
    """Published peaks per rank, in (micro-batch, chunk) units."""
    ranks = range(pp)
    assert [peak_in_flight(make_schedule("gpipe", pp, 1, m), r) for r in ranks] == [m] * pp
    assert [peak_in_flight(make_schedule("1f1b", pp, 1, m), r) for r in ranks] == [min(m, pp - r) for r in ranks]
    assert max(peak_in_flight(make_schedule("zb-h1", pp, 1, m), r) for r in ranks) == min(m, pp)
    assert max(peak_in_flight(make_schedule("zb-h2", pp, 1, m), r) for r in ranks) == min(m, 2 * pp - 1)
    assert max(peak_in_flight(make_schedule("zb-v", pp, 1, m), r) for r in ranks) <= 2 * pp
    for vpp in (2, 3):
        if m >= pp and (m % pp == 0 or m % pp >= pp):
            for name, more in (("interleaved", 0), ("interleaved-overlap", 1)):
                got = [peak_in_flight(make_schedule(name, pp, vpp, m), r) for r in ranks]
                assert got == [min(m * vpp, 2 * (pp - r - 1) + (vpp - 1) * pp + 1 + more) for r in ranks]
    if m >= 2 * pp:
        assert {peak_in_flight(make_schedule("dualpipe-v", pp, 1, m), r) for r in ranks} == {2 * pp + 1}
        assert {peak_in_flight(make_schedule("dualpipe", pp, 1, m), r) for r in ranks} == {pp + 1}


def test_deferred_weight_gradients_are_counted_apart() -> None:
    """ZB-H1's last rank holds one whole activation and up to p - 1 that wait for their weight gradient."""
    schedule = make_schedule("zb-h1", 4, 1, 8)
    whole, waiting = live_counts(schedule.ranks[3], 1)
    assert (whole.max(), waiting.max()) == (1, 4 - 1 + 1)
    assert peak_in_flight(schedule, 3, with_deferred=False) == 1
