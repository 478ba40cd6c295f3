"""From a model on a cluster under a plan to the seconds of every slot of its pipeline schedule."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.collectives import DISPATCHERS, Group, collective_s, strided_group
from hardware.collectives.closed_form import tables_of
from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.cost.constants import NEUTRAL, Constants, constants_for
from simulator.cost.groups import plan_groups, shard_groups
from simulator.cost.layers import Beside
from simulator.cost.offload import host_link_s
from simulator.cost.price import Prices
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.cost.stages import Lost, StageCost, paired_stages, stage_costs
from simulator.cost.updates import (
    gather_and_reduce,
    gathers_lists,
    matrix_products_s,
    optimizer_s,
    shared_numbers_s,
    with_lists,
)
from simulator.model.components import layer_linears
from simulator.optimizers import OPTIMIZERS
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import stages_of_ranks
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.derive import Workload
from simulator.workload.operators import Number
from simulator.workload.shape import Shape, padded_vocab
from simulator.workload.states import has_embedding_copy, travels_by_layer

# Speed that expert communication keeps beside compute: DeepSeek's H800 profile spends 80 ms on what takes 52 ms alone
# (deepseek-ai/profile-data). Its 33 ms of handshakes wait for compute: see layers.HANDOVER_FRACTION.
COMMUNICATION_FRACTION = 52 / 80


@dataclass(frozen=True, slots=True)
class UpdateTimes:
    """Once-a-step seconds: per virtual stage the buckets gathered and reduced, per pipeline rank the optimizer,
    and what every rank waits for (gradient norm, tied embeddings)."""

    gather_s: tuple[tuple[float, ...], ...]
    reduce_s: tuple[tuple[float, ...], ...]
    optimizer_s: tuple[float, ...]
    barrier_s: float


@dataclass(frozen=True, slots=True)
class SlotTimes:
    """Costs of every virtual stage and of its sends; where the schedule pairs, what is left of speeds in a pair."""

    stages: tuple[StageCost, ...]
    beside: Beside | None
    send_s: float
    constants: Constants = NEUTRAL


def slot_times(
    workload: Workload, cluster: Cluster, constants: Constants | None = None, offloaded: Sequence[Number] = ()
) -> SlotTimes:
    """Price every stage.

    `constants` None: those of the data file for this part and plan. `offloaded`: bytes of activations that one
    micro-batch of each stage moves to host memory and back.
    """
    plan = workload.plan
    constants = constants or constants_for(cluster.accelerator, plan)
    prices = Prices(cluster, plan, plan_groups(plan, cluster), constants=constants)
    moved_s = [host_link_s(size, cluster) for size in offloaded]
    beside = pair_speeds(plan, cluster) if plan.is_paired else None
    send_s = stage_send_s(workload.shape, prices)
    return SlotTimes(stage_costs(workload, prices, moved_s), beside, float(send_s), constants)


def pair_speeds(plan: Plan, cluster: Cluster) -> Beside:
    """What is left of speeds in an overlapped pair, and whether its weight gradients are put off."""
    return Beside(*shares_beside(plan, cluster), plan.puts_off_weights)


def shares_beside(plan: Plan, cluster: Cluster) -> tuple[float, float]:
    """What compute and communication keep of their speed beside each other: as a profile measured it on this cluster,
    else by the SMs that communication kernels take and DeepSeek's published profile."""
    slowed = tables_of(cluster.efficiencies).get("contention", {})
    compute = 1 - DISPATCHERS[plan.dispatcher].sms / cluster.accelerator.sm_count
    if "compute" in slowed:
        compute = min(1.0, 1 / slowed["compute"])
    moved = min(1.0, 1 / slowed["communication"]) if "communication" in slowed else COMMUNICATION_FRACTION
    return compute, moved


