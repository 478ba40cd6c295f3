"""What breaks, how often and how it shows: a failure model, and the timeline of faults that one run draws from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal

import numpy as np

from simulator.run.arrays import Floats, Ints
from simulator.run.durations import Duration

FaultKind = Literal["crash", "hang", "slow", "corruption", "planned"]
Scope = Literal["job", "gpu", "node", "rack", "pod"]
KINDS: tuple[FaultKind, ...] = ("crash", "hang", "slow", "corruption", "planned")
CRASH, HANG, SLOW, CORRUPTION, PLANNED = range(len(KINDS))
AT_ONCE = Duration("fixed")
JOB = -1  # the node of a fault that hits the job and no node in particular


@dataclass(frozen=True, slots=True)
class FaultClass:
    """One way to fail.

    `rate_per_gpu_s` is the hazard per GPU at cluster age `reference_age_s`; it goes as age^(shape - 1) (Weibull with
    minimal repair; shape 1: exponential; below 1: infant mortality). `scope` says what goes down with it: "job" no
    node (software, storage, a switch that is routed around), "gpu" and "node" one server, "rack" and "pod" all theirs.
    `detect` runs from the fault to the moment the job knows; `repair` (None: restart in place) keeps the nodes away;
    `outage` holds the whole job up whatever the spares. A "slow" fault runs at `speed` (a fraction) and passes by
    itself after `lasts`; with `link_fraction` (None: not by links) a node's links keep that share of their bandwidth,
    and the speed follows from the step simulated with it. A "planned" one announces itself: the job saves its state
    first.
    """

    name: str
    kind: FaultKind
    rate_per_gpu_s: float
    scope: Scope = "node"
    detect: Duration = AT_ONCE
    repair: Duration | None = None
    outage: Duration | None = None
    lasts: Duration | None = None
    speed: float = 1.0
    shape: float = 1.0
    reference_age_s: float = 30 * 86400.0
    link_fraction: float | None = None


@dataclass(frozen=True, slots=True)
class FailureModel:
    """All the ways to fail, and what makes them come together.

    `lemon_fraction` of the nodes fail `lemon_multiplier` times as often as the others. Every `swing_period_s` the
    whole rate is multiplied by a gamma factor of mean 1 and variance `swing_variance`. Each fault is followed by
    `burst_mean` others of its class on average, after exponential times of mean `burst_window_s`. None of the three
    changes the mean rate. `age_s` is the age of the cluster when the run begins.
    """

    name: str
    classes: tuple[FaultClass, ...]
    lemon_fraction: float = 0.0
    lemon_multiplier: float = 1.0
    swing_variance: float = 0.0
    swing_period_s: float = 7 * 86400.0
    burst_mean: float = 0.0
    burst_window_s: float = 3600.0
    age_s: float = 30 * 86400.0
    source: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machines:
    """What is exposed to faults: `job_nodes` that train and `spare_nodes` that stand by."""

    job_nodes: int
    spare_nodes: int
    gpus_per_node: int
    nodes_per_rack: int = 1
    nodes_per_pod: int = 1

    @property
    def nodes(self) -> int:
        return self.job_nodes + self.spare_nodes


@dataclass(frozen=True, slots=True)
class FaultTimeline:
    """Faults in order of time, one array element per node hit; shape (faults,) each.

    `node` is JOB where no node goes down. `breadth` is how many nodes the event takes at once (0: none). Entries of
    one rack or pod event follow each other at the same time. `outage_s`, `lasts_s`, `repair_s` are 0 where absent.
    """

    time_s: Floats
    component: Ints
    kind: Ints
    node: Ints
    breadth: Ints
    detect_s: Floats
    repair_s: Floats
    outage_s: Floats
    lasts_s: Floats
    speed: Floats

    def __len__(self) -> int:
        return len(self.time_s)

    def take(self, index: Ints) -> FaultTimeline:
        return FaultTimeline(*(getattr(self, f.name)[index] for f in fields(self)))


def mean_rate_per_s(fault: FaultClass, gpus: int, start_s: float, end_s: float, age_s: float) -> float:
    """Mean events per second of one class on `gpus` GPUs between two times of the run (Weibull intensity)."""
    total = cumulative_hazard(fault, age_s + end_s) - cumulative_hazard(fault, age_s + start_s)
    return gpus * float(total) / (end_s - start_s)


def cumulative_hazard(fault: FaultClass, age_s: float | Floats) -> float | Floats:
    """Expected events per GPU up to an age: rate ref / k (age / ref)^k."""
    reference = fault.reference_age_s
    return fault.rate_per_gpu_s * reference / fault.shape * (age_s / reference) ** fault.shape


def mean_time_between_s(model: FailureModel, gpus: int, kinds: tuple[FaultKind, ...] = ("crash", "hang")) -> float:
    """Mean time between the faults of these kinds on `gpus` GPUs at the model's age, infinite if there are none."""
    rate = sum(
        gpus * fault.rate_per_gpu_s * (model.age_s / fault.reference_age_s) ** (fault.shape - 1)
        for fault in model.classes
        if fault.kind in kinds
    )
    return 1 / rate if rate > 0 else float("inf")


def scaled(model: FailureModel, factor: float) -> FailureModel:
    """The same model with every rate multiplied by `factor`."""
    classes = tuple(replace(c, rate_per_gpu_s=c.rate_per_gpu_s * factor) for c in model.classes)
    return replace(model, classes=classes)


