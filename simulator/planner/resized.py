"""A scenario on other GPUs: so many of a node, on a fabric that reaches them; and which counts a job can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Place
from hardware.specs import Cluster, Fabric, Node
from simulator.plans.case import divisors
from simulator.scenario.spec import Scenario

AT = Place("size")
SPARE_SHARE = 0.05  # of the job's nodes, which its fabric should reach beside it


class NoPlan(Exception):
    """No plan is legal and fits; the message says what stands in the way."""


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


def gpu_counts(scenario: Scenario, node: str) -> list[int]:
    """GPUs that a job can have, ascending: whole nodes, in replicas that share the global batch evenly."""
    plan = scenario.plan
    server = scenario.cluster.node if node == node_name(scenario) else catalogue.node(node, AT)
    units = {plan.tp * plan.cp * pp for pp in pipeline_depths(plan.pp)}
    counts = {unit * dp for unit in units for dp in divisors(plan.global_batch_size)}
    return sorted(count for count in counts if count % server.gpus == 0)


def pipeline_depths(pp: int) -> list[int]:
    """The plan's own depth, half and a quarter of it where these are whole, and twice."""
    return [pp // part for part in (1, 2, 4) if pp % part == 0] + [2 * pp]