def side_by_side(
    stages: Sequence[StageCost], updates: UpdateTimes, plan: Plan, cluster: Cluster, constants: Constants
) -> tuple[list[StageCost], UpdateTimes]:
    """Stages and updates once computing and collectives of data parallelism slow each other, by the one rule that every
    player of the step uses."""
    shared = causes_on_shared_links(plan, cluster)
    slowed = with_contention(updates, stages, plan, constants, shared)
    lost = with_lost(stages, slowed, plan, constants, shared)
    return lost, with_shared_links(slowed, stages, plan, shared)


def causes_on_shared_links(plan: Plan, cluster: Cluster) -> frozenset[str]:
    """Causes of exchanges within layers that use the links of data parallelism: the network, or those of one domain."""
    if plan.dp * plan.cp == 1:
        return frozenset()
    across = crosses_network(shard_groups(plan, cluster)["dense"])
    groups = plan_groups(plan, cluster)
    return frozenset(
        cause for cause in ("tp", "cp", "ep") if groups[cause].ranks > 1 and crosses_network(groups[cause]) == across
    )


def crosses_network(group: Group) -> bool:
    """Whether a group's busiest links are those between scale-up domains."""
    return bool(group.domains > 1)


def exchange_fraction(busy: Seconds, shared: Collection[str]) -> Number:
    """Part of a slot's time in which it holds the links of these causes."""
    exchanged = sum(seconds for cause, seconds in busy.by_cause().items() if cause in shared)
    return exchanged / np.maximum(busy.total_s, 1e-300)


def lost_beside(busy: Seconds, beside_s: Number, rate: float, shared: Collection[str]) -> Seconds:
    """What a slot loses in `beside_s` of its seconds to a transfer beside them: `rate` of them to its kernels, and what
    the slot exchanges on the same links once more, since both go at half speed while they share these."""
    met = beside_s / np.maximum(busy.total_s, 1e-300)
    again = {f"{cause}_s": met * seconds for cause, seconds in busy.by_cause().items() if cause in shared}
    return Seconds(compute_s=rate * beside_s, **again)


def with_lost(
    stages: Sequence[StageCost],
    updates: UpdateTimes,
    plan: Plan,
    constants: Constants,
    shared: Collection[str] = (),
) -> list[StageCost]:
    """Stages whose forward and backward lose time to the collectives of fully sharded layers beside them.

    NCCL's kernels hold SMs and memory bandwidth; a persistent product, as Hopper's libraries launch them, with one
    block for each SM then waits for the blocks that found none, a whole wave. Exchanges of the causes in `shared` share
    their links with them. Under a pipeline a slot's first gather and last reduction run while the rank waits for
    another stage.
    """
    if not SHARDINGS[plan.sharding].shards_weights or not (constants.lost_beside_dp or shared):
        return list(stages)
    found = []
    for stage, gathers, reduces in zip(stages, updates.gather_s, updates.reduce_s, strict=True):
        if plan.pp > 1:
            gathers, reduces = gathers[1:], reduces[:-1]
        gather_s = sum(gathers) if plan.overlap.param_gather else 0.0
        reduce_s = sum(reduces) if plan.overlap.grad_reduce else 0.0
        ahead_s = np.minimum(gather_s, stage.forward.total_s)
        if SCHEDULES[plan.schedule].puts_off_weight_gradients:
            back, back_s = stage.input, np.minimum(gather_s, stage.input.total_s)
            weight_s = np.minimum(reduce_s, stage.weight.total_s)
        else:
            back = stage.input + stage.weight
            back_s, weight_s = np.minimum(gather_s + reduce_s, back.total_s), 0.0
        halves = ((stage.forward, ahead_s), (back, back_s), (stage.weight, weight_s))
        lost = Lost(*(lost_beside(busy, beside_s, constants.lost_beside_dp, shared) for busy, beside_s in halves))
        found.append(stage.with_lost(lost))
    return found


