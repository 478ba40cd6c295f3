"""The two players: same graph, same times; deadlocks are found by both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.step.graph import Deadlock, TaskGraph, Tasks, assemble
from simulator.step.player import play
from simulator.step.sweep import sweep, sweep_timeline


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
