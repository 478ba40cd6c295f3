"""Transfers, data parallelism and the accounting of every second of a step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.schedules import SCHEDULES, make_schedule
from simulator.step.build import build_graph
from simulator.step.graph import KIND
from simulator.step.player import play
from simulator.step.sweep import sweep_timeline
from simulator.step.times import DataParallel, StageTimes


def uniform(stages: int, send_s: float = 0.0, **more: object) -> StageTimes:
    one = np.ones(stages)
    times = StageTimes({"compute": one}, {"compute": one}, {"compute": one}, send_s * one, send_s * one)
    return replace(times, **more)  # type: ignore[arg-type]


def counts(name: str) -> tuple[int, int, int]:
    return (1 if name.startswith("none") else 4), (2 if name.startswith("interleaved") else 1), 12


def random_times(stages: int, ranks: int, seed: int) -> StageTimes:
    rng = np.random.default_rng(seed)
    return StageTimes(
        {"compute": rng.random(stages), "ep": rng.random(stages)},
        {"compute": rng.random(stages), "tp": rng.random(stages)},
        {"compute": rng.random(stages)},
        rng.random(stages) / 5,
        rng.random(stages) / 5,
        pair_s={"compute": rng.random((stages, stages)), "host": rng.random((stages, stages))},
        data_parallel=DataParallel(
            gather_s=tuple(tuple(rng.random(3)) for _ in range(stages)),
            reduce_s=tuple(tuple(rng.random(1 + 3 * (stage == 0))) for stage in range(stages)),
            grad_norm_s=0.05,
            optimizer_s=tuple(rng.random(ranks)),
        ),
    )


@pytest.mark.parametrize("p2p", ["overlapped", "steady", "blocking"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_second_is_accounted_for(name: str, p2p: str) -> None:
    pp, vpp, m = counts(name)
    schedule = make_schedule(name, pp, vpp, m)
    times = replace(random_times(schedule.stages, pp, 3), p2p=p2p)  # type: ignore[arg-type]
    graph = build_graph(schedule, times)
    timeline = play(graph)
    spent = timeline.by_rank()
    assert sum(spent.values()) == pytest.approx(np.full(pp, timeline.step_time_s), rel=1e-12)
    assert min(seconds.min() for seconds in spent.values()) > -1e-9
    assert sum(timeline.breakdown().values()) == pytest.approx(timeline.step_time_s, rel=1e-12)
    np.testing.assert_array_equal(timeline.end_s, sweep_timeline(graph).end_s)


@pytest.mark.parametrize("name", SCHEDULES)
def test_transfers_cross_every_boundary_once(name: str) -> None:
    """One send per micro-batch, boundary and direction, except between two chunks of one rank."""
    pp, vpp, m = counts(name)
    schedule = make_schedule(name, pp, vpp, m)
    graph = build_graph(schedule, uniform(schedule.stages, 0.1))
    within = {"zb-v": 1, "dualpipe-v": 1}.get(name, 0)
    expected = m * (schedule.stages - 1 - within)
    assert (graph.kind == KIND["send_forward"]).sum() == expected
    assert (graph.kind == KIND["send_backward"]).sum() == expected


def test_blocking_sends_of_one_f_one_b() -> None:
    """Two stages: every micro-batch pays its round trip. The critical cycle F0 > F1 B1 > B0 holds two micro-batches,
    so at m micro-batches the step takes (m + 1)(F + B) plus the exposed transfers."""
    x, m = 0.25, 8
    free = play(build_graph(make_schedule("1f1b", 2, 1, m), uniform(2))).step_time_s
    overlapped = play(build_graph(make_schedule("1f1b", 2, 1, m), uniform(2, x))).step_time_s
    blocking = play(build_graph(make_schedule("1f1b", 2, 1, m), uniform(2, x, p2p="blocking"))).step_time_s
    assert free == 3.0 * (m + 1)
    # Without blocking two micro-batches share one round trip (2 x); with blocking the last stage also holds
    # its stream for each gradient it sends.
    assert overlapped == pytest.approx(free + 2 * x * (m / 2))
    assert free + 2 * x * (m / 2) < blocking <= free + 2 * x * m


def test_steady_hides_sends_between_warmup_and_cooldown() -> None:
    schedule = make_schedule("interleaved", 4, 2, 16)
    seconds = {
        p2p: play(build_graph(schedule, uniform(8, 0.05, p2p=p2p))) for p2p in ("overlapped", "steady", "blocking")
    }
    pp = {name: timeline.breakdown()["pp"] for name, timeline in seconds.items()}
    assert pp["overlapped"] < pp["steady"] < pp["blocking"]
    assert seconds["overlapped"].step_time_s <= seconds["steady"].step_time_s < seconds["blocking"].step_time_s


def step_s(data: DataParallel, pp: int = 1, m: int = 2) -> float:
    schedule = make_schedule("none" if pp == 1 else "1f1b", pp, 1, m)
    return play(build_graph(schedule, uniform(pp, data_parallel=data))).step_time_s


def test_gradient_buckets_hide_behind_the_last_backward() -> None:
    """Backward (2 s) in 4 pieces of 0.5 s: bucket k starts when piece k ends, so buckets of 0.5 s leave one exposed,
    buckets of 1 s leave 0.5 + 4 - 2 s. One bucket is wholly exposed; without overlap all of them are."""
    work = 6.0
    assert step_s(DataParallel(reduce_s=((0.5,) * 4,))) == pytest.approx(work + 0.5)
    assert step_s(DataParallel(reduce_s=((1.0,) * 4,))) == pytest.approx(work + 2.5)
    assert step_s(DataParallel(reduce_s=((2.0,),))) == pytest.approx(work + 2.0)
    assert step_s(DataParallel(reduce_s=((0.5,) * 4,), reduce_overlap=False)) == pytest.approx(work + 2.0)


def test_parameter_buckets_hide_behind_the_first_forward() -> None:
    """Forward (1 s) in 4 pieces of 0.25 s: the first bucket is exposed, later ones run behind the pieces."""
    assert step_s(DataParallel(gather_s=((0.25,) * 4,))) == pytest.approx(6.25)
    assert step_s(DataParallel(gather_s=((0.5,) * 4,))) == pytest.approx(6.0 + 4 * 0.5 + 0.25 - 1.0)
    assert step_s(DataParallel(gather_s=((1.0,),))) == pytest.approx(7.0)
    assert step_s(DataParallel(gather_s=((0.25,) * 4,), gather_overlap=False)) == pytest.approx(7.0)


def test_parameters_gathered_as_stages_are_reached_stand_in_the_first_micro_batchs_way() -> None:
    """Two stages of 1 + 2 s and two micro-batches take 9 s. Gathered from the start, only the first stage's 0.5 s are
    exposed: the second's run beside its wait. Asked for when the first micro-batch comes, both are."""
    ahead = DataParallel(gather_s=((0.5,),) * 2)
    assert step_s(ahead, pp=2) == pytest.approx(9.0 + 0.5)
    assert step_s(replace(ahead, gather_as_reached=True), pp=2) == pytest.approx(9.0 + 2 * 0.5)


