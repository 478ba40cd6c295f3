"""Half a layer (mixer or ffn) in seconds: its operators priced and put together by what runs beside what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hardware.collectives import DISPATCHERS, ExpertExchange, Group, combine_s, dispatch_s, expected_distinct
from hardware.collectives.experts import copies, token_bytes
from hardware.kernels import streaming_s
from hardware.precisions import PRECISIONS
from simulator.cost.launches import ROUTED_AHEAD, launches
from simulator.cost.price import Price, Priced, Prices, price, times
from simulator.cost.recompute import recomputed_shares
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.plans.spec import Plan
from simulator.workload.operators import CoreAttention, Exchange, Matmul, Number, Operator, Routing, Work

# SMs that NCCL's channels take from a product beside them: 24 on eight GPUs behind NVSwitch (NCCL's log, "24 coll
# channels", from memory).
CHANNEL_SMS = 24

# TransformerEngine's pipelined overlap leaves the last of `num_splits` = 4 chunks of a collective exposed.
TP_OVERLAP_EXPOSED_FRACTION = 1 / 4


@dataclass(frozen=True, slots=True)
class Exchanges:
    """Expert traffic of one direction: `out_s` towards the experts, `home_s` back."""

    out_s: Number = 0.0
    home_s: Number = 0.0

    @property
    def total_s(self) -> Number:
        return self.out_s + self.home_s


@dataclass(frozen=True, slots=True)
class BlockCost:
    """Seconds of half a layer for one micro-batch, expert traffic apart.

    `forward`, `input` (input gradient, recomputation included), `weight`: everything else by cause.
    `routing_forward` / `routing_backward` / `routing_recompute`: expert traffic before any overlap; `shared_s` the
    forward and backward time of the shared expert, behind which it may hide. `evidence_s`: seconds by how they
    are known. Kernels are those that the host launches, outside CUDA graphs; `waiting_kernels` of the forward ones
    those that it launches only when it has read how many tokens every expert gets, `ahead_s` seconds into the forward.
    """

    forward: Seconds = NO_TIME
    input: Seconds = NO_TIME
    weight: Seconds = NO_TIME
    routing_forward: Exchanges = Exchanges()
    routing_backward: Exchanges = Exchanges()
    routing_recompute_s: Number = 0.0
    shared_s: tuple[Number, Number] = (0.0, 0.0)
    forward_kernels: Number = 0
    backward_kernels: Number = 0
    waiting_kernels: Number = 0
    ahead_s: Number = 0.0
    evidence_s: tuple[tuple[str, Number], ...] = ()


NO_COST = BlockCost()


def exchanged(op: Routing, group: Group, load: Number) -> ExpertExchange:
    """What an expert group exchanges, `load` being the tokens of the rank that counts over the mean."""
    # Expert groups sit on whole domains or share one, so limiting a token's groups limits its domains (node-limited
    # routing): to those of its groups, or where several share a domain to as many as its groups lie in on average.
    limit: Number | None = None
    if op.groups > 1:
        shared = expected_distinct(group.domains, op.groups, op.group_top_k)
        limit = np.where(group.domains < op.groups, shared, op.group_top_k * group.domains / op.groups)
    return ExpertExchange(op.tokens, op.width, op.experts, op.top_k, limit, load)


def routing_price(op: Routing, prices: Prices) -> tuple[Number, Number]:
    """Forward and backward seconds of dispatch or combine: the backward of one travels like the other."""
    plan, group = prices.plan, prices.groups["ep"]
    moved = exchanged(op, group, plan.hottest_load)
    rate = prices.constants.ep_rate
    out_s = dispatch_s(moved, group, prices.cluster, plan.dispatcher, op.fp8).seconds / rate
    home_s = combine_s(moved, group, prices.cluster, plan.dispatcher).seconds / rate
    if DISPATCHERS[plan.dispatcher].expands_on_arrival:
        out_s, home_s = out_s + expanding_s(moved, group, prices, op.fp8), home_s + expanding_s(moved, group, prices)
    return (out_s, home_s) if op.name == "dispatch" else (home_s, out_s)


def expanding_s(moved: ExpertExchange, group: Group, prices: Prices, fp8: bool = False) -> Number:
    """Behind its exchange HybridEP copies each token that arrived once for each of its local experts; going home it
    adds them up before. Kernels of their own on the exchange's stream (permute.cuh of DeepEP's hybrid-ep branch)."""
    rows = moved.tokens * moved.imbalance * (copies(moved, group)[1] + moved.topk)
    seconds = streaming_s(prices.cluster.accelerator, rows * token_bytes(moved.hidden, fp8), "permute")
    return seconds / prices.constants.streaming_rate


@dataclass(frozen=True, slots=True)
class PricedWork:
    """Half a layer with every operator priced as it runs alone: a `Price`, or for expert traffic the seconds of its
    forward and backward."""

    work: Work
    prices: tuple[Price | tuple[Number, Number], ...]


def block_cost(work: Work, prices: Prices, whole_layer_again: bool) -> BlockCost:
    """Price every operator of `work` once and add them up by phase, cause and evidence."""
    return put_together(priced_work(work, prices), prices, whole_layer_again)


def priced_work(work: Work, prices: Prices) -> PricedWork:
    """The price of every operator of half a layer."""
    return PricedWork(work, tuple(operator_price(op, prices) for op in work.operators))


def operator_price(op: Operator, prices: Prices) -> Price | tuple[Number, Number]:
    return routing_price(op, prices) if isinstance(op, Routing) else price(op, prices)


def put_together(alone: PricedWork, prices: Prices, whole_layer_again: bool) -> BlockCost:
    """Add priced operators up by phase, cause and evidence, by what runs beside what and what runs again."""
    plan, work = prices.plan, alone.work
    priced, repeated, routed = [], [], []
    shares = recomputed_shares(work.operators, plan, whole_layer_again)
    for op, cost, share in zip(work.operators, alone.prices, shares, strict=True):
        if isinstance(cost, tuple):
            routed.append((op, *cost, share))
            continue
        priced.append((op, cost))
        if np.any(share):
            repeated.append((op, times(cost, share)))
    forward = forward_seconds(priced, plan)
    backward = backward_seconds(priced, plan, prices.cluster.accelerator.sm_count) + forward_seconds(repeated, plan)
    computing = [(op, cost) for op, cost in priced if not isinstance(op, Exchange)]
    shared = [cost for op, cost in computing if "shared_experts" in op.modules]
    host = launches(work, computing, [(op, cost) for op, cost in repeated if not isinstance(op, Exchange)], prices)
    return BlockCost(
        forward=forward,
        input=backward,
        weight=Seconds(compute_s=sum(cost.weight_s for _, cost in computing)),
        routing_forward=exchanges({op.name: forward_s for op, forward_s, _, _ in routed}, "dispatch", "combine"),
        routing_backward=exchanges({op.name: backward_s for op, _, backward_s, _ in routed}, "combine", "dispatch"),
        routing_recompute_s=sum(share * forward_s for _, forward_s, _, share in routed),
        shared_s=(sum(cost.forward_s for cost in shared), sum(cost.input_s + cost.weight_s for cost in shared)),
        forward_kernels=host.forward,
        backward_kernels=host.backward,
        waiting_kernels=host.waiting,
        ahead_s=sum(cost.forward_s for op, cost in computing if op.name in ROUTED_AHEAD) if host.reads else 0.0,
        evidence_s=by_evidence(computing),
    )


def exchanges(seconds: Mapping[str, Number], first: str, last: str) -> Exchanges:
    return Exchanges(seconds.get(first, 0.0), seconds.get(last, 0.0))


def by_evidence(priced: Priced) -> tuple[tuple[str, Number], ...]:
    kinds = sorted({cost.evidence for _, cost in priced})
    return tuple(
        (kind, sum(c.forward_s + c.input_s + c.weight_s for _, c in priced if c.evidence == kind)) for kind in kinds
    )


def forward_seconds(priced: Priced, plan: Plan) -> Seconds:
    """Forward compute, and what of its communication no operator hides."""
    compute_s = sum(cost.forward_s for op, cost in priced if not isinstance(op, Exchange))
    products_s = sum(cost.forward_s for op, cost in priced if isinstance(op, Matmul))
    attention_s = sum(cost.forward_s for op, cost in priced if isinstance(op, CoreAttention))
    tp_s = sum(cost.forward_s for op, cost in priced if isinstance(op, Exchange) and op.group == "tp")
    etp_s = sum(cost.forward_s for op, cost in priced if isinstance(op, Exchange) and op.group == "etp")
    outwards_s = sum(cost.forward_s for op, cost in priced if isinstance(op, Exchange) and op.forward != "all_gather"
                     and op.group == "tp")  # fmt: skip
    return Seconds(
        compute_s=compute_s,
        tp_s=exposed_tp_s(tp_s, products_s, plan, outwards_s) + etp_s,
        cp_s=exposed_cp_s([(op, cost.forward_s) for op, cost in priced if isinstance(op, Exchange)], attention_s),
    )


def backward_seconds(priced: Priced, plan: Plan, sm_count: int) -> Seconds:
    """Input-gradient compute and its exposed communication.

    Beside products run the re-gathering of inputs (input gradients) and, in stacks that do so, the reduction of a
    column-parallel linear's input gradient (its weight gradient), unless weight gradients come later.
    """
    compute_s = sum(cost.input_s for op, cost in priced if not isinstance(op, Exchange))
    products_s = sum(cost.input_s for op, cost in priced if isinstance(op, Matmul))
    attention_s = sum(cost.input_s for op, cost in priced if isinstance(op, CoreAttention))
    moved = [(op, cost) for op, cost in priced if isinstance(op, Exchange)]
    tp_s = sum(cost.input_s for op, cost in moved if op.group == "tp")
    etp_s = sum(cost.input_s for op, cost in moved if op.group == "etp")
    regather_s = sum(cost.regather_s for _, cost in moved)
    exposed_s = exposed_tp_s(tp_s, products_s, plan)
    if reduces_beside_weights(plan):
        reduced_s = sum(cost.input_s for op, cost in moved if op.group == "tp" and op.before_column)
        weights_s = sum(cost.weight_s for op, cost in priced if isinstance(op, Matmul) and op.column)
        # User buffers do the same for these where it hides more (Transformer Engine's bulk overlap).
        exposed_s = np.minimum(exposed_s, tp_s - reduced_s + beside_s(reduced_s, weights_s, sm_count))
    return Seconds(
        compute_s=compute_s,
        tp_s=exposed_s + beside_s(regather_s, products_s, sm_count) + etp_s,
        cp_s=exposed_cp_s([(op, cost.input_s) for op, cost in moved], attention_s),
    )


def reduces_beside_weights(plan: Plan) -> bool:
    """Whether an input gradient's reduction runs beside the weight gradient of its linear."""
    return plan.stack.async_tp_backward and not plan.puts_off_weights


