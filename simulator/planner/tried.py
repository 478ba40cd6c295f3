"""The jobs of one node by their number of GPUs, each played once: what sizing chooses from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hardware import catalogue
from hardware.problems import InputError, Place
from simulator.planner.fastest import best_plan
from simulator.planner.job import Job, play_job
from simulator.planner.resized import NoPlan, gpu_counts, node_name
from simulator.scenario.spec import Scenario

MOST_SLOWER = 2  # jobs in a row that are worse than all before


@dataclass(frozen=True, slots=True)
class Choice:
    """The job that is enough (None: none is), what one step smaller comes to, and what limits it, in words."""

    job: Job | None
    smaller: Job | None
    limits: str


def no_job(limits: str, smaller: Job | None = None) -> Choice:
    """No job is enough."""
    return Choice(None, smaller, limits)


@dataclass(slots=True)
class TriedJobs:
    """Jobs by their number of GPUs: `counts` are those that a job can have, ascending; an index is a place in them."""

    scenario: Scenario
    node: str
    counts: tuple[int, ...]
    jobs: dict[int, Job | None] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)

    def job(self, index: int) -> Job | None:
        """The job of a count, played when it is first asked for; None where no plan is legal and fits."""
        count = self.counts[index]
        if count not in self.jobs:
            try:
                self.jobs[count] = play_job(best_plan(self.scenario, count, self.node))
            except (NoPlan, InputError) as error:
                self.jobs[count] = None
                self.reasons[count] = str(error)
        return self.jobs[count]

    def is_tried(self, index: int) -> bool:
        return self.counts[index] in self.jobs

    def played(self) -> dict[int, Job]:
        """The jobs that were played, by index."""
        known = {index: self.jobs.get(count) for index, count in enumerate(self.counts)}
        return {index: job for index, job in known.items() if job is not None}

    def why_none(self) -> str:
        """Why no count that was tried has a job."""
        return f"memory or rules: {next(iter(self.reasons.values()), 'no plan fits')}"

    def nearest(self, count: float) -> int:
        """The index of the count that is nearest, by ratio."""
        return min(range(len(self.counts)), key=lambda index: abs(math.log(self.counts[index] / count)))

    @property
    def gpus_per_node(self) -> int:
        is_own = self.node == node_name(self.scenario)
        return self.scenario.cluster.node.gpus if is_own else catalogue.node(self.node, Place("size")).gpus


def tried_jobs(scenario: Scenario, node: str) -> TriedJobs:
    """No job of the node tried yet."""
    return TriedJobs(scenario, node, tuple(gpu_counts(scenario, node)))
