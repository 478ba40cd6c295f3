"""How many spare nodes keep a job whole, and how many are worth their price."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.faults import FailureModel, FaultKind

REPAIRED: tuple[FaultKind, ...] = ("crash", "hang", "corruption", "slow")
ROUNDING = 1e-9  # of the wanted probability
HOPELESS = 2.0  # more nodes away than so many times the most spares: none of them would be enough
RATES = 200  # that stand for a rate which is not known
TAIL = 40.0  # standard deviations beyond which no probability is left that a float could hold


def nodes_away(model: FailureModel, gpus: int, within_s: float = math.inf) -> float:
    """Mean number of nodes in repair at any time (Little's law: arrivals per second x mean seconds away).

    With `within_s` at the end of a run of so many seconds that starts whole, exact for memoryless repairs. A GPU
    or node fault takes one node; racks and pods take theirs only where `nodes_per_*` say so and are not counted.
    """
    away = 0.0
    for fault in model.classes:
        takes_one = fault.scope in ("gpu", "node") and fault.kind in REPAIRED
        if takes_one and fault.repair is not None:
            seconds_away = fault.repair.mean_s() + fault.detect.mean_s()
            reached = -math.expm1(-within_s / seconds_away) if seconds_away else 1.0
            away += gpus * fault.rate_per_gpu_s * seconds_away * reached
    return away


def best_spares(model: FailureModel, job_nodes: int, gpus_per_node: int, run_s: float) -> int:
    """The number of spares with which a run of `run_s` seconds takes the fewest node-hours in the mean, its spares' own
    included; at most one per node of the job.

    With n spares a job stands still while n + 1 nodes are away, as servers that turn callers away: a share of its time
    given by Erlang's loss formula, exact for memoryless failures whatever the law of repair. A rate that is not known
    is averaged over its law.
    """
    mean = nodes_away(model, job_nodes * gpus_per_node, run_s)
    if mean == 0:
        return 0
    away = mean * np.array(_rate_factors(model.rate_sigma))
    blocked = np.ones_like(away)
    best, fewest = 0, math.inf
    for spares in range(job_nodes + 1):
        servers = spares + 1
        working = servers / (servers + away * blocked)
        blocked = away * blocked / (servers + away * blocked)
        node_hours = (job_nodes + spares) * float((1 / working).mean())
        if node_hours < fewest:
            best, fewest = spares, node_hours
        if job_nodes + spares >= fewest:  # even without any standstill more spares take more
            break
    return best


def spares_needed(model: FailureModel, gpus: int, confidence: float = 0.99, most: int | None = None) -> int:
    """The fewest spares that are enough with this probability at any time, at most `most` (None: one per GPU).

    Exact for memoryless failures whatever the law of repair (M/G/infinity); bursts and swings need more. A rate that is
    not known (`rate_sigma`) is averaged over its law.
    """
    most = gpus if most is None else most
    mean = nodes_away(model, gpus)
    if mean == 0:
        return 0
    means = [mean * factor for factor in _rate_factors(model.rate_sigma)]
    laws = [_poisson(each) for each in means if each < HOPELESS * most]
    wanted = confidence * (1 - ROUNDING)
    low, high = -1, most  # the fewest lie above low
    while high - low > 1:
        middle = (low + high) // 2
        enough = sum(law.up_to(middle) for law in laws) / len(means)
        low, high = (low, middle) if enough >= wanted else (middle, high)
    return high


def _rate_factors(sigma: float) -> list[float]:
    """Factors of the log-normal law with median 1, equally likely each."""
    if sigma == 0:
        return [1.0]
    normal = NormalDist()
    return [math.exp(sigma * normal.inv_cdf((i + 0.5) / RATES)) for i in range(RATES)]


@dataclass(frozen=True, slots=True)
class _Poisson:
    """Probabilities of at most `first`, `first` + 1, ... events; none below, certainty above."""

    first: int
    below: Floats

    def up_to(self, count: int) -> float:
        at = count - self.first
        if at < 0:
            return 0.0
        return float(self.below[at]) if at < len(self.below) else 1.0


def _poisson(mean: float) -> _Poisson:
    """Poisson's law, summed over all counts within TAIL standard deviations, from the ratio of neighbours, mean / k."""
    reach = TAIL * math.sqrt(mean) + TAIL
    first, last = max(0, math.floor(mean - reach)), math.ceil(mean + reach)
    counts = np.arange(first, last + 1)
    log_ratios = np.log(mean / np.maximum(counts, 1))
    log_ratios[0] = 0.0
    log_weights = np.cumsum(log_ratios)
    weights = np.exp(log_weights - log_weights.max())
    return _Poisson(first, np.cumsum(weights) / weights.sum())
