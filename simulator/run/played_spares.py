"""The number of spares with which the played run takes the fewest GPU-hours, sought upwards from the formula's."""

from __future__ import annotations

from dataclasses import replace

from simulator.run.montecarlo import Progress, simulate
from simulator.run.result import RunResult
from simulator.run.specs import RunSpec

STEP_FRACTION = 0.08  # of the spares: what a try adds, at least one
MOST_TRIES = 6


def simulate_with_best_spares(spec: RunSpec, progress: Progress | None = None) -> RunResult:
    """The run with the spares of its recovery, or with more while these save more GPU-hours than they take.

    The formula (`spares.best_spares`) knows neither nodes that never come back nor bursts, so that it gives too few.
    Seeds are the same at every try, of all runs: the few in which failures are frequent decide. More spares save at
    most the time in which the job waits for nodes: none are tried where that is less than their own share.
    """
    best = simulate(spec, progress)
    for _ in range(MOST_TRIES):
        more = max(1, round(STEP_FRACTION * best.spares))
        if waiting_fraction(best) <= more / (spec.job_nodes + best.spares):
            break
        tried = simulate(with_hot_spares(spec, best.spares + more), progress)
        if gpu_hours(tried) >= gpu_hours(best):
            break
        best = tried
    return best


def with_hot_spares(spec: RunSpec, count: int) -> RunSpec:
    """The run with so many spares in all, more of them hot."""
    return replace(spec, recovery=replace(spec.recovery, hot_spares=count - spec.recovery.cold_spares))


def waiting_fraction(result: RunResult) -> float:
    """Share of the mean run in which the job waits for nodes."""
    return result.lost_s["waiting"] / mean_s(result)


def mean_s(result: RunResult) -> float:
    """Wall time of the mean run."""
    return sum(result.lost_s.values()) + result.ideal_s


def gpu_hours(result: RunResult) -> tuple[float, float]:
    """What is to be small: runs that never end, then GPU-seconds of the mean run, the spares' included."""
    return -result.finishing_fraction, result.paid_gpus * mean_s(result)
