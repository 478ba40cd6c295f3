"""A whole layer in seconds, alone or as an overlapped pair of one micro-batch's forward and another's backward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.cost.blocks import NO_COST, BlockCost
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.plans.spec import Plan
from simulator.workload.operators import Number

# What two busy streams lose in waiting for each other, over the shorter one: DeepSeek's profile of an overlapped pair
# takes 129.0 ms for 124.3 ms of computing beside 114 ms of communication (deepseek-ai/profile-data).
HANDOVER_FRACTION = (129.0 - 124.3) / 114


@dataclass(frozen=True, slots=True)
class Beside:
    """What compute and expert traffic keep of their speed while both run, and whether weight gradients are put off."""

    compute_fraction: float = 1.0
    comm_fraction: float = 1.0
    weights_put_off: bool = True

    def phase(self, computing: tuple[Seconds, ...], moving: tuple[Number, ...]) -> PairPhase:
        """A phase of `computing` and `moving`, given as each takes alone.

        Each is slowed only while the other runs: traffic that outlasts the computing goes on at full speed.
        """
        alone_s, moving_s = sum(part.total_s for part in computing), sum(moving)
        slower = slowing(alone_s, moving_s / self.comm_fraction, self.compute_fraction)
        slowed_s = alone_s * slower
        outlasting_s = moving_s + (1 - self.comm_fraction) * slowed_s
        ends_s = np.minimum(moving_s / self.comm_fraction, outlasting_s)
        longer = np.divide(ends_s, moving_s, where=np.asarray(moving_s) > 0, out=np.ones(np.shape(ends_s)))
        return PairPhase(tuple(part * slower for part in computing), tuple(part * longer for part in moving))


ALONE = Beside()


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


def pair(ahead: LayerCost, back: LayerCost, beside: Beside = ALONE) -> Seconds:
    """Forward of `ahead` beside the backward of `back`: compute on one stream, expert traffic on the other."""
    sum_s = NO_TIME
    for phase in phases(ahead, back, beside):
        exposed_s = np.maximum(0.0, phase.moving_s - phase.computing_s)
        sum_s = sum_s + sum(phase.computing, NO_TIME) + Seconds(ep_s=exposed_s)
    return sum_s + Seconds(ep_s=handover_s(ahead, back) + back.ffn.routing_recompute_s)


@dataclass(frozen=True, slots=True)
class PairPhase:
    """What runs between two dependencies of an overlapped pair, each as long as it takes beside the other.

    `computing`: stretches of the compute stream; `moving`: transfers of expert traffic, seconds.
    """

    computing: tuple[Seconds, ...]
    moving: tuple[Number, ...]

    @property
    def computing_s(self) -> Number:
        return sum(part.total_s for part in self.computing)

    @property
    def moving_s(self) -> Number:
        return sum(self.moving)


def phases(ahead: LayerCost, back: LayerCost, beside: Beside = ALONE) -> tuple[PairPhase, ...]:
    """The phases of an overlapped pair (combined 1F1B of Megatron-Core; DualPipe).

    Compute: attention forward | experts backward, experts forward | attention backward and its weights. Traffic:
    combine's gradient out | dispatch forward and dispatch's gradient home | combine forward. Each | is a dependency
    between the streams. The experts' weight gradients run beside the dispatch's gradient only where they are put off
    (delay_wgrad); otherwise that gradient leaves after them, which is one more dependency
    (megatron/core/models/common/model_chunk_schedule_plan.py).
    """
    out, home = ahead.ffn.routing_forward, back.ffn.routing_backward
    first = beside.phase((ahead.mixer.forward,), (home.out_s,))
    last = beside.phase((back.mixer.input + back.mixer.weight,), (out.home_s,))
    experts_back = back.ffn.input + back.ffn.weight
    experts: tuple[PairPhase, ...]
    if beside.weights_put_off:
        experts = (beside.phase((experts_back, ahead.ffn.forward), (out.out_s, home.home_s)),)
    else:
        experts = (
            beside.phase((experts_back,), (out.out_s,)),
            beside.phase((ahead.ffn.forward,), (home.home_s,)),
        )
    return (first, *experts, last)


def slowing(computing_s: Number, moving_s: Number, compute_fraction: float) -> Number:
    """Seconds of computing beside traffic over its seconds alone: only what runs while traffic moves is slowed."""
    shape = np.broadcast_shapes(np.shape(moving_s), np.shape(computing_s))
    beside = np.divide(moving_s, computing_s, where=np.asarray(computing_s) > 0, out=np.zeros(shape))
    return np.minimum(1 / compute_fraction, 1 + (1 - compute_fraction) * beside)


def handover_s(ahead: LayerCost, back: LayerCost) -> Number:
    """What the compute stream of a pair loses in waiting for hand-overs from the other one."""
    computing = ahead.mixer.forward + ahead.ffn.forward
    computing = computing + back.mixer.input + back.mixer.weight + back.ffn.input + back.ffn.weight
    moving_s = ahead.ffn.routing_forward.total_s + back.ffn.routing_backward.total_s
    return HANDOVER_FRACTION * np.minimum(computing.total_s, moving_s)
