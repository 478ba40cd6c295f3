"""The 10th, 50th and 90th percentile over runs, infinite where a run never ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Floats


@dataclass(frozen=True, slots=True)
class Quantiles:
    """The 10th, 50th and 90th percentile over runs."""

    p10: float
    p50: float
    p90: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers; None where a run in that quantile never finishes."""
        return {name: _plain(getattr(self, name)) for name in ("p10", "p50", "p90")}


def quantiles(values: Floats) -> Quantiles:
    """10th, 50th and 90th percentile."""
    return Quantiles(*(quantile(values, share) for share in (0.1, 0.5, 0.9)))


def quantile(values: Floats, share: float) -> float:
    """A value that occurred, or the mean of two neighbours of which either would do (so that an endless run stays
    endless)."""
    lower = np.quantile(values, share, method="inverted_cdf")
    upper = -np.quantile(-np.asarray(values), round(1 - share, 12), method="inverted_cdf")
    return float((lower + upper) / 2)


def _plain(value: float) -> float | None:
    """A number that JSON knows; None for infinity."""
    return value if math.isfinite(value) else None
