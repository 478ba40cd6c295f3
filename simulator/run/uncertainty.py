"""What a run does not know beside chance: how far its step time and its failure rate are off, one factor each a run.

Both are drawn along with the seeds, from a sequence that fills the unit square evenly (Roberts' R2: multiples of 1 / g
and 1 / g^2, g^3 = g + 1), so that a few hundred runs already have the quantiles of the laws. Runs come in pairs whose
steps are off by mirrored quantiles, so that half of them are slower and half faster: the median is the prediction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
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
    normal = _step_normal(seed, runs)
    below, above = _step_sigmas(uncertainty)
    factors: Floats = np.exp(normal * np.where(normal < 0, below, above))
    return factors


def rate_factors(uncertainty: Uncertainty, seed: int, runs: Ints) -> Floats:
    """By how much each run, given by number, fails more often than predicted; shape (runs,)."""
    if uncertainty.rate_sigma == 0:
        return np.ones(len(runs))
    factors: Floats = np.exp(uncertainty.rate_sigma * _rate_normal(seed, runs))
    return factors


def mean_step_factor(uncertainty: Uncertainty) -> float:
    """Mean of the factor on the step: half a log-normal on either side of 1, E[exp(sZ); Z > 0] = exp(s^2/2) Phi(s)."""
    below, above = _step_sigmas(uncertainty)
    phi = NormalDist().cdf
    return math.exp(below**2 / 2) * phi(-below) + math.exp(above**2 / 2) * phi(above)


def mean_rate_factor(uncertainty: Uncertainty) -> float:
    """Mean of the factor on the failure rate, log-normal with median 1."""
    return math.exp(uncertainty.rate_sigma**2 / 2)


def _step_sigmas(uncertainty: Uncertainty) -> tuple[float, float]:
    """Standard deviations of the step factor's logarithm below and above its median."""
    return math.log(uncertainty.step_p10) / -P90, math.log(uncertainty.step_p90) / P90


def _step_normal(seed: int, runs: Ints) -> Floats:
    """A standard normal value for the step of each run; those of a pair are mirrored."""
    pairs, is_mirrored = np.divmod(np.asarray(runs), 2)
    point = (_start(seed)[0] + (pairs + 1) * (1 / PLASTIC)) % 1.0
    return _quantiles(np.where(is_mirrored, 1 - point, point))


def _rate_normal(seed: int, runs: Ints) -> Floats:
    """A standard normal value for the rate of each run."""
    return _quantiles((_start(seed)[1] + (np.asarray(runs, float) + 1) * (1 / PLASTIC**2)) % 1.0)


@cache
def _start(seed: int) -> tuple[float, float]:
    """Where the sequence of a seed begins."""
    step, rate = np.random.default_rng([seed, STREAM]).random(2).tolist()
    return step, rate


def _quantiles(probability: Floats) -> Floats:
    """Values of the standard normal law at these probabilities."""
    inverse = NormalDist().inv_cdf
    inside = np.clip(probability, 1e-12, 1 - 1e-12)
    return np.array([inverse(each) for each in inside.tolist()])
