"""How well a kernel's time is known, and how far measurements of the same kernel lie apart."""

from __future__ import annotations

from collections.abc import Mapping

from hardware.kernels.curves import Evidence, choose, kernel_set
from hardware.kernels.scaling import is_borrowed, memory_scale
from hardware.kernels.streaming import fractions
from hardware.specs import Accelerator


def evidence(accelerator: Accelerator, operation: str, precision: str = "bf16") -> Evidence:
    """How a time is known: "measured" on this very part, "fitted" from a sibling, "nominal" from its peak, "assumed".

    `operation` is gemm, grouped_gemm, attention, launch, or a kind of streaming kernel. Raises ValueError for others.
    """
    if operation in ("gemm", "grouped_gemm", "attention"):
        return choose(accelerator, operation, precision).evidence  # type: ignore[arg-type]
    if operation == "launch":
        return choose(accelerator, "gemm", "bf16").evidence
    kind = fractions().get(operation)
    if kind is None:
        raise ValueError(
            f"operation: {operation!r} is neither gemm, grouped_gemm, attention, launch nor a streaming kind"
        )
    if operation in kernel_set(accelerator.kernels).streaming:
        return "measured"
    if memory_scale(accelerator) != 1.0 or is_borrowed(accelerator):
        return "assumed"
    return kind.evidence if accelerator.kernels in kind.by_set else "assumed"


def spread(accelerator: Accelerator, operation: str) -> Mapping[str, tuple[float, float, float]]:
    """Time of the training collections over the prediction, (p10, p50, p90) by role.

    `operation`: gemm, grouped_gemm or attention; roles forward, dgrad, wgrad, backward. Parts on which no training
    collection was made carry the one of the nearest part. 1.6 means that kernels took 1.6 times what is predicted.
    """
    spreads = kernel_set(accelerator.kernels).spread
    if operation not in spreads:
        raise ValueError(f"operation: {operation!r} has no spread; known: {', '.join(spreads)}")
    return {role: tuple(values) for role, values in spreads[operation].items()}
