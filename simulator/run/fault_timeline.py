"""The timeline of faults that one run draws from a failure model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from simulator.run.arrays import Floats, Ints
from simulator.run.durations import Duration
from simulator.run.faults import JOB, KINDS, FailureModel, Machines, cumulative_hazard


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
        return FaultTimeline(*(getattr(self, column.name)[index] for column in fields(self)))


def merged(first: FaultTimeline, second: FaultTimeline) -> FaultTimeline:
    """Faults of both, in order of time."""
    columns = [
        np.concatenate([getattr(first, column.name), getattr(second, column.name)]) for column in fields(FaultTimeline)
    ]
    joined = FaultTimeline(*columns)
    return joined.take(np.argsort(joined.time_s, kind="stable"))


def draw_lemons(model: FailureModel, machines: Machines, rng: np.random.Generator) -> Ints:
    """The nodes that fail more often, in this run; shape (lemons,)."""
    count = round(model.lemon_fraction * machines.nodes)
    return rng.choice(machines.nodes, count, replace=False) if count else np.empty(0, int)


def draw(
    model: FailureModel, machines: Machines, window_s: tuple[float, float], lemons: Ints, rng: np.random.Generator
) -> FaultTimeline:
    """Faults of all machines within `window_s` = (start, end) of the run, in order of time."""
    time_s, component = _draw_times(model, machines, window_s, rng)
    classes = model.classes
    node = _draw_nodes(model, machines, len(time_s), lemons, rng)
    breadth = np.array([machines.breadth(fault.scope) for fault in classes], int)[component]
    first_node = node - node % np.maximum(breadth, 1)  # of the rack or pod
    timeline = FaultTimeline(
        time_s=time_s,
        component=component,
        kind=np.array([KINDS.index(fault.kind) for fault in classes], int)[component],
        node=np.where(breadth == 0, JOB, first_node),
        breadth=breadth,
        detect_s=_draw_durations([fault.detect for fault in classes], component, rng),
        repair_s=_draw_durations([fault.repair for fault in classes], component, rng),
        outage_s=_draw_durations([fault.outage for fault in classes], component, rng),
        lasts_s=_draw_durations([fault.lasts for fault in classes], component, rng),
        speed=np.array([fault.speed for fault in classes])[component],
    )
    return _by_node(timeline, machines)


def _draw_times(
    model: FailureModel, machines: Machines, window_s: tuple[float, float], rng: np.random.Generator
) -> tuple[Floats, Ints]:
    """Times and classes of all events: Poisson counts per class and swing period, bursts added, sorted."""
    edges_s, swing = _swings(model, window_s, rng)
    hazard = np.array([cumulative_hazard(fault, edges_s) for fault in model.classes])
    hazard = hazard.reshape(len(model.classes), len(edges_s))
    increase = np.diff(hazard, axis=1)
    gpus = _exposed_gpus(model, machines)
    counts = rng.poisson(gpus[:, None] * increase * swing / (1 + model.burst_mean))
    component: Ints
    component, period = (index.repeat(counts.ravel()) for index in np.indices(counts.shape).reshape(2, -1))
    # An event falls evenly on the hazard of its period; the hazard's inverse gives its time.
    level = hazard[component, period] + rng.random(len(component)) * increase[component, period]
    time_s = _age_at_hazard_s(model, component, level) - model.age_s
    if model.burst_mean > 0:
        time_s, component = _with_bursts(model, time_s, component, rng)
    inside = time_s < window_s[1]
    order = np.argsort(time_s[inside], kind="stable")
    return time_s[inside][order], component[inside][order]


def _swings(model: FailureModel, window_s: tuple[float, float], rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Cluster ages at the edges of the swing periods, (periods + 1,), and the rate's factor in each, (periods,)."""
    start_s, end_s = window_s
    swings = model.swing_variance > 0
    periods = max(1, int(np.ceil((end_s - start_s) / model.swing_period_s))) if swings else 1
    length_s = (end_s - start_s) / periods
    edges_s = np.minimum(start_s + np.arange(periods + 1) * length_s, end_s)
    swing = rng.gamma(1 / model.swing_variance, model.swing_variance, periods) if swings else np.ones(1)
    return model.age_s + edges_s, swing


def _exposed_gpus(model: FailureModel, machines: Machines) -> Floats:
    """GPUs on which each class may strike, (classes,): what stops the job alone does not strike spares."""
    strikes_job = [machines.breadth(fault.scope) == 0 for fault in model.classes]
    nodes = [machines.job_nodes if alone else machines.nodes for alone in strikes_job]
    return np.array([machines.gpus_per_node * count for count in nodes], float)


def _age_at_hazard_s(model: FailureModel, component: Ints, level: Floats) -> Floats:
    """The inverse of `cumulative_hazard` for one class per event: ref (level k / (rate ref))^(1 / k)."""
    shape = np.array([fault.shape for fault in model.classes])[component]
    reference_s = np.array([fault.reference_age_s for fault in model.classes])[component]
    rate = np.array([fault.rate_per_gpu_s for fault in model.classes])[component]
    age_s: Floats = reference_s * (level * shape / (rate * reference_s)) ** (1 / shape)
    return age_s


def _with_bursts(model: FailureModel, time_s: Floats, component: Ints, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """The events and those that follow them, in no order."""
    followers = rng.poisson(model.burst_mean, len(time_s))
    later_s = time_s.repeat(followers) + rng.exponential(model.burst_window_s, followers.sum())
    times_s = np.concatenate([time_s, later_s])
    return times_s, np.concatenate([component, component.repeat(followers)])


def _draw_nodes(model: FailureModel, machines: Machines, count: int, lemons: Ints, rng: np.random.Generator) -> Ints:
    """The node each event starts from: uniform, but lemons `lemon_multiplier` times as likely as the others."""
    node = rng.integers(0, machines.nodes, count)
    if len(lemons) in (0, machines.nodes):
        return node
    weight = len(lemons) * model.lemon_multiplier
    share = weight / (weight + machines.nodes - len(lemons))
    # Uniform over all nodes already gives the lemons their plain share; only the excess is drawn again.
    plain = len(lemons) / machines.nodes
    excess = (share - plain) / (1 - plain)
    again = rng.random(count) < excess
    return np.where(again, lemons[rng.integers(0, len(lemons), count)], node)


def _draw_durations(given: list[Duration | None], component: Ints, rng: np.random.Generator) -> Floats:
    """One draw per event from its class's duration, 0 without one; each distinct duration is sampled once."""
    drawn = np.zeros(len(component))
    for duration in dict.fromkeys(each for each in given if each is not None):
        chosen = np.isin(component, [i for i, each in enumerate(given) if each == duration])
        drawn[chosen] = duration.sample_s(int(chosen.sum()), rng)
    return drawn


def _by_node(timeline: FaultTimeline, machines: Machines) -> FaultTimeline:
    """One entry per node: a rack of four nodes becomes four entries at the same time."""
    if not (timeline.breadth > 1).any():
        return timeline
    copies = np.maximum(timeline.breadth, 1)
    first = np.repeat(np.cumsum(copies) - copies, copies)
    entries = timeline.take(np.repeat(np.arange(len(timeline)), copies))
    within = np.arange(len(entries)) - first
    node = np.where(entries.breadth > 0, entries.node + within, JOB)
    return replace(entries, node=node).take(np.flatnonzero(node < machines.nodes))
