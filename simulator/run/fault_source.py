"""The faults that befall one run, window by window, the same whoever plays it and in whatever order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from simulator.run.fault_classes import FaultClasses, fault_classes
from simulator.run.fault_log import observed_s, timeline_of
from simulator.run.fault_timeline import FaultTimeline, draw_classes, draw_lemons, merged
from simulator.run.faults import JOB, PLANNED, FaultClass, mean_rate_per_s
from simulator.run.specs import RunSpec
from simulator.run.uncertainty import rate_factors

FAULTS_PER_WINDOW = 1024  # bounds the work between two looks at the pace of a run
WINDOW = 1.15  # of the ideal run: most runs end within one window
FaultSource = Callable[[int, tuple[float, float]], FaultTimeline]  # (run, window in seconds) -> its faults


@dataclass(frozen=True, slots=True)
class DrawnFaults:
    """Faults drawn from the failure model, in each run at a rate of its own where the rate is not known.

    `more`: spares beyond those drawn first. Their faults are from streams of their own, so that the others keep theirs.
    """

    spec: RunSpec
    first: FaultClasses
    more: FaultClasses | None

    def __call__(self, run: int, window_s: tuple[float, float]) -> FaultTimeline:
        spec, drawn = self.spec, self.first.machines.nodes
        rate_factor = float(rate_factors(spec.uncertainty, spec.simulation.seed, np.array([run]))[0])
        number = round(window_s[0] / (window_s[1] - window_s[0]))
        seed = [spec.simulation.seed, run]
        timeline = _drawn(self.first, rate_factor, window_s, seed, [*seed, number + 1])
        if drawn > spec.machines.nodes:
            timeline = timeline.take(np.flatnonzero(timeline.node < spec.machines.nodes))
        if self.more is not None:
            late = _drawn(self.more, rate_factor, window_s, [*seed, 0, 1], [*seed, number + 1, 1])
            timeline = merged(timeline, replace(late, node=late.node + drawn))
        return timeline


def drawn_faults(spec: RunSpec) -> DrawnFaults:
    """The source of faults drawn from the run's failure model."""
    machines = spec.drawn_machines
    missing = spec.machines.nodes - machines.nodes
    more = fault_classes(spec.failures, replace(machines, job_nodes=0, spare_nodes=missing)) if missing > 0 else None
    return DrawnFaults(spec, fault_classes(spec.failures, machines), more)


def _drawn(
    classes: FaultClasses, rate_factor: float, window_s: tuple[float, float], lemon_seed: list[int], seed: list[int]
) -> FaultTimeline:
    lemons = draw_lemons(classes.model, classes.machines, np.random.default_rng(lemon_seed))
    return draw_classes(classes, rate_factor, window_s, lemons, np.random.default_rng(seed))


@dataclass(frozen=True, slots=True)
class LoggedFaults:
    """Faults of a log as long as it goes, the same in every run; beyond its end, drawn at its own rates."""

    timeline: FaultTimeline
    ends_s: float
    beyond: DrawnFaults

    def __call__(self, run: int, window_s: tuple[float, float]) -> FaultTimeline:
        low, high = np.searchsorted(self.timeline.time_s, window_s)
        logged = self.timeline.take(np.arange(low, high))
        if window_s[1] <= self.ends_s:
            return logged
        drawn = self.beyond(run, window_s)
        return merged(logged, drawn.take(np.flatnonzero(drawn.time_s >= self.ends_s)))


@dataclass(frozen=True, slots=True)
class WithMaintenance:
    """Faults of another source, and planned stops at whole multiples of the maintenance period among them."""

    source: FaultSource
    spec: RunSpec

    def __call__(self, run: int, window_s: tuple[float, float]) -> FaultTimeline:
        timeline = self.source(run, window_s)
        every_s = self.spec.recovery.maintenance_every_s
        return timeline if every_s is None else merged(timeline, _maintenance(self.spec, every_s, window_s))


