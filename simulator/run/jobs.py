"""Jobs that share one cluster: which waits for which, and when each starts on the GPUs that are free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field

from simulator.fields import METADATA, Setting, setting


@dataclass(frozen=True, slots=True)
class RunJob:
    """A job beside or around this scenario's own run, which is the one with neither a time nor a scenario."""

    name: str = setting(MISSING, Setting("What the job is called.", "fine-tune"))
    after: tuple[str, ...] = field(
        default=(), metadata={METADATA: Setting("Jobs that must have ended before it starts.", ["pre-train"])}
    )
    gpus: int | None = setting(
        None,
        Setting("GPUs that it holds, 0 for work on other machines; without it, its scenario's, or all.", 64, least=0),
    )
    lasts_s: float | None = setting(None, Setting("How long it takes, where no scenario says it.", "2 d"))
    scenario: str | None = setting(None, Setting("File of the scenario that it runs.", "fine-tune.yaml"))

    @property
    def is_own(self) -> bool:
        """Whether it is the run of the scenario that lists it."""
        return self.lasts_s is None and self.scenario is None


@dataclass(frozen=True, slots=True)
class TimedJob:
    """A job once its GPUs and its seconds are known."""

    name: str
    after: tuple[str, ...]
    gpus: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """When a job holds how many GPUs."""

    name: str
    gpus: int
    start_s: float
    end_s: float


def job_faults(jobs: Sequence[RunJob]) -> list[tuple[str, str]]:
    """What is wrong with a list of jobs, as (key below the list, message)."""
    names = [job.name for job in jobs]
    found = []
    for number, job in enumerate(jobs):
        if job.lasts_s is not None and job.scenario is not None:
            found.append((f"{number}.lasts", "and scenario exclude each other: the scenario says how long it takes"))
        if job.name in names[:number]:
            found.append((f"{number}.name", f"{job.name} is the name of two jobs"))
        unknown = [name for name in job.after if name not in names]
        if unknown:
            found.append((f"{number}.after", f"names no job: {', '.join(unknown)}. Write some of {', '.join(names)}"))
    if sum(job.is_own for job in jobs) != 1:
        found.append(("", "need exactly one with neither lasts nor scenario: this scenario's own run"))
    return found or _circles(jobs)


def _circles(jobs: Sequence[RunJob]) -> list[tuple[str, str]]:
    """Jobs that wait for themselves through others."""
    left = {job.name: set(job.after) for job in jobs}
    while True:
        ready = {name for name, waits in left.items() if not waits}
        if not ready:
            break
        left = {name: waits - ready for name, waits in left.items() if name not in ready}
    return [("", f"wait for each other in a circle: {', '.join(left)}")] if left else []


def scheduled(jobs: Sequence[TimedJob], gpus: int) -> tuple[ScheduledJob, ...]:
    """Jobs in the order in which they start: each as soon as those before it have ended and its GPUs are free.

    Where several could start, the one listed first does; a job that fits does not wait for one that does not (list
    scheduling, Graham 1966). Jobs must be free of faults and hold at most `gpus` each; an endless one ends never, and
    those behind it neither.
    """
    waiting = list(jobs)
    found: dict[str, ScheduledJob] = {}
    now_s = 0.0
    while waiting:
        for job in list(waiting):
            if _can_start(job, found, now_s, gpus):
                found[job.name] = ScheduledJob(job.name, job.gpus, now_s, now_s + job.seconds)
                waiting.remove(job)
        now_s = min((job.end_s for job in found.values() if job.end_s > now_s), default=math.inf)
        if math.isinf(now_s):
            found |= {job.name: ScheduledJob(job.name, job.gpus, math.inf, math.inf) for job in waiting}
            break
    return tuple(found.values())


def _can_start(job: TimedJob, found: Mapping[str, ScheduledJob], now_s: float, gpus: int) -> bool:
    before = [found.get(name) for name in job.after]
    if any(earlier is None or earlier.end_s > now_s for earlier in before):
        return False
    held = sum(other.gpus for other in found.values() if other.end_s > now_s)
    return held + job.gpus <= gpus


def makespan_s(jobs: Sequence[ScheduledJob]) -> float:
    """From the first start to the last end."""
    return max(job.end_s for job in jobs)


def idle_fraction(jobs: Sequence[ScheduledJob], gpus: int) -> float:
    """Share of the cluster's GPU-seconds until the last end that no job holds; 0 where that never comes."""
    whole_s = makespan_s(jobs)
    if math.isinf(whole_s) or whole_s == 0:
        return 0.0
    held = sum(job.gpus * (job.end_s - job.start_s) for job in jobs)
    return 1 - held / (gpus * whole_s)
