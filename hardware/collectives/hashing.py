"""What hashing flows onto equal links costs: the fullest of many links carries more than its share."""

from __future__ import annotations

import numpy as np

from hardware.arrays import Floats, Number

# Up to this mean the maximum is summed exactly; above it the normal law's is as good.
_EXACT_MEAN = 64.0
_COUNTS = np.arange(256.0)
_LOG_FACTORIALS = np.concatenate([[0.0], np.cumsum(np.log(_COUNTS[1:]))])


def expected_fullest(mean: Number, links: Number) -> Floats:
    """Expected number of flows on the fullest of `links` links, `mean` flows falling on each at random.

    Balls into bins: counts are close to independent Poisson variables, so that
    E[max] = sum over x >= 0 of 1 - P(X <= x)^links (Mitzenmacher and Upfal, Probability and Computing, section 5.4);
    for large means the extreme value of the normal law.
    """
    mean, links = np.broadcast_arrays(np.asarray(mean, dtype=float), np.maximum(np.asarray(links, dtype=float), 1.0))
    fullest: Floats = np.where(mean <= _EXACT_MEAN, _summed(np.minimum(mean, _EXACT_MEAN), links), _normal(mean, links))
    return np.where(mean > 0, np.maximum(fullest, mean), 0.0)


def _summed(mean: Floats, links: Floats) -> Floats:
    positive = np.maximum(mean, 1e-300)[..., None]
    probability = np.exp(_COUNTS * np.log(positive) - positive - _LOG_FACTORIALS)
    at_most = np.minimum(np.cumsum(probability, axis=-1), 1.0)
    total: Floats = (1.0 - at_most ** links[..., None]).sum(axis=-1)
    return total


def _normal(mean: Floats, links: Floats) -> Floats:
    spread = np.sqrt(2.0 * np.log(np.maximum(links, 2.0)))
    correction = (np.log(np.log(np.maximum(links, 3.0))) + np.log(4.0 * np.pi)) / (2.0 * spread)
    fullest: Floats = mean + np.sqrt(mean) * (spread - correction)
    return fullest
