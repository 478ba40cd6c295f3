"""Which steps of a job count: the steady ones, apart from warm-up and spikes, and whether they drift over hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.launch.explain.records import SAMPLES, SECONDS, TOKENS_PER_GPU, Floats, Job, Steps

# Judged: the first steps are warm-up until three in a row lie within 5 % of what follows; a step 25 % above the median
# is a spike; a change of the median from the first to the last third that is beyond the noise and 1 % is a drift.
SETTLED_FRACTION, SETTLED_STEPS, SPIKE_FRACTION, DRIFT_FRACTION = 0.05, 3, 0.25, 0.01
FEW = 4


@dataclass(frozen=True, slots=True)
class Workpiece:
    """What the scenario says of a step, by which lines that state a rate become seconds."""

    batch: int
    tokens: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt's steps as seconds: each line stands for `covers` steps; masks say what each line is."""

    steps: Steps
    seconds: Floats
    covers: NDArray[np.int64]
    warm_up: NDArray[np.bool_]
    spike: NDArray[np.bool_]

    @property
    def steady(self) -> NDArray[np.bool_]:
        return ~self.warm_up & ~self.spike


@dataclass(frozen=True, slots=True)
class Drift:
    """How the steady step changes from the first third of the lines to the last, and how far apart these lie."""

    change_fraction: float
    hours: float


@dataclass(frozen=True, slots=True)
class SteadySteps:
    """A job's attempts with their steady step: median, quartiles, count; and its drift (None: none beyond noise)."""

    attempts: tuple[Attempted, ...]
    step_time_s: float
    quartiles_s: tuple[float, float]
    steps: int
    drift: Drift | None


def seconds_of(job: Job, steps: Steps, work: Workpiece) -> Floats:
    """Seconds of a step for every line; rates become seconds by the log's batch, or by the scenario's."""
    if job.states == SECONDS:
        return steps.speed
    if job.states == TOKENS_PER_GPU:
        return work.tokens / work.gpus / steps.speed
    if job.states == SAMPLES:
        batch = np.where(steps.batch > 0, steps.batch, work.batch)
        return np.asarray(batch / steps.speed, dtype=np.float64)
    raise ValueError(f"a line that states {job.states} is not known")


def covered(job: Job, steps: Steps) -> NDArray[np.int64]:
    """How many steps each line stands for; lines that count samples stand for as many steps as batches.

    The first line stands for those since the last that would have been printed: step 1 is printed alone by jobs that
    then print every n-th.
    """
    gaps = np.diff(steps.number, prepend=0)
    usual = _usual_gap(gaps[1:])
    gaps[0] = steps.number[0] % usual or usual
    if job.states == SAMPLES and job.batch and usual >= job.batch:
        gaps = gaps // job.batch
    return np.maximum(gaps, 1)


def _usual_gap(gaps: NDArray[np.int64]) -> int:
    """The gap that most lines have, the larger of several; 1 where there is one line."""
    if not len(gaps):
        return 1
    sizes, counts = np.unique(gaps, return_counts=True)
    return max(1, int(sizes[counts == counts.max()].max()))


def steady_steps(job: Job, work: Workpiece) -> SteadySteps:
    """The steady steps of all attempts together."""
    attempts = tuple(attempted(job, each, work) for each in job.attempts)
    seconds = np.concatenate([each.seconds[each.steady] for each in attempts])
    weights = np.concatenate([each.covers[each.steady] for each in attempts])
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return SteadySteps(
        attempts=attempts,
        step_time_s=float(middle),
        quartiles_s=(float(low), float(high)),
        steps=int(weights.sum()),
        drift=drift_of(attempts),
    )


def attempted(job: Job, steps: Steps, work: Workpiece) -> Attempted:
    """One attempt's lines, each told apart."""
    seconds = seconds_of(job, steps, work)
    count = len(seconds)
    if count < FEW:
        nothing = np.zeros(count, dtype=bool)
        # Without others to compare with, the first of several lines is what warms up.
        first = nothing.copy()
        first[0] = count > 1 and seconds[0] > (1 + SETTLED_FRACTION) * seconds[1:].max()
        return Attempted(steps, seconds, covered(job, steps), first, nothing)
    usual = float(np.median(seconds[count // 4 :]))
    warm = np.zeros(count, dtype=bool)
    warm[: _settled_at(seconds, usual)] = True
    spike = ~warm & (seconds > (1 + SPIKE_FRACTION) * usual)
    return Attempted(steps, seconds, covered(job, steps), warm, spike)


def _settled_at(seconds: Floats, usual: float) -> int:
    """The first of a few lines in a row that are no slower than usual; at most half of the lines warm up."""
    most = len(seconds) // 2
    for start in range(most):
        if (seconds[start : start + SETTLED_STEPS] <= (1 + SETTLED_FRACTION) * usual).all():
            return start
    return most


def drift_of(attempts: tuple[Attempted, ...]) -> Drift | None:
    """The drift of the longest attempt."""
    longest = max(attempts, key=lambda each: int(each.steady.sum()))
    seconds, at_s = longest.seconds[longest.steady], longest.steps.at_s[longest.steady]
    third = len(seconds) // 3
    if third < FEW:
        return None
    first, last = seconds[:third], seconds[-third:]
    change = float(np.median(last) / np.median(first) - 1)
    spread = float(np.median(np.abs(seconds - np.median(seconds))) / np.median(seconds))
    noise = 3 * spread * np.sqrt(2 / third)
    if abs(change) < max(DRIFT_FRACTION, noise):
        return None
    between_s = float(np.median(at_s[-third:]) - np.median(at_s[:third]))
    jumps_back = bool((np.diff(at_s) < 0).any())
    if jumps_back or not between_s > 0:
        between_s = float((longest.seconds * longest.covers).sum()) * 2 / 3
    return Drift(change, between_s / 3600)
