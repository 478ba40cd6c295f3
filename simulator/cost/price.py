"""What each operator costs on this hardware: forward, input gradient, weight gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.arrays import plain
from hardware.collectives import Group, collective_s
from hardware.kernels import attention_s, evidence, flash_rate, gemm_s, grouped_gemm_s, scan_s, streaming_s
from hardware.kernels.matmul import Role
from hardware.precisions import PRECISIONS
from hardware.specs import Cluster
from simulator.cost.constants import NEUTRAL, Constants, product_rate
from simulator.cost.slowest import slowest_of
from simulator.plans.spec import Plan
from simulator.workload.operators import (
    CoreAttention,
    Exchange,
    Kernel,
    Matmul,
    Number,
    Operator,
    Pass,
    Scan,
)
from simulator.workload.states import accumulation_bytes

# Kernels of a weight's gradient accumulation outside the product: an addition, or a cast before it.
ACCUMULATION_KERNELS = {"fused": 0, "hook": 1, "cast": 2}


@dataclass(frozen=True, slots=True)
class Prices:
    """What operators are priced on, each as it runs alone."""

    cluster: Cluster
    plan: Plan
    groups: Mapping[str, Group]
    constants: Constants = NEUTRAL


@dataclass(frozen=True, slots=True)
class Price:
    """Seconds of one operator. `regather_s`: communication in backward that may run beside the input gradient."""

    forward_s: Number = 0.0
    input_s: Number = 0.0
    weight_s: Number = 0.0
    regather_s: Number = 0.0
    forward_kernels: Number = 1
    backward_kernels: Number = 1
    evidence: str = "fitted"


Priced = Sequence[tuple[Operator, Price]]


def times(price: Price, share: Number) -> Price:
    """`share` of an operator's forward; its kernels are launched whole."""
    return replace(price, forward_s=share * price.forward_s)


def matmul_price(op: Matmul, prices: Prices) -> Price:
    """Forward [m, k][k, n], input gradient [m, n][n, k], weight gradient [n, m][m, k]."""
    accelerator, plan = prices.cluster.accelerator, prices.plan
    precision = plan.precision if op.quantized else high_precision(plan)
    roles: tuple[tuple[Role, Number, Number, Number], ...] = (
        ("forward", op.m, op.n, op.k),
        ("dgrad", op.m, op.k, op.n),
        ("wgrad", op.n, op.k, op.m),
    )
    grouped = op.name.startswith("expert_")
    rate = product_rate(prices.constants, precision, grouped)
    into = plan.stack.gradient_accumulation == "fused"  # the weight gradient's product adds to the main gradient
    if grouped:
        family = "grouped_gemm"
        seconds = [
            grouped_gemm_s(accelerator, precision, op.groups, m, n, k, role=role, accumulate=into) / rate
            for role, m, n, k in roles
        ]
    else:
        family = "gemm"
        seconds = [
            op.groups * gemm_s(accelerator, precision, m, n, k, role=role, accumulate=into) / rate
            for role, m, n, k in roles
        ]
    forward_s, input_s, weight_s = seconds
    known = evidence(accelerator, family, precision)
    if op.frozen:
        return Price(forward_s, input_s, evidence=known)
    kernels = 2 + ACCUMULATION_KERNELS[plan.stack.gradient_accumulation]
    weight_s = weight_s + accumulation_s(op, prices)
    return Price(forward_s, input_s, weight_s, forward_kernels=1, backward_kernels=kernels, evidence=known)


def accumulation_s(op: Matmul, prices: Prices) -> Number:
    """Seconds of the kernels that add a weight's gradient to its main gradient, where the product does not."""
    how = prices.plan.stack.gradient_accumulation
    if how == "fused":
        return 0.0
    moved = op.groups * op.n * op.k * accumulation_bytes(prices.plan, how)
    return streaming_s(prices.cluster.accelerator, moved, "elementwise") / prices.constants.streaming_rate


def high_precision(plan: Plan) -> str:
    """The format of what is not quantised: 16 bit wherever the plan computes in 16 bit or less."""
    return PRECISIONS[plan.precision].high


