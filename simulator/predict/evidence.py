"""What a simulated step rests on: its share of each kind of evidence, and the one interval that follows from it."""

from __future__ import annotations

from collections import defaultdict
from math import exp, hypot, log

from hardware.collectives import evidence
from hardware.specs import Cluster
from simulator.cost.groups import plan_groups
from simulator.plans.spec import Plan
from simulator.predict.balancing import at_imbalance, balancing
from simulator.predict.confidence import step_time_interval_s
from simulator.predict.simulate import Simulated, simulate_step

# The collective whose coefficients decide each cause of communication within a layer.
COLLECTIVES = {
    "tp": ("all_gather", "ring", "Simple"),
    "cp": ("all_gather", "ring", "Simple"),
    "ep": ("all_to_all", "pairwise", "Simple"),
}


def step_interval_s(done: Simulated) -> tuple[float, float]:
    """The 80 % interval of a simulated step; whatever speaks of the step's error takes it from here."""
    assumed_fraction = evidence_shares(done).get("assumed", 0.0)
    interval = step_time_interval_s(done.scenario, done.step.step_time_s, assumed_fraction)
    return widened_by_routing(done, interval)


def widened_by_routing(done: Simulated, interval_s: tuple[float, float]) -> tuple[float, float]:
    """The interval with what uneven routing adds in quadrature: the step where the hottest rank is as the plan's kind
    of balancing may leave it. One further step is played; between the two the load counts in proportion.
    """
    found = balancing(done.scenario)
    if found is None or found[0].low == found[0].high:
        return interval_s
    kind, step_s = found[0], done.step.step_time_s
    hotter_s = max(step_s, simulate_step(at_imbalance(done.scenario, kind.high)).step_time_s)
    per_load_s = (hotter_s - step_s) / (kind.high - kind.hottest)
    even_s = step_s - per_load_s * (kind.hottest - kind.low)
    low, high = (log(end_s / step_s) for end_s in interval_s)
    middle, half = (low + high) / 2, (high - low) / 2
    shortest, longest = middle - hypot(half, log(step_s / even_s)), middle + hypot(half, log(hotter_s / step_s))
    return step_s * exp(shortest), step_s * exp(longest)


def evidence_shares(done: Simulated) -> dict[str, float]:
    """Share of the step that rests on each kind of evidence. What surrounds the step is assumed, by its share of it."""
    step = done.step
    comm = comm_evidence(done.scenario.plan, done.scenario.cluster)
    seconds: defaultdict[str, float] = defaultdict(float)
    for stage in step.slots.stages:
        for kind, spent in stage.evidence_s.items():
            seconds[kind] += float(spent)
        for part in (stage.forward, stage.input):
            seconds[comm["tp"]] += float(part.tp_s)
            seconds[comm["cp"]] += float(part.cp_s)
            seconds[comm["ep"]] += float(part.ep_s)
            seconds["assumed"] += float(part.host_s)
    busy = sum(seconds.values())
    waiting = sum(step.around.waiting_s.values()) / step.step_time_s
    shares = {kind: spent / busy * (1 - waiting) for kind, spent in sorted(seconds.items())}
    if waiting:
        shares["assumed"] = min(1.0, shares.get("assumed", 0.0) + waiting)
    return shares


def comm_evidence(plan: Plan, cluster: Cluster) -> dict[str, str]:
    """How the collectives of each cause are known: fitted to sweeps of these GPUs and NICs, or assumed from others."""
    groups = plan_groups(plan, cluster)
    return {cause: evidence(*how, groups[cause], cluster) for cause, how in COLLECTIVES.items()}
