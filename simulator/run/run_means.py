"""Means over simulated runs with less chance in them, and their standard errors.

What each run drew is known, and so is what it would draw in the mean: how far its step and its failure rate are off,
and how long the nodes that broke were in repair. Runs are weighted so that their means of these are the known ones
(control variates, written as the weights of a calibrated sample: Deville and Särndal 1992). All means of a result take
the same weights, so that their parts still add up.
"""

from __future__ import annotations

import math

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.fault_source import mean_repairs_s
from simulator.run.outcome import Outcome
from simulator.run.specs import RunSpec
from simulator.run.uncertainty import mean_rate_factor, mean_step_factor, rate_factors, step_factors

FEWEST_WEIGHTED = 20  # runs; fewer do not tell how a control and what it controls hang together
SPREAD = 1e-9  # of a control, below which it is the same in every run


def run_weights(spec: RunSpec, outcome: Outcome) -> Floats:
    """What each run counts in a mean, (runs,): they add up to 1, and none is below 0."""
    count = len(outcome.finish_s)
    weights = np.full(count, 1 / count)
    if count < FEWEST_WEIGHTED:
        return weights
    factors = _factors(spec, count)
    weights = _calibrated(weights, factors, np.array([0.0] * len(factors)))
    excess_s = _excess_repairs_s(spec, outcome)
    if excess_s is None:
        return weights
    # What is left of it once the factors are taken out: correcting it does not undo them.
    own_s = _residuals(excess_s, factors)
    return _calibrated(weights, own_s[None, :], np.array([-float(weights @ (excess_s - own_s))]))


def standard_error(spec: RunSpec, outcome: Outcome, values: Floats) -> float | None:
    """The standard error of the weighted mean of finite values by run; None of a single run.

    From what the factors and repairs of the runs do not explain. Where no run met a repair and there is no spare, as
    much as repairs would add in the mean is counted in.
    """
    count = len(values)
    if count < 2:
        return None
    if count < FEWEST_WEIGHTED:
        return float(values.std(ddof=1)) / math.sqrt(count)
    controls = _factors(spec, count)
    excess_s = _excess_repairs_s(spec, outcome)
    if excess_s is not None:
        controls = np.vstack([controls, excess_s])
    left = _residuals(values, controls)
    freedom = count - 1 - len(controls)
    error = math.sqrt(float((left**2).sum()) / freedom / count)
    unseen_fraction = _unseen_s(spec, outcome) / float(outcome.elapsed_s.mean())
    return math.hypot(error, unseen_fraction * float(values.mean()))


def _factors(spec: RunSpec, count: int) -> Floats:
    """Step and rate factors of all runs less their known means, (controls, runs); those without a spread left out."""
    runs, seed, uncertainty = np.arange(count), spec.simulation.seed, spec.uncertainty
    step = step_factors(uncertainty, seed, runs) - mean_step_factor(uncertainty)
    rate = rate_factors(uncertainty, seed, runs) - mean_rate_factor(uncertainty)
    kept = [factor for factor in (step, rate) if np.ptp(factor) > SPREAD]
    return np.array(kept).reshape(len(kept), count)


def _excess_repairs_s(spec: RunSpec, outcome: Outcome) -> Floats | None:
    """Seconds of repair that each run drew beyond those expected at its own rate, (runs,); None where none did."""
    drawn_s = outcome.repairs_s
    if drawn_s is None or not drawn_s.any():
        return None
    rates = rate_factors(spec.uncertainty, spec.simulation.seed, np.arange(len(drawn_s)))
    excess_s: Floats = drawn_s - rates * mean_repairs_s(spec)
    return excess_s


def _unseen_s(spec: RunSpec, outcome: Outcome) -> float:
    """What repairs would add to the mean run without spares where no run met one."""
    if outcome.repairs_s is None or outcome.repairs_s.any() or spec.recovery.spares:
        return 0.0
    return mean_rate_factor(spec.uncertainty) * mean_repairs_s(spec)


def _calibrated(weights: Floats, controls: Floats, wanted: Floats) -> Floats:
    """Weights changed least for the weighted means of `controls` (k, runs) to become `wanted` (k,), as far as none
    falls below 0."""
    if not len(controls):
        return weights
    centred = controls - controls.mean(axis=1, keepdims=True)
    missing = wanted - controls @ weights
    step = np.linalg.lstsq(centred @ centred.T, missing, rcond=None)[0] @ centred
    falls = step < 0
    part = min(1.0, float((weights[falls] / -step[falls]).min())) if falls.any() else 1.0
    changed = np.maximum(weights + part * step, 0.0)
    calibrated: Floats = changed / changed.sum()
    return calibrated


def _residuals(values: Floats, controls: Floats) -> Floats:
    """What a straight fit on the controls (k, runs) leaves of the values, (runs,)."""
    columns = np.vstack([np.ones(len(values)), controls]).T
    left: Floats = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    return left
