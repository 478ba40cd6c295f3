"""How many spare nodes keep a job whole: nodes in repair follow Poisson's law around rate x repair time."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.faults import FailureModel, FaultKind

REPAIRED: tuple[FaultKind, ...] = ("crash", "hang", "corruption", "slow")
ROUNDING = 1e-9  # of the wanted probability
RATES = 200  # that stand for a rate which is not known


def nodes_away(model: FailureModel, gpus: int) -> float:
    """Mean number of nodes in repair at any time (Little's law: arrivals per second x mean seconds away).

    A GPU or node fault takes one node; racks and pods take theirs only where `nodes_per_*` say so and are not counted.
    """
    away = 0.0
    for fault in model.classes:
        takes_one = fault.scope in ("gpu", "node") and fault.kind in REPAIRED
        if takes_one and fault.repair is not None:
            seconds_away = fault.repair.mean_s() + fault.detect.mean_s()
            away += gpus * fault.rate_per_gpu_s * seconds_away
    return away


def spares_needed(model: FailureModel, gpus: int, confidence: float = 0.99, most: int | None = None) -> int:
    """The fewest spares that are enough with this probability at any time, at most `most` (None: one per GPU).

    Exact for memoryless failures whatever the law of repair (M/G/infinity); bursts and swings need more. A rate that is
    not known (`rate_sigma`) is averaged over its law.
    """
    from scipy.special import pdtr  # late: it takes 0.1 s to load

    most = gpus if most is None else most
    means = nodes_away(model, gpus) * _rate_factors(model.rate_sigma)
    if not means.any():
        return 0
    wanted = confidence * (1 - ROUNDING)

    def suffice(count: int) -> bool:
        return bool(pdtr(count, means).mean() >= wanted)

    if not np.isfinite(means).all() or not suffice(most):
        return most
    low, high = -1, most  # low does not suffice, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffice(middle) else (middle, high)
    return high


def _rate_factors(sigma: float) -> Floats:
    """Factors of the log-normal law with median 1, equally likely each."""
    if sigma == 0:
        return np.ones(1)
    normal = NormalDist()
    factors: Floats = np.exp([sigma * normal.inv_cdf((i + 0.5) / RATES) for i in range(RATES)])
    return factors