def test_later_buckets_of_a_reached_stage_hide_behind_its_forward() -> None:
    """Forward (1 s) in 4 pieces of 0.25 s: of 4 buckets of 0.25 s only the first is waited for, on each of two stages.
    A single stage is reached at once; without overlap nothing is asked for late."""
    late = DataParallel(gather_s=((0.25,) * 4,) * 2, gather_as_reached=True)
    assert step_s(late, pp=2) == pytest.approx(9.0 + 2 * 0.25)
    alone = replace(late, gather_s=late.gather_s[:1])
    assert step_s(alone) == step_s(replace(alone, gather_as_reached=False))
    blunt = replace(late, gather_overlap=False)
    assert step_s(blunt, pp=2) == step_s(replace(blunt, gather_as_reached=False), pp=2)


def test_gradient_reduction_of_later_stages_hides_in_the_drain() -> None:
    """1F1B of 4 stages: rank r ends r (I + W) before rank 0, so up to 2 r s of its reduction cost nothing."""
    base = step_s(DataParallel(), pp=4, m=8)
    assert step_s(DataParallel(reduce_s=((), (2.0,), (4.0,), (6.0,))), pp=4, m=8) == pytest.approx(base)
    assert step_s(DataParallel(reduce_s=((), (2.0,), (4.0,), (6.5,))), pp=4, m=8) == pytest.approx(base + 0.5)


def test_fully_sharded_gathers_for_every_micro_batch() -> None:
    """ZeRO-3, 2 micro-batches of forward 1 s and backward 2 s in 4 layers; communication-bound when a layer's gather
    and reduction outlast its compute."""
    data = DataParallel(
        gather_s=((0.1,) * 4,), reduce_s=((0.1,) * 4,), gather_every_microbatch=True, reduce_every_microbatch=True
    )
    assert step_s(data) == pytest.approx(6.0 + 0.1 + 0.1)
    heavy = replace(data, gather_s=((1.0,) * 4,), reduce_s=((1.0,) * 4,))
    # 4 layers x 2 micro-batches x (2 gathers + 1 reduction) of 1 s on one stream; compute hides in it but for ends.
    assert 24.0 <= step_s(heavy) <= 26.0


