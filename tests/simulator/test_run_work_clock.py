"""Jumping over checkpoints lands where walking from one to the next does."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.run.work_clock import SaveGrid, advance, wall_to_end_s


def walk(grid: SaveGrid, work: float, left: float, wall: float, speed: float) -> tuple[float, float]:
    """One point after the other."""
    finest = grid.every_s[0]
    while wall > 0:
        if left > 0:
            sat = min(left, wall)
            left, wall = left - sat, wall - sat
            continue
        index = int(work / finest + 1e-6) + 1
        need = (index * finest - work) / speed
        if need > wall:
            return work + wall * speed, 0.0
        work, wall = index * finest, wall - need
        left = sum(
            stall for every, stall in zip(grid.every_s, grid.stall_s, strict=True) if index % round(every / finest) == 0
        )
    return work, left


grids = st.builds(
    lambda finest, m1, m2, stalls: SaveGrid((finest, finest * m1, finest * m1 * m2), stalls),
    st.sampled_from([1.0, 7.25, 64.0]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.tuples(*[st.sampled_from([0.0, 0.25, 3.0, 70.0])] * 3),
)


@given(grids, st.integers(0, 500), st.integers(0, 4000), st.sampled_from([1.0, 0.5, 0.125]))
def test_advance_is_walking(grid: SaveGrid, start: int, quarters: int, speed: float) -> None:
    work, wall = start / 4, quarters / 4  # binary fractions: nothing is rounded, so the two are equal
    there, left = advance(grid, np.array([work]), np.array([0.0]), np.array([wall]), np.array([speed]))
    assert (there[0], left[0]) == walk(grid, work, 0.0, wall, speed)


@given(grids, st.integers(0, 300), st.integers(0, 900), st.integers(0, 900), st.sampled_from([1.0, 0.5]))
def test_two_advances_are_one(grid: SaveGrid, start: int, first: int, second: int, speed: float) -> None:
    work, none, pace = np.array([start / 4]), np.array([0.0]), np.array([speed])
    middle = advance(grid, work, none, np.array([first / 4]), pace)
    end = advance(grid, *middle, np.array([second / 4]), pace)
    direct = advance(grid, work, none, np.array([(first + second) / 4]), pace)
    np.testing.assert_array_equal(end, direct)


def test_partial_stall_and_its_rest() -> None:
    grid = SaveGrid((10.0,), (4.0,))
    work, left = advance(grid, np.array([0.0]), np.array([0.0]), np.array([11.0]), np.array([1.0]))
    assert (work[0], left[0]) == (10.0, 3.0)
    work, left = advance(grid, work, left, np.array([5.0]), np.array([1.0]))
    assert (work[0], left[0]) == (12.0, 0.0)


def test_wall_to_end_counts_every_stall_but_the_last() -> None:
    grid = SaveGrid((10.0, 50.0), (1.0, 5.0))
    wall = wall_to_end_s(grid, np.array([0.0]), np.array([0.0]), 100.0, np.array([0.5]))
    assert wall[0] == pytest.approx(100 / 0.5 + 9 * 1.0 + 1 * 5.0)
