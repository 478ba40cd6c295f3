"""The search for the job of one node that is enough: by date, by budget, or all of the GPUs that there are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hardware import catalogue
from hardware.problems import InputError, Place
from hardware.units import format_seconds, format_usd
from simulator.planner.fastest import best_plan
from simulator.planner.job import Job, play_job, with_spares, with_tokens
from simulator.planner.resized import NoPlan, gpu_counts, node_name
from simulator.planner.sizing import Question
from simulator.scenario.spec import Scenario

MOST_TRIES = 8  # to fit the tokens to date and budget
MOST_SLOWER = 2  # jobs in a row that are worse than all before


@dataclass(slots=True)
class Tries:
    """Jobs of one node by their number of GPUs, each played once; `counts` are those that a job can have."""

    scenario: Scenario
    node: str
    question: Question
    counts: list[int]
    jobs: dict[int, Job | None]
    reasons: dict[int, str]

    def __init__(self, scenario: Scenario, node: str, question: Question) -> None:
        self.scenario, self.node, self.question = scenario, node, question
        self.counts = gpu_counts(scenario, node)
        self.jobs, self.reasons = {}, {}

    def job(self, index: int) -> Job | None:
        """The job of a count; None where no plan is legal and fits."""
        count = self.counts[index]
        if count not in self.jobs:
            try:
                self.jobs[count] = play_job(best_plan(self.scenario, count, self.node))
            except (NoPlan, InputError) as error:
                self.jobs[count] = None
                self.reasons[count] = str(error)
        return self.jobs[count]

    def smallest(self) -> tuple[Job | None, Job | None, str]:
        """The job that is enough, the next smaller one, and what limits: the date where one is given (the fewest GPUs
        that meet it), else the budget (the most that it pays for)."""
        if not self.counts:
            return None, None, "no number of whole nodes shares the global batch evenly"
        if self.question.finish_within_s is None:
            return self._most_affordable()
        return self._fewest_in_time()

    def _fewest_in_time(self) -> tuple[Job | None, Job | None, str]:
        asked_s, confidence = self.question.finish_within_s or 0.0, self.question.confidence

        def in_time(index: int) -> bool:
            job = self.job(index)
            return job is not None and job.finish_at(confidence) <= asked_s

        index = self._first(in_time, self._guess(asked_s))
        if index is None:
            return None, None, self._too_late(asked_s)
        job, smaller = self.job(index), self.job(index - 1) if index else None
        if job is None:
            raise AssertionError("what is in time was played")
        cost, budget = job.result.cost_usd, self.question.budget_usd
        if budget is not None and cost is not None and cost > budget:
            spent = f"the date needs {job.gpus:,} GPUs, and their run costs {format_usd(cost)}"
            return None, job, f"the budget: {spent}; the budget is {format_usd(budget)}"
        unpriced = (
            "; no price is known, so the budget cannot be checked: write run.prices.gpu_hour"
            if budget is not None and cost is None
            else ""
        )
        return job, smaller, f"the date{self._missed(index, smaller)}{unpriced}"

    def _missed(self, index: int, smaller: Job | None) -> str:
        """In words, why one step smaller is not enough."""
        if index == 0:
            return ": it is met by the smallest job"
        count = self.counts[index - 1]
        if smaller is None:
            return f": with {count:,} GPUs no plan fits ({self.reasons[count]})"
        needed_s = smaller.finish_at(self.question.confidence)
        ends = format_seconds(needed_s) if math.isfinite(needed_s) else "never to end"
        return f": a job of {count:,} GPUs takes {ends}"

    def _too_late(self, asked_s: float) -> str:
        played = [job for job in self.jobs.values() if job is not None]
        if not played:
            return f"memory or rules: {next(iter(self.reasons.values()), 'no plan fits')}"
        confidence = self.question.confidence
        fastest = min(played, key=lambda job: job.finish_at(confidence))
        best_s = fastest.finish_at(confidence)
        if not math.isfinite(best_s):
            return f"failures: no job ends in {100 * confidence:g} % of the runs"
        best = f"{fastest.gpus:,} GPUs take {format_seconds(best_s)}, the least of all sizes that were played"
        return f"the date: {best}; asked is {format_seconds(asked_s)}"

    def _most_affordable(self) -> tuple[Job | None, Job | None, str]:
        """The job that ends first of those that the budget pays for."""
        budget, confidence = self.question.budget_usd or 0.0, self.question.confidence
        start = self._nearest(self.scenario.cluster.gpus)
        for direction in (1, -1):
            self._walk(start, direction, budget)
        played = {index: job for index in range(len(self.counts)) if (job := self._played(index)) is not None}
        if not played:
            return None, None, f"memory or rules: {next(iter(self.reasons.values()), 'no plan fits')}"
        costs = [job.result.cost_usd for job in played.values() if job.result.cost_usd is not None]
        if not costs:
            return None, None, "the budget cannot be checked: no price is known; write run.prices.gpu_hour"
        paid = [index for index in played if _is_paid(played[index], budget)]
        if not paid:
            least = format_usd(min(costs))
            return None, None, f"the budget buys no run: the cheapest costs {least}, the budget is {format_usd(budget)}"
        dear = min((index for index in played if index > max(paid)), default=None)
        if dear is not None:
            self._narrow(max(paid), dear, budget)
        self._polish(min(paid, key=lambda index: played[index].finish_at(confidence)), budget)
        jobs = [job for job in self.jobs.values() if job is not None and _is_paid(job, budget)]
        why = (
            "the budget: the next larger job costs more"
            if dear is not None
            else "scale: no larger job that was played ends sooner"
        )
        return min(jobs, key=lambda job: job.finish_at(confidence)), None, why

    def _walk(self, start: int, direction: int, budget: float) -> None:
        """Plays jobs in growing strides until two in a row are worse than all before: dearer where they are not paid
        for, else later."""
        stride, index, worse = 1, start, 0
        best: tuple[bool, float] | None = None
        while 0 <= index < len(self.counts) and worse < MOST_SLOWER:
            job = self.job(index)
            if job is not None:
                paid = _is_paid(job, budget)
                value = (not paid, job.finish_at(self.question.confidence) if paid else job.result.cost_usd or 0.0)
                worse = 0 if best is None or value < best else worse + 1
                best = value if best is None else min(best, value)
            index += direction * stride
            stride *= 2

    def _narrow(self, paid: int, dear: int, budget: float) -> None:
        """Plays jobs between one that is paid for and one that is not, until they are neighbours."""
        while dear - paid > 1:
            middle = (paid + dear) // 2
            job = self.job(middle)
            is_paid = job is None or _is_paid(job, budget)
            paid, dear = (middle, dear) if is_paid else (paid, middle)

    def _polish(self, index: int, budget: float) -> None:
        """Plays the neighbours of the job that ends first, until none of them ends sooner and is paid for."""

        def ends_s(index: int) -> float:
            job = self.job(index) if 0 <= index < len(self.counts) else None
            return job.finish_at(self.question.confidence) if job is not None and _is_paid(job, budget) else math.inf

        while (best := min((index, index - 1, index + 1), key=ends_s)) != index:
            index = best

    def _played(self, index: int) -> Job | None:
        return self.jobs.get(self.counts[index])

    def turned_round(self) -> tuple[Job | None, Job | None, str]:
        """All GPUs as the largest job with its spares, or as the largest at all with what is left as spares: the one
        that trains more by the date, or ends first."""
        bought = self.question.gpus or 0
        inside = [index for index in reversed(range(len(self.counts))) if self.counts[index] <= bought]
        largest = next((index for index in inside if self.job(index) is not None), None)
        if largest is None:
            reason = next(iter(self.reasons.values()), "fewer than the smallest job needs")
            return None, None, f"{bought:,} GPUs: {reason}"
        with_its_spares = next((index for index in inside if self._purchased(index) <= bought), largest)
        chosen = {largest, with_its_spares}
        answers = [self._filled(self._job_and_spares(index, bought)) for index in sorted(chosen)]
        return max(answers, key=self._trained)

    def _trained(self, answer: tuple[Job | None, Job | None, str]) -> tuple[float, float]:
        job = answer[0]
        return (0.0, 0.0) if job is None else (job.spec.tokens, -job.finish_at(self.question.confidence))

    def _purchased(self, index: int) -> float:
        """GPUs of a count's job and its spares; infinite where it has no plan."""
        job = self.job(index)
        return math.inf if job is None else job.gpus

    def _job_and_spares(self, index: int, bought: int) -> Job:
        """The job with all other GPUs as spares."""
        job = self.job(index)
        if job is None:
            raise AssertionError("only counts with a job are asked for")
        return play_job(with_spares(job.scenario, (bought - job.spec.job_gpus) // self._gpus_per_node()))

    def _gpus_per_node(self) -> int:
        own = self.node == node_name(self.scenario)
        return self.scenario.cluster.node.gpus if own else catalogue.node(self.node, Place("size")).gpus

    def _filled(self, job: Job) -> tuple[Job | None, Job | None, str]:
        """The job with the tokens that date and budget leave room for; as it is where neither is given."""
        question = self.question
        if question.finish_within_s is None and question.budget_usd is None:
            return job, None, "nothing was asked but the GPUs: the scenario's own tokens"
        factor, fitted = 1.0, job
        for _ in range(MOST_TRIES):
            room = self._room(fitted)
            if 1.0 <= room < 1.002:
                break
            if not (room > 0 and math.isfinite(room)):
                return None, None, "failures: the job does not end, or costs nothing that is known"
            factor *= room if room > 1 else room * 0.9995
            fitted = with_tokens(job, factor)
        if self._room(fitted) < 1.0:
            return None, None, "not even one step can be trained by the date and within the budget"
        return fitted, None, f"{self._limit(fitted)}: more tokens would exceed it"

    def _room(self, job: Job) -> float:
        """How many times longer or dearer the job might be, by the tighter of date and budget."""
        return min(self._rooms(job).values())

    def _rooms(self, job: Job) -> dict[str, float]:
        question, rooms = self.question, {}
        if question.finish_within_s is not None:
            rooms["the date"] = question.finish_within_s / job.finish_at(question.confidence)
        if question.budget_usd is not None and job.result.cost_usd:
            rooms["the budget"] = question.budget_usd / job.result.cost_usd
        return rooms or {"the budget": math.nan}

    def _limit(self, job: Job) -> str:
        rooms = self._rooms(job)
        return min(rooms, key=rooms.__getitem__)

    def _guess(self, asked_s: float) -> int:
        """Where a job would be in time if speed grew with GPUs, from the scenario's own number."""
        start = self._nearest(self.scenario.cluster.gpus)
        job = self.job(start)
        if job is None or not math.isfinite(job.finish_at(self.question.confidence)):
            return start
        return self._nearest(self.counts[start] * job.finish_at(self.question.confidence) / asked_s)

    def _nearest(self, count: float) -> int:
        return min(range(len(self.counts)), key=lambda index: abs(math.log(self.counts[index] / count)))

    def _first(self, holds: Callable[[int], bool], start: int) -> int | None:
        """The index at which something begins to hold, searched outward from a guess in growing strides; None where it
        never does, or where larger jobs end no sooner."""
        stride = 1
        if holds(start):
            high = start
            while high > 0 and holds(low := max(0, high - stride)):
                high, stride = low, 2 * stride
            if high == 0:
                return 0
            low = max(0, high - stride)
        else:
            low, high = start, self._up_to(holds, start)
            if high < 0:
                return None
            low = max(index for index in range(start, high) if self.counts[index] in self.jobs)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if holds(middle) else (middle, high)
        return high

    def _up_to(self, holds: Callable[[int], bool], start: int) -> int:
        """The first index of growing strides that holds; -1 where none does before larger jobs stop to be faster."""
        stride, index, slower = 1, start, 0
        best_s = math.inf
        while index < len(self.counts) - 1 and slower < MOST_SLOWER:
            index = min(index + stride, len(self.counts) - 1)
            if holds(index):
                return index
            job = self.job(index)
            if job is not None:
                ends_s = job.finish_at(self.question.confidence)
                slower = 0 if ends_s < best_s else slower + 1
                best_s = min(best_s, ends_s)
            stride *= 2
        return -1


def _is_paid(job: Job, budget: float) -> bool:
    return job.result.cost_usd is not None and job.result.cost_usd <= budget
