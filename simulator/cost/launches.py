"""Kernels that the host launches for half a layer: outside CUDA graphs, and before or behind the tokens' routing."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hardware.precisions import PRECISIONS
from simulator.cost.price import Priced, Prices
from simulator.workload.operators import CoreAttention, Matmul, Number, Operator, Routing, Scan, Work

DISPATCHES = Path(__file__).parent / "data" / "dispatches.toml"
# What an ffn with experts does before the host must know how many tokens each expert gets.
SHORTEST_S = 1e-15  # keeps ratios of nothing to nothing finite
ROUTED_AHEAD = ("mlp_norm", "router", "routing")


@dataclass(frozen=True, slots=True)
class Launches:
    """Kernels of a forward and a backward; `waiting` of the forward ones come after the host `reads` how many tokens
    every expert gets."""

    forward: Number
    backward: Number
    waiting: Number
    reads: bool


@cache
def dispatches() -> Mapping[str, Mapping[str, float]]:
    """Operations that the host dispatches per kernel, forward and backward, by how a stack's modules are written."""
    found: Mapping[str, Mapping[str, float]] = tomllib.loads(DISPATCHES.read_text(encoding="utf-8"))
    return found


def launches(work: Work, computing: Priced, repeated: Priced, prices: Prices) -> Launches:
    """Count operations of `computing` and of what runs `repeated` before backward, those in CUDA graphs left out:
    kernels, times what the stack's modules dispatch for each.

    Where no grouped kernel does it all, experts add launches of their own (`Constants.expert_launches`).
    """
    plan = prices.plan
    captured = captured_by_graphs(work, plan.stack.cuda_graphs)
    launched = [(op, cost) for op, cost in computing if not captured(op)]
    again = sum(cost.forward_kernels for op, cost in repeated if not captured(op))
    experts: Number = 0
    low = PRECISIONS[plan.precision].quantized  # experts that such a plan leaves in 16 bit have no casts of their own
    for op, _ in computing:
        if isinstance(op, Matmul) and op.name.startswith("expert_") and not (low and not op.quantized):
            experts = np.maximum(experts, op.groups)
    grouped = plan.stack.fused_experts or plan.stack.cuda_graphs == "full"
    one_by_one = 0.0 if grouped else prices.constants.expert_launches * experts
    # Padded to a capacity, or wholly in a CUDA graph, shapes do not depend on the routing.
    routed = any(isinstance(op, Routing) for op in work.operators)
    reads = routed and plan.capacity_factor is None and plan.stack.cuda_graphs != "full"
    behind = sum(cost.forward_kernels for op, cost in launched if op.name not in ROUTED_AHEAD)
    ahead = sum(cost.forward_kernels for _, cost in launched)
    back = sum(cost.backward_kernels for _, cost in launched)
    per_kernel = dispatches()[plan.stack.host_modules]
    return Launches(
        forward=one_by_one + per_kernel["forward"] * ahead,
        backward=one_by_one + per_kernel["backward"] * back + per_kernel["forward"] * again,
        waiting=one_by_one + per_kernel["forward"] * behind if reads else 0,
        reads=reads,
    )


def hosted_s(host_s: Number, gpu_s: Number, loss: float) -> Number:
    """Seconds of kernels that the host launches in `host_s` and the GPU runs in `gpu_s`, the one ahead of the other.

    Which of the two is behind changes from kernel to kernel, so that both lose where they need about equally long:
    (host^k + gpu^k)^(1/k), where 2^(1/k) = 1 + `loss`. Without a loss it is the longer of the two.
    """
    if not loss:
        return np.maximum(host_s, gpu_s)
    exponent = 1 / np.log2(1 + loss)
    longer = np.maximum(np.maximum(host_s, gpu_s), SHORTEST_S)
    both = (np.maximum(host_s, 0.0) / longer) ** exponent + (np.maximum(gpu_s, 0.0) / longer) ** exponent
    seconds: Number = longer * both ** (1 / exponent)
    return seconds


def captured_by_graphs(work: Work, graphs: str) -> Callable[[Operator], bool]:
    """Which operators of half a layer CUDA graphs launch: the mixer's, and of experts all before the dispatch.

    Shapes behind the dispatch depend on the routing, so partial graphs cannot hold experts, dispatch and combine.
    """
    mixer = any(isinstance(op, CoreAttention | Scan) for op in work.operators)
    routed = any(isinstance(op, Routing) for op in work.operators)
    if graphs == "full" or (graphs == "partial" and mixer):
        return lambda op: True
    if graphs == "none" or not routed:
        return lambda op: False
    return lambda op: op.name in ROUTED_AHEAD or "shared_experts" in op.modules