def test_without_overlap_every_slot_waits_for_its_own_gather_and_reduction() -> None:
    """2 micro-batches of 1 + 2 s; each gathers 0.4 s before forward and before backward and reduces 0.4 s after it.
    Two stages: a gather starts when the activations have arrived, and gradients leave when they are reduced."""
    data = DataParallel(
        gather_s=((0.1,) * 4,) * 2,
        reduce_s=((0.1,) * 4,) * 2,
        gather_every_microbatch=True,
        reduce_every_microbatch=True,
        gather_overlap=False,
        reduce_overlap=False,
    )
    alone = replace(data, gather_s=data.gather_s[:1], reduce_s=data.reduce_s[:1])
    assert step_s(alone) == pytest.approx(2 * (1 + 2) + 2 * (2 * 0.4 + 0.4))
    # 1F1B of 2 stages and 2 micro-batches is 3 slots of each kind long: F0 on both stages, then the pair of the last
    # stage twice, then the first's backward, each with what it gathers and reduces.
    assert step_s(data, pp=2, m=2) == pytest.approx(3 * (1 + 0.4) + 3 * (2 + 0.4 + 0.4))


def test_gradients_reduced_every_micro_batch_hide_behind_the_next() -> None:
    """Reductions of 0.5 s after each of 2 backwards: all exposed without overlap, the last one with it."""
    data = DataParallel(reduce_s=((0.5,),), reduce_every_microbatch=True)
    assert step_s(data) == pytest.approx(6.0 + 0.5)
    assert step_s(replace(data, reduce_overlap=False)) == pytest.approx(6.0 + 2 * 0.5)


def test_optimizer_waits_for_all_and_the_slowest_ends_the_step() -> None:
    data = DataParallel(grad_norm_s=0.1, optimizer_s=(0.2, 0.5))
    timeline = play(build_graph(make_schedule("1f1b", 2, 1, 4), uniform(2, data_parallel=data)))
    spent = timeline.by_rank()
    assert timeline.step_time_s == pytest.approx(3.0 * 5 + 0.1 + 0.5)
    assert spent["barrier"] == pytest.approx([0.3, 0.0])
    assert spent["dp"] == pytest.approx([0.1, 0.1])
    assert spent["bubble"] == pytest.approx([3.0, 3.0])


def test_wrong_times_are_named_all_at_once() -> None:
    times = replace(uniform(4), forward_s={"compute": np.ones(3)}, data_parallel=DataParallel(optimizer_s=(1.0,)))
    times = replace(times, weight_backward_s={"compute": np.array([1.0, 1.0, np.nan, 1.0])})
    with pytest.raises(ValueError) as error:
        build_graph(make_schedule("1f1b", 4, 1, 4), times)
    for words in (
        "forward_s[compute]: shape (3,), expected (4,)",
        "weight_backward_s[compute]",
        "optimizer_s: 1 ranks",
    ):
        assert words in str(error.value)
    with pytest.raises(ValueError, match="causes coffee are not slot time"):
        build_graph(make_schedule("1f1b", 2, 1, 4), replace(uniform(2), forward_s={"coffee": np.ones(2)}))


def test_incomplete_schedules_are_refused() -> None:
    whole = make_schedule("1f1b", 2, 1, 4)
    with pytest.raises(ValueError, match="one backward of each micro-batch and stage; micro-batch 3 on stage 1"):
        build_graph(replace(whole, ranks=(whole.ranks[0], whole.ranks[1][:-1])), uniform(2))
    with pytest.raises(ValueError, match="a backward stands before its forward"):
        build_graph(replace(whole, ranks=(whole.ranks[0], whole.ranks[1][::-1])), uniform(2))


def test_phases_of_dualpipe() -> None:
    """Lone forwards 19.6, lone backwards 19.6 (11.5 of them split) and pairs 100.4 per rank in the mean at p = 16,
    M = 120: counts of the reference implementation, times their seconds. With the costs that DeepSeek-V3's published
    step implies (58, 85, 42, 139 ms) this is its table: 1F 1.13 s, 1F1B 13.95 s."""
    ms = {"F": 58.0, "I": 85.0, "W": 42.0, "FB": 139.0}
    one, square = np.ones(16), np.ones((16, 16))
    halves = ({"compute": ms[kind] / 1e3 * one} for kind in "FIW")
    times = StageTimes(*halves, 0 * one, 0 * one, pair_s={"compute": ms["FB"] / 1e3 * square})  # type: ignore[arg-type]
    spent = play(build_graph(make_schedule("dualpipe", 16, 1, 120), times)).by_kind()
    mean = {kind: float(seconds.mean()) for kind, seconds in spent.items()}
    assert mean["F"] == pytest.approx(1.13, abs=0.01)
    assert mean["FB"] == pytest.approx(13.95, abs=0.01)
    lone, split = 19.625, 11.5
    assert mean["F"] / 0.058 == pytest.approx(lone)
    assert [mean["I"] / 0.085, mean["W"] / 0.042] == pytest.approx([split, split])
    assert mean["B"] / 0.127 == pytest.approx(lone - split)
