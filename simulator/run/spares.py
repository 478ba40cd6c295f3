"""How many spare nodes keep a job whole: nodes in repair follow Poisson's law around rate x repair time."""

from __future__ import annotations

import math

import numpy as np

from simulator.run.faults import FailureModel, FaultKind

REPAIRED: tuple[FaultKind, ...] = ("crash", "hang", "corruption", "slow")
ROUNDING = 1e-9  # of the wanted probability
TAIL = 40.0  # standard deviations beyond which no probability is left that a float could hold


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

    Exact for memoryless failures whatever the law of repair (M/G/infinity); bursts and swings need more.
    """
    most = gpus if most is None else most
    mean = nodes_away(model, gpus)
    if mean == 0:
        return 0
    if not mean < most:  # also where rates are beyond all numbers
        return most
    return min(poisson_quantile(mean, confidence), most)


def poisson_quantile(mean: float, confidence: float) -> int:
    """The least count that a Poisson variable stays at or below with this probability.

    Probabilities are summed over all counts within TAIL standard deviations, from the ratio of neighbours, mean / k.
    """
    reach = TAIL * math.sqrt(mean) + TAIL
    first, last = max(0, math.floor(mean - reach)), math.ceil(mean + reach)
    counts = np.arange(first, last + 1)
    log_ratios = np.log(mean / np.maximum(counts, 1))
    log_ratios[0] = 0.0
    log_weights = np.cumsum(log_ratios)
    weights = np.exp(log_weights - log_weights.max())
    below = np.cumsum(weights) / weights.sum()
    return first + int(np.searchsorted(below, confidence * (1 - ROUNDING)))
