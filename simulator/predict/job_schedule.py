"""All jobs of a cluster around a run: the seconds and joules of each, their schedule, what all of them cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from simulator.run.jobs import RunJob, ScheduledJob, TimedJob, idle_fraction, makespan_s, scheduled
from simulator.run.money import cost_usd
from simulator.run.quantiles import Quantiles
from simulator.run.result import RunResult
from simulator.run.specs import Power, RunSpec
from simulator.scenario.jobs import job_gpus
from simulator.scenario.spec import Scenario


@dataclass(frozen=True, slots=True)
class JobsReport:
    """The schedule at the median of every job's time, in order of starts.

    `makespan_s`: its quantiles are those of jobs that are all early or all late together. `idle_fraction` of the
    cluster's GPU-hours belongs to no job. `cost_usd` is of the whole cluster from first start to last end, by the
    prices of the run; None without prices, or where it never ends.
    """

    jobs: tuple[ScheduledJob, ...]
    makespan_s: Quantiles
    idle_fraction: float
    energy_j: float | None
    cost_usd: float | None


def jobs_report(
    scenario: Scenario, spec: RunSpec, own: RunResult, others: Mapping[str, RunResult]
) -> JobsReport | None:
    """The report of a scenario's jobs, given its own run and those of the scenarios they name; None without jobs."""
    policies = scenario.run.policies
    if policies is None or not policies.jobs:
        return None
    runs = {job.name: own if job.is_own else others.get(job.name) for job in policies.jobs}
    gpus = scenario.cluster.gpus
    plans = {
        name: scheduled([_timed(job, scenario, runs[job.name], name) for job in policies.jobs], gpus)
        for name in ("p10", "p50", "p90")
    }
    median = plans["p50"]
    ends = Quantiles(*(makespan_s(plans[name]) for name in ("p10", "p50", "p90")))
    energy_j = None if spec.power is None else _energy_j(median, runs, gpus, spec.power)
    return JobsReport(
        jobs=median,
        makespan_s=ends,
        idle_fraction=idle_fraction(median, gpus),
        energy_j=energy_j,
        cost_usd=_cost_usd(spec, ends.p50, energy_j),
    )


def _timed(job: RunJob, scenario: Scenario, run: RunResult | None, quantile: str) -> TimedJob:
    """A job with its GPUs and one quantile of its seconds."""
    seconds = (job.lasts_s or 0.0) if run is None else getattr(run.finish_s, quantile)
    gpus = job_gpus(job, scenario.job_scenarios.get(job.name), scenario.cluster)
    return TimedJob(job.name, job.after, gpus, seconds)


def _energy_j(
    jobs: tuple[ScheduledJob, ...], runs: dict[str, RunResult | None], gpus: int, power: Power
) -> float | None:
    """Joules at the meter: of each run its own, of a job with a time alone as while training, of idle GPUs theirs."""
    whole_s = makespan_s(jobs)
    if whole_s == float("inf"):
        return None
    spent = power.pue * power.idle_w * idle_fraction(jobs, gpus) * gpus * whole_s
    for job in jobs:
        run = runs[job.name]
        training_j = power.pue * power.busy_w * job.gpus * (job.end_s - job.start_s)
        spent += training_j if run is None or run.energy_j is None else run.energy_j
    return spent


def _cost_usd(spec: RunSpec, whole_s: float, energy_j: float | None) -> float | None:
    if spec.prices is None or whole_s == float("inf"):
        return None
    return cost_usd(whole_s, energy_j, spec.paid_gpus, spec.prices, spec.power)
