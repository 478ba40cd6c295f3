"""A small but real transformer in torch, dense or mixture of experts, built from a scenario's model.

It keeps for backward what training frameworks with fused kernels keep (Megatron-Core): norm inputs, inputs of linears,
queries, keys and values once, the first product of a feed-forward, fp32 softmax of the logits. bf16 weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from hardware.problems import InputError, Problem
from simulator.model.spec import FFN, Attention, DenseFFN, Layer, Model, MoE
from simulator.plan.spec import Plan

DTYPE = torch.bfloat16


_COMPILED: dict[Callable[..., Any], Callable[..., Any]] = {}


def on_device(function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The function as it is on a CPU, compiled into as few kernels as possible on a GPU."""
    if x.device.type != "cuda":
        return function
    if function not in _COMPILED:
        _COMPILED[function] = torch.compile(function, dynamic=True)
    return _COMPILED[function]


def gated(both: Tensor, weight: Tensor | None) -> Tensor:
    gate, up = both.chunk(2, -1)
    out = F.silu(gate) * up
    return out if weight is None else out * weight


def gated_backward(gradient: Tensor, both: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    gate, up = both.chunk(2, -1)
    soft = torch.sigmoid(gate)
    turned = gate * soft
    for_weight = None
    if weight is not None:
        for_weight = (gradient * (turned * up)).sum(-1, keepdim=True)
        gradient = gradient * weight
    return torch.cat((gradient * up * soft * (1 + gate * (1 - soft)), gradient * turned), -1), for_weight


class SwiGLU(Function):
    """silu(gate) * up from one tensor that holds both, times a weight per row; keeps that tensor alone."""

    @staticmethod
    def forward(ctx: Any, both: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(both, weight)
        return on_device(gated, both)(both, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        return on_device(gated_backward, gradient)(gradient, *ctx.saved_tensors)


class Rope(Function):
    """Rotary embedding of the first `heads` heads, written over them: no second copy of queries and keys."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.heads, ctx.turn = heads, (cosine, sine)
        ctx.mark_dirty(qkv)
        on_device(turn, qkv)(qkv[:, :, :heads], cosine, sine)
        return qkv

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.turn
        gradient = gradient.clone()
        on_device(turn, gradient)(gradient[:, :, : ctx.heads], cosine, -sine)
        return gradient, None, None, None


def turn(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Turns the halves of every head against each other, in place. x: [batch, length, heads, head_dim]."""
    first, second = x.chunk(2, -1)
    turned = first * cosine - second * sine
    second.copy_(second * cosine + first * sine)
    first.copy_(turned)


class TokenLoss(Function):
    """Mean cross-entropy; keeps the fp32 softmax, made in place from the fp32 copy of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        scores = logits.float()
        scores -= scores.amax(-1, keepdim=True)
        picked = scores.gather(1, target[:, None])
        total = scores.exp_().sum(-1, keepdim=True)
        scores.div_(total)
        ctx.save_for_backward(scores, target)
        return (total.log() - picked).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        scores, target = ctx.saved_tensors
        scores.scatter_add_(1, target[:, None], torch.full_like(target[:, None], -1.0, dtype=scores.dtype))
        return scores.mul_(gradient / len(target)).to(DTYPE), None


def linear(inputs: int, outputs: int, device: torch.device) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False, device=device, dtype=DTYPE)
    nn.init.normal_(layer.weight, std=0.02)
    return layer


class Norm(nn.Module):
    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=DTYPE))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight)


class SelfAttention(nn.Module):
    def __init__(self, spec: Attention, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.qkv = linear(hidden, (spec.heads + 2 * spec.kv_heads) * spec.head_dim, device)
        self.out = linear(spec.heads * spec.head_dim, hidden, device)

    def forward(self, x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        heads, kv = self.spec.heads, self.spec.kv_heads
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, heads + 2 * kv, self.spec.head_dim)
        qkv = Rope.apply(qkv, heads + kv, *turns)
        q, k, v = (each.transpose(1, 2) for each in qkv.split([heads, kv, kv], 2))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)
        return self.out(out.transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.fc1, self.fc2 = linear(hidden, 2 * width, device), linear(width, hidden, device)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(SwiGLU.apply(self.fc1(x), None))


def experts(size: tuple[int, int, int], device: torch.device) -> nn.Parameter:
    return nn.Parameter((0.02 * torch.randn(size, device=device)).to(DTYPE))


class Experts(nn.Module):
    """Router, sorted tokens, two grouped products, and the weighted sum back; a shared expert beside them."""

    def __init__(self, spec: MoE, hidden: int, device: torch.device) -> None:
        super().__init__()
        self.spec = spec
        self.router = linear(hidden, spec.experts, device)
        self.fc1 = experts((spec.experts, hidden, 2 * spec.width), device)
        self.fc2 = experts((spec.experts, spec.width, hidden), device)
        self.shared = FeedForward(spec.shared_width, hidden, device) if spec.shared_width else None

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        scores = torch.softmax(self.router(rows).float(), -1)
        weight, chosen = scores.topk(self.spec.top_k, -1)
        by_expert, order = chosen.flatten().sort(stable=True)
        every = torch.arange(self.spec.experts, device=x.device)
        ends = torch.searchsorted(by_expert, every, right=True).to(torch.int32)
        source = order // self.spec.top_k
        inside = F.grouped_mm(rows.index_select(0, source), self.fc1, offs=ends)
        active = SwiGLU.apply(inside, weight.flatten()[order][:, None].to(DTYPE))
        back = F.grouped_mm(active, self.fc2, offs=ends)
        out = torch.zeros_like(rows).index_add(0, source, back)
        out = out if self.shared is None else out + self.shared(rows)
        return out.view_as(x)


class Block(nn.Module):
    def __init__(self, layer: Layer, hidden: int, device: torch.device) -> None:
        super().__init__()
        assert isinstance(layer.mixer, Attention)
        self.mixer_norm, self.ffn_norm = Norm(hidden, device), Norm(hidden, device)
        self.mixer = SelfAttention(layer.mixer, hidden, device)
        self.ffn: nn.Module = (
            Experts(layer.ffn, hidden, device)
            if isinstance(layer.ffn, MoE)
            else FeedForward(layer.ffn.width, hidden, device)  # type: ignore[union-attr]
        )

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.mixer(self.mixer_norm(x), (cosine, sine))
        return x + self.ffn(self.ffn_norm(x))


class Transformer(nn.Module):
    """Token indices [batch, length] and their successors to the mean loss."""

    def __init__(self, model: Model, plan: Plan, vocab: int, length: int, device: torch.device) -> None:
        super().__init__()
        self.recompute = plan.recompute.granularity == "full"
        self.embedding = nn.Embedding(vocab, model.hidden, device=device, dtype=DTYPE)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(layer, model.hidden, device) for layer in model.layers)
        self.norm, self.head = Norm(model.hidden, device), linear(model.hidden, vocab, device)
        if model.tied_embeddings:
            self.head.weight = self.embedding.weight
        self.turns = turns(model, length, device)

    def forward(self, tokens: Tensor, target: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, *self.turns, use_reentrant=False) if self.recompute else block(x, *self.turns)
        logits = self.head(self.norm(x)).view(target.numel(), -1)
        return TokenLoss.apply(logits, target.flatten())


def turns(model: Model, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, 1, head_dim / 2] of the rotary embedding."""
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    frequency = 10000.0 ** -(torch.arange(0, mixer.head_dim, 2, device=device) / mixer.head_dim)
    angle = torch.arange(length, device=device)[:, None, None] * frequency
    return angle.cos().to(DTYPE), angle.sin().to(DTYPE)


def check(model: Model, plan: Plan, file: str) -> None:
    """Raises InputError with everything of a scenario that this model does not have."""
    problems = []

    def refuse(key: str, message: str) -> None:
        problems.append(Problem(file, None, key, message))

    for index, layer in enumerate(model.layers):
        if not simple_mixer(layer.mixer):
            refuse(f"model.layers.{index}.mixer", "--step trains plain causal attention with equal head sizes only")
        if not simple_ffn(layer.ffn):
            refuse(f"model.layers.{index}.ffn", "--step trains gated feed-forwards and plain mixtures of them only")
    if len({(layer.mixer.head_dim if isinstance(layer.mixer, Attention) else 0) for layer in model.layers}) > 1:
        refuse("model.layers", "--step needs one head size for all layers")
    if model.mtp or model.norm != "rms" or model.positions or model.hyper_connections > 1 or not model.causal:
        refuse("model", "--step trains decoders with RMS norms and rotary positions, without MTP modules")
    if plan.gpus != 1:
        refuse("plan", f"--step trains on one GPU, the plan uses {plan.gpus}")
    if plan.precision != "bf16":
        refuse("plan.precision", f"--step trains in bf16, not {plan.precision}")
    if plan.recompute.granularity == "selective" or plan.recompute.method == "block":
        refuse("plan.recompute", "--step recomputes all layers or none")
    if problems:
        raise InputError(problems)


def simple_mixer(mixer: Any) -> bool:
    return isinstance(mixer, Attention) and mixer.head_dim == mixer.v_head_dim and not any(
        (mixer.window, mixer.chunk, mixer.qk_norm, mixer.qkv_bias, mixer.out_bias, mixer.output_gate, mixer.sinks,
         mixer.indexer)
    )  # fmt: skip


def simple_ffn(ffn: FFN | None) -> bool:
    if isinstance(ffn, DenseFFN):
        return ffn.gated and not ffn.bias
    return (
        isinstance(ffn, MoE)
        and ffn.gated
        and not any((ffn.latent_width, ffn.bias, ffn.shared_gate, ffn.router_bias))
        and ffn.groups == 1
    )
