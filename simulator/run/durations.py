"""How long something takes when that is not one number: fixed, exponential, lognormal, or a quantile table."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import NormalDist
from typing import Literal

import numpy as np

from simulator.run.arrays import Floats

DurationKind = Literal["fixed", "exponential", "lognormal", "quantiles"]


@dataclass(frozen=True, slots=True)
class Duration:
    """A positive random time.

    `scale_s` is the value (fixed), the mean (exponential) or the median (lognormal); `sigma` is the standard
    deviation of the logarithm (lognormal). "quantiles" runs straight between (probability, seconds) points,
    which start at probability 0 and end at 1.
    """

    kind: DurationKind
    scale_s: float = 0.0
    sigma: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def mean_s(self) -> float:
        """Expected value: scale, scale, scale exp(sigma^2 / 2), or the area under the quantile polygon."""
        if self.kind == "lognormal":
            return self.scale_s * math.exp(self.sigma**2 / 2)
        if self.kind == "quantiles":
            return sum(
                (probability_1 - probability_0) * (seconds_0 + seconds_1) / 2
                for (probability_0, seconds_0), (probability_1, seconds_1) in pairwise(self.points)
            )
        return self.scale_s

    def mean_below_s(self, most_s: float) -> float:
        """Expected value of the time or of `most_s`, whichever is smaller.

        Log-normal with median m: mean Phi(d - s) + most (1 - Phi(d)), d = ln(most / m) / s.
        """
        if self.kind == "exponential":
            return -self.scale_s * math.expm1(-most_s / self.scale_s)
        if self.kind == "lognormal" and self.sigma > 0:
            phi, distance = NormalDist().cdf, math.log(most_s / self.scale_s) / self.sigma
            return self.mean_s() * phi(distance - self.sigma) + most_s * (1 - phi(distance))
        if self.kind == "quantiles":
            return sum(
                (probability_1 - probability_0) * _mean_of_line(seconds_0, seconds_1, most_s)
                for (probability_0, seconds_0), (probability_1, seconds_1) in pairwise(self.points)
            )
        return min(self.scale_s, most_s)

    def scaled(self, factor: float) -> Duration:
        """The same law, every time multiplied by `factor`."""
        points = tuple((probability, seconds * factor) for probability, seconds in self.points)
        return replace(self, scale_s=self.scale_s * factor, points=points)

    def sample_s(self, count: int, rng: np.random.Generator) -> Floats:
        """`count` independent draws, in seconds."""
        if self.kind == "lognormal":
            return self.scale_s * np.exp(self.sigma * rng.standard_normal(count))
        if self.kind == "exponential":
            return rng.exponential(self.scale_s, count)
        if self.kind == "quantiles":
            probability, seconds = zip(*self.points, strict=True)
            drawn: Floats = np.interp(rng.random(count), probability, seconds)
            return drawn
        return np.full(count, self.scale_s)


def _mean_of_line(low_s: float, high_s: float, most_s: float) -> float:
    """Mean of the smaller of `most_s` and a time that is even between two others."""
    if high_s <= most_s:
        return (low_s + high_s) / 2
    if low_s >= most_s:
        return most_s
    share = (most_s - low_s) / (high_s - low_s)
    return share * (low_s + most_s) / 2 + (1 - share) * most_s


def fixed(seconds: float) -> Duration:
    return Duration("fixed", seconds)


def exponential(mean_s: float) -> Duration:
    return Duration("exponential", mean_s)


def lognormal(median_s: float, mean_s: float) -> Duration:
    """The lognormal with this median and mean; mean / median = exp(sigma^2 / 2).

    Raises ValueError where the mean is below the median.
    """
    if mean_s < median_s:
        raise ValueError(f"a lognormal time has a mean ({mean_s} s) of at least its median ({median_s} s)")
    return Duration("lognormal", median_s, math.sqrt(2 * math.log(mean_s / median_s)))


def empirical(seconds: list[float]) -> Duration:
    """The law of observed times: quantiles straight between the sorted observations; needs at least one."""
    if len(seconds) == 1:
        return fixed(seconds[0])
    last = len(seconds) - 1
    return Duration("quantiles", points=tuple((i / last, value) for i, value in enumerate(sorted(seconds))))
