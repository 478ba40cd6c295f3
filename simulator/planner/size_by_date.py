"""The fewest GPUs of one node whose run ends by a date."""

from __future__ import annotations

import math
from collections.abc import Callable

from hardware.units import format_seconds, format_usd
from simulator.planner.job import Job
from simulator.planner.sizing import Question
from simulator.planner.tried import MOST_SLOWER, Choice, TriedJobs, no_job


def fewest_in_time(tried: TriedJobs, question: Question, within_s: float) -> Choice:
    """The smallest job that ends within so long at the asked confidence, and whether the budget pays for it."""

    def in_time(index: int) -> bool:
        job = tried.job(index)
        return job is not None and job.finish_at(question.confidence) <= within_s

    index = first_index(tried, in_time, guessed_index(tried, question.confidence, within_s), question.confidence)
    job = None if index is None else tried.job(index)
    if index is None or job is None:
        return no_job(too_late(tried, question.confidence, within_s))
    cost, budget = job.result.cost_usd, question.budget_usd
    if budget is not None and cost is not None and cost > budget:
        spent = f"the date needs {job.gpus:,} GPUs, and their run costs {format_usd(cost)}"
        return no_job(f"the budget: {spent}; the budget is {format_usd(budget)}", smaller=job)
    smaller = tried.job(index - 1) if index else None
    limits = f"the date{smaller_words(tried, index, smaller, question.confidence)}"
    if budget is not None and cost is None:
        limits += "; no price is known, so the budget cannot be checked: write run.prices.gpu_hour"
    return Choice(job, smaller, limits)


def guessed_index(tried: TriedJobs, confidence: float, within_s: float) -> int:
    """Where a job would be in time if speed grew with GPUs, from the scenario's own number."""
    start = tried.nearest(tried.scenario.cluster.gpus)
    job = tried.job(start)
    ends_s = math.inf if job is None else job.finish_at(confidence)
    return tried.nearest(tried.counts[start] * ends_s / within_s) if math.isfinite(ends_s) else start


def first_index(tried: TriedJobs, holds: Callable[[int], bool], start: int, confidence: float) -> int | None:
    """The index at which something begins to hold, searched outward from `start` in growing strides; None where it
    never does, or where larger jobs end no sooner."""
    if holds(start):
        low, high = bounds_below(holds, start)
    else:
        above = next_index_above(tried, holds, start, confidence)
        if above is None:
            return None
        low, high = max(index for index in range(start, above) if tried.is_tried(index)), above
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def bounds_below(holds: Callable[[int], bool], start: int) -> tuple[int, int]:
    """An index at which something does not hold (-1: it holds at all), and a larger one at which it does."""
    stride, high = 1, start
    while high > 0:
        low = max(0, high - stride)
        if not holds(low):
            return low, high
        high, stride = low, 2 * stride
    return -1, 0


def next_index_above(tried: TriedJobs, holds: Callable[[int], bool], start: int, confidence: float) -> int | None:
    """The first index of growing strides that holds; None where none does before larger jobs stop to be faster."""
    stride, index, slower, best_s = 1, start, 0, math.inf
    while index < len(tried.counts) - 1 and slower < MOST_SLOWER:
        index = min(index + stride, len(tried.counts) - 1)
        if holds(index):
            return index
        job = tried.job(index)
        if job is not None:
            ends_s = job.finish_at(confidence)
            slower = 0 if ends_s < best_s else slower + 1
            best_s = min(best_s, ends_s)
        stride *= 2
    return None


def smaller_words(tried: TriedJobs, index: int, smaller: Job | None, confidence: float) -> str:
    """Why one step smaller is not enough."""
    if index == 0:
        return ": it is met by the smallest job"
    count = tried.counts[index - 1]
    if smaller is None:
        return f": with {count:,} GPUs no plan fits ({tried.reasons[count]})"
    needed_s = smaller.finish_at(confidence)
    ends = format_seconds(needed_s) if math.isfinite(needed_s) else "never to end"
    return f": a job of {count:,} GPUs takes {ends}"


def too_late(tried: TriedJobs, confidence: float, within_s: float) -> str:
    """Why no job is in time."""
    played = tried.played()
    if not played:
        return tried.why_none()
    fastest = min(played.values(), key=lambda job: job.finish_at(confidence))
    best_s = fastest.finish_at(confidence)
    if not math.isfinite(best_s):
        return f"failures: no job ends in {100 * confidence:g} % of the runs"
    best = f"{fastest.gpus:,} GPUs take {format_seconds(best_s)}, the least of all sizes that were played"
    return f"the date: {best}; asked is {format_seconds(within_s)}"
