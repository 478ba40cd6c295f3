"""The communicators of a plan as they lie in the cluster."""

from __future__ import annotations

from hardware.collectives import Group, strided_group
from hardware.specs import Cluster
from simulator.plans.placement import process_group
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.states import replica_ranks

KINDS = ("tp", "cp", "etp", "ep")


def plan_groups(plan: Plan, cluster: Cluster) -> dict[str, Group]:
    """The groups that exchange within a layer, by kind."""
    return {kind: process_group(plan, kind, cluster) for kind in KINDS}


def shard_groups(plan: Plan, cluster: Cluster) -> dict[str, Group]:
    """Groups over which dense and expert gradients are reduced; mirrored pipelines span both ranks of a stage."""
    if SCHEDULES[plan.schedule].placement.copies == 1:
        return {"dense": process_group(plan, "dp_cp", cluster), "expert": process_group(plan, "edp", cluster)}
    strides = {"dense": plan.tp, "expert": plan.ep * plan.etp}
    return {name: strided_group(cluster, ranks, strides[name]) for name, ranks in replica_ranks(plan).items()}
