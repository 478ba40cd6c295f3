"""The fused kernels of the project's torch model, each with its own backward: gated activation, rotary, loss, Adam.

Training frameworks with fused kernels (Megatron-Core) keep for backward exactly what these keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

MAX_NORM = 1.0  # of the gradient, above which it is clipped
_COMPILED: dict[Callable[..., Any], Callable[..., Any]] = {}


def on_device(function: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The function as it is on a CPU, compiled into as few kernels as possible on a GPU."""
    if x.device.type != "cuda":
        return function
    if function not in _COMPILED:
        _COMPILED[function] = torch.compile(function, dynamic=True)
    return _COMPILED[function]


# ---- gated activation


def gated(gate_and_up: Tensor, weight: Tensor | None) -> Tensor:
    """silu(gate) * up of [rows, 2 width], times a weight [rows, 1] where there is one: [rows, width]."""
    gate, up = gate_and_up.chunk(2, -1)
    out = F.silu(gate) * up
    return out if weight is None else out * weight


def gated_backward(gradient: Tensor, gate_and_up: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Gradients of `gated`: of both halves in one tensor, and of the weight where there is one."""
    gate, up = gate_and_up.chunk(2, -1)
    sigmoid = torch.sigmoid(gate)
    silu = gate * sigmoid
    weight_gradient = None
    if weight is not None:
        weight_gradient = (gradient * (silu * up)).sum(-1, keepdim=True)
        gradient = gradient * weight
    silu_slope = sigmoid * (1 + gate * (1 - sigmoid))
    gate_gradient = gradient * up * silu_slope
    up_gradient = gradient * silu
    return torch.cat((gate_gradient, up_gradient), -1), weight_gradient


class SwiGLU(Function):
    """silu(gate) * up from one tensor that holds both, times a weight per row; keeps that tensor alone."""

    @staticmethod
    def forward(ctx: Any, gate_and_up: Tensor, weight: Tensor | None) -> Any:
        ctx.save_for_backward(gate_and_up, weight)
        return on_device(gated, gate_and_up)(gate_and_up, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return on_device(gated_backward, gradient)(gradient, *ctx.saved_tensors)


def swiglu(gate_and_up: Tensor, weight: Tensor | None) -> Tensor:
    function: Any = SwiGLU
    out: Tensor = function.apply(gate_and_up, weight)
    return out


# ---- rotary embedding


class Rope(Function):
    """Rotary embedding of the first `heads` heads, written over them: no second copy of queries and keys."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
        ctx.heads = heads
        ctx.angles = (cosine, sine)
        ctx.mark_dirty(qkv)
        on_device(rotate, qkv)(qkv[:, :, :heads], cosine, sine)
        return qkv

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        cosine, sine = ctx.angles
        gradient = gradient.clone()
        on_device(rotate, gradient)(gradient[:, :, : ctx.heads], cosine, -sine)
        return gradient, None, None, None


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> None:
    """Rotates the halves of every head against each other, in place. x: [batch, length, heads, head_dim]."""
    first, second = x.chunk(2, -1)
    rotated = first * cosine - second * sine
    second.copy_(second * cosine + first * sine)
    first.copy_(rotated)


def rope(qkv: Tensor, heads: int, cosine: Tensor, sine: Tensor) -> Tensor:
    function: Any = Rope
    out: Tensor = function.apply(qkv, heads, cosine, sine)
    return out


# ---- loss


class TokenLoss(Function):
    """Mean cross-entropy; keeps the fp32 softmax, made in place from the fp32 copy of the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        scores = logits.float()
        scores -= scores.amax(-1, keepdim=True)
        of_target = scores.gather(1, target[:, None])
        total = scores.exp_().sum(-1, keepdim=True)
        scores.div_(total)
        ctx.save_for_backward(scores, target)
        return (total.log() - of_target).mean()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        scores, target = ctx.saved_tensors
        minus_one = torch.full_like(target[:, None], -1.0, dtype=scores.dtype)
        scores.scatter_add_(1, target[:, None], minus_one)
        return scores.mul_(gradient / len(target)).to(torch.bfloat16), None


def token_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits [tokens, vocab] against targets [tokens]."""
    function: Any = TokenLoss
    loss: Tensor = function.apply(logits, target)
    return loss


# ---- optimizer


class MainAdam:
    """Adam as mixed-precision training keeps it: 16-bit weights, fp32 main copy, fp32 gradients, two fp32 moments.

    Gradients of the 16-bit weights are added to the fp32 sums over micro-batches, and freed, as soon as backward has
    them (`collect`); a step takes their norm, clips, updates the fp32 copies, writes the weights and zeroes the sums.
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-4) -> None:
        self.parameters = list(parameters)
        self.main: list[Tensor] = [torch.nn.Parameter(each.detach().float()) for each in self.parameters]
        self.gradients = [torch.zeros_like(main) for main in self.main]
        for main, gradient in zip(self.main, self.gradients, strict=True):
            main.grad = gradient
        # One fused kernel on a GPU; on a CPU torch's fused Adam exists too.
        self.adam = torch.optim.AdamW(self.main, lr=lr, fused=True)

    def collect(self) -> None:
        """From now on backward adds to the fp32 sums."""
        parameter: Any
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.register_post_accumulate_grad_hook(adding_to(gradient))

    def state_bytes(self) -> float:
        """Bytes of weights, fp32 copies, gradients and moments."""
        moments = [tensor for state in self.adam.state.values() for tensor in state.values()]
        tensors = [*self.parameters, *self.main, *self.gradients, *moments]
        return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))

    def step(self) -> None:
        with torch.no_grad():
            norms = torch._foreach_norm(self.gradients)
            norm = torch.linalg.vector_norm(torch.stack(norms))
            scale = (MAX_NORM / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self.gradients, scale)
            self.adam.step()
            torch._foreach_copy_(self.parameters, self.main)
            torch._foreach_zero_(self.gradients)


def adding_to(gradient: Tensor) -> Callable[[Tensor], None]:
    """A hook that adds a parameter's gradient to `gradient` and frees it."""

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        gradient.add_(parameter.grad)
        parameter.grad = None

    return hook
