"""The number of spares with which a run takes the fewest GPU-hours, from the very faults that its samples meet."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from simulator.run.absences import Absences, absences, pace_fraction, speeds_when_short, wall_time_s
from simulator.run.arrays import Floats
from simulator.run.closed_form import closed_form_goodput
from simulator.run.fault_source import FaultSource, fault_source, window_s
from simulator.run.fault_timeline import merged
from simulator.run.faults import KINDS, mean_rate_per_s, mean_time_between_s
from simulator.run.montecarlo import saving_of
from simulator.run.specs import RunSpec
from simulator.run.uncertainty import mean_rate_factor, rate_factors, step_factors

FEWEST_SAMPLES, MOST_SAMPLES = 200, 500
SAMPLED_FAULTS = 50_000  # of all samples together, where the fewest have fewer
FEWEST_OF_MANY = 20  # samples at a known rate, where each meets so many faults that few are enough
OFTEN_AWAY = 0.25  # of a node's time: spares that are away so often are drawn for each number of them anew
SETTLED_FRACTION = 0.1  # of the spares: so many more, and their own faults count
MOST_SPARES_PER_NODE = 16  # of the job: a machine whose nodes are nearly always away is no plan
MOST_WINDOWS = 10  # of a run: some 10,000 faults, after which its pace is no longer a matter of luck


def with_hot_spares(spec: RunSpec, count: int) -> RunSpec:
    """The run with so many spares in all, those that are not cold hot."""
    return replace(spec, recovery=replace(spec.recovery, hot_spares=count - spec.recovery.cold_spares))


def with_best_spares(spec: RunSpec) -> RunSpec:
    """The run with the spares with which its mean sample takes the fewest GPU-hours, the spares' included.

    Only the nodes away are followed, not the job: it stands (or shrinks) while more are away than there are spares, and
    all else that failures cost is taken to first order. A sample that would be given up counts until then. Spares fail
    too: the faults are drawn again with about as many as are taken, and for every number tried where nodes are often
    away. At most `MOST_SPARES_PER_NODE` times the nodes of the job, no fewer than the cold ones.
    """
    if _is_never_worth_one(spec):
        return with_hot_spares(spec, spec.recovery.cold_spares)
    if _away(spec) >= OFTEN_AWAY * spec.job_nodes:
        return _climbed(spec, round(_away(spec)))
    about = _with_best_of(spec, _samples(spec, FEWEST_SAMPLES))
    count = _sample_count(about)
    if count == FEWEST_SAMPLES and about.recovery == spec.recovery:
        return about
    best = _with_best_of(about, _samples(about, count))
    more = best.recovery.spares - about.recovery.spares
    if more > max(1.0, SETTLED_FRACTION * best.recovery.spares):
        return _climbed(best, best.recovery.spares)
    return best


def _climbed(spec: RunSpec, start: int) -> RunSpec:
    """The run with the best spares, each number tried under faults of its own; sought from `start` in strides that are
    halved."""
    least, most = spec.recovery.cold_spares, MOST_SPARES_PER_NODE * spec.job_nodes
    best = min(most, max(least, start))
    gpu_s = {best: _gpu_s(spec, best)}
    stride = max(1, best // 4)
    while stride:
        nearby = (max(least, best - stride), min(most, best + stride))
        for spares in nearby:
            if spares not in gpu_s:
                gpu_s[spares] = _gpu_s(spec, spares)
        nearest = min(nearby, key=lambda spares: gpu_s[spares])
        if gpu_s[nearest] < gpu_s[best]:
            best = nearest
        else:
            stride //= 2
    return with_hot_spares(spec, best)


def _gpu_s(spec: RunSpec, spares: int) -> float:
    """GPU-seconds of the mean sample with so many spares, which fail as they would; none is given up."""
    tried = with_hot_spares(spec, spares)
    fewest = FEWEST_SAMPLES if spec.uncertainty.rate_sigma else FEWEST_OF_MANY
    samples = _samples(tried, min(FEWEST_SAMPLES, _sample_count(tried, fewest)))
    if not samples:
        return math.inf
    speeds = speeds_when_short(tried)
    return tried.paid_gpus * sum(sample.endless_s(spares, speeds) for sample in samples) / len(samples)


def _is_never_worth_one(spec: RunSpec) -> bool:
    """Whether a job without spares stands less, at most while any node is in repair, than one spare takes."""
    is_free = spec.unused_gpus > 0
    return not is_free and _away(spec) <= 1 / spec.job_nodes


def _away(spec: RunSpec) -> float:
    """Nodes that would be away in the mean if those of the job were always at work."""
    away = 0.0
    gpus = spec.job_nodes * spec.gpus_per_node
    for fault in spec.failures.classes:
        if fault.repair is not None:
            rate_per_s = mean_rate_per_s(fault, gpus, 0.0, spec.work_s, spec.failures.age_s)
            away += rate_per_s * (fault.detect.mean_s() + fault.repair.mean_s())
    return mean_rate_factor(spec.uncertainty) * away


def _sample_count(spec: RunSpec, fewest: int = FEWEST_SAMPLES) -> int:
    """More samples where they meet few faults: the seldom ones decide, and they are drawn fast."""
    gpus = spec.machines.nodes * spec.gpus_per_node
    faults = spec.work_s / mean_time_between_s(spec.failures, gpus, KINDS)
    if faults == 0:
        return FEWEST_SAMPLES
    return round(min(MOST_SAMPLES, max(fewest, SAMPLED_FAULTS / faults)))


def _with_best_of(spec: RunSpec, samples: list[_Sample]) -> RunSpec:
    """The run with the best spares for these samples, sought from as many as are ever away downwards."""
    if not samples:
        return spec
    speeds = speeds_when_short(spec)
    spares = min(MOST_SPARES_PER_NODE * spec.job_nodes, max(sample.most_away for sample in samples))
    gpu_s: dict[int, Floats] = {}
    fewest = math.inf
    while spares >= spec.recovery.cold_spares:
        walls_s = np.array([sample.wall_time_s(spares, speeds) for sample in samples])
        gpu_s[spares] = with_hot_spares(spec, spares).paid_gpus * walls_s
        fewest = min(fewest, float(gpu_s[spares].mean()))
        # With fewer spares no sample ends sooner: not even free ones would make up for it.
        if spec.job_gpus * float(walls_s.mean()) >= fewest:
            break
        spares -= 1
    return with_hot_spares(spec, max(_most_of_the_best(gpu_s), spec.recovery.cold_spares))


def _most_of_the_best(gpu_s: dict[int, Floats]) -> int:
    """The number of spares with the fewest GPU-seconds in the mean of the samples, or the next more that their chance
    does not tell from it: what long repairs would cost is met too seldom to be missed."""
    best = min(gpu_s, key=lambda spares: (float(gpu_s[spares].mean()), spares))
    more = gpu_s.get(best + 1)
    if more is None:
        return best
    excess = more - gpu_s[best]
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess))
    return best + 1 if 0 < float(excess.mean()) <= 2 * error else best


@dataclass(slots=True)
class _Sample:
    """One run's nodes away, drawn further where its work is not done yet: `work_s` with all losses but waiting, at most
    `longest_s` of it."""

    spec: RunSpec
    source: FaultSource
    number: int
    work_s: float
    longest_s: float
    known: Absences

    @property
    def most_away(self) -> int:
        return self.known.most(self.work_s)

    def wall_time_s(self, spares: int, speeds: Floats) -> float:
        """When the run ends with so many spares, or is given up."""
        return min(self.endless_s(spares, speeds), self.longest_s)

    def endless_s(self, spares: int, speeds: Floats) -> float:
        """When the run ends with so many spares if it is never given up."""
        if self.known.until_s >= self.work_s and spares >= self.most_away:
            return self.work_s
        while True:
            end_s = wall_time_s(self.known, spares, self.work_s, speeds)
            if math.isfinite(end_s) or not self._extend():
                break
        if math.isinf(end_s):
            pace = pace_fraction(self.known, spares, speeds)
            end_s = self.work_s / pace if pace > 0 else math.inf
        return end_s

    def _extend(self) -> bool:
        """Draws faults for twice as long; whether there was more to draw."""
        length_s = window_s(self.spec)
        windows = round(self.known.until_s / length_s)
        more = min(2 * windows, MOST_WINDOWS, math.ceil(self.longest_s / length_s))
        if more <= windows:
            return False
        self.known = _absences(self.spec, self.source, self.number, more)
        return True


def _samples(spec: RunSpec, count: int) -> list[_Sample]:
    """So many runs, their faults drawn for as long as they take at full speed; none where nothing ever works."""
    goodput = closed_form_goodput(spec, saving_of(spec)) / (1 - spec.evaluation_fraction)
    if goodput <= 0:
        return []
    runs = np.arange(count)
    seed = spec.simulation.seed
    lost_fraction = rate_factors(spec.uncertainty, seed, runs) * (1 / goodput - 1)
    works_s = spec.work_s * step_factors(spec.uncertainty, seed, runs) * (1 + lost_fraction)
    source, length_s = fault_source(spec), window_s(spec)
    samples = []
    for number, work_s in zip(runs.tolist(), works_s.tolist(), strict=True):
        windows = min(MOST_WINDOWS, math.ceil(work_s / length_s))
        known = _absences(spec, source, number, windows)
        longest_s = work_s / spec.simulation.give_up_fraction
        samples.append(_Sample(spec, source, number, work_s, longest_s, known))
    return samples


def _absences(spec: RunSpec, source: FaultSource, number: int, windows: int) -> Absences:
    """Nodes away in the first windows of a run, drawn as the run is played."""
    length_s = window_s(spec)
    drawn = [source(number, (window * length_s, (window + 1) * length_s)) for window in range(windows)]
    return absences(spec.recovery, reduce(merged, drawn), windows * length_s)
