"""Rules on degrees and batch: what must divide what (every framework has these unless the name says megatron)."""

from __future__ import annotations

import math

from simulator.model.spec import Attention, CompressedAttention, LatentAttention, Mamba2
from simulator.plans.case import Check, Fault, PlanCase, divisors, near, near_multiple
from simulator.plans.choices import CONTEXT_EXCHANGES, SHARDINGS

_COUNTS = ("dp", "tp", "cp", "pp", "vpp", "ep", "etp", "micro_batch_size", "global_batch_size", "vocab_divisible_by")
_OPTIONAL_COUNTS = ("microbatch_group_size", "first_stage_layers", "last_stage_layers", "shard_group")
LEAST_CAPACITY = 0.5  # of what an expert gets in the mean: published runs have 1 and more
_AXES = ["cp", "dp", "ep", "pp", "tp"]


def counts_are_positive(case: PlanCase) -> Fault | None:
    plan = case.plan
    wrong = [name for name in _COUNTS if getattr(plan, name) < 1]
    wrong += [name for name in _OPTIONAL_COUNTS if getattr(plan, name) is not None and getattr(plan, name) < 1]
    if not wrong:
        return None
    value = getattr(plan, wrong[0])
    return Fault(f"plan.{wrong[0]}", value, f"{', '.join(wrong)} must be at least 1", "a whole number from 1 up")


