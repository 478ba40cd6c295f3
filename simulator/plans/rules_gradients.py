"""Rules on how gradients are reduced: which compression and which algorithm go with which sharding."""

from __future__ import annotations

from hardware.collectives.compression import FEEDBACK_BYTES, SCATTERED
from hardware.precisions import FORMATS
from simulator.plans.case import Check, Fault, PlanCase
from simulator.plans.choices import SHARDINGS


def kept_part_belongs_to_compression(case: PlanCase) -> Fault | None:
    """`keep` is topk's fraction or powersgd's rank."""
    how = case.plan.gradients
    if how.keep is None:
        return None
    if how.compression not in FEEDBACK_BYTES:
        why = f"compression {how.compression} keeps no part of the entries"
        return Fault("plan.gradients.keep", how.keep, why, "none, or compression topk or powersgd")
    if how.compression == "topk" and how.keep > 1:
        return Fault("plan.gradients.keep", how.keep, "topk sends a fraction of the entries", "a fraction, as 0.01")
    if how.compression == "powersgd" and how.keep != int(how.keep):
        return Fault("plan.gradients.keep", how.keep, "is the rank of powersgd's factors", "a whole number, as 4")
    return None


def compressed_sums_can_be_scattered(case: PlanCase) -> Fault | None:
    """Sparse and low-rank gradients are gathered whole by every rank, so that nothing is left to shard."""
    plan = case.plan
    if plan.gradients.compression in SCATTERED or not SHARDINGS[plan.sharding].shards_optimizer:
        return None
    why = f"every rank gathers the whole sum, and sharding {plan.sharding} keeps a part of it"
    return Fault("plan.gradients.compression", plan.gradients.compression, why, "fp8 or int8, or sharding none")


def compressed_gradients_are_fp32(case: PlanCase) -> Fault | None:
    """What is compressed and added up is fp32; `grad_reduce` is then not what travels."""
    plan = case.plan
    if not plan.gradients.is_compressed:
        return None
    for key, value in (("grads", plan.optimizer.grads), ("grad_reduce", plan.optimizer.grad_reduce)):
        if not FORMATS[value].full_width:
            return Fault(f"plan.optimizer.{key}", value, "compression takes fp32 and says what travels", "fp32")
    return None


def compression_spans_all_replicas(case: PlanCase) -> Fault | None:
    """Shards inside a group and sums across groups are two collectives; only one of them is modelled compressed."""
    plan = case.plan
    if not plan.gradients.is_compressed or not plan.shard_group:
        return None
    return Fault("plan.shard_group", plan.shard_group, "compressed gradients go to all ranks at once", "no shard_group")


def algorithm_has_an_all_reduce(case: PlanCase) -> Fault | None:
    """Trees and doubling reduce whole buffers: there must be an all-reduce, and nothing else must shape it."""
    plan = case.plan
    if plan.gradients.algorithm == "auto":
        return None
    found = plan.gradients.algorithm
    if SHARDINGS[plan.sharding].shards_optimizer:
        why = f"sharding {plan.sharding} scatters sums and has no all-reduce"
        return Fault("plan.gradients.algorithm", found, why, "auto, or sharding none")
    if plan.gradients.is_compressed:
        why = "compressed gradients go by exchanges of their own"
        return Fault("plan.gradients.algorithm", found, why, "auto, or no compression")
    return None


def doubling_has_powers_of_two(case: PlanCase) -> Fault | None:
    """Partners are paired round by round."""
    plan = case.plan
    ranks = {plan.dp * plan.cp} | ({plan.expert_dp} if plan.ep > 1 else set())
    odd = [count for count in ranks if count & (count - 1)]
    if plan.gradients.algorithm != "recursive_doubling" or not odd:
        return None
    why = f"pairs ranks, and {odd[0]} data-parallel ranks are no power of two"
    return Fault("plan.gradients.algorithm", plan.gradients.algorithm, why, "ring or tree")


UNIVERSAL: dict[str, Check] = {
    "kept_part_belongs_to_compression": kept_part_belongs_to_compression,
    "compressed_sums_can_be_scattered": compressed_sums_can_be_scattered,
    "compressed_gradients_are_fp32": compressed_gradients_are_fp32,
    "compression_spans_all_replicas": compression_spans_all_replicas,
    "algorithm_has_an_all_reduce": algorithm_has_an_all_reduce,
    "doubling_has_powers_of_two": doubling_has_powers_of_two,
}