def _maintenance(spec: RunSpec, every_s: float, window_s: tuple[float, float]) -> FaultTimeline:
    """The planned stops in a window; their component is one past the failure model's classes."""
    start_s, end_s = window_s
    time_s = np.arange(np.floor(start_s / every_s) + 1, np.ceil(end_s / every_s)) * every_s
    count = len(time_s)
    return FaultTimeline(
        time_s=time_s,
        component=np.full(count, len(spec.failures.classes)),
        kind=np.full(count, PLANNED),
        node=np.full(count, JOB),
        breadth=np.zeros(count, int),
        detect_s=np.zeros(count),
        repair_s=np.zeros(count),
        outage_s=np.full(count, spec.recovery.maintenance_s),
        lasts_s=np.zeros(count),
        speed=np.ones(count),
    )


def fault_source(spec: RunSpec) -> FaultSource:
    """The log's faults where the run has a log, else faults drawn from its failure model; and its maintenance."""
    source: FaultSource = drawn_faults(spec)
    if spec.fault_log:
        source = LoggedFaults(_logged(spec), log_ends_s(spec), drawn_faults(spec))
    return WithMaintenance(source, spec)


def _logged(spec: RunSpec) -> FaultTimeline:
    """The log's faults of the machines that the run has; an alternative may leave spares out."""
    nodes = spec.machines.nodes
    timeline = timeline_of(spec.fault_log, max(nodes, spec.drawn_machines.nodes))
    return timeline.take(np.flatnonzero(timeline.node < nodes))


def log_ends_s(spec: RunSpec) -> float:
    """Until when the run's log covers: as given, or as far as it was seen to."""
    return spec.fault_log_s if spec.fault_log_s is not None else observed_s(spec.fault_log)


def window_s(spec: RunSpec) -> float:
    """Length of one window: a little over the ideal run, unless that holds more faults than a window should."""
    longest_s = WINDOW * spec.work_s
    machines, model = spec.drawn_machines, spec.failures
    gpus = machines.nodes * machines.gpus_per_node
    rate_per_s = sum(mean_rate_per_s(fault, gpus, 0.0, longest_s, model.age_s) for fault in model.classes)
    if spec.recovery.maintenance_every_s is not None:
        rate_per_s += 1 / spec.recovery.maintenance_every_s
    return min(longest_s, FAULTS_PER_WINDOW / rate_per_s) if rate_per_s > 0 else longest_s


def repairs_s(spec: RunSpec, timeline: FaultTimeline) -> float:
    """Seconds of repair of all single nodes that crash, hang or corrupt in a timeline, each up to when a run is given
    up."""
    chosen = np.isin(timeline.component, list(_repaired_classes(spec)))
    return float(np.minimum(timeline.repair_s[chosen], _longest_s(spec)).sum())


def mean_repairs_s(spec: RunSpec) -> float:
    """What `repairs_s` of the first window is in the mean over runs at the predicted failure rate.

    Faults times their mean repair; of those that follow others in a burst, some come only after the window.
    """
    model, length_s = spec.failures, window_s(spec)
    gpus = spec.machines.nodes * spec.gpus_per_node
    inside = 1.0
    if model.burst_mean > 0:
        windows = model.burst_window_s / length_s
        followers = model.burst_mean * (1 - windows * -math.expm1(-1 / windows))
        inside = (1 + followers) / (1 + model.burst_mean)
    total_s = 0.0
    for fault in _repaired_classes(spec).values():
        faults = inside * length_s * mean_rate_per_s(fault, gpus, 0.0, length_s, model.age_s)
        total_s += faults * (fault.repair.mean_below_s(_longest_s(spec)) if fault.repair else 0.0)
    return total_s


def _repaired_classes(spec: RunSpec) -> dict[int, FaultClass]:
    """Classes of the failure model that take a single node away, by their place in it."""
    return {
        number: fault
        for number, fault in enumerate(spec.failures.classes)
        if fault.scope in ("gpu", "node") and fault.kind in ("crash", "hang", "corruption") and fault.repair
    }


def _longest_s(spec: RunSpec) -> float:
    return spec.work_s / spec.simulation.give_up_fraction


def component_names(spec: RunSpec) -> tuple[str, ...]:
    """What can fail: the classes of the failure model, and maintenance."""
    return (*(fault.name for fault in spec.failures.classes), "maintenance")
