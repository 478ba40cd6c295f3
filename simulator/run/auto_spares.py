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
MOST_WINDOWS = 10  # of a run: some 10,000 faults, after which its pace is no longer a matter of luck


def with_hot_spares(spec: RunSpec, count: int) -> RunSpec:
    """The run with so many spares in all, those that are not cold hot."""
    return replace(spec, recovery=replace(spec.recovery, hot_spares=count - spec.recovery.cold_spares))


def with_best_spares(spec: RunSpec) -> RunSpec:
    """The run with the spares with which its mean sample takes the fewest GPU-hours, the spares' included.

    Only the nodes away are followed, not the job: it stands (or shrinks) while more are away than there are spares, and
    all else that failures cost is taken to first order. A sample that would be given up counts until then. Spares fail
    too: the faults are drawn again, more of them, with about as many as are taken. At most one spare a node of the job,
    no fewer than the cold ones.
    """
    if _is_never_worth_one(spec):
        return with_hot_spares(spec, spec.recovery.cold_spares)
    about = _with_best_of(spec, _samples(spec, FEWEST_SAMPLES))
    count = _sample_count(about)
    if count == FEWEST_SAMPLES and about.recovery == spec.recovery:
        return about
    return _with_best_of(about, _samples(about, count))


def _is_never_worth_one(spec: RunSpec) -> bool:
    """Whether a job without spares stands less, at most while any node is in repair, than one spare takes."""
    away = 0.0
    gpus = spec.job_nodes * spec.gpus_per_node
    for fault in spec.failures.classes:
        if fault.repair is not None:
            rate_per_s = mean_rate_per_s(fault, gpus, 0.0, spec.work_s, spec.failures.age_s)
            away += rate_per_s * (fault.detect.mean_s() + fault.repair.mean_s())
    is_free = spec.unused_gpus > 0
    return not is_free and mean_rate_factor(spec.uncertainty) * away <= 1 / spec.job_nodes


def _sample_count(spec: RunSpec) -> int:
    """More samples where they meet few faults: the seldom ones decide, and they are drawn fast."""
    gpus = spec.machines.nodes * spec.gpus_per_node
    faults = spec.work_s / mean_time_between_s(spec.failures, gpus, KINDS)
    if faults == 0:
        return FEWEST_SAMPLES
    return round(min(MOST_SAMPLES, max(FEWEST_SAMPLES, SAMPLED_FAULTS / faults)))


def _with_best_of(spec: RunSpec, samples: list[_Sample]) -> RunSpec:
    """The run with the best spares for these samples, sought from as many as are ever away downwards."""
    if not samples:
        return spec
    speeds = speeds_when_short(spec)
    spares = min(spec.job_nodes, max(sample.most_away for sample in samples))
    best, fewest = spares, math.inf
    while spares >= spec.recovery.cold_spares:
        mean_s = sum(sample.wall_time_s(spares, speeds) for sample in samples) / len(samples)
        gpu_s = with_hot_spares(spec, spares).paid_gpus * mean_s
        if gpu_s <= fewest:
            best, fewest = spares, gpu_s
        # With fewer spares no sample ends sooner: not even free ones would make up for it.
        if spec.job_gpus * mean_s >= fewest:
            break
        spares -= 1
    return with_hot_spares(spec, max(best, spec.recovery.cold_spares))


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
        if self.known.until_s >= self.work_s and spares >= self.most_away:
            return self.work_s
        while True:
            end_s = wall_time_s(self.known, spares, self.work_s, speeds)
            if math.isfinite(end_s) or not self._extend():
                break
        if math.isinf(end_s):
            pace = pace_fraction(self.known, spares, speeds)
            end_s = self.work_s / pace if pace > 0 else math.inf
        return min(end_s, self.longest_s)

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
