"""Peak memory of every pipeline rank by owner: what the allocator holds, and what the device shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.memory.activations import Kept, stage_kept
from simulator.memory.outside import optimizer_step_bytes, outside_bytes
from simulator.memory.peak import ScheduleSlot, most_in_flight, peak_activations
from simulator.memory.pipeline_buffers import PIPELINE_BUFFERS
from simulator.memory.states import frees_logits_before_layers, reduction_bytes, state_bytes
from simulator.plans.layout import stages_of_ranks
from simulator.workload.derive import Workload
from simulator.workload.operators import Number
from simulator.workload.states import shares_states

# Share of a GPU's memory that a plan should leave: a tenth of the published allocator peaks is 7.3 % or more above its
# prediction, and of the 662 published plans that are predicted to fit seven are predicted to leave less than this.
RESERVE_FRACTION = 0.06


@dataclass(frozen=True, slots=True)
class RankMemory:
    """One pipeline rank at its peak: `owners` add up to `allocated_bytes`; `device_bytes` adds what lies outside
    the allocator (`outside`)."""

    rank: int
    stages: tuple[int, ...]
    owners: dict[str, float]
    outside: dict[str, float]

    @property
    def allocated_bytes(self) -> float:
        return sum(self.owners.values())

    @property
    def device_bytes(self) -> float:
        return self.allocated_bytes + sum(self.outside.values())


def memory_report(workload: Workload, ranks: Sequence[Sequence[ScheduleSlot]]) -> tuple[RankMemory, ...]:
    """Memory of every pipeline rank, given the slots it works through (`ranks`, one sequence per rank)."""
    plan, model, shape, parameters = workload.plan, workload.model, workload.shape, workload.parameters
    kept = kept_until_reduced(workload)
    result = []
    for rank, (held, slots) in enumerate(zip(stages_of_ranks(plan), ranks, strict=True)):
        owners = state_bytes([parameters[stage] for stage in dict.fromkeys(held)], plan)
        activations, working = peak_activations(slots, [kept[stage] for stage in held])
        owners |= {"activations": activations, "working": working}
        if plan.stack.pipeline_engine in PIPELINE_BUFFERS and plan.pp > 1:
            in_flight = [most_in_flight(slots, chunk) for chunk in range(len(held))]
            owners["pipeline buffers"] = PIPELINE_BUFFERS[plan.stack.pipeline_engine](model, shape, held, in_flight)
        outside = outside_bytes(plan, owners)
        if plan.stack.optimizer_step == "flat_copies":
            outside["optimizer step"] = optimizer_step_bytes([parameters[stage] for stage in held], plan)
        result.append(RankMemory(rank, tuple(held), as_floats(owners), as_floats(outside)))
    return tuple(result)


def as_floats(sizes: Mapping[str, Number]) -> dict[str, float]:
    return {owner: float(size) for owner, size in sizes.items()}


def kept_until_reduced(workload: Workload) -> tuple[Kept, ...]:
    """What one micro-batch leaves on every stage, a backward's gradients on their way to the reduction included."""
    kept = stage_kept(workload)
    if not (frees_logits_before_layers(workload.plan) and shares_states(workload.plan)):
        return kept
    reducing = [reduction_bytes(params, workload.plan) for params in workload.parameters]
    return tuple(replace(k, working=np.maximum(k.working, size)) for k, size in zip(kept, reducing, strict=True))