def shares_are_possible(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not plan.expert_imbalance >= 1 or math.isinf(plan.expert_imbalance):
        return Fault(
            "plan.expert_imbalance", plan.expert_imbalance, "the hottest rank has at least the mean", "1.0 or more"
        )
    if plan.ep > 1 and plan.expert_imbalance > plan.ep:
        why = f"ep is {plan.ep}: the hottest rank has at most all tokens, {plan.ep} times the mean"
        return Fault("plan.expert_imbalance", plan.expert_imbalance, why, f"at most {plan.ep}")
    return None


def capacity_is_possible(case: PlanCase) -> Fault | None:
    """An expert gets each token at most once: a capacity of experts / top_k times the mean holds them all."""
    capacity = case.plan.capacity_factor
    if capacity is None:
        return None
    if not capacity >= LEAST_CAPACITY:
        why = f"below {LEAST_CAPACITY:g} most of the tokens routed to an expert would be dropped"
        return Fault("plan.capacity_factor", capacity, why, "1.0 or more, or leave it out")
    most = max((ffn.experts / ffn.top_k for ffn in case.facts.moe), default=None)
    if most is None or capacity <= most:
        return None
    why = f"experts are padded to it, and {most:g} (experts / top_k) times the mean already are all tokens"
    return Fault("plan.capacity_factor", capacity, why, f"at most {most:g}, or leave it out")


def ranks_fill_cluster(case: PlanCase) -> Fault | None:
    plan = case.plan
    if plan.gpus == case.gpus:
        return None
    model_parallel = plan.tp * plan.cp * plan.pp
    if case.gpus % model_parallel:
        why = f"tp x cp x pp = {model_parallel} does not divide the cluster's {case.gpus} GPUs"
        return Fault("plan.dp", plan.dp, why, f"tp x cp x pp of {near(model_parallel, divisors(case.gpus))}")
    why = f"tp x cp x pp x dp = {plan.gpus}, the cluster has {case.gpus} GPUs"
    return Fault("plan.dp", plan.dp, why, f"dp {case.gpus // model_parallel}")


def expert_grid_divides(case: PlanCase) -> Fault | None:
    plan = case.plan
    ranks = plan.tp * plan.cp * plan.dp
    if ranks % (plan.ep * plan.etp) == 0:
        return None
    legal = [d for d in divisors(ranks) if d % plan.etp == 0]
    why = f"ep x etp = {plan.ep * plan.etp} does not divide the {ranks} ranks of a stage (tp x cp x dp)"
    return Fault("plan.ep", plan.ep, why, f"ep {near(plan.ep, [d // plan.etp for d in legal])}" if legal else "etp 1")


def expert_parallelism_needs_experts(case: PlanCase) -> Fault | None:
    plan = case.plan
    if case.facts.moe or plan.ep == 1:
        return None
    return Fault("plan.ep", plan.ep, "the model has no experts", "ep 1")


def experts_divide(case: PlanCase) -> Fault | None:
    plan = case.plan
    for moe in case.facts.moe:
        if moe.experts % plan.ep:
            why = f"does not divide the model's {moe.experts} experts"
            return Fault("plan.ep", plan.ep, why, f"ep {near(plan.ep, divisors(moe.experts))}")
    return None


def batch_divides(case: PlanCase) -> Fault | None:
    plan = case.plan
    share = plan.micro_batch_size * plan.dp
    if plan.global_batch_size % share == 0:
        return None
    why = f"is not a multiple of micro_batch_size x dp = {share}"
    return Fault("plan.global_batch_size", plan.global_batch_size, why, near_multiple(plan.global_batch_size, share))


def heads_divide(case: PlanCase) -> Fault | None:
    tp = case.plan.tp
    for mixer in case.facts.mixers:
        if isinstance(mixer, Attention | LatentAttention | CompressedAttention) and mixer.heads % tp:
            why = f"does not divide the model's {mixer.heads} attention heads"
            return Fault("plan.tp", tp, why, f"tp {near(tp, divisors(mixer.heads))}")
    return None


def query_groups_divide(case: PlanCase) -> Fault | None:
    tp = case.plan.tp
    for mixer in case.facts.attentions:
        if mixer.kv_heads % tp and tp % mixer.kv_heads:
            legal = [d for d in divisors(mixer.heads) if mixer.kv_heads % d == 0 or d % mixer.kv_heads == 0]
            why = f"neither divides the model's {mixer.kv_heads} key/value heads nor is a multiple of them"
            return Fault("plan.tp", tp, why, f"tp {near(tp, legal)}")
    return None


def linear_heads_divide(case: PlanCase) -> Fault | None:
    plan = case.plan
    for mixer in case.facts.linear:
        if mixer.key_heads % (plan.tp * plan.cp) or mixer.value_heads % (plan.tp * plan.cp):
            common = math.gcd(mixer.key_heads, mixer.value_heads)
            why = f"tp x cp = {plan.tp * plan.cp} does not divide {mixer.key_heads} and {mixer.value_heads} heads"
            return Fault("plan.tp", plan.tp, why, f"tp x cp of {near(plan.tp * plan.cp, divisors(common))}")
    return None


def state_space_heads_divide(case: PlanCase) -> Fault | None:
    tp = case.plan.tp
    for mixer in case.facts.mixers:
        if isinstance(mixer, Mamba2) and (mixer.heads % tp or mixer.groups % tp):
            why = f"does not divide the Mamba layers' {mixer.heads} heads and {mixer.groups} groups"
            return Fault("plan.tp", tp, why, f"tp {near(tp, divisors(math.gcd(mixer.heads, mixer.groups)))}")
    return None


def all_to_all_heads_divide(case: PlanCase) -> Fault | None:
    """Ulysses hands every rank of the cp group whole heads: heads and key/value heads by tp x cp."""
    plan = case.plan
    if plan.cp == 1 or not CONTEXT_EXCHANGES[plan.cp_comm].splits_heads:
        return None
    for mixer in case.facts.attentions:
        if mixer.heads % (plan.tp * plan.cp) or mixer.kv_heads % (plan.tp * plan.cp):
            why = f"tp x cp = {plan.tp * plan.cp} does not divide {mixer.heads} heads, {mixer.kv_heads} of keys"
            return Fault("plan.cp_comm", plan.cp_comm, why, "cp_comm p2p or allgather, or a smaller cp")
    return None


def widths_divide(case: PlanCase) -> Fault | None:
    plan = case.plan
    sides = [("tp", plan.tp, "feed-forward width", ffn.width) for ffn in case.facts.dense]
    sides += [("tp", plan.tp, "shared-expert width", moe.shared_width) for moe in case.facts.moe]
    sides += [("etp", plan.etp, "expert width", moe.width) for moe in case.facts.moe]
    for name, degree, what, width in sides:
        if width % degree:
            why = f"does not divide the model's {what} of {width}"
            return Fault(f"plan.{name}", degree, why, f"{name} {near(degree, divisors(width))}")
    return None


def sequence_divides_context(case: PlanCase) -> Fault | None:
    """Causal context parallelism gives each rank one early and one late slice of equal length."""
    cp = case.plan.cp
    if cp == 1 or case.seq_length % (2 * cp) == 0:
        return None
    why = f"2 x cp = {2 * cp} does not divide the sequence of {case.seq_length} tokens"
    return Fault("plan.cp", cp, why, f"a sequence of {near_multiple(case.seq_length, 2 * cp)} tokens, or another cp")


def sequence_divides_tensor(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not plan.sequence_parallel or case.seq_length % (plan.tp * plan.cp) == 0:
        return None
    why = f"tp x cp = {plan.tp * plan.cp} does not divide the sequence of {case.seq_length} tokens"
    remedy = f"a sequence of {near_multiple(case.seq_length, plan.tp * plan.cp)} tokens, or another tp"
    return Fault("plan.sequence_parallel", True, why, remedy)


def positions_suffice(case: PlanCase) -> Fault | None:
    if not case.facts.positions or case.facts.positions >= case.seq_length:
        return None
    why = f"the model's learned position table ends at {case.facts.positions}"
    return Fault("run.seq_length", case.seq_length, why, f"{case.facts.positions} tokens or fewer")


def shard_group_divides(case: PlanCase) -> Fault | None:
    plan = case.plan
    if plan.shard_group is None:
        return None
    if not SHARDINGS[plan.sharding].shards_optimizer:
        return Fault("plan.shard_group", plan.shard_group, "nothing is sharded", "leave it out, or choose a sharding")
    if plan.dp * plan.cp % plan.shard_group:
        why = f"does not divide dp x cp = {plan.dp * plan.cp}"
        return Fault("plan.shard_group", plan.shard_group, why, near(plan.shard_group, divisors(plan.dp * plan.cp)))
    return None


def rank_order_is_complete(case: PlanCase) -> Fault | None:
    if sorted(case.plan.rank_order.split("-")) == _AXES:
        return None
    return Fault("plan.rank_order", case.plan.rank_order, "must name tp, cp, ep, dp and pp once each", "tp-cp-ep-dp-pp")


def pipeline_last_or_equal_grids(case: PlanCase) -> Fault | None:
    """Dense and expert grid must agree on the pipeline groups."""
    plan = case.plan
    if plan.pp == 1 or plan.expert_dp == plan.dp or plan.rank_order.endswith("pp"):
        return None
    why = f"with pp inside the order, expert data parallelism ({plan.expert_dp}) must equal dp ({plan.dp})"
    return Fault("plan.rank_order", plan.rank_order, why, "an order that ends in pp")


def megatron_rank_orders(case: PlanCase) -> Fault | None:
    orders = ("tp-cp-ep-dp-pp", "tp-cp-ep-pp-dp")
    if case.plan.rank_order in orders:
        return None
    return Fault("plan.rank_order", case.plan.rank_order, "Megatron-Core has no flag for it", " or ".join(orders))


UNIVERSAL: dict[str, Check] = {
    "shares_are_possible": shares_are_possible,
    "capacity_is_possible": capacity_is_possible,
    "ranks_fill_cluster": ranks_fill_cluster,
    "expert_grid_divides": expert_grid_divides,
    "expert_parallelism_needs_experts": expert_parallelism_needs_experts,
    "experts_divide": experts_divide,
    "batch_divides": batch_divides,
    "heads_divide": heads_divide,
    "query_groups_divide": query_groups_divide,
    "linear_heads_divide": linear_heads_divide,
    "state_space_heads_divide": state_space_heads_divide,
    "all_to_all_heads_divide": all_to_all_heads_divide,
    "widths_divide": widths_divide,
    "sequence_divides_context": sequence_divides_context,
    "sequence_divides_tensor": sequence_divides_tensor,
    "positions_suffice": positions_suffice,
    "shard_group_divides": shard_group_divides,
    "rank_order_is_complete": rank_order_is_complete,
    "pipeline_last_or_equal_grids": pipeline_last_or_equal_grids,
}
MEGATRON: dict[str, Check] = {"megatron_rank_orders": megatron_rank_orders}
