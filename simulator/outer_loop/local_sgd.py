"""Local SGD and DiLoCo: clusters that train alone for many steps and exchange over thin links.

It predicts speed and traffic, not the loss. With `overlap` the exchange of one round runs beside the next and is
applied one round late (as streaming and eager variants of DiLoCo do, arXiv 2311.08105, 2501.18512).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field

import numpy as np

from simulator.fields import METADATA, Setting, setting
from simulator.step.spread import Floats, mean_one

# Beyond these no cluster is described any more.
MOST_CLUSTERS, MOST_INNER_STEPS, MOST_SIGMA, MOST_SLOWNESS, MOST_LATENCY_S = 1000, 10_000_000, 3.0, 1e4, 3600.0
MOST_DRAWN = 256  # steps of a round that are drawn one by one; the sum of more is drawn as a normal


@dataclass(frozen=True, slots=True)
class LocalSgd:
    """`clusters` each take `inner_steps` steps of `step_s` (lognormal `jitter_sigma` per step, its factor in `slow`
    times slower), then all-reduce `exchange_bytes` in a ring over links of `link_bytes_per_s` and `latency_s`."""

    clusters: int = setting(
        MISSING, Setting("Clusters like the scenario's that train together.", 4, least=1, most=MOST_CLUSTERS)
    )
    inner_steps: int = setting(
        MISSING, Setting("Steps that each takes between two exchanges.", 500, least=1, most=MOST_INNER_STEPS)
    )
    step_s: float = setting(MISSING, Setting("A cluster's own step."))
    exchange_bytes: float = setting(MISSING, Setting("What each cluster brings into an exchange.", least=0))
    link_bytes_per_s: float = setting(MISSING, Setting("Bandwidth of each cluster's link to the next.", "10 Gb/s"))
    latency_s: float = setting(0.0, Setting("Latency of such a link.", "50 ms", least=0, most=MOST_LATENCY_S))
    overlap: bool = setting(
        False, Setting("Whether an exchange runs beside the next round and is applied one round late.", True)
    )
    jitter_sigma: float = setting(
        0.0, Setting("Lognormal spread of a cluster's step from one to the next.", 0.05, least=0, most=MOST_SIGMA)
    )
    slow: Mapping[int, float] = field(
        default_factory=dict,
        metadata={METADATA: Setting("How many times slower each cluster is.", {0: 1.2}, most=MOST_SLOWNESS)},
    )

    def __post_init__(self) -> None:
        names = ("clusters", "inner_steps", "step_s", "link_bytes_per_s")
        wrong = [f"{name} must be positive, not {getattr(self, name)}" for name in names if not getattr(self, name) > 0]
        wrong += [f"slow: cluster {c} does not exist" for c in self.slow if not 0 <= c < self.clusters]
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def exchange_s(self) -> float:
        """Ring all-reduce: 2 (k - 1) / k of the bytes over the thin link, 2 (k - 1) latencies."""
        hops = 2 * (self.clusters - 1)
        return hops / self.clusters * self.exchange_bytes / self.link_bytes_per_s + hops * self.latency_s


@dataclass(frozen=True, slots=True)
class LocalSgdResult:
    """`round_s` [rounds]; `waiting_fraction`: share of the clusters' time spent waiting for others or the exchange;
    `link_bytes_per_step`: bytes over each thin link per inner step, against those of synchronous data parallelism."""

    round_s: Floats
    steps_per_s: float
    waiting_fraction: float
    link_bytes_per_step: float
    synchronous_bytes_per_step: float


def _steps_drawn(spec: LocalSgd, rounds: int, rng: np.random.Generator) -> Floats:
    """The inner steps of each round and cluster in units of the step's mean time [rounds, clusters]."""
    shape = (rounds, spec.clusters)
    if spec.jitter_sigma == 0:
        return np.full(shape, float(spec.inner_steps))
    if spec.inner_steps <= MOST_DRAWN:
        drawn = mean_one(spec.jitter_sigma, rng.standard_normal((*shape, spec.inner_steps)))
        summed: Floats = drawn.sum(axis=2)
        return summed
    deviation = math.sqrt(spec.inner_steps * math.expm1(spec.jitter_sigma**2))
    return np.maximum(spec.inner_steps + deviation * rng.standard_normal(shape), 0.0)


def simulate_local_sgd(spec: LocalSgd, rounds: int, rng: np.random.Generator) -> LocalSgdResult:
    """`rounds` outer rounds, from idle."""
    factors = np.array([spec.slow.get(cluster, 1.0) for cluster in range(spec.clusters)])
    inner_s = spec.step_s * factors * _steps_drawn(spec, rounds, rng)
    begin, before_s, exchanged_s = np.zeros(spec.clusters), 0.0, 0.0
    ends = []
    for computing_s in inner_s:
        done = begin + computing_s
        before_s, exchanged_s = exchanged_s, max(float(done.max()), exchanged_s) + spec.exchange_s
        begin = np.maximum(done, before_s) if spec.overlap else np.full(spec.clusters, exchanged_s)
        ends.append(float(begin.max()))
    whole_s = ends[-1]
    moved = 2 * (spec.clusters - 1) / spec.clusters * spec.exchange_bytes
    return LocalSgdResult(
        round_s=np.diff(ends, prepend=0.0),
        steps_per_s=rounds * spec.inner_steps / whole_s,
        waiting_fraction=1 - float(inner_s.sum()) / (whole_s * spec.clusters),
        link_bytes_per_step=moved / spec.inner_steps,
        synchronous_bytes_per_step=moved,
    )
