"""Every virtual stage in seconds: its layers, embedding, MTP and head; forward, backward halves, overlapped pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from simulator.cost.blocks import NO_COST, BlockCost, block_cost
from simulator.cost.launches import hosted_s
from simulator.cost.layers import Beside, LayerCost, forward, input_gradient, pair, weight_gradient
from simulator.cost.price import Prices
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.model.spec import Half, Layer
from simulator.plans.spec import Plan
from simulator.workload.derive import Workload
from simulator.workload.operators import Number

NO_LAYER = LayerCost()
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Lost:
    """What a stage's forward, input and weight gradients lose to collectives of sharded parameters beside them."""

    forward: Seconds = NO_TIME
    input: Seconds = NO_TIME
    weight: Seconds = NO_TIME


@dataclass(frozen=True, slots=True)
class StageCost:
    """One virtual stage for one micro-batch: its layers in order and their sums, host waits included.

    `host_s_per_kernel`: what the host needs to launch a kernel. `moved_s`: how long offloaded activations cross the
    host link, one way.
    `lost`: what they hold beyond their layers.
    """

    layers: tuple[LayerCost, ...]
    forward: Seconds
    input: Seconds
    weight: Seconds
    evidence_s: dict[str, Number]
    host_s_per_kernel: float
    moved_s: Number = 0.0
    lost: Lost = Lost()

    def with_lost(self, lost: Lost) -> StageCost:
        """The stage once computing loses time to collectives beside it."""
        forward, back, weight = self.forward + lost.forward, self.input + lost.input, self.weight + lost.weight
        return replace(self, forward=forward, input=back, weight=weight, lost=lost)


def stage_costs(workload: Workload, prices: Prices, moved_s: Sequence[Number] = ()) -> tuple[StageCost, ...]:
    """Price every distinct half of a layer once and put the stages together from them.

    `moved_s` by stage: seconds in which its offloaded activations cross the host link, one way.
    """
    plan = prices.plan
    moved_s = moved_s or (0.0,) * len(workload.stages)

    @cache
    def mixer(half: Half, again: bool) -> BlockCost:
        return block_cost(workload.mixers[half], prices, again)

    @cache
    def ffn(half: Half, again: bool) -> BlockCost:
        return block_cost(workload.ffns[half], prices, again)

    @cache
    def layer(spec: Layer, again: bool) -> LayerCost:
        first, second = spec.halves
        mixer_cost = mixer(first, again) if first else NO_COST
        return LayerCost(mixer_cost, ffn(second, again) if second else NO_COST)

    @cache
    def end(name: str) -> LayerCost:
        return LayerCost(block_cost(workload.ends[name], prices, False))

    @cache
    def alike(content: tuple[object, ...], example: int) -> StageCost:
        return stage_cost(workload.parts(workload.stages[example], layer, end), plan, prices, moved_s[example])

    first: dict[tuple[object, ...], int] = {}
    contents = [workload.content(stage) for stage in workload.stages]
    return tuple(alike(content, first.setdefault(content, index)) for index, content in enumerate(contents))


def stage_cost(layers: list[LayerCost], plan: Plan, prices: Prices, moved_s: Number = 0.0) -> StageCost:
    """Sums over the stage's layers; the host bounds backward as a whole, since it runs ahead of the GPU there."""
    distinct = counted(layers)
    ahead = sum((forward(layer, plan) * count for layer, count in distinct), NO_TIME)
    back = sum((input_gradient(layer, plan) * count for layer, count in distinct), NO_TIME)
    weight = sum((weight_gradient(layer) * count for layer, count in distinct), NO_TIME)
    host_s = prices.constants.host_s_per_kernel
    launched = sum(count * (layer.mixer.backward_kernels + layer.ffn.backward_kernels) for layer, count in distinct)
    loss = prices.constants.host_overlap_loss
    backward_s = hosted_s(host_s * launched, back.total_s + weight.total_s, loss)
    return StageCost(
        tuple(layers),
        with_host(ahead, np.maximum(moved_s, ahead.total_s + forward_wait_s(layers, plan, host_s, loss))),
        with_host(back, np.maximum(moved_s, backward_s), weight.total_s),
        weight,
        stage_evidence(distinct),
        host_s,
        moved_s,
    )


def counted(items: Sequence[Item]) -> list[tuple[Item, int]]:
    """The distinct objects among `items`, each with how often it stands there, in order of their first place."""
    count = Counter(map(id, items))
    first = {id(item): item for item in reversed(items)}
    return [(first[key], number) for key, number in count.items()]


