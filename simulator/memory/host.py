"""How much memory of its hosts a job needs on its fullest node, by owner, and whether the node has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.memory.activations import stage_kept
from simulator.memory.peak import ScheduleSlot, most_in_flight
from simulator.memory.states import sharded_parameters, sharded_trained
from simulator.plans.choices import FSDP
from simulator.plans.layout import stages_of_ranks
from simulator.plans.spec import Plan
from simulator.workload.derive import Workload
from simulator.workload.states import (
    StageParameters,
    main_params_bytes,
    offloaded_gradient_fraction,
    optimizer_bytes,
    parameter_bytes,
)

# What pinned buffers and the host's allocator take beside offloaded states, as a share of them:
# additional_buffer_factor 1.5 of DeepSpeed's estimators (deepspeedai/DeepSpeed pull request 1536).
BUFFER_FRACTION = 0.5


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Memory of the fullest node's CPUs: bytes by owner, and what the node has (None: not known).

    `drive_bytes` wait on its local drives.
    """

    owners: dict[str, float]
    capacity_bytes: float | None
    drive_bytes: float = 0.0

    @property
    def used_bytes(self) -> float:
        return sum(self.owners.values())

    @property
    def fits(self) -> bool:
        return self.capacity_bytes is None or self.used_bytes <= self.capacity_bytes


def host_memory(
    workload: Workload, ranks: Sequence[Sequence[ScheduleSlot]], cluster: Cluster, checkpoint_bytes: float = 0.0
) -> HostMemory:
    """What the fullest node's hosts hold of the job's offloaded state and of its checkpoints.

    `ranks` are the slots of every pipeline rank, `checkpoint_bytes` what a GPU's checkpoints take of its host's memory.
    """
    node_gpus = min(cluster.node.gpus, cluster.gpus)
    offloaded = [float(kept.offloaded) for kept in stage_kept(workload)]
    rank_owners = [rank_host_bytes(workload, held, slots, offloaded) for held, slots in placed(workload, ranks)]
    owners = fullest_node(rank_owners, workload.plan, node_gpus)
    owners["checkpoint copies"] = checkpoint_bytes * node_gpus
    on_drives = [drive_bytes(workload, held) for held, _ in placed(workload, ranks)]
    return HostMemory(
        owners={owner: size for owner, size in owners.items() if size},
        capacity_bytes=cluster.node.host_memory_bytes,
        drive_bytes=max(on_drives) * node_gpus,
    )


def placed(
    workload: Workload, ranks: Sequence[Sequence[ScheduleSlot]]
) -> list[tuple[Sequence[int], Sequence[ScheduleSlot]]]:
    """The virtual stages and the slots of every pipeline rank."""
    return list(zip(stages_of_ranks(workload.plan), ranks, strict=True))


def rank_host_bytes(
    workload: Workload, held: Sequence[int], slots: Sequence[ScheduleSlot], offloaded: Sequence[float]
) -> dict[str, float]:
    """Bytes of host memory behind one GPU: offloaded states with their buffers, and activations in flight.

    `offloaded` are the bytes of one micro-batch's activations that each virtual stage moves to the host.
    """
    states = offloaded_state_bytes(distinct_parameters(workload, held), workload.plan)
    moving = [(chunk, offloaded[stage]) for chunk, stage in enumerate(held) if offloaded[stage]]
    activations = sum((most_in_flight(slots, chunk) * size for chunk, size in moving), 0.0)
    buffers = BUFFER_FRACTION * sum(states.values())
    return {**states, "pinned buffers": buffers, "activations": activations}


def offloaded_state_bytes(held: Sequence[StageParameters], plan: Plan) -> dict[str, float]:
    """Optimizer states, gradients and parameters of one rank in host memory.

    FSDP's offloaded shards are the fp32 master copy, which counts as the optimizer's; 32-bit weights have none.
    """
    count = float(sharded_trained(held, plan))
    weights = float(sharded_parameters(held, plan))
    are_masters = plan.stack.sharding_engine in FSDP and main_params_bytes(plan) > 0
    has_weights = plan.offload.params == "host" and not are_masters
    return {
        "optimizer": count * plan.offload.optimizer_fraction * optimizer_bytes(plan),
        "gradients": count * offloaded_gradient_fraction(plan) * FORMATS[plan.optimizer.grads].bytes,
        "params": weights * parameter_bytes(plan) if has_weights else 0.0,
    }


def drive_bytes(workload: Workload, held: Sequence[int]) -> float:
    """Bytes of one rank's parameters on local drives."""
    if workload.plan.offload.params != "nvme":
        return 0.0
    count = sharded_parameters(distinct_parameters(workload, held), workload.plan)
    return float(count) * parameter_bytes(workload.plan)


def distinct_parameters(workload: Workload, held: Sequence[int]) -> list[StageParameters]:
    return [workload.parameters[stage] for stage in dict.fromkeys(held)]


def fullest_node(rank_owners: Sequence[Mapping[str, float]], plan: Plan, node_gpus: int) -> dict[str, float]:
    """Owners of the node that needs most: its GPUs belong to one pipeline rank, or to several adjacent ones.

    Pipeline ranks are taken as the outermost axis, as every default rank order has them.
    """
    stage_gpus = plan.gpus // plan.pp
    stages_on_node = max(1, node_gpus // stage_gpus)
    gpus_of_stage = node_gpus / stages_on_node
    nodes: list[dict[str, float]] = []
    for first in range(0, len(rank_owners), stages_on_node):
        together: dict[str, float] = defaultdict(float)
        for owners in rank_owners[first : first + stages_on_node]:
            for owner, size in owners.items():
                together[owner] += size * gpus_of_stage
        nodes.append(dict(together))
    return max(nodes, key=lambda owners: sum(owners.values()))
