"""The job of one node that ends first of those that a budget pays for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware.units import format_usd
from simulator.planner.job import Job
from simulator.planner.tried import MOST_SLOWER, Choice, TriedJobs, no_job


@dataclass(frozen=True, slots=True)
class Purse:
    """What may be spent, and at which confidence jobs are compared."""

    budget_usd: float
    confidence: float

    def pays(self, job: Job) -> bool:
        return job.result.cost_usd is not None and job.result.cost_usd <= self.budget_usd

    def ends_s(self, job: Job | None) -> float:
        """When a job ends; infinite for one that is not paid for."""
        return job.finish_at(self.confidence) if job is not None and self.pays(job) else math.inf

    def value(self, job: Job) -> tuple[bool, float]:
        """What is to be small: jobs that are not paid for come last, the dearest at the end."""
        if self.pays(job):
            return False, job.finish_at(self.confidence)
        return True, math.inf if job.result.cost_usd is None else job.result.cost_usd


def most_affordable(tried: TriedJobs, purse: Purse) -> Choice:
    """The job that ends first of those that the budget pays for."""
    start = tried.nearest(tried.scenario.cluster.gpus)
    for direction in (1, -1):
        walk(tried, purse, start, direction)
    played = tried.played()
    if not played:
        return no_job(tried.why_none())
    costs = [job.result.cost_usd for job in played.values() if job.result.cost_usd is not None]
    if not any(job.result.finishes for job in played.values()):
        return no_job("no job that was played finishes")
    if not costs:
        return no_job("the budget cannot be checked: no price is known; write run.prices.gpu_hour")
    paid = [index for index, job in played.items() if purse.pays(job)]
    if not paid:
        least, budget = format_usd(min(costs)), format_usd(purse.budget_usd)
        return no_job(f"the budget buys no run: the cheapest costs {least}, the budget is {budget}")
    dear = min((index for index in played if index > max(paid)), default=None)
    if dear is not None:
        narrow(tried, purse, max(paid), dear)
    polish(tried, purse, min(paid, key=lambda index: purse.ends_s(played[index])))
    best = min(tried.played().values(), key=purse.ends_s)
    if dear is not None:
        return Choice(best, None, "the budget: the next larger job costs more")
    return Choice(best, None, "scale: no larger job that was played ends sooner")


def walk(tried: TriedJobs, purse: Purse, start: int, direction: int) -> None:
    """Plays jobs in growing strides until two in a row are worse than all before."""
    stride, index, worse = 1, start, 0
    best: tuple[bool, float] | None = None
    while 0 <= index < len(tried.counts) and worse < MOST_SLOWER:
        job = tried.job(index)
        if job is not None:
            value = purse.value(job)
            worse = 0 if best is None or value < best else worse + 1
            best = value if best is None else min(best, value)
        index += direction * stride
        stride *= 2


def narrow(tried: TriedJobs, purse: Purse, paid: int, dear: int) -> None:
    """Plays jobs between one that is paid for and one that is not, until they are neighbours."""
    while dear - paid > 1:
        middle = (paid + dear) // 2
        job = tried.job(middle)
        is_paid = job is None or purse.pays(job)
        paid, dear = (middle, dear) if is_paid else (paid, middle)


def polish(tried: TriedJobs, purse: Purse, index: int) -> None:
    """Plays the neighbours of the job that ends first, until none of them ends sooner and is paid for."""

    def ends_s(index: int) -> float:
        return purse.ends_s(tried.job(index)) if 0 <= index < len(tried.counts) else math.inf

    while (best := min((index, index - 1, index + 1), key=ends_s)) != index:
        index = best
