"""How late the slowest of several ranks is, in standard deviations of one."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

import numpy as np

from hardware.arrays import plain
from simulator.workload.operators import Number


def slowest_of(ranks: Number) -> Number:
    """Expected largest of `ranks` independent normal deviates (Blom 1958); 0 for one rank. `ranks`: a number or an array."""
    distinct, places = np.unique(ranks, return_inverse=True)
    late = np.array([_expected_largest(float(each)) for each in distinct])
    return plain(late[places].reshape(np.shape(ranks)))


@cache
def _expected_largest(ranks: float) -> float:
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0
