"""The best plan near the given one on so many GPUs of a node: the seam at which sizing asks for a plan.

Degrees are halved and doubled around the scenario's; every candidate is judged by the rules that judge a file, weighed
and played as `evaluate` does. `best_plan` is all that others ask for, so that a wider search can stand in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from math import log2
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Place
from hardware.specs import Cluster, Fabric, Node
from simulator.plan.layout import stage_count
from simulator.plan.spec import Plan
from simulator.predict.simulate import simulate
from simulator.scenario.auto_layout import asks_for_layout, fault_of_auto, provisional, with_best_layout
from simulator.scenario.legal import problems
from simulator.scenario.spec import Scenario
from simulator.schedules import default_schedule

AT = Place("size")
DEGREES = ("tp", "pp", "vpp", "ep", "micro_batch_size")
# How far each degree is halved and doubled from the given plan's.
REACH = {"tp": (1, 1), "pp": (2, 1), "vpp": (1, 1), "ep": (2, 1), "micro_batch_size": (1, 1)}
SPARE_SHARE = 0.05  # of the job's nodes, which its fabric should reach beside it
Degrees = tuple[int, ...]


class NoPlan(Exception):
    """No candidate is legal and fits; the message says what stands in the way."""


def best_plan(scenario: Scenario, gpus: int, node: str) -> Scenario:
    """The scenario on `gpus` GPUs of the catalogue node `node`, with the fastest plan found. Raises NoPlan."""
    placed = on_cluster(scenario, gpus, node)
    candidates = _Candidates(placed)
    best = candidates.climb()
    return candidates.scenarios[best]


def on_cluster(scenario: Scenario, gpus: int, node: str) -> Scenario:
    """The scenario with its cluster changed, its plan as it was; on its own fabric where that reaches, else the node's
    usual one. Raises NoPlan where no fabric does."""
    written = dict(scenario.written)
    section: dict[str, Any] = {**written["cluster"], "gpus": gpus}
    section.pop("name", None)
    server = scenario.cluster.node
    if node != node_name(scenario):
        section["node"] = node
        server = catalogue.node(node, AT)
        written.pop("hardware", None)
    try:
        fabric = _fabric(scenario, server, gpus)
    except InputError as error:
        raise NoPlan(error.problems[0].message) from None
    if fabric is not scenario.cluster.fabric:
        section["fabric"] = fabric.name
    written["cluster"] = section
    cluster = replace(scenario.cluster, name=f"{gpus} x {server.accelerator.name}", gpus=gpus, node=server,
                      fabric=fabric)  # fmt: skip
    return replace(scenario, cluster=cluster, written=written, warnings=(), published=None)


def node_name(scenario: Scenario) -> str:
    """The catalogue name of the scenario's node; where it is written out, the name that it has."""
    written = scenario.written.get("cluster", {})
    named = written.get("node") if isinstance(written, Mapping) else None
    return named if isinstance(named, str) else scenario.cluster.node.name


def _fabric(scenario: Scenario, server: Node, gpus: int) -> Fabric:
    """The scenario's fabric where it fits the node and reaches job and spares, else the plainest of the catalogue that
    does, else what reaches the job alone. Raises InputError where none does."""
    given = scenario.cluster.fabric
    suits = server is scenario.cluster.node or _same_ports(server, scenario.cluster.node)
    with_spares = gpus + max(2 * server.gpus, round(SPARE_SHARE * gpus / server.gpus) * server.gpus)
    for reach in (with_spares, gpus):
        if suits and _reaches(given, server, reach):
            return given
        try:
            return catalogue.usual_fabric(server, reach)
        except InputError:
            if reach == gpus:
                raise
    raise AssertionError("the last reach is the job's own")


def why_fabric(given: Cluster, taken: Cluster) -> str:
    """Why a job of another size or node is on a fabric that is not the scenario's; empty where it is."""
    own, chosen = given.fabric.name, taken.fabric.name
    if chosen == own:
        return ""
    if not _same_ports(taken.node, given.node):
        return f"the plainest for the ports of {taken.node.name}; the scenario's {own} is for {given.node.name}"
    return f"the plainest that reaches {taken.gpus:,} GPUs and their spares; the scenario's {own} does not"


def _reaches(fabric: Fabric, server: Node, gpus: int) -> bool:
    try:
        catalogue.cluster(gpus, server, fabric, at=AT)
    except InputError:
        return False
    return True


def _same_ports(one: Node, other: Node) -> bool:
    return one.nic == other.nic and one.gpus == other.gpus