def with_shared_links(
    updates: UpdateTimes, stages: Sequence[StageCost], plan: Plan, shared: Collection[str]
) -> UpdateTimes:
    """Gathers and reductions of fully sharded layers once the exchanges of the slots beside them share their links."""
    if not SHARDINGS[plan.sharding].shards_weights or not shared:
        return updates

    def longer(seconds: tuple[float, ...], overlapped: bool, beside: Seconds) -> tuple[float, ...]:
        moved_s = sum(seconds)
        if not overlapped or not moved_s:
            return seconds
        met = min(moved_s, float(beside.total_s)) / moved_s
        factor = 1 + met * float(exchange_fraction(beside, shared))
        return tuple(factor * second for second in seconds)

    gathers, reduces = plan.overlap.param_gather, plan.overlap.grad_reduce
    return replace(
        updates,
        gather_s=tuple(
            longer(row, gathers, stage.forward) for row, stage in zip(updates.gather_s, stages, strict=True)
        ),
        reduce_s=tuple(
            longer(row, reduces, stage.input + stage.weight)
            for row, stage in zip(updates.reduce_s, stages, strict=True)
        ),
    )


def with_contention(
    updates: UpdateTimes,
    stages: Sequence[StageCost],
    plan: Plan,
    constants: Constants,
    shared: Collection[str] = (),
) -> UpdateTimes:
    """Updates once computing loses time to the collectives that run beside it once a step.

    What `with_lost` is to every micro-batch of fully sharded layers: gathers stand beside a step's first forwards,
    reductions beside its last backwards, and both keep SMs, and links, from them. No rank loses more than it computes
    meanwhile. The slowest rank's loss stands before the optimizer, for which all ranks wait.
    """
    if SHARDINGS[plan.sharding].shards_weights or not (constants.lost_beside_dp or shared):
        return updates
    losses = []
    for held in stages_of_ranks(plan):
        gathers = [seconds for stage in held for seconds in updates.gather_s[stage]]
        reduces = [seconds for stage in reversed(held) for seconds in updates.reduce_s[stage]]
        # Nothing computes beside the first gather and the last reduction.
        gather_s = sum(gathers[1:]) if plan.overlap.param_gather else 0.0
        reduce_s = sum(reduces[:-1]) if plan.overlap.grad_reduce else 0.0
        ahead = sum((stages[stage].forward for stage in held), NO_TIME)
        back = sum((stages[stage].input + stages[stage].weight for stage in held), NO_TIME)
        besides = ((ahead, min(gather_s, float(ahead.total_s))), (back, min(reduce_s, float(back.total_s))))
        parts = [lost_beside(busy, beside_s, constants.lost_beside_dp, shared) for busy, beside_s in besides]
        losses.append(float(sum(part.total_s for part in parts)))
    return replace(updates, barrier_s=updates.barrier_s + max(losses))


