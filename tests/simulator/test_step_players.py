"""The two players: same graph, same times; deadlocks are found by both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.schedules import make_schedule
from simulator.step.build import build_graph
from simulator.step.contention import Contention, beside_communication, network_ports
from simulator.step.graph import Deadlock, TaskGraph, Tasks, assemble
from simulator.step.player import play
from simulator.step.sweep import sweep, sweep_timeline
from simulator.step.times import DataParallel, StageTimes


def graph_of(ranks: np.ndarray, streams: np.ndarray, seconds: np.ndarray, edges: np.ndarray) -> TaskGraph:
    n = len(ranks)
    place = np.stack([np.arange(n), np.zeros(n, dtype=np.int64)], axis=1)
    none = np.full((n, 4), -1)
    return assemble(
        Tasks(seconds, ranks, streams, np.zeros(n, dtype=np.int64), none, place, np.zeros((n, 5))), edges, 4
    )


@st.composite
def graphs(draw: st.DrawFn) -> TaskGraph:
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    seconds = rng.choice([0.0, 0.1, 1 / 3, 1.7], n) * rng.random(n)
    pairs = np.sort(rng.integers(0, n, (draw(st.integers(0, 3 * n)), 2)), axis=1)
    edges = pairs[pairs[:, 0] < pairs[:, 1]]
    return graph_of(rng.integers(0, 4, n), rng.integers(0, 6, n), seconds, edges)


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_players_agree(graph: TaskGraph) -> None:
    """To the last bit: both start a task at the latest end of what it waits for."""
    played, swept = play(graph), sweep_timeline(graph)
    np.testing.assert_array_equal(played.start_s, swept.start_s)
    np.testing.assert_array_equal(played.end_s, swept.end_s)


@given(graphs())
@settings(max_examples=20, deadline=None)
def test_no_task_starts_early(graph: TaskGraph) -> None:
    start, end = sweep(graph)
    for task in range(len(graph)):
        preds = graph.preds[graph.pred_indptr[task] : graph.pred_indptr[task + 1]]
        assert start[task] == max(end[preds], default=0.0)


def test_samples_are_independent() -> None:
    rng = np.random.default_rng(7)
    graph = graph_of(rng.integers(0, 3, 40), rng.integers(0, 2, 40), rng.random(40), np.zeros((0, 2), dtype=np.int64))
    durations = rng.random((40, 5, 2))
    _, end = sweep(graph, durations)
    for sample in np.ndindex(5, 2):
        _, alone = sweep(graph, durations[(slice(None), *sample)])
        np.testing.assert_array_equal(end[(slice(None), *sample)], alone)


def test_deadlock_names_the_blocked() -> None:
    graph = graph_of(np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int64), np.ones(4), np.array([[1, 2], [3, 0]]))
    for player in (play, sweep_timeline):
        with pytest.raises(Deadlock, match="4 of 4 tasks wait for each other in a circle, among them F of"):
            player(graph)


def test_wrong_count_of_durations() -> None:
    graph = graph_of(np.array([0]), np.array([0]), np.ones(1), np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="durations of 2 tasks"):
        sweep(graph, np.ones(2))


def contended(seconds: list[float], streams: list[int], contention: Contention, ranks: list[int] | None = None) -> list:
    """Ends of independent tasks."""
    n = len(seconds)
    where = np.zeros(n, dtype=np.int64) if ranks is None else np.array(ranks)
    graph = graph_of(where, np.array(streams), np.array(seconds), np.zeros((0, 2), dtype=np.int64))
    order = np.lexsort((streams, where))
    return play(graph, contention).end_s[np.argsort(order)].tolist()


def test_shared_link_divides_equally() -> None:
    """Two transfers of 1 and 3 s: both at half rate until 2, then the longer alone until 4 (processor sharing)."""
    link = np.array([7, 7])
    assert contended([1.0, 3.0], [4, 5], Contention(link=link)) == [2.0, 4.0]
    assert contended([1.0, 3.0], [4, 5], Contention(link=link, capacity={7: 2.0})) == [1.0, 3.0]
    assert contended([1.0, 1.0, 1.0], [4, 4, 4], Contention(link=np.array([1, 1, 2])), [0, 1, 2]) == [2.0, 2.0, 1.0]


def test_communication_takes_compute_units() -> None:
    """Compute of 4 s beside 2 s of traffic, each 1.25 times and twice slower beside the other: traffic ends at 4,
    when compute has done 3.2 s, and the rest runs alone."""
    slowdown = {("compute", "dp"): 1.25, ("dp", "compute"): 2.0}
    assert contended([4.0, 2.0], [0, 5], Contention(slowdown)) == pytest.approx([4.8, 4.0])
    assert contended([4.0, 2.0], [0, 5], Contention(slowdown), [0, 1]) == [4.0, 2.0]


@given(graphs())
@settings(max_examples=40, deadline=None)
def test_no_contention_is_the_plain_player(graph: TaskGraph) -> None:
    played = play(
        graph, Contention({("compute", "dp"): 1.0}, link=network_ports(graph), capacity=dict.fromkeys(range(4), 9.0))
    )
    np.testing.assert_allclose(played.end_s, sweep_timeline(graph).end_s, rtol=1e-12, atol=1e-12)


@given(graphs(), st.floats(1.0, 3.0))
@settings(max_examples=40, deadline=None)
def test_contention_only_delays_and_is_bounded(graph: TaskGraph, factor: float) -> None:
    """Every task lasts at least its time alone, and never longer than with the contention of all streams at once."""
    played = play(graph, Contention({("compute", s): factor for s in ("tp", "cp", "ep", "pp", "dp")}))
    lasted = played.end_s - played.start_s
    assert (lasted >= graph.duration_s - 1e-12).all()
    assert (lasted <= graph.duration_s * factor**5 + 1e-9).all()


def test_transfers_beside_compute_of_a_real_graph() -> None:
    """Reductions that overlap the last backward take its SMs: 16 of 132 make it 132/116 longer while they run."""
    one = np.ones(1)
    data = DataParallel(reduce_s=((0.5,) * 4,))
    times = StageTimes({"compute": one}, {"compute": one}, {"compute": one}, 0 * one, 0 * one, data_parallel=data)
    graph = build_graph(make_schedule("none", 1, 1, 1), times)
    left = 132 / 116
    # Forward 1 s, first piece 0.5 s; then three pieces each beside a reduction of 0.5 s that ends before them.
    piece = 0.5 + 0.5 * (1 - 1 / left)
    expected = 1.0 + 0.5 + 3 * piece + 0.5
    assert play(graph, beside_communication(graph, 132, 16)).step_time_s == pytest.approx(expected)
    assert play(graph, beside_communication(graph, 132, 0)).step_time_s == pytest.approx(3.5)


def test_wrong_contention_is_named() -> None:
    with pytest.raises(ValueError, match=r"slowdown \(compute, nvlink\): streams are compute, tp"):
        Contention({("compute", "nvlink"): 1.2})
    with pytest.raises(ValueError, match=r"slowdown \(dp, compute\) is 0.5; at least 1"):
        Contention({("dp", "compute"): 0.5})
    graph = graph_of(np.array([0]), np.array([0]), np.ones(1), np.zeros((0, 2), dtype=np.int64))
    with pytest.raises(ValueError, match="communication_sms 140: from 0 to below the GPU's 132 SMs"):
        beside_communication(graph, 132, 140)
