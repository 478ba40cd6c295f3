"""The communicators of a plan as they lie in the cluster."""

from __future__ import annotations

from math import prod

from hardware.collectives import Group, strided_group

from hardware.specs import Cluster
from simulator.plan.placement import GROUP_AXES, axes
from simulator.plan.spec import Plan
from simulator.workload.states import replica_ranks

KINDS = ("tp", "cp", "dp_cp", "etp", "ep", "edp", "pp")


def plan_groups(plan: Plan, cluster: Cluster) -> dict[str, Group]:
    """One `Group` per kind: its size, and the stride of its slowest-varying axis' neighbours on the rank line."""
    return {kind: group(plan, cluster, kind) for kind in KINDS}


def group(plan: Plan, cluster: Cluster, kind: str) -> Group:
    grid, members = GROUP_AXES[kind]
    line = [axis for axis in axes(plan, grid) if axis.name in members]
    return strided_group(cluster, prod(axis.size for axis in line), min(axis.stride for axis in line))


def shard_groups(plan: Plan, cluster: Cluster) -> dict[str, Group]:
    """Groups over which dense and expert gradients are reduced."""
    if plan.schedule != "dualpipe":
        return {"dense": group(plan, cluster, "dp_cp"), "expert": group(plan, cluster, "edp")}
    strides = {"dense": plan.tp, "expert": plan.ep * plan.etp}
    return {name: strided_group(cluster, ranks, strides[name]) for name, ranks in replica_ranks(plan).items()}
