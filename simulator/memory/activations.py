"""What one micro-batch leaves on a stage between forward and backward, and what backward needs for a moment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from hardware.precisions import PRECISIONS
from simulator.model.spec import Layer, Model
from simulator.plans.rules_offload import WHOLE_LAYER
from simulator.plans.spec import Plan
from simulator.workload.derive import Workload
from simulator.workload.ends import head_working_bytes
from simulator.workload.operators import CoreAttention, Matmul, Number, Routing, Tensor, Work
from simulator.workload.shape import Shape

# A layer's input: the residual stream, or streams.
LAYER_INPUT = ("residual_1", "mixer_streams")
# What each of Megatron's offloadable modules keeps: its inputs, as fine-grained activation offloading moves them;
# and the layer's own, as offloaded checkpoints of fully recomputed layers. Of a whole layer all leave, as Transformer
# Engine's offloading of layers moves them (cpu_offloading_num_layers).
OFFLOADED: dict[str, tuple[str, ...]] = {
    WHOLE_LAYER: (),
    "layer_input": LAYER_INPUT,
    "attn_norm": ("residual_1",),
    "qkv_linear": ("qkv_input",),
    "core_attn": ("qkv",),
    "attn_proj": ("attention_output", "projection_input"),
    "mlp_norm": ("residual_2",),
    "expert_fc1": ("expert_fc1_input",),
    "moe_act": ("expert_fc1_output",),
    "fused_group_mlp": ("expert_fc1_input", "expert_fc1_output", "expert_fc2_input"),
}


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of one micro-batch on one stage (or one layer of it).

    `until_backward` stays from forward to the input gradient, of which `until_wgrad` stays until the weight
    gradient where that comes later; `offloaded` waits in host memory meanwhile. `working` is what the backward of
    one layer allocates for a moment: recomputed tensors, gradients of the widest product, what comes back from the
    host for it and for the next layer, and at the head the logits' copies. `layers` counts the decoder layers (MTP's
    too) that hold it in equal parts.
    """

    until_backward: Number = 0.0
    until_wgrad: Number = 0.0
    working: Number = 0.0
    layers: int = 0
    offloaded: Number = 0.0

    def __add__(self, other: Kept) -> Kept:
        return Kept(
            self.until_backward + other.until_backward,
            self.until_wgrad + other.until_wgrad,
            np.maximum(self.working, other.working),
            self.layers + other.layers,
            self.offloaded + other.offloaded,
        )


def layer_kept(work: Work, plan: Plan, whole_layer_again: bool) -> Kept:
    """Tensors of one layer that survive recomputation, and its working set in backward.

    Full recompute keeps the input of every `layers`-th layer (uniform) or of each recomputed layer (block).
    """
    if whole_layer_again:
        every = plan.recompute.layers if plan.recompute.method == "uniform" else 1
        kept = [Tensor(t.name, t.bytes / every) for t in work.saved if t.name in LAYER_INPUT]
        again = [t for t in work.saved if t.name not in LAYER_INPUT]
        again_bytes = total(again) * every
    elif checkpoints_operators(plan, work):
        kept = operator_checkpointed(work, plan)
        again_bytes = total(work.saved) - total(kept)
    else:
        modules = set(plan.recompute.chosen_modules)
        kept = [t for t in work.saved if modules.isdisjoint(t.modules)]
        again_bytes = total(t for t in work.saved if not modules.isdisjoint(t.modules))
    leaving = offloaded_tensors(plan, work)
    away = [Tensor(t.name, t.bytes * plan.offload.activation_fraction, until_wgrad=t.until_wgrad)
            for t in kept if t.name in leaving]  # fmt: skip
    return Kept(
        until_backward=total(kept) - total(away),
        until_wgrad=total(t for t in kept if t.until_wgrad) - total(t for t in away if t.until_wgrad),
        working=again_bytes + widest_gradients(work) + 2 * total(away),
        offloaded=total(away),
    )


def checkpoints_operators(plan: Plan, work: Work) -> bool:
    """torchtitan's selective recompute chooses operators of decoder layers, not modules; ends keep all they save."""
    chooses = plan.stack.selective_recompute == "operators" and plan.recompute.named_modules
    return chooses and is_decoder_layer(work)