def stage_send_s(shape: Shape, prices: Prices) -> Number:
    """Seconds of one stage's activations to the next; none without a pipeline."""
    cluster = prices.cluster
    if shape.plan.pp == 1:
        return 0.0
    sent, gathered = sent_bytes(shape)
    sent_s = collective_s("send_recv", sent, strided_group(cluster, 2, cluster.gpus // shape.plan.pp), cluster).seconds
    return sent_s + collective_s("all_gather", gathered, prices.groups["tp"], cluster).seconds if gathered else sent_s


def sent_bytes(shape: Shape) -> tuple[Number, Number]:
    """What a rank sends to the next stage for one micro-batch, and what tensor ranks gather again behind the network.

    Without sequence parallelism every tensor rank holds the activations whole: Megatron and DeepSpeed send each
    rank's share and gather it again (scatter-gather, arXiv 2104.04473 section 4.1); others send all from each rank.
    """
    plan = shape.plan
    held = shape.sharded_tokens * shape.hidden * shape.streams * shape.element_bytes
    if plan.sequence_parallel or plan.tp == 1 or plan.stack.pipeline_sends == "whole":
        return held, 0.0
    return held / plan.tp, held


def pair_seconds(times: SlotTimes, plan: Plan) -> dict[str, np.ndarray] | None:
    """Seconds by cause of an overlapped pair, arrays [forward stage, backward stage]; only pairs of one rank."""
    if times.beside is None:
        return None
    count = len(times.stages)
    found = {cause: np.zeros((count, count)) for cause in Seconds().by_cause()}
    known: dict[tuple[int, int], dict[str, Number]] = {}
    for held in stages_of_ranks(plan):
        for ahead in held:
            for back in held:
                key = (id(times.stages[ahead]), id(times.stages[back]))
                if key not in known:
                    paired = paired_stages(times.stages[ahead], times.stages[back], plan, times.beside)
                    known[key] = paired.by_cause()
                for cause, seconds in known[key].items():
                    found[cause][ahead, back] = seconds
    return found


def first_alike(workload: Workload) -> list[int]:
    """By stage the first one that gathers, reduces and updates the same: of the same content, and as far from the front
    as buckets go (see `gather_and_reduce`)."""
    first: dict[tuple[object, ...], int] = {}
    return [
        first.setdefault((workload.content(stage), stage.index > 0), number)
        for number, stage in enumerate(workload.stages)
    ]


def stage_moves(
    workload: Workload, number: int, groups: Mapping[str, Group], cluster: Cluster, constants: Constants
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Seconds of a stage's parameter all-gathers and gradient reductions, bucket by bucket."""
    model, plan = workload.model, workload.plan
    held = workload.parameters[number]
    whole = workload.stages[number].index > 0 and not travels_by_layer(plan)
    moved = gather_and_reduce(held, plan, groups, cluster, whole=whole, rate=constants.dp_rate)
    if not gathers_lists(plan):
        return moved
    calls_s = len(layer_linears(model, model.layers[0])) * groups["dense"].ranks * constants.host_s_per_kernel
    return with_lists(moved, held.layers, calls_s, plan, cluster)


def stage_update_s(workload: Workload, number: int, groups: Mapping[str, Group], cluster: Cluster) -> Number:
    """Seconds of a stage's optimizer."""
    model, plan, stage = workload.model, workload.plan, workload.stages[number]
    seconds = optimizer_s(workload.parameters[number], plan, groups, cluster)
    seconds = seconds + shared_numbers_s(model, stage, plan, groups, cluster)
    products = OPTIMIZERS[plan.optimizer.kind].products
    if products is None:
        return seconds
    return seconds + matrix_products_s(model, stage, plan, products, cluster)


def update_times(workload: Workload, cluster: Cluster, constants: Constants | None = None) -> UpdateTimes:
    """Gradient reduction, optimizer and parameter gathering of every stage and rank.

    `constants` None: those of the data file for this part and plan.
    """
    model, plan = workload.model, workload.plan
    constants = constants or constants_for(cluster.accelerator, plan)
    groups = shard_groups(plan, cluster)
    alike = first_alike(workload)
    moves = {stage: stage_moves(workload, stage, groups, cluster, constants) for stage in set(alike)}
    seconds = {stage: stage_update_s(workload, stage, groups, cluster) for stage in set(alike)}
    moved, updates = [moves[stage] for stage in alike], [seconds[stage] for stage in alike]
    held = [sorted(set(ranks)) for ranks in stages_of_ranks(plan)]
    barrier_s = collective_s("all_reduce", 4.0, strided_group(cluster, cluster.gpus), cluster).seconds
    # Copies of the embedding stay equal: _allreduce_word_embedding_grads (megatron/core/distributed).
    if any(has_embedding_copy(model, plan, stage) for stage in workload.stages) and plan.adapters is None:
        table = padded_vocab(model.vocab, plan) * model.hidden / plan.tp * FORMATS[plan.optimizer.grads].bytes
        ends = strided_group(cluster, 2, cluster.gpus // plan.pp * (plan.pp - 1))
        barrier_s += collective_s("all_reduce", table, ends, cluster).seconds
    return UpdateTimes(
        gather_s=tuple(gathers for gathers, _ in moved),
        reduce_s=tuple(reduces for _, reduces in moved),
        optimizer_s=tuple(float(sum(updates[stage] for stage in ranks)) for ranks in held),
        barrier_s=float(barrier_s),
    )
