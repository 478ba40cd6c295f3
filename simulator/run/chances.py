"""The faults that befall one run, window by window, the same whoever plays it and in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simulator.run.fault_log import timeline_of
from simulator.run.faults import JOB, PLANNED, Machines, Timeline, draw, draw_lemons, mean_rate_per_s
from simulator.run.specs import RunSpec

FAULTS_PER_WINDOW = 1024  # bounds the work between two looks at the pace of a run
Chances = Callable[[int, tuple[float, float]], Timeline]  # (run, window in seconds) -> its faults


@dataclass(frozen=True, slots=True)
class Drawn:
    """Faults drawn from the failure model, and planned maintenance among them."""

    spec: RunSpec

    def __call__(self, run: int, window_s: tuple[float, float]) -> Timeline:
        spec, seed = self.spec, self.spec.simulation.seed
        lemons = draw_lemons(spec.failures, spec.machines, np.random.default_rng([seed, run]))
        number = round(window_s[0] / (window_s[1] - window_s[0]))
        rng = np.random.default_rng([seed, run, number + 1])
        return with_maintenance(draw(spec.failures, spec.machines, window_s, lemons, rng), spec, window_s)


@dataclass(frozen=True, slots=True)
class Logged:
    """Faults taken from a log: every run sees the same, and none after the log ends."""

    timeline: Timeline
    spec: RunSpec

    def __call__(self, run: int, window_s: tuple[float, float]) -> Timeline:
        low, high = np.searchsorted(self.timeline.time_s, window_s)
        return with_maintenance(self.timeline.take(np.arange(low, high)), self.spec, window_s)


def chances_of(spec: RunSpec) -> Chances:
    """The log's faults where the run has a log, else faults drawn from its failure model."""
    return Logged(timeline_of(spec.fault_log, spec.machines.nodes), spec) if spec.fault_log else Drawn(spec)


def with_maintenance(timeline: Timeline, spec: RunSpec, window_s: tuple[float, float]) -> Timeline:
    """Planned stops at whole multiples of the maintenance period; their component is one past the model's classes."""
    every, start, end = spec.recovery.maintenance_every_s, *window_s
    if every is None:
        return timeline
    time = np.arange(np.floor(start / every) + 1, np.ceil(end / every)) * every
    count = len(time)
    whole, zero = np.full(count, len(spec.failures.classes)), np.zeros(count)
    stops = Timeline(time, whole, np.full(count, PLANNED), np.full(count, JOB), np.zeros(count, int),
                     zero, zero, np.full(count, spec.recovery.maintenance_s), zero, np.ones(count))  # fmt: skip
    names = Timeline.__dataclass_fields__
    joined = Timeline(*(np.concatenate([getattr(timeline, n), getattr(stops, n)]) for n in names))
    return joined.take(np.argsort(joined.time_s, kind="stable"))


def window_s(spec: RunSpec) -> float:
    """Length of one window: a little over the ideal run, unless that holds more faults than a window should."""
    longest = 1.15 * spec.work_s
    machines: Machines = spec.machines
    gpus = machines.nodes * machines.gpus_per_node
    model = spec.failures
    rate = sum(mean_rate_per_s(c, gpus, 0.0, longest, model.age_s) for c in model.classes)
    if spec.recovery.maintenance_every_s is not None:
        rate += 1 / spec.recovery.maintenance_every_s
    return min(longest, FAULTS_PER_WINDOW / rate) if rate > 0 else longest


def component_names(spec: RunSpec) -> tuple[str, ...]:
    return (*(c.name for c in spec.failures.classes), "maintenance")
