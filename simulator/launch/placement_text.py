"""The placement that was predicted, in words: how each kind of group lies on nodes and domains."""

from __future__ import annotations

from simulator.launch.job import Job
from simulator.plans.placement import geometry
from simulator.scenario.schema import Scenario

_KINDS = ("tp", "cp", "ep", "dp", "pp")


def placement_lines(scenario: Scenario, job: Job) -> list[str]:
    """One line for each kind of group with more than one rank, then the blocks that the scheduler must keep."""
    lines = []
    for kind in _KINDS:
        group = geometry(scenario.plan, kind, scenario.cluster)
        if group.ranks > 1:
            strides = ", ".join(str(stride) for stride in group.strides)
            where = f"on {group.nodes} node{'s' if group.nodes > 1 else ''}, {group.ranks_per_node} or more on each"
            lines.append(f"{kind}: groups of {group.ranks} ranks, {strides} apart, {where}")
    if job.segment > 1:
        lines.append(f"every {job.segment} consecutive nodes lie in one scale-up domain")
    if job.nodes > 1:
        lines.append(f"nodes fill the switches of the lowest tier one after another, {job.leaf_nodes} below each")
    return lines
