"""Terms of the step one by one: where each second of two ranks goes, and what spread costs, by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.schedules import make_schedule
from simulator.step.build import build_graph
from simulator.step.contention import Contention, beside_communication, network_ports
from simulator.step.graph import KIND, STREAM, slot_pieces
from simulator.step.inequality import study
from simulator.step.phases import Op, Phase, Program, folded
from simulator.step.player import play
from simulator.step.ranks import Grid, simulate_ranks
from simulator.step.spread import (
    ExpertLoad,
    Spread,
    compute_factors,
    expert_factors,
    link_factors,
    mean_one,
    rank_shares,
)
from simulator.step.times import DataParallel, StageTimes, check

RNG = np.random.default_rng


def times_of(stages: int, send_s: float = 0.0, **more: Any) -> StageTimes:
    """A second for forward, input and weight gradient of every stage."""
    one = np.ones(stages)
    given = StageTimes({"compute": one}, {"compute": one}, {"compute": one}, send_s * one, send_s * one)
    return replace(given, **more)


# ---- seconds of slots


def test_seconds_of_every_kind_of_slot() -> None:
    """Of two stages; a pair without a time of its own takes its halves one after the other."""
    times = StageTimes(
        {"compute": np.array([1.0, 2.0]), "tp": np.array([0.5, 0.25])},
        {"compute": np.array([3.0, 4.0])},
        {"compute": np.array([5.0, 6.0])},
        np.zeros(2),
        np.zeros(2),
    )
    first, second = np.array([0]), np.array([1])

    def seconds(kind: str, given: StageTimes = times) -> float:
        return float(given.by_cause(kind, first, second).sum())

    assert [seconds(kind) for kind in ("F", "B", "I", "W", "FB")] == [1.5, 8.0, 3.0, 5.0, 1.5 + 10.0]
    assert times.by_cause("F", first, second)[0].tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]
    whole = replace(times, backward_s={"ep": np.array([7.0, 9.0])})
    assert (seconds("B", whole), seconds("I", whole), seconds("FB", whole)) == (7.0, 3.0, 10.5)
    paired = replace(times, pair_s={"host": np.array([[1.0, 20.0], [3.0, 4.0]])})
    assert seconds("FB", paired) == 20.0
    with pytest.raises(ValueError, match="causes dp are not slot time"):
        replace(times, forward_s={"dp": np.ones(2)}).by_cause("F", first, second)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forward_s": {"compute": np.ones(3)}}, r"forward_s\[compute\]: shape \(3,\), expected \(2,\)"),
        ({"send_backward_s": np.array([1.0, -1.0])}, "send_backward_s.*finite and not negative"),
        ({"pair_s": {"compute": np.ones((2, 3))}}, "pair_s"),
        ({"data_parallel": DataParallel(gather_s=((1.0,),))}, "gather_s: 1 stages, expected 2"),
        ({"data_parallel": DataParallel(reduce_s=((1.0,), (np.inf,)))}, "reduce_s: every duration"),
        ({"data_parallel": DataParallel(optimizer_s=(1.0,))}, "optimizer_s: 1 ranks, expected 2"),
        ({"data_parallel": DataParallel(grad_norm_s=-1.0)}, "grad_norm_s: every duration"),
    ],
)
def test_times_that_fit_no_step(changes: dict[str, Any], words: str) -> None:
    check(times_of(2), 2, 2)
    with pytest.raises(ValueError, match=words):
        check(times_of(2, **changes), 2, 2)


# ---- where time goes


def test_every_second_of_two_ranks() -> None:
    """One micro-batch through two stages. Rank 0 gathers until 0.5 s, sends at 1.5 and gets its gradient at 5; rank 1
    works from 1.75 to 4.75. Both reduce for 0.5 s at last, the norm takes 0.1 and the optimizers 0.2 and 0.3 s."""
    data = DataParallel(((0.5,), (0.75,)), ((0.5,), (0.5,)), grad_norm_s=0.1, optimizer_s=(0.2, 0.3))
    timeline = play(build_graph(make_schedule("1f1b", 2, 1, 1), times_of(2, 0.25, data_parallel=data)))
    spent = {cause: seconds.tolist() for cause, seconds in timeline.by_rank().items() if seconds.any()}
    assert timeline.step_time_s == pytest.approx(7.9)
    assert spent == {
        "compute": pytest.approx([3.0, 3.0]),
        "pp": pytest.approx([0.25, 0.25]),
        "dp": pytest.approx([0.5 + 0.6, 0.6]),
        "bubble": pytest.approx([3.25, 1.5 + 2.25]),
        "optimizer": pytest.approx([0.2, 0.3]),
        "barrier": pytest.approx([0.1, 0.0]),
    }
    kinds = {kind: seconds.tolist() for kind, seconds in timeline.by_kind().items()}
    assert kinds == {"F": [1.0, 1.0], "B": [2.0, 2.0], "optimizer": pytest.approx([0.2, 0.3])}


def test_a_step_without_an_optimizer_ends_with_its_last_reduction() -> None:
    """Rank 0 ends at 6.5 s and reduces a second, which the others wait for as data parallelism."""
    data = DataParallel(reduce_s=((1.0,), ()))
    timeline = play(build_graph(make_schedule("1f1b", 2, 1, 1), times_of(2, 0.25, data_parallel=data)))
    spent = timeline.by_rank()
    assert timeline.step_time_s == pytest.approx(7.5)
    assert spent["dp"] == pytest.approx([1.0, 1.0])
    assert spent["bubble"] == pytest.approx([3.25, 1.0 + 2.25])
    assert spent["pp"] == pytest.approx([0.25, 0.25])


def test_a_blocking_send_is_the_senders_own() -> None:
    timeline = play(build_graph(make_schedule("1f1b", 2, 1, 1), times_of(2, 0.25, p2p="blocking")))
    assert timeline.step_time_s == pytest.approx(6.5)
    assert timeline.by_rank()["pp"] == pytest.approx([0.25 + 0.25, 0.25 + 0.25])


def test_a_gather_that_waits_for_another_stage_is_a_bubble() -> None:
    """Without overlap rank 1 gathers 0.5 s when the activations have come: 1.75 s of bubble and transfer before."""
    data = DataParallel(
        gather_s=((0.5,), (0.5,)), gather_overlap=False, gather_every_microbatch=True, reduce_every_microbatch=True
    )
    timeline = play(build_graph(make_schedule("1f1b", 2, 1, 1), times_of(2, 0.25, data_parallel=data)))
    spent = timeline.by_rank()
    # Rank 1: 0.5 + 1 + 0.25 until it may gather, then gathers before its forward and before its backward.
    assert spent["dp"][1] == pytest.approx(1.0)
    assert spent["bubble"][1] == pytest.approx(1.75 + 0.25 + 0.5 + 2.0)
    assert timeline.step_time_s == pytest.approx(0.5 + 1 + 0.25 + 0.5 + 1 + 0.5 + 2 + 0.25 + 0.5 + 2)


def test_slots_know_their_pieces() -> None:
    """A forward in three pieces and a backward in two."""
    data = DataParallel(gather_s=((0.1,) * 3,), reduce_s=((0.1,) * 2,))
    graph = build_graph(make_schedule("none", 1, 1, 1), times_of(1, data_parallel=data))
    first, pieces = slot_pieces(graph)
    compute = graph.stream == STREAM["compute"]
    assert pieces[compute].tolist() == [3, 3, 3, 2, 2]
    assert first[compute].tolist() == [0, 0, 0, 3, 3]
    assert graph.duration_s[compute] == pytest.approx([1 / 3] * 3 + [1.0] * 2)


# ---- contention


def test_communication_takes_sms_and_ports_are_shared() -> None:
    graph = build_graph(make_schedule("1f1b", 2, 1, 2), times_of(2, 0.25, data_parallel=DataParallel(grad_norm_s=0.1)))
    found = beside_communication(graph, 132, 32)
    assert found.slowdown == {("compute", "dp"): 1.32, ("compute", "pp"): 1.32}
    ports = network_ports(graph)
    sends = graph.stream == STREAM["pp"]
    assert (ports[sends] == graph.rank[sends]).all()
    assert set(ports[graph.stream == STREAM["compute"]]) == {-1}
    assert ports[graph.kind == KIND["norm"]].tolist() == [-1]
    for sms in (-1, 132):
        with pytest.raises(ValueError, match="communication_sms"):
            beside_communication(graph, 132, sms)
    assert beside_communication(graph, 132, 0).slowdown["compute", "dp"] == 1.0


def test_a_piece_beside_a_reduction_is_slowed_by_it() -> None:
    """Two backwards of 2 s; beside the 0.5 s reduction of the first, the second runs at half speed: 0.25 s late."""
    data = DataParallel(reduce_s=((0.5,),), reduce_every_microbatch=True)
    graph = build_graph(make_schedule("none", 1, 1, 2), times_of(1, data_parallel=data))
    free_s = play(graph).step_time_s
    slowed_s = play(graph, Contention({("compute", "dp"): 2.0})).step_time_s
    assert slowed_s - free_s == pytest.approx(0.25)


# ---- spread


def test_factors_of_unequal_machines() -> None:
    assert mean_one(0.5, np.array([0.0, 1.0])) == pytest.approx([np.exp(-0.125), np.exp(0.375)])
    spread = Spread(slow_gpus={1: 2.0, 5: 3.0}, slow_nodes={1: 1.5}, slow_links={2: 4.0})
    assert compute_factors(spread, 6, 4, RNG(1)).tolist() == [1.0, 2.0, 1.0, 1.0, 1.5, 4.5]
    assert link_factors(spread, 4).tolist() == [1.0, 1.0, 4.0, 1.0]
    drawn = compute_factors(replace(spread, gpu_sigma=0.1), 6, 4, RNG(1))
    assert drawn == pytest.approx(mean_one(0.1, RNG(1).standard_normal(6)) * [1.0, 2.0, 1.0, 1.0, 1.5, 4.5])
    for wrong in ({"slow_gpus": {6: 2.0}}, {"slow_nodes": {2: 2.0}}, {"slow_gpus": {0: 0.0}}, {"slow_gpus": {-1: 1.0}}):
        with pytest.raises(ValueError, match="slow_"):
            compute_factors(Spread(**wrong), 6, 4, RNG(1))  # type: ignore[arg-type]


def test_shares_of_favourite_experts() -> None:
    """Popularity 1, 1/2, 1/3, 1/4 of 25/12 in some order, two experts to a rank; a histogram begins anew."""
    order = RNG([3, 4]).permutation(4)
    popularity = np.array([1, 1 / 2, 1 / 3, 1 / 4])[order] / (25 / 12)
    assert rank_shares(ExpertLoad(exponent=1.0), 3, 2, 4) == pytest.approx(popularity.reshape(2, 2).sum(axis=1))
    assert rank_shares(ExpertLoad(), 3, 2, 4).tolist() == [0.5, 0.5]
    counted = ExpertLoad(histogram=((3.0, 1.0), (1.0, 0.0)))
    assert [rank_shares(counted, layer, 2, 2).tolist() for layer in (0, 1, 2)] == [
        [0.75, 0.25],
        [1.0, 0.0],
        [0.75, 0.25],
    ]
    assert expert_factors(np.array([0.75, 0.25]), 0.0, 3, RNG(1)).tolist() == [[1.5, 0.5]] * 3
    for wrong in ((1.0,), (0.0, 0.0), (2.0, -1.0)):
        with pytest.raises(ValueError, match="expert histogram"):
            rank_shares(ExpertLoad(histogram=(wrong,)), 0, 2, 2)
    assert [bool(load) for load in (ExpertLoad(), ExpertLoad(tokens=1.0), counted, ExpertLoad(0.1))] == [
        False,
        True,
        True,
        True,
    ]


def test_the_normal_limit_of_routed_tokens() -> None:
    """A quarter of 300 tokens: 75, with a deviation of sqrt(300 x 1/4 x 3/4) = 7.5, a tenth."""
    drawn = expert_factors(np.full(4, 0.25), 300.0, 5000, RNG(4))
    assert drawn.std() == pytest.approx(0.1, rel=0.03)
    assert drawn.min() >= 0


# ---- every GPU by itself


def program(kind: str, stage: int, back: int) -> Program:
    """Mixer 2 s, dispatch 0.5 s, experts 1 s, and 0.25 s of host."""
    ops = (Op(2.0, "mixer", 0), Op(0.5, "ep", 0), Op(1.0, "experts", 0), Op(0.25, "host"))
    return (Phase(ops),)


def graph_of(stages: int, **more: Any) -> Any:
    row = {cause: np.full(stages, seconds) for cause, seconds in folded(program("F", 0, 0)).items()}
    zero = {cause: 0 * seconds for cause, seconds in row.items()}
    schedule = make_schedule("none", 1, 1, 1)
    times = StageTimes(row, row, zero, np.zeros(stages), np.zeros(stages), backward_s=row, **more)
    return schedule, build_graph(schedule, times)


def step_s(spread: Spread, grid: Grid | None = None, **more: Any) -> float:
    schedule, graph = graph_of(1, **more)
    grid = grid or Grid(1, dp=2, ep=2)
    return simulate_ranks(graph, schedule.stage_of_chunk, program, grid, spread).step_time_s


def test_what_each_cause_slows() -> None:
    """3.75 s forward and as much backward. A GPU twice as slow: 3 s of kernels each way; a link: 0.5 s of exchange;
    experts of a rank at 3/2: half a second of them and a quarter of exchange."""
    assert step_s(Spread()) == pytest.approx(7.5)
    assert step_s(Spread(slow_gpus={1: 2.0})) == pytest.approx(2 * (3.75 + 3.0))
    assert step_s(Spread(slow_nodes={0: 2.0})) == pytest.approx(2 * (3.75 + 3.0))
    assert step_s(Spread(slow_links={0: 2.0})) == pytest.approx(2 * (3.75 + 0.5))
    skewed = ExpertLoad(histogram=((3.0, 1.0),))
    assert step_s(Spread(experts=skewed)) == pytest.approx(2 * (3.75 + 0.5 + 0.25))


def test_updates_and_transfers_are_slowed_too() -> None:
    """A second of optimizer on a GPU twice as slow, and half a second of gathering over its link."""
    data = DataParallel(gather_s=((0.5,),), optimizer_s=(1.0,))
    plain_s = step_s(Spread(), data_parallel=data)
    assert plain_s == pytest.approx(7.5 + 0.5 + 1.0)
    assert step_s(Spread(slow_gpus={1: 2.0}), data_parallel=data) == pytest.approx(plain_s + 6 + 1.0)
    assert step_s(Spread(slow_links={1: 2.0}), data_parallel=data) == pytest.approx(plain_s + 1.0 + 0.5)


def test_the_tax_of_each_cause() -> None:
    """Of 7.5 s: 6 s for the slow GPU, one for the slow link, and both together; who is waited for."""
    schedule, graph = graph_of(1)
    spread = Spread(slow_gpus={1: 2.0}, slow_links={0: 2.0})
    found = study(graph, schedule.stage_of_chunk, program, Grid(1, dp=2, ep=2), spread)
    assert found.ideal_s == found.mean_s - 7.0 == pytest.approx(7.5)
    assert found.tax_fraction == pytest.approx({"slow_gpus": 6 / 7.5, "slow_links": 1 / 7.5})
    assert found.quantile_s(0.5) == pytest.approx(14.5)
    assert found.blamed[0][0] == 1
    assert found.wait_s["ep"] > 0


def test_sizes_of_the_grid() -> None:
    grid = Grid(3, dp=4, tp=2, cp=2, ep=4, etp=2)
    assert (grid.stage_gpus, grid.expert_group, grid.gpus) == (16, 8, 48)
    with pytest.raises(ValueError, match="must divide"):
        Grid(1, dp=3, ep=2)
