"""Whether the nodes' own memory holds what a plan moves there."""

from __future__ import annotations

from dataclasses import replace

from simulator.memory.host import host_memory
from simulator.plans.allocation import allocated
from simulator.plans.layout import schedule_name
from simulator.plans.spec import Plan
from simulator.predict.run_spec import host_copy_bytes
from simulator.predict.simulate import scenario_workload
from simulator.scenario.spec import Scenario
from simulator.schedules import make_schedule


def fits_hosts(scenario: Scenario, plan: Plan) -> bool:
    """Whether the fullest node holds what a plan offloads; true where that is nothing, or the node names no memory."""
    offload = plan.offload
    moves = offload.optimizer_fraction > 0 or bool(offload.modules) or offload.params == "host"
    if not moves or scenario.cluster.node.host_memory_bytes is None:
        return True
    placed = replace(scenario, plan=plan, cluster=allocated(plan, scenario.cluster))
    schedule = make_schedule(schedule_name(plan), plan.pp, plan.vpp, plan.microbatches, plan.microbatch_group_size)
    copies = host_copy_bytes(placed)
    return host_memory(scenario_workload(placed), schedule.ranks, placed.cluster, copies).fits