def draw_lemons(model: FailureModel, machines: Machines, rng: np.random.Generator) -> Floats:
    """The nodes that fail more often, in this run."""
    count = round(model.lemon_fraction * machines.nodes)
    return rng.choice(machines.nodes, count, replace=False) if count else np.empty(0, int)


def draw(
    model: FailureModel,
    machines: Machines,
    window_s: tuple[float, float],
    lemons: Ints,
    rng: np.random.Generator,
) -> FaultTimeline:
    """Faults of all machines within `window_s` = (start, end) of the run, in order of time."""
    time, component = _times(model, machines, window_s, rng)
    scope = [c.scope for c in model.classes]
    node = _nodes(model, machines, len(time), lemons, rng)
    breadth = np.array([_breadth(s, machines) for s in scope], int)[component]
    columns = {
        name: _durations([getattr(c, name) for c in model.classes], component, rng)
        for name in ("detect", "repair", "outage", "lasts")
    }
    kind = np.array([KINDS.index(c.kind) for c in model.classes], int)[component]
    speed = np.array([c.speed for c in model.classes])[component]
    node = np.where(breadth == 0, JOB, node - node % np.maximum(breadth, 1))
    timeline = FaultTimeline(
        time, component, kind, node, breadth,
        columns["detect"], columns["repair"], columns["outage"], columns["lasts"], speed,
    )  # fmt: skip
    return _spread(timeline, machines)


def _times(
    model: FailureModel, machines: Machines, window_s: tuple[float, float], rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Times and classes of all events: Poisson counts per class and swing period, bursts added, sorted."""
    start, end = window_s
    periods = max(1, int(np.ceil((end - start) / model.swing_period_s))) if model.swing_variance > 0 else 1
    edges = model.age_s + np.minimum(start + np.arange(periods + 1) * ((end - start) / periods), end)
    swing = np.ones(periods)
    if model.swing_variance > 0:
        swing = rng.gamma(1 / model.swing_variance, model.swing_variance, periods)
    gpus = np.array([machines.gpus_per_node * (machines.job_nodes if c.scope == "job" else machines.nodes)
                     for c in model.classes], float)  # fmt: skip
    hazard = np.array([cumulative_hazard(c, edges) for c in model.classes]).reshape(len(model.classes), len(edges))
    mass = gpus[:, None] * np.diff(hazard, axis=1) * swing / (1 + model.burst_mean)
    counts = rng.poisson(mass)
    component, period = (i.repeat(counts.ravel()) for i in np.indices(counts.shape).reshape(2, -1))
    level = hazard[component, period] + rng.random(len(component)) * np.diff(hazard, axis=1)[component, period]
    shape = np.array([c.shape for c in model.classes])[component]
    reference = np.array([c.reference_age_s for c in model.classes])[component]
    rate = np.array([c.rate_per_gpu_s for c in model.classes])[component]
    time = reference * (level * shape / (rate * reference)) ** (1 / shape) - model.age_s
    if model.burst_mean > 0:
        children = rng.poisson(model.burst_mean, len(time))
        later = time.repeat(children) + rng.exponential(model.burst_window_s, children.sum())
        time, component = np.concatenate([time, later]), np.concatenate([component, component.repeat(children)])
    keep = time < end
    order = np.argsort(time[keep], kind="stable")
    return time[keep][order], component[keep][order]


def _nodes(model: FailureModel, machines: Machines, count: int, lemons: Ints, rng: np.random.Generator) -> Floats:
    """The node each event starts from: uniform, but lemons `lemon_multiplier` times as likely as the others."""
    node = rng.integers(0, machines.nodes, count)
    if len(lemons) in (0, machines.nodes):
        return node
    weight = len(lemons) * model.lemon_multiplier
    share = weight / (weight + machines.nodes - len(lemons))
    # Uniform over all nodes already gives the lemons their plain share; only the excess is drawn again.
    plain = len(lemons) / machines.nodes
    excess = (share - plain) / (1 - plain)
    return np.where(rng.random(count) < excess, lemons[rng.integers(0, len(lemons), count)], node)


def _durations(given: list[Duration | None], component: Ints, rng: np.random.Generator) -> Floats:
    """One draw per event from its class's duration; each distinct duration is sampled once."""
    drawn = np.zeros(len(component))
    for duration in dict.fromkeys(d for d in given if d is not None):
        chosen = np.isin(component, [i for i, d in enumerate(given) if d == duration])
        drawn[chosen] = duration.sample_s(int(chosen.sum()), rng)
    return drawn


def _breadth(scope: Scope, machines: Machines) -> int:
    return {"job": 0, "gpu": 1, "node": 1, "rack": machines.nodes_per_rack, "pod": machines.nodes_per_pod}[scope]


def _spread(timeline: FaultTimeline, machines: Machines) -> FaultTimeline:
    """One entry per node: a rack of four nodes becomes four entries at the same time."""
    if not (timeline.breadth > 1).any():
        return timeline
    copies = np.maximum(timeline.breadth, 1)
    first = np.repeat(np.cumsum(copies) - copies, copies)
    spread = timeline.take(np.repeat(np.arange(len(timeline)), copies))
    node = np.where(spread.breadth > 0, spread.node + np.arange(len(spread)) - first, JOB)
    return replace(spread, node=node).take(np.flatnonzero(node < machines.nodes))
