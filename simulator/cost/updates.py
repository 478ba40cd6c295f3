"""Once a step: gradients reduced, parameters updated and gathered, per pipeline rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np

from hardware.collectives import Group, collective_s
from hardware.collectives.compression import compressed_all_reduce, compressed_reduce_scatter
from hardware.collectives.group import across_shards, leading_shard
from hardware.collectives.reductions import REDUCTIONS
from hardware.kernels import gemm_s, streaming_s
from hardware.precisions import FORMATS
from hardware.specs import Cluster
from simulator.cost.offload import fetch_s, host_update_s, leaving_s
from simulator.model.spec import Model
from simulator.optimizers import OPTIMIZERS, MatrixProducts
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import StageLayers
from simulator.plans.spec import Plan
from simulator.workload.operators import Number
from simulator.workload.states import (
    StageParameters,
    parameter_bytes,
    replica_ranks,
    shard_count,
    stage_matrices,
    stage_widths,
    travels_by_layer,
    update_bytes,
)

# Megatron-Core's bucket: the larger of 40 M parameters and 1 M per data-parallel rank (param_and_grad_buffer.py).
BUCKET_PARAMETERS = 40e6


def optimizer_s(parameters: StageParameters, plan: Plan, groups: Mapping[str, Group], cluster: Cluster) -> Number:
    """Gradient norm, clipping, update and zeroing of the gradient buffer, all memory-bound.

    Per parameter of the local shard: gradient read for the norm, read and written for clipping, read for the
    update; master copy and moments read and written; the new parameter written. The whole local gradient buffer
    is zeroed. What is offloaded the host updates (`host_update_s`). Products on whole matrices, as Muon's, are left
    to `matrix_products_s`.
    """
    grad = FORMATS[plan.optimizer.grads].bytes
    on_gpu = 1 - plan.offload.optimizer_fraction
    shard = shard_of(parameters.trained, plan, groups)
    touched = 3 * grad + on_gpu * update_bytes(plan, mean_width(parameters, plan))
    zeroed = sum(parameters.trained) * grad
    return streaming_s(cluster.accelerator, shard * touched + zeroed, "optimizer") + host_update_s(shard, plan, cluster)


def mean_width(stage: StageParameters, plan: Plan) -> Number:
    """Bytes of a weight of a stage, dense and experts' together, in the mean."""
    if not stage.in_16_bit:
        return parameter_bytes(plan)
    dense, expert = stage_widths(stage, plan)
    return (dense * stage.dense + expert * stage.expert) / (stage.dense + stage.expert)


def matrix_products_s(
    model: Model, stage: StageLayers, plan: Plan, products: MatrixProducts, cluster: Cluster
) -> Number:
    """What an optimizer such as Muon computes on every matrix of a stage.

    Matrices are dealt whole to the ranks that hold them: dense ones to those of dp x cp, experts' to those of expert
    data parallelism. tp ranks repeat the work ("duplicated").
    """
    ranks = replica_ranks(plan)
    seconds: Number = 0.0
    for inputs, outputs, copies, expert in stage_matrices(model, plan, stage):
        shapes = products.shapes(*sorted((inputs, outputs)))
        iteration_s = sum(gemm_s(cluster.accelerator, products.precision, *shape) for shape in shapes)
        shards = shard_count(plan, ranks["expert" if expert else "dense"])
        seconds = seconds + copies / shards * products.iterations * iteration_s
    return seconds


def shared_numbers_s(
    model: Model, stage: StageLayers, plan: Plan, groups: Mapping[str, Group], cluster: Cluster
) -> Number:
    """Norms and factored moments of matrices that several ranks share, summed up in one all-reduce of each group."""
    record = OPTIMIZERS[plan.optimizer.kind]
    numbers: dict[str, Number] = {"dense": 0.0, "expert": 0.0}
    for rows, columns, copies, expert in stage_matrices(model, plan, stage):
        numbers["expert" if expert else "dense"] += copies * record.shared_numbers(rows, columns)
    shared = SHARDINGS[plan.sharding].shards_optimizer
    return sum(
        collective_s("all_reduce", count * 4.0, sharded_over(groups[name], plan), cluster).seconds
        for name, count in numbers.items()
        if shared and count
    )