def beside_s(moving_s: Number, products_s: Number, sm_count: int) -> Number:
    """What communication beside products adds: what outlasts them, and the SMs its kernels take from them."""
    return np.maximum(0.0, moving_s - products_s) + CHANNEL_SMS / sm_count * np.minimum(moving_s, products_s)


def exposed_tp_s(tp_s: Number, products_s: Number, plan: Plan, outwards_s: Number = 0.0) -> Number:
    """Without tp_comm_overlap all of it; with it the last chunk, and whatever outlasts the products beside it.

    Row-scaled FP8 casts after every gather and scales the outputs of backward after every product, so PyTorch's async
    TP joins no collective to a product but `outwards_s`, the reductions of forward.
    """
    if not plan.overlap.tp_comm:
        return tp_s
    if PRECISIONS[plan.precision].scales_by_row:
        joined_s = np.maximum(TP_OVERLAP_EXPOSED_FRACTION * outwards_s, outwards_s - products_s)
        return tp_s - outwards_s + joined_s
    return np.maximum(TP_OVERLAP_EXPOSED_FRACTION * tp_s, tp_s - products_s)


def exposed_cp_s(moved: Sequence[tuple[Exchange, Number]], attention_s: Number) -> Number:
    """Ring steps hide behind attention on the block at hand; gathers and head exchanges do not."""
    hidden_s = sum(seconds for op, seconds in moved if op.group == "cp" and op.behind_attention)
    open_s = sum(seconds for op, seconds in moved if op.group == "cp" and not op.behind_attention)
    return open_s + np.maximum(0.0, hidden_s - attention_s)
