"""Counts the operations that PyTorch dispatches for a layer, in real modules on the meta device.

`python -m validate.dispatches` prints them beside the kernels that the cost model lists for the same layer; the ratios
stand in `simulator/cost/data/dispatches.toml`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

SEQUENCE, BATCH, HIDDEN, HEADS = 1024, 1, 1024, 16


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operation dispatched while it is on: kernels, views, reshapes, accumulations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        return function(*args, **(kwargs or {}))


class EagerLayer(nn.Module):
    """A GPT layer as Megatron-LM of 2021 to 2023 writes it, on one tensor rank: unfused attention, dropout, biases
    added apart (megatron/model/transformer.py, ParallelTransformerLayer)."""

    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)
        self.qkv, self.out = nn.Linear(HIDDEN, 3 * HIDDEN), nn.Linear(HIDDEN, HIDDEN)
        self.up, self.down = nn.Linear(HIDDEN, 4 * HIDDEN), nn.Linear(4 * HIDDEN, HIDDEN)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """`hidden` [sequence, batch, HIDDEN]; `mask` [1, 1, sequence, sequence], true where nothing is seen."""
        attended = F.linear(self.attention(self.attention_norm(hidden), mask), self.out.weight)
        hidden = hidden + F.dropout(attended + self.out.bias, 0.1, True)
        widened = F.linear(self.mlp_norm(hidden), self.up.weight) + self.up.bias
        narrowed = F.linear(F.gelu(widened, approximate="tanh"), self.down.weight)
        return hidden + F.dropout(narrowed + self.down.bias, 0.1, True)

    def attention(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Core attention of `hidden`, the same shape."""
        sequence, batch, width = hidden.shape
        head = width // HEADS
        mixed = self.qkv(hidden).view(sequence, batch, HEADS, 3 * head)
        query, key, value = (
            part.reshape(sequence, batch * HEADS, head).transpose(0, 1) for part in torch.split(mixed, head, dim=3)
        )
        buffer = torch.empty(batch * HEADS, sequence, sequence, dtype=hidden.dtype, device=hidden.device)
        scores = torch.baddbmm(buffer, query, key.transpose(1, 2), beta=0.0, alpha=head**-0.5)
        scores = scores.view(batch, HEADS, sequence, sequence).masked_fill(mask, -10000.0)
        shares = F.dropout(torch.softmax(scores, -1), 0.1, True).view(batch * HEADS, sequence, sequence)
        context = torch.bmm(shares, value).view(batch, HEADS, sequence, head)
        return context.permute(2, 0, 1, 3).contiguous().view(sequence, batch, width)


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Operations of a layer's forward and of its backward, what is recomputed before it included."""

    forward: int
    backward: int


def dispatched(recompute: bool) -> Dispatched:
    """Operations of a micro-batch that is not a step's first, whose gradients are added to those before."""
    with torch.device("meta"):
        layer = EagerLayer()
        hidden = torch.empty(SEQUENCE, BATCH, HIDDEN, requires_grad=True)
        mask = torch.zeros(1, 1, SEQUENCE, SEQUENCE, dtype=torch.bool)
        _one_microbatch(layer, hidden, mask, recompute)
        return _one_microbatch(layer, hidden, mask, recompute)


def _one_microbatch(layer: EagerLayer, hidden: Tensor, mask: Tensor, recompute: bool) -> Dispatched:
    with Counter() as counter:
        if recompute:
            output = checkpoint(layer, hidden, mask, use_reentrant=True, preserve_rng_state=False)
        else:
            output = layer(hidden, mask)
        forward = counter.operations
        output.backward(torch.empty_like(output))
    return Dispatched(forward, counter.operations - forward)


def main() -> None:
    for recompute in (False, True):
        counted = dispatched(recompute)
        print(f"recompute {recompute}: forward {counted.forward}, backward {counted.backward}")


if __name__ == "__main__":
    main()
