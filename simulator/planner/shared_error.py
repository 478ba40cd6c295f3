"""How far the difference of two predicted steps may be off: what both rest on alike is off alike, and cancels.

A step's seconds are split by what they rest on: a cause, on this part's kernels or these links, in this precision,
stack or schedule, by evidence. Every such component is off by a share of its own, as large for all, so that together
they make the step's interval. In a difference a component that both steps have counts with the difference of its
seconds; one that only one of them has counts whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, hypot, log, sqrt

from hardware.collectives import Group
from simulator.cost.groups import plan_groups
from simulator.predict.confidence import STANDARD_DEVIATIONS
from simulator.predict.evidence import step_interval_s
from simulator.predict.simulate import Simulated
from simulator.predict.step import Step
from simulator.schedules import SCHEDULES

Component = tuple[str, ...]
# Ratios of step times within published sweeps are off by more than shared components explain. Fitted to the 82 pairs of
# validate/sweeps.toml, so that 80 % intervals hold 80 % of them (tests/validate/test_differences.py): what the spread
# of log(measured ratio / predicted ratio) tends to, and the share of the step that two plans spend differently at which
# 1 - 1/e of its variance is reached.
RATIO_SPREAD, DIFFERENT_SHARE = 0.065, 0.1


@dataclass(frozen=True, slots=True)
class ErrorShares:
    """The seconds of a step by component, and the standard deviation of the logarithm of their sum's error."""

    seconds: Mapping[Component, float]
    log_sigma: float

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def component_sigma(self) -> float:
        """The relative error of each component, where all have the same and are independent of each other."""
        squares = sum(seconds**2 for seconds in self.seconds.values())
        return self.log_sigma * self.total_s / sqrt(squares)

    def __mul__(self, factor: float) -> ErrorShares:
        """The same for a step so many times as long."""
        return ErrorShares({name: seconds * factor for name, seconds in self.seconds.items()}, self.log_sigma)


def error_shares(done: Simulated) -> ErrorShares:
    """What a simulated step rests on."""
    low_s, high_s = step_interval_s(done)
    log_sigma = log(high_s / low_s) / 2 / STANDARD_DEVIATIONS
    return ErrorShares(_components(done), log_sigma)


def _components(done: Simulated) -> dict[Component, float]:
    plan, cluster = done.scenario.plan, done.scenario.cluster
    part, stack = cluster.accelerator.name, plan.stack.name
    groups = plan_groups(plan, cluster)
    network = f"{cluster.node.nic.technology} {cluster.fabric.name}"
    links = {name: network if _leaves_domain(group) else cluster.node.name for name, group in groups.items()}
    rests_on: dict[str, Component] = {
        "host": (part, stack),
        "optimizer": (part, plan.optimizer.kind),
        "tp": (links["tp"],),
        "cp": (links["cp"], plan.cp_comm),
        "ep": (links["ep"], plan.dispatcher),
        "pp": (network, SCHEDULES[plan.schedule].p2p),
        "dp": (network, stack),
        "bubble": (plan.schedule,),
        "barrier": (part,),
        "straggler": (part,),
    }
    found: dict[Component, float] = {}
    for cause, seconds in done.step.breakdown().items():
        if seconds <= 0:
            continue
        if cause != "compute":
            found[(cause, *rests_on.get(cause, ()))] = seconds
            continue
        for kind, share in _evidence(done.step).items():
            found[(cause, part, plan.precision, stack, kind)] = seconds * share
    return found


def _leaves_domain(group: Group) -> bool:
    return bool(group.ranks > group.ranks_per_domain)


def _evidence(step: Step) -> dict[str, float]:
    """Share of the kernels' time by kind of evidence."""
    spent: dict[str, float] = {}
    for stage in step.slots.stages:
        for kind, seconds in stage.evidence_s.items():
            spent[kind] = spent.get(kind, 0.0) + float(seconds)
    whole = sum(spent.values())
    return {kind: seconds / whole for kind, seconds in spent.items() if seconds > 0}


def different_share(first: ErrorShares, second: ErrorShares) -> float:
    """Share of the step that two steps spend in different components, 0 (the same) to 1 (nothing shared)."""
    names = {**first.seconds, **second.seconds}
    apart = (abs(second.seconds.get(name, 0.0) - first.seconds.get(name, 0.0)) for name in names)
    return min(1.0, sum(apart) / (first.total_s + second.total_s))


def difference_sigma_s(first: ErrorShares, second: ErrorShares) -> float:
    """Standard deviation, seconds, of the second's step time less the first's."""
    names = {**first.seconds, **second.seconds}
    mine, theirs = first.component_sigma, second.component_sigma
    squares = sum((second.seconds.get(n, 0.0) * theirs - first.seconds.get(n, 0.0) * mine) ** 2 for n in names)
    variance_share = 1 - exp(-different_share(first, second) / DIFFERENT_SHARE)
    mean_s = (first.total_s + second.total_s) / 2
    return hypot(sqrt(squares), RATIO_SPREAD * sqrt(variance_share) * mean_s)


def difference_interval_s(first: ErrorShares, second: ErrorShares) -> tuple[float, float]:
    """The 80 % interval of the second's step time less the first's."""
    difference_s = second.total_s - first.total_s
    half_s = STANDARD_DEVIATIONS * difference_sigma_s(first, second)
    return difference_s - half_s, difference_s + half_s
