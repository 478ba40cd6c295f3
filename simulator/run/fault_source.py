"""The faults that befall one run, window by window, the same whoever plays it and in whatever order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulator.run.fault_log import timeline_of
from simulator.run.faults import JOB, PLANNED, FailureModel, FaultTimeline, Machines, draw, draw_lemons, mean_rate_per_s
from simulator.run.specs import RunSpec

FAULTS_PER_WINDOW = 1024  # bounds the work between two looks at the pace of a run
FaultSource = Callable[[int, tuple[float, float]], FaultTimeline]  # (run, window in seconds) -> its faults


@dataclass(frozen=True, slots=True)
class DrawnFaults:
    """Faults drawn from the failure model, and planned maintenance among them."""

    spec: RunSpec

    def __call__(self, run: int, window_s: tuple[float, float]) -> FaultTimeline:
        spec, model, machines = self.spec, self.spec.failures, self.spec.drawn_machines
        number = round(window_s[0] / (window_s[1] - window_s[0]))
        first = [spec.simulation.seed, run]
        found = _drawn(model, machines, window_s, first, [*first, number + 1])
        missing = spec.machines.nodes - machines.nodes
        if missing < 0:
            found = found.take(np.flatnonzero(found.node < spec.machines.nodes))
        if missing > 0:  # spares beyond those drawn first: from streams of their own, so that the others keep theirs
            more = replace(machines, job_nodes=0, spare_nodes=missing)
            late = _drawn(model, more, window_s, [*first, 0, 1], [*first, number + 1, 1])
            found = merged(found, replace(late, node=late.node + machines.nodes))
        return with_maintenance(found, spec, window_s)


def _drawn(
    model: FailureModel, machines: Machines, window_s: tuple[float, float], lemon_seed: list[int], seed: list[int]
) -> FaultTimeline:
    lemons = draw_lemons(model, machines, np.random.default_rng(lemon_seed))
    return draw(model, machines, window_s, lemons, np.random.default_rng(seed))


@dataclass(frozen=True, slots=True)
class LoggedFaults:
    """Faults taken from a log: every run sees the same, and none after the log ends."""

    timeline: FaultTimeline
    spec: RunSpec

    def __call__(self, run: int, window_s: tuple[float, float]) -> FaultTimeline:
        low, high = np.searchsorted(self.timeline.time_s, window_s)
        return with_maintenance(self.timeline.take(np.arange(low, high)), self.spec, window_s)


def fault_source(spec: RunSpec) -> FaultSource:
    """The log's faults where the run has a log, else faults drawn from its failure model."""
    return LoggedFaults(timeline_of(spec.fault_log, spec.machines.nodes), spec) if spec.fault_log else DrawnFaults(spec)


def with_maintenance(timeline: FaultTimeline, spec: RunSpec, window_s: tuple[float, float]) -> FaultTimeline:
    """Planned stops at whole multiples of the maintenance period; their component is one past the model's classes."""
    every, start, end = spec.recovery.maintenance_every_s, *window_s
    if every is None:
        return timeline
    time = np.arange(np.floor(start / every) + 1, np.ceil(end / every)) * every
    count = len(time)
    whole, zero = np.full(count, len(spec.failures.classes)), np.zeros(count)
    stops = FaultTimeline(time, whole, np.full(count, PLANNED), np.full(count, JOB), np.zeros(count, int),
                     zero, zero, np.full(count, spec.recovery.maintenance_s), zero, np.ones(count))  # fmt: skip
    return merged(timeline, stops)


def merged(first: FaultTimeline, second: FaultTimeline) -> FaultTimeline:
    """Faults of both, in order of time."""
    names = FaultTimeline.__dataclass_fields__
    joined = FaultTimeline(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in names))
    return joined.take(np.argsort(joined.time_s, kind="stable"))


def window_s(spec: RunSpec) -> float:
    """Length of one window: a little over the ideal run, unless that holds more faults than a window should."""
    longest = 1.15 * spec.work_s
    machines = spec.drawn_machines
    gpus = machines.nodes * machines.gpus_per_node
    model = spec.failures
    rate = sum(mean_rate_per_s(c, gpus, 0.0, longest, model.age_s) for c in model.classes)
    if spec.recovery.maintenance_every_s is not None:
        rate += 1 / spec.recovery.maintenance_every_s
    return min(longest, FAULTS_PER_WINDOW / rate) if rate > 0 else longest


def component_names(spec: RunSpec) -> tuple[str, ...]:
    return (*(c.name for c in spec.failures.classes), "maintenance")
