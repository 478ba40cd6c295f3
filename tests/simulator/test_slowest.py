"""The slowest of several ranks: expected largest normal deviates, against tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from simulator.cost.slowest import slowest_of


@pytest.mark.parametrize(
    ("ranks", "late"),
    [(1, 0.0), (2, 1 / math.sqrt(math.pi)), (3, 1.5 / math.sqrt(math.pi)), (4, 1.02938), (8, 1.42360), (100, 2.50759)],
)
def test_the_largest_of_normal_deviates_as_tables_have_it(ranks: int, late: float) -> None:
    """Exact for two and three; the others from tables of expected normal order statistics (Harter 1961)."""
    assert slowest_of(ranks) == pytest.approx(late, abs=1e-5)


def test_groups_of_many_sizes_at_once() -> None:
    found = slowest_of(np.array([[8, 1], [2, 8]]))
    assert np.shape(found) == (2, 2)
    assert np.allclose(found, [[1.42360, 0.0], [0.56419, 1.42360]], atol=1e-5)


def test_more_ranks_wait_longer_by_ever_less() -> None:
    """Of a hundred thousand the slowest is close to sqrt(2 ln n) deviations late, which it never reaches."""
    late = [float(slowest_of(ranks)) for ranks in (2, 10, 100, 1000, 10_000, 100_000)]
    gains = np.diff(late)
    assert np.all(gains > 0)
    assert np.all(np.diff(gains) < 0)
    assert late[-1] == pytest.approx(math.sqrt(2 * math.log(100_000)), rel=0.1)
    assert late[-1] < math.sqrt(2 * math.log(100_000))