def reduces_whole(plan: Plan) -> bool:
    """Whether every rank needs whole gradients: nothing is sharded, or the optimizer works on whole matrices."""
    sharding, record = SHARDINGS[plan.sharding], OPTIMIZERS[plan.optimizer.kind]
    return not sharding.shards_optimizer or (record.needs_whole_matrices and not sharding.shards_gradients)


def gather_and_reduce(
    held: StageParameters,
    plan: Plan,
    groups: Mapping[str, Group],
    cluster: Cluster,
    whole: bool,
    rate: float = 1.0,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Durations of a stage's parameter all-gathers and gradient reductions, bucket by bucket.

    `whole`: one bucket for the stage (Megatron-Core beyond the first stage); otherwise buckets of the usual size,
    or of a layer where everything is sharded. Dense and expert parameters reduce over their own groups. Frozen weights
    are gathered where they are sharded, and never reduced. Buckets of one size are priced once. `rate`: what
    collectives between scale-up domains keep of their bandwidth.
    """
    gathered = parts_of(gathered_layers(held, plan), plan, groups, whole)
    reduced = parts_of(held.trained_layers, plan, groups, whole)
    gathers_s, reduces_s = {}, {}
    dense_width, expert_width = stage_widths(held, plan)
    for part in set(gathered):
        part_bytes = (part[0] * dense_width, part[1] * expert_width)
        moved_s = (at_rate(gather_s(size, by, plan, cluster), by, rate) for size, by in by_group(part_bytes, groups))
        gathers_s[part] = float(sum(moved_s) + fetch_s(shard_of(part, plan, groups), plan, cluster))
    for part in set(reduced):
        moved_s = (at_rate(reduce_s(count, by, plan, cluster), by, rate) for count, by in by_group(part, groups))
        reduces_s[part] = float(sum(moved_s) + leaving_s(shard_of(part, plan, groups), plan, cluster))
    return tuple(gathers_s[part] for part in gathered), tuple(reduces_s[part] for part in reversed(reduced))


def at_rate(seconds: Number, group: Group, rate: float) -> Number:
    """Seconds of a collective that keeps `rate` of its bandwidth where it crosses scale-up domains."""
    return seconds / rate if group.domains > 1 else seconds


def gathered_layers(held: StageParameters, plan: Plan) -> tuple[tuple[Number, Number], ...]:
    """What all-gathers bring to every rank: all parameters of sharded layers, otherwise those that were updated."""
    return held.layers if SHARDINGS[plan.sharding].shards_weights else held.trained_layers


def by_group(part: tuple[Number, Number], groups: Mapping[str, Group]) -> tuple[tuple[Number, Group], ...]:
    """Dense and expert parameters (or their bytes), each with the ranks that share them; what there is none of is left
    out."""
    dense, expert = part
    kinds = ((dense, groups["dense"]), (expert, groups["expert"]))
    return tuple((count, group) for count, group in kinds if np.any(count))


def shard_of(part: tuple[Number, Number], plan: Plan, groups: Mapping[str, Group]) -> Number:
    """A rank's own share of dense and expert parameters."""
    return sum(count / shard_count(plan, group.ranks) for count, group in by_group(part, groups))


def gathers_lists(plan: Plan) -> bool:
    """Whether parameters travel one by one through lists of tensors: DeepSpeed's ZeRO-3 of 2021."""
    return plan.stack.sharding_engine == "lists" and SHARDINGS[plan.sharding].shards_weights


def with_lists(
    moved: tuple[tuple[float, ...], tuple[float, ...]],
    layers: Sequence[tuple[Number, Number]],
    calls: Number,
    plan: Plan,
    cluster: Cluster,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A stage's gathers and reductions, layer by layer, as DeepSpeed's ZeRO-3 of 2021 runs them.

    `moved`: without lists. Every matrix is gathered into a list of one tensor per rank, which the host slices and
    copies one after the other (`calls`: its seconds for a layer); its gradient leaves the same way. The gathered
    buffer is zeroed first and its copies written once more (partition_parameters.py of 0.3.13: _allgather_param,
    _reduce_scatter_gradient). With full recomputation a parameter is gathered three times a step where the engine
    counts two: forward, recomputation and backward are further apart than max_reuse_distance (1e9 parameters) allows.
    """
    size, again = parameter_bytes(plan), 3 / 2 if plan.reruns_layers else 1.0
    held = [size * (dense + expert) for dense, expert in layers]
    copied = [float(calls + streaming_s(cluster.accelerator, 3 * size_bytes, "copy")) for size_bytes in held]
    gathers, reduces = moved
    return (
        tuple(again * (seconds + more) for seconds, more in zip(gathers, copied, strict=True)),
        tuple(seconds + more for seconds, more in zip(reduces, reversed(copied), strict=True)),
    )


def parts_of(
    layers: Sequence[tuple[Number, Number]], plan: Plan, groups: Mapping[str, Group], whole: bool
) -> list[tuple[Number, Number]]:
    """Dense and expert parameters of each bucket of a stage, in forward order."""
    if whole and plan.gradients.bucket_bytes is None:
        return [(sum(d for d, _ in layers), sum(e for _, e in layers))]
    return buckets(layers, plan, groups)


def buckets(
    layers: Sequence[tuple[Number, Number]], plan: Plan, groups: Mapping[str, Group]
) -> list[tuple[Number, Number]]:
    """Layers gathered into buckets of Megatron's size, in forward order, or by layer what travels every micro-batch."""
    if plan.gradients.bucket_bytes is not None:
        return buckets_of_size(layers, plan.gradients.bucket_bytes / FORMATS[plan.optimizer.grad_reduce].bytes)
    usual = plan.stack.bucket_parameters or max(BUCKET_PARAMETERS, 1e6 * float(groups["dense"].ranks))
    limit = 0.0 if travels_by_layer(plan) else usual
    found: list[tuple[Number, Number]] = []
    for dense, expert in layers:
        if found and sum(found[-1]) < limit:
            found[-1] = (found[-1][0] + dense, found[-1][1] + expert)
        else:
            found.append((dense, expert))
    return found


def buckets_of_size(layers: Sequence[tuple[Number, Number]], parameters: float) -> list[tuple[Number, Number]]:
    """Buckets that are closed once they hold so many parameters, in forward order; larger layers fill several."""
    found: list[tuple[Number, Number]] = []
    for dense, expert in layers:
        if found and sum(found[-1]) + dense + expert <= parameters:
            found[-1] = (found[-1][0] + dense, found[-1][1] + expert)
            continue
        parts = max(1, ceil(float(dense + expert) / parameters))
        found += [(dense / parts, expert / parts)] * parts
    return found


def gather_s(size_bytes: Number, group: Group, plan: Plan, cluster: Cluster) -> Number:
    """All-gather of updated parameters; none where the optimizer is not sharded."""
    if not SHARDINGS[plan.sharding].shards_optimizer:
        return 0.0
    return collective_s("all_gather", size_bytes, sharded_over(group, plan), cluster).seconds


def reduce_s(count: Number, group: Group, plan: Plan, cluster: Cluster) -> Number:
    """Reduce-scatter of gradients to their shards, or an all-reduce where every rank needs them whole.

    HSDP reduce-scatters inside the shard group and all-reduces the shard across its replicas.
    """
    size = count * FORMATS[plan.optimizer.grad_reduce].bytes
    if reduces_whole(plan):
        return all_reduce_s(size, group, plan, cluster)
    shards = sharded_over(group, plan)
    inside_s = reduce_scatter_s(size, shards, plan, cluster)
    if shards is group:
        return inside_s
    return inside_s + collective_s("all_reduce", size / shards.ranks, across_shards(group, shards), cluster).seconds


def all_reduce_s(size_bytes: Number, group: Group, plan: Plan, cluster: Cluster) -> Number:
    """Seconds of an all-reduce of gradients: compressed, or by the plan's algorithm."""
    how = plan.gradients
    if how.is_compressed:
        return compressed_all_reduce(size_bytes, how.compression, group, cluster, how.keep).seconds
    return REDUCTIONS[how.algorithm](size_bytes, group, cluster)


def reduce_scatter_s(size_bytes: Number, group: Group, plan: Plan, cluster: Cluster) -> Number:
    """Seconds of a reduce-scatter of gradients, compressed where the plan says so."""
    how = plan.gradients
    if how.is_compressed:
        return compressed_reduce_scatter(size_bytes, how.compression, group, cluster).seconds
    return collective_s("reduce_scatter", size_bytes, group, cluster).seconds


def sharded_over(group: Group, plan: Plan) -> Group:
    """The shard group inside a data-parallel group."""
    if not plan.shard_group or plan.shard_group >= group.ranks:
        return group
    return leading_shard(group, plan.shard_group)