def attention_price(op: CoreAttention, prices: Prices) -> Price:
    """Attention over a context-parallel ring: the causal block at home, then half a block for every other rank.

    With the zig-zag split every rank sees half of each foreign block, so all ranks do the same work; the sum is
    the causal triangle over cp (Megatron-Core's ring; one block when nothing is split).
    """
    precision = high_precision(prices.plan)
    ring = op.keys / op.queries
    seconds = []
    for backward in (False, True):
        home_s = _attention_s(op, prices, op.queries, op.causal, backward)
        foreign_s = _attention_s(op, prices, op.queries / 2 if op.causal else op.queries, False, backward)
        seconds.append(home_s + (ring - 1) * foreign_s)
    forward_kernels, backward_kernels = (1, 3) if prices.plan.stack.flash_attention else (5, 8)
    forward_s, backward_s = seconds
    return Price(
        forward_s,
        backward_s,
        forward_kernels=forward_kernels,
        backward_kernels=backward_kernels,
        evidence=evidence(prices.cluster.accelerator, "attention", precision),
    )


def _attention_s(op: CoreAttention, prices: Prices, keys: Number, causal: bool, backward: bool) -> Number:
    stack = prices.plan.stack
    rate = flash_rate(prices.cluster.accelerator, stack.flash_version) if stack.flash_attention else 1.0
    seconds = attention_s(
        prices.cluster.accelerator,
        high_precision(prices.plan),
        batch=op.batch,
        queries=op.queries,
        keys=keys,
        heads=op.heads,
        kv_heads=op.kv_heads,
        qk_dim=op.qk_dim,
        v_dim=op.v_dim,
        causal=causal,
        backward=backward,
        window=op.window,
        flash=stack.flash_attention,
    )
    return seconds / (rate * prices.constants.attention_rate)


def scan_price(op: Scan, prices: Prices) -> Price:
    """The kernels of a chunked scan, each as long as its products or its bytes take."""
    forward_s, backward_s = (kernels_s(kernels, prices) for kernels in (op.forward, op.backward))
    return Price(
        forward_s,
        backward_s,
        forward_kernels=len(op.forward),
        backward_kernels=len(op.backward),
        evidence="assumed",
    )


def kernels_s(kernels: Sequence[Kernel], prices: Prices) -> Number:
    accelerator = prices.cluster.accelerator
    return sum(scan_s(accelerator, kernel.flops, kernel.bytes) for kernel in kernels)


def pass_price(op: Pass, prices: Prices) -> Price:
    accelerator = prices.cluster.accelerator
    forward_s, backward_s = (
        kernels * streaming_s(accelerator, moved / np.maximum(1, kernels), op.kind)
        for moved, kernels in ((op.forward_bytes, op.forward_kernels), (op.backward_bytes, op.backward_kernels))
    )
    weight_s = np.where(np.asarray(op.weight_bytes) > 0, streaming_s(accelerator, op.weight_bytes, op.kind), 0.0)
    rate = prices.constants.streaming_rate
    return Price(
        forward_s / rate,
        backward_s / rate,
        plain(weight_s / rate),
        forward_kernels=op.forward_kernels,
        backward_kernels=op.backward_kernels,
        evidence=evidence(accelerator, op.kind),
    )


def collective_price_s(operation: str | None, size_bytes: Number, group: str, prices: Prices) -> Number:
    if operation is None:
        return 0.0
    members, constants = prices.groups[group], prices.constants
    seconds = collective_s(operation, size_bytes, members, prices.cluster).seconds
    return seconds / constants.tp_rate + constants.collective_wait_s * slowest_of(members.ranks)


def exchange_price(op: Exchange, prices: Prices) -> Price:
    regather_s = collective_price_s("all_gather", op.regather_bytes, op.group, prices)
    return Price(
        collective_price_s(op.forward, op.forward_bytes, op.group, prices),
        collective_price_s(op.backward, op.backward_bytes, op.group, prices),
        # Without bytes there is no gather, and no latency of one.
        regather_s=plain(np.where(np.asarray(op.regather_bytes) > 0, regather_s, 0.0)),
    )


PRICES: dict[type, Callable[..., Price]] = {
    Matmul: matmul_price,
    CoreAttention: attention_price,
    Scan: scan_price,
    Pass: pass_price,
    Exchange: exchange_price,
}


def price(op: Operator, prices: Prices) -> Price:
    return PRICES[type(op)](op, prices)