def stage_evidence(distinct: Sequence[tuple[LayerCost, int]]) -> dict[str, Number]:
    """Seconds of a stage's layers by how they are known."""
    found: dict[str, Number] = {}
    for layer, count in distinct:
        for kind, seconds in (*layer.mixer.evidence_s, *layer.ffn.evidence_s):
            found[kind] = found.get(kind, 0.0) + seconds * count
    return found


def forward_wait_s(layers: Sequence[LayerCost], plan: Plan, host_s: float, loss: float = 0.0) -> Number:
    """Seconds for which the GPU waits for the host in the forwards of layers.

    Between layers without experts the host runs ahead. Every layer with experts makes it read how many tokens each
    expert gets (Megatron-Core's dispatchers, TransformerEngine's GroupedLinear): then GPU and host start level, the
    host launches experts, then the next layer's mixer, and the GPU cannot do the mixer before the experts.
    """
    distinct = counted(layers)
    free = [(layer, count) for layer, count in distinct if not np.any(layer.ffn.waiting_kernels)]
    kernels = sum(count * (layer.mixer.forward_kernels + layer.ffn.forward_kernels) for layer, count in free)
    free_s = sum(count * forward(layer, plan).total_s for layer, count in free)
    waits = hosted_s(host_s * kernels, free_s, loss) - free_s
    for layer, count in distinct:
        if np.any(layer.ffn.waiting_kernels):
            whole_s = forward(layer, plan).total_s
            behind_s = whole_s - layer.mixer.forward.total_s - layer.ffn.ahead_s
            launching_s = host_s * (layer.mixer.forward_kernels + layer.ffn.forward_kernels)
            wait_s = np.maximum(host_s * layer.ffn.waiting_kernels - behind_s, launching_s - whole_s)
            waits = waits + count * np.maximum(0.0, wait_s)
    return waits


def with_host(busy: Seconds, needed_s: Number, beside_s: Number = 0.0) -> Seconds:
    """Adds what the host, or its link, needs beyond the GPU's own time: to launch kernels, to move activations."""
    return replace(busy, host_s=busy.host_s + np.maximum(0.0, needed_s - busy.total_s - beside_s))


def paired_stages(ahead: StageCost, back: StageCost, plan: Plan, beside: Beside) -> Seconds:
    """One stage's forward beside another's backward, layer by layer: first of the one with last of the other.

    Layers left without a partner run alone.
    """
    waits: Number = 0.0
    done = NO_TIME
    for first, last, count in partners(ahead.layers, back.layers):
        if first is NO_LAYER:
            together = input_gradient(last, plan) + weight_gradient(last)
        elif last is NO_LAYER:
            together = forward(first, plan)
        else:
            together = pair(first, last, beside)
        done = done + together * count
        waits = waits + count * pair_wait_s(first, last, together.total_s, ahead.host_s_per_kernel)
    moved_s = np.maximum(ahead.moved_s, back.moved_s)  # out and home at the same time
    return with_host(done, np.maximum(moved_s, done.total_s + waits))


def partners(ahead: Sequence[LayerCost], back: Sequence[LayerCost]) -> list[tuple[LayerCost, LayerCost, int]]:
    """The distinct pairs of a forward's and a backward's layers, with how many there are; NO_LAYER: without partner."""
    pairs = list(zip_longest(ahead, reversed(back), fillvalue=NO_LAYER))
    count = Counter((id(first), id(last)) for first, last in pairs)
    known = {(id(first), id(last)): (first, last) for first, last in pairs}
    return [(*known[key], number) for key, number in count.items()]


def pair_wait_s(first: LayerCost, last: LayerCost, together_s: Number, host_s: float) -> Number:
    """Seconds for which the GPU waits for the host in an overlapped pair of layers (see `forward_wait_s`).

    The host launches the experts of both when it has read the forward's token counts, and only then the mixers.
    """
    kernels = first.mixer.forward_kernels + first.ffn.forward_kernels
    kernels = kernels + last.mixer.backward_kernels + last.ffn.backward_kernels
    mixers = first.mixer.forward + last.mixer.input + last.mixer.weight
    reads = np.asarray(first.ffn.waiting_kernels) > 0
    behind = np.where(reads, first.ffn.waiting_kernels + last.ffn.backward_kernels, 0.0)
    wait_s = np.maximum(
        host_s * behind - (together_s - mixers.total_s - first.ffn.ahead_s), host_s * kernels - together_s
    )
    return np.maximum(0.0, wait_s)
