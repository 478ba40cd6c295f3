"""What given GPUs of one node can train by a date and within a budget: sizing turned round."""

from __future__ import annotations

import math

from simulator.planner.job import Job, play_job, with_spares, with_tokens
from simulator.planner.sizing import Question
from simulator.planner.tried import Choice, TriedJobs, no_job

MOST_TRIES = 8  # to fit the tokens to date and budget


def turned_round(tried: TriedJobs, question: Question, gpus: int) -> Choice:
    """All `gpus` as the largest job with its spares, or as the largest at all with what is left as spares: the one that
    trains more by the date, or ends first."""
    inside = [index for index in reversed(range(len(tried.counts))) if tried.counts[index] <= gpus]
    largest = next((index for index in inside if tried.job(index) is not None), None)
    if largest is None:
        reason = next(iter(tried.reasons.values()), "fewer than the smallest job needs")
        return no_job(f"{gpus:,} GPUs: {reason}")
    with_its_spares = next((index for index in inside if purchased_gpus(tried, index) <= gpus), largest)
    choices = [choice_at(tried, question, index, gpus) for index in sorted({largest, with_its_spares})]
    return max(choices, key=lambda choice: trained(choice, question))


def purchased_gpus(tried: TriedJobs, index: int) -> float:
    """GPUs of a count's job and its spares; infinite where it has no plan."""
    job = tried.job(index)
    return math.inf if job is None else job.gpus


def trained(choice: Choice, question: Question) -> tuple[float, float]:
    """What is to be large: tokens, then how soon they are trained."""
    job = choice.job
    return (0.0, -math.inf) if job is None else (job.spec.tokens, -job.finish_at(question.confidence))


def choice_at(tried: TriedJobs, question: Question, index: int, gpus: int) -> Choice:
    """The job of a count, all other whole nodes as its spares, with the tokens that there is room for."""
    own = tried.job(index)
    if own is None:
        raise ValueError(f"{tried.counts[index]} GPUs have no job")
    spare_nodes = (gpus - own.spec.job_gpus) // tried.gpus_per_node
    job = play_job(with_spares(own.scenario, spare_nodes))
    fitted, limits = with_room_filled(job, question)
    if fitted is None:
        return no_job(limits)
    return Choice(fitted, None, "; ".join([limits, *left_over(tried, fitted, gpus)]))


def left_over(tried: TriedJobs, job: Job, gpus: int) -> list[str]:
    """Why GPUs are not in the job, in words."""
    words = []
    if job.gpus < gpus:
        words.append(f"{gpus - job.gpus} of the {gpus:,} GPUs fill no node of {tried.gpus_per_node}")
    own = job.spec.job_gpus
    larger = next((count for count in tried.counts if count > own), None)
    if job.gpus > own and larger is not None and larger > gpus:
        batch = job.scenario.plan.global_batch_size
        words.append(f"the next job larger than {own:,} that shares the batch of {batch:,} evenly has {larger:,} GPUs")
    return words


def with_room_filled(job: Job, question: Question) -> tuple[Job | None, str]:
    """The job with the tokens that date and budget leave room for, as it is where neither is given; and what limits."""
    if question.finish_within_s is None and question.budget_usd is None:
        return job, "nothing: only the GPUs are given, so the tokens are the scenario's own"
    factor, fitted = 1.0, job
    for _ in range(MOST_TRIES):
        room = min(rooms(fitted, question).values())
        if 1.0 <= room < 1.002:
            break
        if not (room > 0 and math.isfinite(room)):
            return None, "failures: the job does not end, or costs nothing that is known"
        factor *= room if room > 1 else room * 0.9995
        fitted = with_tokens(job, factor)
    found = rooms(fitted, question)
    tightest = min(found, key=found.__getitem__)
    if found[tightest] < 1.0:
        return None, "not even one step can be trained by the date and within the budget"
    return fitted, f"{tightest}: more tokens would exceed it"


def rooms(job: Job, question: Question) -> dict[str, float]:
    """How many times longer and dearer the job might be."""
    found = {}
    if question.finish_within_s is not None:
        found["the date"] = question.finish_within_s / job.finish_at(question.confidence)
    if question.budget_usd is not None and job.result.cost_usd:
        found["the budget"] = question.budget_usd / job.result.cost_usd
    return found or {"the budget": math.nan}
