"""Adam as mixed-precision training keeps it: 16-bit weights, fp32 main copy, fp32 gradients, two fp32 moments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

MAX_NORM = 1.0


class MainAdam:
    """Updates `parameters` once per step from `gradients`, the fp32 sums over micro-batches.

    Gradients of the 16-bit weights are added to the sums, and freed, as soon as backward has them
    (`collect`); a step takes their norm, clips, updates the fp32 copies, writes the weights and zeroes the sums.
    """

    def __init__(self, parameters: Iterable[Any], lr: float = 1e-4) -> None:
        import torch

        self.torch = torch
        self.parameters = list(parameters)
        self.main = [torch.nn.Parameter(each.detach().float()) for each in self.parameters]
        self.gradients = [torch.zeros_like(each) for each in self.main]
        for main, gradient in zip(self.main, self.gradients, strict=True):
            main.grad = gradient
        # One fused kernel on a GPU; on a CPU torch's fused Adam exists too.
        self.adam = torch.optim.AdamW(self.main, lr=lr, fused=True)

    def collect(self) -> None:
        """From now on backward adds to the fp32 sums."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.register_post_accumulate_grad_hook(adding_to(gradient))

    def held_bytes(self) -> float:
        """Bytes of weights, fp32 copies, gradients and moments."""
        moments = [each for state in self.adam.state.values() for each in state.values()]
        held = [*self.parameters, *self.main, *self.gradients, *moments]
        return float(sum(each.numel() * each.element_size() for each in held))

    def step(self) -> None:
        torch = self.torch
        with torch.no_grad():
            norms = torch._foreach_norm(self.gradients)
            scale = (MAX_NORM / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(self.gradients, scale)
            self.adam.step()
            torch._foreach_copy_(self.parameters, self.main)
            torch._foreach_zero_(self.gradients)


def adding_to(gradient: Any) -> Any:
    def hook(parameter: Any) -> None:
        gradient.add_(parameter.grad)
        parameter.grad = None

    return hook
