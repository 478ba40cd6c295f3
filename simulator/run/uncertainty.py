"""What a run does not know beside chance: how far its step time and its failure rate are off, one factor each a run.

Both are drawn along with the seeds, from a sequence that fills the unit square evenly (Roberts' R2: multiples of 1 / g
and 1 / g^2, g^3 = g + 1), so that a few hundred runs already have the quantiles of the laws. Runs come in pairs whose
steps are off by mirrored quantiles, so that half of them are slower and half faster: the median is the prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from simulator.run.arrays import Floats, Ints

P90 = NormalDist().inv_cdf(0.9)
PLASTIC = 1.324717957244746
STREAM = 0x5EED  # of the sequence's start, apart from the faults' streams


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The model's own error: factors on the step time and on the failure rate, both with the median 1.

    `step_p10`, `step_p90`: the step time's 10th and 90th percentile over its prediction; between and beyond them it is
    log-normal, each side with its own width. `rate_sigma`: standard deviation of the logarithm of the failure rate.
    """

    step_p10: float = 1.0
    step_p90: float = 1.0
    rate_sigma: float = 0.0

    @property
    def is_none(self) -> bool:
        return self.step_p10 == self.step_p90 == 1.0 and self.rate_sigma == 0.0


CERTAIN = Uncertainty()


def step_uncertainty(step_time_s: float, interval_s: tuple[float, float], rate_sigma: float) -> Uncertainty:
    """The law whose 10th and 90th percentiles are the interval's ends; a side that the interval lacks has no width."""
    low_s, high_s = interval_s
    step_p10 = min(low_s / step_time_s, 1.0)
    step_p90 = max(high_s / step_time_s, 1.0)
    return Uncertainty(step_p10, step_p90, rate_sigma)


def step_factors(uncertainty: Uncertainty, seed: int, runs: Ints) -> Floats:
    """By how much the step of each run, given by number, is longer than predicted; shape (runs,)."""
    if uncertainty.step_p10 == uncertainty.step_p90 == 1.0:
        return np.ones(len(runs))
    normal = _normal(seed, runs)[0]
    below, above = math.log(uncertainty.step_p10) / -P90, math.log(uncertainty.step_p90) / P90
    factors: Floats = np.exp(normal * np.where(normal < 0, below, above))
    return factors


def rate_factors(uncertainty: Uncertainty, seed: int, runs: Ints) -> Floats:
    """By how much each run, given by number, fails more often than predicted; shape (runs,)."""
    if uncertainty.rate_sigma == 0:
        return np.ones(len(runs))
    factors: Floats = np.exp(uncertainty.rate_sigma * _normal(seed, runs)[1])
    return factors


def _normal(seed: int, runs: Ints) -> tuple[Floats, Floats]:
    """Two standard normal values for each run, from the sequence that the seed starts."""
    start = np.random.default_rng([seed, STREAM]).random(2)
    stride = np.array([1 / PLASTIC, 1 / PLASTIC**2])
    pairs, is_mirrored = np.divmod(np.asarray(runs), 2)
    points = (start + np.stack([pairs + 1, np.asarray(runs) + 1], axis=1) * stride) % 1.0
    points[:, 0] = np.where(is_mirrored, 1 - points[:, 0], points[:, 0])
    inverse = NormalDist().inv_cdf
    inside = np.clip(points, 1e-12, 1 - 1e-12)
    step, rate = (np.array([inverse(float(point)) for point in column]) for column in inside.T)
    return step, rate
