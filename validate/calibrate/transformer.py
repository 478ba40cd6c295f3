"""A small but real transformer in torch, dense or mixture of experts, built from a scenario's model.

It keeps for backward what training frameworks with fused kernels keep (Megatron-Core): norm inputs, inputs of linears,
queries, keys and values once, the first product of a feed-forward, fp32 softmax of the logits. bf16 weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hardware.problems import InputError, Problem
from simulator.model.spec import FFN, Attention, DenseFFN, Layer, Model, MoE
from simulator.plans.spec import Plan
from validate.calibrate.measuring.fused import rope, swiglu, token_loss

DTYPE = torch.bfloat16
WEIGHT_DEVIATION = 0.02  # of random initial weights
ROPE_BASE = 10000.0


# ---- the parts of a layer


def linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False, device=device, dtype=DTYPE)
    nn.init.normal_(layer.weight, std=WEIGHT_DEVIATION)
    return layer


class Norm(nn.Module):
    """RMS norm with a gain."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=DTYPE))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight)


class SelfAttention(nn.Module):
    """Causal attention with rotary positions and shared key/value heads; x is [batch, length, hidden]."""

    def __init__(self, spec: Attention, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        qkv_heads = spec.heads + 2 * spec.kv_heads
        self.qkv = linear(hidden, qkv_heads * spec.head_dim, device)
        self.out = linear(spec.heads * spec.head_dim, hidden, device)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor]) -> Any:
        heads, kv_heads = self.spec.heads, self.spec.kv_heads
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, heads + 2 * kv_heads, self.spec.head_dim)
        qkv = rope(qkv, heads + kv_heads, *angles)
        parts = torch.split(qkv, [heads, kv_heads, kv_heads], 2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv_heads)
        return self.out(out.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    """A gated feed-forward."""

    def __init__(self, width: int, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.fc1 = linear(hidden, 2 * width, device)
        self.fc2 = linear(width, hidden, device)

    def forward(self, x: Tensor) -> Any:
        return self.fc2(swiglu(self.fc1(x), None))


class Experts(nn.Module):
    """Router, sorted tokens, two grouped products, and the weighted sum back; a shared expert beside them."""

    def __init__(self, spec: MoE, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.router = linear(hidden, spec.experts, device)
        self.fc1 = expert_weights((spec.experts, hidden, 2 * spec.width), device)
        self.fc2 = expert_weights((spec.experts, spec.width, hidden), device)
        self.shared = FeedForward(spec.shared_width, hidden, device) if spec.shared_width else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scores = torch.softmax(self.router(rows).float(), -1)
        weight, chosen = scores.topk(self.spec.top_k, -1)
        expert_of_row, order = chosen.flatten().sort(stable=True)
        experts = torch.arange(self.spec.experts, device=x.device)
        ends = torch.searchsorted(expert_of_row, experts, right=True).to(torch.int32)
        source = order // self.spec.top_k
        weight_of_row = weight.flatten()[order][:, None].to(DTYPE)
        dispatched = rows.index_select(0, source)
        inside = F.grouped_mm(dispatched, self.fc1, offs=ends)
        active = swiglu(inside, weight_of_row)
        outputs = F.grouped_mm(active, self.fc2, offs=ends)
        combined = torch.zeros_like(rows).index_add(0, source, outputs)
        if self.shared is not None:
            combined = combined + self.shared(rows)
        return combined.view_as(x)


def expert_weights(size: tuple[int, int, int], device: torch.device) -> nn.Parameter:
    return nn.Parameter((WEIGHT_DEVIATION * torch.randn(size, device=device)).to(DTYPE))


# ---- the whole model


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind its norm and beside its residual."""

    def __init__(self, layer: Layer, hidden: int, device: torch.device) -> None:
        super().__init__()
        assert isinstance(layer.mixer, Attention)
        self.mixer_norm = Norm(hidden, device)
        self.ffn_norm = Norm(hidden, device)
        self.mixer = SelfAttention(layer.mixer, hidden, device)
        self.ffn = feed_forward(layer.ffn, hidden, device)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Any:
        x = x + self.mixer(self.mixer_norm(x), (cosine, sine))
        return x + self.ffn(self.ffn_norm(x))


def feed_forward(ffn: FFN | None, hidden: int, device: torch.device) -> nn.Module:
    if isinstance(ffn, MoE):
        return Experts(ffn, hidden, device)
    assert isinstance(ffn, DenseFFN)
    return FeedForward(ffn.width, hidden, device)


class Transformer(nn.Module):
    """Token indices [batch, length] and their successors to the mean loss."""

    def __init__(self, model: Model, plan: Plan, vocab: int, length: int, device: torch.device) -> None:
        super().__init__()
        self.recompute = plan.recompute.granularity == "full"
        self.embedding = nn.Embedding(vocab, model.hidden, device=device, dtype=DTYPE)
        nn.init.normal_(self.embedding.weight, std=WEIGHT_DEVIATION)
        self.blocks = nn.ModuleList(Block(layer, model.hidden, device) for layer in model.layers)
        self.norm = Norm(model.hidden, device)
        self.head = linear(model.hidden, vocab, device)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.angles = rope_angles(model, length, device)

    def forward(self, tokens: Tensor, target: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, *self.angles, use_reentrant=False)
            else:
                x = block(x, *self.angles)
        logits = self.head(self.norm(x)).view(target.numel(), -1)
        return token_loss(logits, target.flatten())


def rope_angles(model: Model, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, 1, head_dim / 2] of the rotary embedding."""
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    exponent = torch.arange(0, mixer.head_dim, 2, device=device) / mixer.head_dim
    frequency = ROPE_BASE**-exponent
    angle = torch.arange(length, device=device)[:, None, None] * frequency
    return angle.cos().to(DTYPE), angle.sin().to(DTYPE)


# ---- what it does not have


def check(model: Model, plan: Plan, file: str) -> None:
    """Raises InputError with everything of a scenario that this model does not have."""
    problems = [
        Problem(file, None, key, message) for key, message in [*missing_of_model(model), *missing_of_plan(plan)]
    ]
    if problems:
        raise InputError(problems)


def missing_of_model(model: Model) -> Iterator[tuple[str, str]]:
    """(key, message) of everything of a model that `Transformer` does not have."""
    head_dims = set()
    for index, layer in enumerate(model.layers):
        if not simple_mixer(layer.mixer):
            yield f"model.layers.{index}.mixer", "--step trains plain causal attention with equal head sizes only"
        if not simple_ffn(layer.ffn):
            yield f"model.layers.{index}.ffn", "--step trains gated feed-forwards and plain mixtures of them only"
        head_dims.add(layer.mixer.head_dim if isinstance(layer.mixer, Attention) else 0)
    if len(head_dims) > 1:
        yield "model.layers", "--step needs one head size for all layers"
    plain = model.causal and model.norm == "rms" and not model.positions
    if not plain or model.mtp or model.hyper_connections > 1:
        yield "model", "--step trains decoders with RMS norms and rotary positions, without MTP modules"


def missing_of_plan(plan: Plan) -> Iterator[tuple[str, str]]:
    """(key, message) of everything of a plan that a training step here does not do."""
    if plan.gpus != 1:
        yield "plan", f"--step trains on one GPU, the plan uses {plan.gpus}"
    if plan.precision != "bf16":
        yield "plan.precision", f"--step trains in bf16, not {plan.precision}"
    if plan.recompute.granularity == "selective" or plan.recompute.method == "block":
        yield "plan.recompute", "--step recomputes all layers or none"


def simple_mixer(mixer: Any) -> bool:
    """Plain attention: none of the variants that a mixer can have."""
    if not isinstance(mixer, Attention) or mixer.head_dim != mixer.v_head_dim:
        return False
    masks = (mixer.window, mixer.chunk, mixer.sinks, mixer.indexer)
    extras = (mixer.qk_norm, mixer.qkv_bias, mixer.out_bias, mixer.output_gate)
    return not any((*masks, *extras))


def simple_ffn(ffn: FFN | None) -> bool:
    """A gated feed-forward or a plain mixture of them."""
    if isinstance(ffn, DenseFFN):
        return ffn.gated and not ffn.bias
    if not isinstance(ffn, MoE) or not ffn.gated or ffn.groups != 1:
        return False
    return not any((ffn.latent_width, ffn.bias, ffn.shared_gate, ffn.router_bias))
