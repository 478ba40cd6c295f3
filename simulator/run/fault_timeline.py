"""The timeline of faults that one run draws from a failure model."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from simulator.run.arrays import Floats, Ints
from simulator.run.fault_classes import Durations, FaultClasses, fault_classes
from simulator.run.faults import JOB, FailureModel, Machines, hazard_at


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
    return draw_classes(fault_classes(model, machines), 1.0, window_s, lemons, rng)


def draw_classes(
    classes: FaultClasses, rate_factor: float, window_s: tuple[float, float], lemons: Ints, rng: np.random.Generator
) -> FaultTimeline:
    """The same of a model that is laid out already, with every rate multiplied by `rate_factor`."""
    time_s, component = _draw_times(classes, rate_factor, window_s, rng)
    node = _draw_nodes(classes, len(time_s), lemons, rng)
    breadth = classes.breadth[component]
    first_node = node - node % np.maximum(breadth, 1)  # of the rack or pod
    timeline = FaultTimeline(
        time_s=time_s,
        component=component,
        kind=classes.kind[component],
        node=np.where(breadth == 0, JOB, first_node),
        breadth=breadth,
        detect_s=_draw_durations(classes.detect, component, rng),
        repair_s=_draw_durations(classes.repair, component, rng),
        outage_s=_draw_durations(classes.outage, component, rng),
        lasts_s=_draw_durations(classes.lasts, component, rng),
        speed=classes.speed[component],
    )
    return _by_node(timeline, classes.machines)


def _draw_times(
    classes: FaultClasses, rate_factor: float, window_s: tuple[float, float], rng: np.random.Generator
) -> tuple[Floats, Ints]:
    """Times and classes of all events: Poisson counts per class and swing period, bursts added, sorted."""
    model = classes.model
    edges_s, swing = _swings(model, window_s, rng)
    rate_per_gpu_s = classes.rate_per_gpu_s * rate_factor
    hazard = _hazard(classes, rate_per_gpu_s, edges_s)
    increase = np.diff(hazard, axis=1)
    counts = rng.poisson(classes.gpus[:, None] * increase * swing / (1 + model.burst_mean))
    every = np.arange(counts.size).repeat(counts.ravel())
    component: Ints
    component, period = np.divmod(every, len(swing))
    # An event falls evenly on the hazard of its period; the hazard's inverse gives its time.
    level = hazard[component, period] + rng.random(len(component)) * increase[component, period]
    time_s = _age_at_hazard_s(classes, rate_per_gpu_s, component, level) - model.age_s
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


def _hazard(classes: FaultClasses, rate_per_gpu_s: Floats, age_s: Floats) -> Floats:
    """Expected events of each class per GPU up to each age, (classes, ages)."""
    law = (rate_per_gpu_s, classes.shape, classes.reference_age_s)
    rate, shape, reference_s = (each[:, None] for each in law)
    return np.asarray(hazard_at(rate, shape, reference_s, age_s))


def _age_at_hazard_s(classes: FaultClasses, rate_per_gpu_s: Floats, component: Ints, level: Floats) -> Floats:
    """The inverse of `hazard_at` for one class per event: ref (level k / (rate ref))^(1 / k)."""
    shape = classes.shape[component]
    reference_s = classes.reference_age_s[component]
    rate = rate_per_gpu_s[component]
    age_s: Floats = reference_s * (level * shape / (rate * reference_s)) ** (1 / shape)
    return age_s


def _with_bursts(model: FailureModel, time_s: Floats, component: Ints, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """The events and those that follow them, in no order."""
    followers = rng.poisson(model.burst_mean, len(time_s))
    later_s = time_s.repeat(followers) + rng.exponential(model.burst_window_s, followers.sum())
    times_s = np.concatenate([time_s, later_s])
    return times_s, np.concatenate([component, component.repeat(followers)])


def _draw_nodes(classes: FaultClasses, count: int, lemons: Ints, rng: np.random.Generator) -> Ints:
    """The node each event starts from: uniform, but lemons `lemon_multiplier` times as likely as the others."""
    model, machines = classes.model, classes.machines
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


def _draw_durations(durations: Durations, component: Ints, rng: np.random.Generator) -> Floats:
    """One draw per event from its class's duration, 0 without one; each distinct duration is sampled once."""
    drawn = np.zeros(len(component))
    for duration, has_it in durations:
        chosen = np.flatnonzero(has_it[component])
        drawn[chosen] = duration.sample_s(len(chosen), rng)
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