@dataclass(slots=True)
class _Candidates:
    """The plans around a scenario's own, each judged and played at most once."""

    scenario: Scenario
    scenarios: dict[Degrees, Scenario]
    step_s: dict[Degrees, float | None]
    reasons: list[str]

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.scenarios, self.step_s, self.reasons = {}, {}, []

    def climb(self) -> Degrees:
        """From the nearest plan that fits to the best that steps of one degree lead to. Raises NoPlan."""
        best = next((each for each in _by_distance(self.scenario.plan) if self._seconds(each) is not None), None)
        if best is None:
            raise NoPlan(self.reasons[-1] if self.reasons else "no division of the GPUs is legal")
        while True:
            better = min(self._neighbours(best), key=self._rank, default=best)
            if self._rank(better) >= self._rank(best):
                return best
            best = better

    def _rank(self, degrees: Degrees) -> float:
        seconds = self._seconds(degrees)
        return float("inf") if seconds is None else seconds

    def _neighbours(self, degrees: Degrees) -> list[Degrees]:
        """One degree halved or doubled."""
        found = set()
        for index, value in enumerate(degrees):
            for other in (value // 2, value * 2):
                found.add((*degrees[:index], other, *degrees[index + 1 :]))
        return sorted(each for each in found if min(each) > 0)

    def _seconds(self, degrees: Degrees) -> float | None:
        """The step's; None where the plan is not legal or does not fit."""
        if degrees not in self.step_s:
            self.step_s[degrees] = self._judged(degrees)
        return self.step_s[degrees]

    def _judged(self, degrees: Degrees) -> float | None:
        plan = with_degrees(self.scenario, degrees)
        if plan is None:
            return None
        try:
            plan = legal_plan(self.scenario, plan)
        except NoPlan as fault:
            if not self.reasons:
                self.reasons.append(str(fault))
            return None
        candidate = replace(self.scenario, plan=plan)
        done = simulate(candidate)
        excess = done.device_bytes - done.scenario.cluster.accelerator.memory_capacity_bytes
        if excess > 0:
            self.reasons.append(f"memory: the smallest plan tried needs {excess / 2**30:.1f} GiB more than a GPU has")
            return None
        self.scenarios[degrees] = candidate
        return done.step.step_time_s


def _degrees(plan: Plan) -> Degrees:
    return tuple(getattr(plan, name) for name in DEGREES)


def _choices(value: int, reach: tuple[int, int]) -> list[int]:
    below, above = reach
    halves = [value // 2**n for n in range(1, below + 1) if value % 2**n == 0]
    return [value, *halves, *(value * 2**n for n in range(1, above + 1))]


def _distance(one: Degrees, other: Degrees) -> float:
    return sum(abs(log2(a / b)) for a, b in zip(one, other, strict=True))


def with_degrees(scenario: Scenario, degrees: Degrees) -> Plan | None:
    """The scenario's plan with other degrees and what follows from them; None where they do not divide the GPUs."""
    given, gpus = scenario.plan, scenario.cluster.gpus
    changes: dict[str, Any] = dict(zip(DEGREES, degrees, strict=True))
    tp, pp, vpp = changes["tp"], changes["pp"], changes["vpp"]
    replica = tp * given.cp * pp
    if gpus % replica or (vpp > 1 and pp == 1):
        return None
    changes["dp"] = gpus // replica
    if given.schedule == default_schedule(given.pp, given.vpp):
        changes["schedule"] = default_schedule(pp, vpp)
    if given.sequence_parallel or given.tp == 1:
        changes["sequence_parallel"] = tp > 1
    if (pp, vpp) != (given.pp, given.vpp):
        changes |= {"layout": None, "first_stage_layers": None, "last_stage_layers": None}
        changes |= {"account_for_embedding": False, "account_for_loss": False, "microbatch_group_size": None}
    return replace(given, **changes)


def legal_plan(scenario: Scenario, plan: Plan) -> Plan:
    """The plan, its layout computed where its layers do not divide. Raises NoPlan for one that breaks a rule."""
    judged = judged_plan(scenario, plan)
    if not asks_for_layout(scenario.model, plan):
        return judged
    return with_best_layout(scenario.model, scenario.cluster, judged, scenario.run.seq_length)


def judged_plan(scenario: Scenario, plan: Plan) -> Plan:
    """The plan, layers that do not divide spread evenly. Raises NoPlan for one that breaks a rule."""
    model = scenario.model
    if asks_for_layout(model, plan):
        fault = fault_of_auto(model, plan)
        if fault is not None or stage_count(plan) > len(model.layers):
            raise NoPlan(fault or f"{len(model.layers)} layers do not fill {stage_count(plan)} stages")
        plan = provisional(model, plan)
    broken = problems(replace(scenario, plan=plan), AT)
    if broken:
        raise NoPlan(broken[0].message if not broken[0].key else f"{broken[0].key}: {broken[0].message}")
    return plan


def has_legal_plan(scenario: Scenario, gpus: int, node: str) -> bool:
    """Whether some candidate breaks no rule on so many GPUs; its memory is not looked at."""
    try:
        placed = on_cluster(scenario, gpus, node)
    except NoPlan:
        return False
    return any(_is_legal(placed, degrees) for degrees in _by_distance(placed.plan))


def _is_legal(scenario: Scenario, degrees: Degrees) -> bool:
    plan = with_degrees(scenario, degrees)
    try:
        return plan is not None and judged_plan(scenario, plan) is not None
    except NoPlan:
        return False


def _by_distance(plan: Plan) -> list[Degrees]:
    """All candidates, the fewest halvings and doublings from the given plan first."""
    given = _degrees(plan)
    choices = (_choices(value, REACH[name]) for name, value in zip(DEGREES, given, strict=True))
    return sorted(product(*choices), key=lambda each: (_distance(each, given), each))


def gpu_counts(scenario: Scenario, node: str) -> list[int]:
    """GPUs that a job can have, ascending: whole nodes, in replicas that share the global batch evenly, with some plan
    that breaks no rule."""
    plan = scenario.plan
    server = scenario.cluster.node if node == node_name(scenario) else catalogue.node(node, AT)
    replicas = _divisors(plan.global_batch_size)
    units = {plan.tp * plan.cp * pp for pp in _choices(plan.pp, REACH["pp"])}
    counts = {unit * dp for unit in units for dp in replicas}
    whole = sorted(count for count in counts if count % server.gpus == 0)
    return [count for count in whole if has_legal_plan(scenario, count, node)]


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]