def is_decoder_layer(work: Work) -> bool:
    """Whether the work is of a layer's, or a half of one, and not of the model's ends."""
    return any(tensor.name in ("residual_1", "residual_2") for tensor in work.saved)


def operator_checkpointed(work: Work, plan: Plan) -> list[Tensor]:
    """What torchtitan's per-operator checkpointing keeps of a layer: its input, attention's output and every second
    product of q, k, v, out, w1, w3, w2 (torchtitan, activation checkpointing's save list), so q, v and w1 of their
    kind, shared experts' too, all in 16 bit, what tensor parallelism reduce-scatters, and what expert parallelism
    receives, out and home; grouped products are not among them. Compilation drops the output of w2, which no gradient
    needs; without it the checkpoint keeps that as well.
    """
    shares: dict[str, Number] = {
        "residual_1": 1.0,
        "attention_output": 1.0,
        "attention_lse": 1.0,
        "fc1_output": 0.5,
        "shared_fc1_output": 0.5,
        "latents": 0.5,
        "projected": 0.5,
    }
    if plan.tp > 1:
        shares["residual_2"] = 1.0
    for op in work.operators:
        if isinstance(op, CoreAttention):
            keys = op.kv_heads * op.qk_dim
            kept = op.heads * op.qk_dim + op.kv_heads * op.v_dim
            shares["qkv"] = kept / (kept + keys)
    kept = [replace(t, bytes=t.bytes * shares[t.name]) for t in work.saved if t.name in shares]
    kept += received_rows(work, plan)
    if not plan.stack.fused_kernels:
        partial_sums = plan.tp if plan.sequence_parallel else 1
        kept += [Tensor("fc2_output", t.bytes * partial_sums) for t in work.saved if t.name == "residual_2"]
    return kept


def received_rows(work: Work, plan: Plan) -> list[Tensor]:
    """Outputs of the two all-to-alls around routed experts, which exist where experts lie on several ranks.

    Out arrive as many rows as the hottest rank's experts work on; home come each token's own copies.
    """
    routed = [op for op in work.operators if isinstance(op, Routing)]
    element = PRECISIONS[plan.precision].output_bytes
    return [Tensor(op.name, element * routed_copies(op, plan) * op.width) for op in routed if plan.ep > 1]


def routed_copies(op: Routing, plan: Plan) -> Number:
    """Token copies that arrive from one exchange on the hottest rank."""
    copies = op.tokens * op.top_k
    if op.name == "combine":
        return copies
    return copies * plan.hottest_load


def offloaded_tensors(plan: Plan, work: Work) -> frozenset[str]:
    """Names of the work's kept tensors that the plan's offloaded modules take as input."""
    if WHOLE_LAYER in plan.offload.modules and is_decoder_layer(work):
        return frozenset(tensor.name for tensor in work.saved)
    return frozenset(name for module in plan.offload.modules for name in OFFLOADED[module])


def total(tensors: Iterable[Tensor]) -> Number:
    return sum((tensor.bytes for tensor in tensors), start=0.0)


def widest_gradients(work: Work) -> Number:
    """16-bit gradients of the output and input of the widest product of a layer, alive together in backward."""
    widest: Number = 0.0
    for op in work.operators:
        if isinstance(op, Matmul):
            widest = np.maximum(widest, 2.0 * op.groups * op.m * (op.n + op.k))
    return widest


def end_kept(name: str, work: Work, model: Model, shape: Shape) -> Kept:
    """`Kept` of one of the model's ends."""
    kept = layer_kept(work, shape.plan, False)
    return replace(kept, working=head_working_bytes(model, shape)) if name == "head" else kept


def stage_kept(workload: Workload) -> tuple[Kept, ...]:
    """`Kept` of one micro-batch on every virtual stage."""
    plan = workload.plan
    full = plan.reruns_layers

    @cache
    def layer(spec: Layer, again: bool) -> Kept:
        mixer, ffn = workload.halves(spec)
        return replace(layer_kept(mixer + ffn, plan, full and again), layers=1)

    @cache
    def end(name: str) -> Kept:
        return end_kept(name, workload.ends[name], workload.model, workload.shape)

    return tuple(sum(workload.parts(stage, layer, end), Kept()) for stage in workload.stages)
