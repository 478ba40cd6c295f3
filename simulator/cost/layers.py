"""A whole layer in seconds, alone or as an overlapped pair of one micro-batch's forward and another's backward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.cost.blocks import NO_COST, BlockCost
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.plan.spec import Plan
from simulator.workload.operators import Number

# What two busy streams lose in waiting for each other, over the shorter one: DeepSeek's profile of an overlapped pair
# takes 129.0 ms for 124.3 ms of computing beside 114 ms of communication (deepseek-ai/profile-data).
HANDOVER_FRACTION = (129.0 - 124.3) / 114


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Mixer and ffn halves; an embedding, a head or MTP glue is a layer with only a mixer half."""

    mixer: BlockCost = NO_COST
    ffn: BlockCost = NO_COST


def exposed_routing_s(total_s: Number, shared_s: Number, plan: Plan) -> Number:
    """Expert traffic that remains when the shared expert computes beside it (moe_shared_expert_overlap)."""
    return np.maximum(0.0, total_s - shared_s) if plan.overlap.shared_experts else total_s


def forward(layer: LayerCost, plan: Plan) -> Seconds:
    """One forward with its expert traffic exposed."""
    routing_s = exposed_routing_s(layer.ffn.routing_forward.total_s, layer.ffn.shared_s[0], plan)
    return layer.mixer.forward + layer.ffn.forward + Seconds(ep_s=routing_s)


def input_gradient(layer: LayerCost, plan: Plan) -> Seconds:
    """The input half of one backward, recomputation included."""
    routing_s = exposed_routing_s(layer.ffn.routing_backward.total_s, layer.ffn.shared_s[1], plan)
    return layer.mixer.input + layer.ffn.input + Seconds(ep_s=routing_s + layer.ffn.routing_recompute_s)


def weight_gradient(layer: LayerCost) -> Seconds:
    """The weight half of one backward."""
    return layer.mixer.weight + layer.ffn.weight


def pair(ahead: LayerCost, back: LayerCost, compute_fraction: float = 1.0) -> Seconds:
    """Forward of `ahead` beside the backward of `back`: compute on one stream, expert traffic on the other.

    Compute: attention forward | experts backward, experts' weights, experts forward | attention backward and its
    weights. Traffic: combine's gradient out | dispatch forward and dispatch's gradient home | combine forward.
    Each | is a dependency between the streams (combined 1F1B of Megatron-Core; DualPipe). While traffic runs, compute
    keeps `compute_fraction` of its speed.
    """
    done = NO_TIME
    for computing, moving_s in phases(ahead, back):
        slowed = computing * slowing(computing.total_s, moving_s, compute_fraction)
        done = done + slowed + Seconds(ep_s=np.maximum(0.0, moving_s - slowed.total_s))
    return done + Seconds(ep_s=handover_s(ahead, back) + back.ffn.routing_recompute_s)


def phases(ahead: LayerCost, back: LayerCost) -> tuple[tuple[Seconds, Number], ...]:
    """Compute of an overlapped pair and the traffic beside it, between the dependencies of its two streams."""
    out, home = ahead.ffn.routing_forward, back.ffn.routing_backward
    experts = back.ffn.input + back.ffn.weight + ahead.ffn.forward
    return (
        (ahead.mixer.forward, home.out_s),
        (experts, out.out_s + home.home_s),
        (back.mixer.input + back.mixer.weight, out.home_s),
    )


def slowing(computing_s: Number, moving_s: Number, compute_fraction: float) -> Number:
    """Seconds of computing beside traffic over its seconds alone: only what runs while traffic moves is slowed."""
    beside = np.divide(moving_s, computing_s, where=np.asarray(computing_s) > 0, out=np.zeros(np.shape(computing_s)))
    return np.minimum(1 / compute_fraction, 1 + (1 - compute_fraction) * beside)


def handover_s(ahead: LayerCost, back: LayerCost) -> Number:
    """What the compute stream of a pair loses in waiting for hand-overs from the other one."""
    computing = ahead.mixer.forward + ahead.ffn.forward
    computing = computing + back.mixer.input + back.mixer.weight + back.ffn.input + back.ffn.weight
    moving_s = ahead.ffn.routing_forward.total_s + back.ffn.routing_backward.total_s
    return HANDOVER_FRACTION * np.minimum(computing.total_s, moving_s)
