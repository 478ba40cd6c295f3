"""Local SGD and DiLoCo: clusters that train alone for many steps and exchange over thin links.

It predicts speed and traffic, not the loss. With `overlap` the exchange of one round runs beside the next and is
applied one round late (as streaming and eager variants of DiLoCo do, arXiv 2311.08105, 2501.18512).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from simulator.step.spread import Floats, mean_one


@dataclass(frozen=True, slots=True)
class LocalSgd:
    """`clusters` each take `inner_steps` steps of `step_s` (lognormal `jitter_sigma` per step, its factor in `slow`
    times slower), then all-reduce `exchange_bytes` in a ring over links of `link_bytes_per_s` and `latency_s`."""

    clusters: int
    inner_steps: int
    step_s: float
    exchange_bytes: float
    link_bytes_per_s: float
    latency_s: float = 0.0
    overlap: bool = False
    jitter_sigma: float = 0.0
    slow: Mapping[int, float] = field(default_factory=dict)

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


def simulate_local_sgd(spec: LocalSgd, rounds: int, rng: np.random.Generator) -> LocalSgdResult:
    """`rounds` outer rounds, from idle."""
    factors = np.array([spec.slow.get(cluster, 1.0) for cluster in range(spec.clusters)])
    drawn = mean_one(spec.jitter_sigma, rng.standard_normal((rounds, spec.clusters, spec.inner_steps)))
    inner_s = spec.step_s * factors * drawn.sum(axis=2)
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
