"""Environment variables of a launch, each with the reason for it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from simulator.launch.tables import DATA, Table, as_text, holds
from simulator.plans.placement import geometry
from simulator.scenario.schema import Scenario
from simulator.stack import release


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable: its value, or a key in braces, the conditions under which it is set, and why."""

    name: str
    value: str
    why: str
    when: Mapping[str, tuple[str, ...]]


@cache
def variables() -> tuple[Variable, ...]:
    """Every variable that a launch may set, in order."""
    text = (DATA / "environment" / "variables.toml").read_text(encoding="utf-8")
    rows = tomllib.loads(text)["variable"]
    return tuple(Variable(row["name"], row["value"], row["why"], _conditions(row)) for row in rows)


def _conditions(row: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(values) for key, values in row.get("when", {}).items()}


def environment(table: Table, scenario: Scenario, facts: Mapping[str, Any]) -> tuple[Variable, ...]:
    """The variables that this launch sets, values filled in."""
    known = {**facts, **cluster_facts(scenario), **_target_facts(table)}
    chosen: dict[str, Variable] = {}
    for each in variables():
        if each.name not in chosen and holds(each.when, known):
            chosen[each.name] = Variable(each.name, _filled(each.value, known), each.why, each.when)
    return tuple(chosen.values())


def _filled(value: str, known: Mapping[str, Any]) -> str:
    is_key = value.startswith("{") and value.endswith("}")
    return as_text(known[value[1:-1]]) if is_key else value


def _target_facts(table: Table) -> dict[str, Any]:
    return {"target.syntax": table.syntax, "target.framework": release(table.stack).stack.framework}


def cluster_facts(scenario: Scenario) -> dict[str, Any]:
    """Keys `cluster.*` that decide variables and job files."""
    cluster, plan = scenario.cluster, scenario.plan
    node, fabric = cluster.node, cluster.fabric
    domain_gpus = node.scale_up.domain_gpus
    return {
        "cluster.gpus": cluster.gpus,
        "cluster.nodes": cluster.nodes,
        "cluster.gpus_per_node": min(node.gpus, cluster.gpus),
        "cluster.generation": node.accelerator.generation,
        "cluster.vendor": _vendor(node.accelerator.generation),
        "cluster.nic": node.nic.technology,
        "cluster.domain_gpus": domain_gpus,
        "cluster.domain_nodes": min(max(1, domain_gpus // node.gpus), cluster.nodes),
        "cluster.multicast": node.scale_up.multicast,
        "cluster.rails": fabric.rails,
        "cluster.adaptive_routing": fabric.adaptive_routing,
        "cluster.in_network_reduction": fabric.in_network_reduction,
        "cluster.ep_ranks_per_domain": geometry(plan, "ep", cluster).ranks_per_domain,
    }


def _vendor(generation: str) -> str:
    return "amd" if generation.startswith("cdna") else "none" if generation == "cpu" else "nvidia"
