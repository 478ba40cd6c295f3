"""How late the slowest of several ranks is, in standard deviations of one."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np

from hardware.arrays import Floats, plain
from simulator.workload.operators import Number

FARTHEST = 8.0  # deviations; beyond lies less than one rank in 10^15
POINTS = 1601


def slowest_of(ranks: Number) -> Number:
    """Expected largest of `ranks` independent normal deviates, a number or an array of any shape; 0 for one rank.

    The mean of a largest value with distribution F^n is b - integral of F^n up to b, where F(b) = 1.
    """
    distinct, places = np.unique(ranks, return_inverse=True)
    late = np.array([_expected_largest(float(each)) for each in distinct])
    return plain(late[places].reshape(np.shape(ranks)))


@cache
def _expected_largest(ranks: float) -> float:
    if ranks <= 1:
        return 0.0
    below = _normal_distribution() ** ranks
    width = 2 * FARTHEST / (POINTS - 1)
    return FARTHEST - width * float(below.sum() - (below[0] + below[-1]) / 2)


@cache
def _normal_distribution() -> Floats:
    """The standard normal distribution at evenly spaced deviations [POINTS]."""
    return np.array([NormalDist().cdf(each) for each in np.linspace(-FARTHEST, FARTHEST, POINTS)])
