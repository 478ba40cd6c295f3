"""The number of spares with which the played run takes the fewest GPU-hours, sought upwards from the formula's."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from simulator.run.montecarlo import Progress, simulate
from simulator.run.result import RunResult
from simulator.run.specs import RunSpec

STEP_FRACTION = 0.08  # of the spares: what a try adds, at least one
MOST_TRIES = 6
# A try plays the first of the same draws, so many that they tell which count is better: with this many interruptions in
# all, in no fewer runs.
TOLD_BY_INTERRUPTIONS, LEAST_RUNS = 4000, 24


def simulate_with_best_spares(spec: RunSpec, progress: Progress | None = None) -> RunResult:
    """The run with the spares of its recovery, or with more while these save more GPU-hours than they take.

    The formula (`spares.best_spares`) knows neither nodes that never come back nor bursts, so that it gives too few.
    Seeds are the same at every try. More spares save at most the time in which the job waits for nodes: none are tried
    where that is less than their own share.
    """
    few = with_runs(spec, min(LEAST_RUNS, spec.simulation.runs))
    tried = simulate(few)
    in_a_run = sum(tried.interruptions.values())
    needed = max(LEAST_RUNS, ceil(TOLD_BY_INTERRUPTIONS / in_a_run) if in_a_run else spec.simulation.runs)
    few = with_runs(spec, min(needed, spec.simulation.runs))
    best = tried = simulate(few)
    for _ in range(MOST_TRIES):
        more = max(1, round(STEP_FRACTION * tried.spares))
        if waiting_fraction(tried) <= more / (spec.job_nodes + tried.spares):
            break
        tried = simulate(with_hot_spares(few, tried.spares + more))
        best = min(best, tried, key=gpu_hours)
    return simulate(with_hot_spares(spec, best.spares), progress)


def with_runs(spec: RunSpec, runs: int) -> RunSpec:
    """The run drawn so many times."""
    return replace(spec, simulation=replace(spec.simulation, runs=runs))


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
