"""Memory-bound kernels, copies and launches, ready to be timed, with the bytes that the workload counts for them.

Bytes follow `simulator.workload`: what a fused kernel has to move. A kernel that moves more than it must shows as a
smaller share of the memory bandwidth, which is what the prediction has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from validate.calibrate.measuring.products import (
    Run,
    UnsupportedKernel,
    dimensions,
    plain_dtype,
    random,
    without_gradients,
)
from validate.calibrate.points import Shape

LAUNCHES = 1000  # so many that the time before the first one starts does not count
ROPE_HEAD = 128  # elements of a head that is rotated


def matrix(shape: Shape, dtype: str, device: Any) -> Any:
    """A random matrix [rows, width]."""
    rows, width = dimensions(shape, "rows", "width")
    return random(device, plain_dtype(dtype), rows, width)


def copy(shape: Shape, dtype: str, device: Any) -> Run:
    source = matrix(shape, dtype, device)
    target = source.clone()
    return lambda: target.copy_(source)


def add(shape: Shape, dtype: str, device: Any) -> Run:
    """The residual: two tensors read, one written."""
    import torch

    left = matrix(shape, dtype, device)
    right = matrix(shape, dtype, device)
    out = torch.empty_like(left)
    return lambda: torch.add(left, right, out=out)


def swiglu(shape: Shape, dtype: str, device: Any) -> Run:
    """Two tensors read, one written, as the project's own model does it."""
    from validate.calibrate.measuring import fused

    rows, width = dimensions(shape, "rows", "width")
    gate_and_up = random(device, plain_dtype(dtype), rows, 2 * width)
    return without_gradients(lambda: fused.swiglu(gate_and_up, None))


def rope(shape: Shape, dtype: str, device: Any) -> Run:
    """Heads of ROPE_HEAD rotated in place, as the project's own model does it."""
    import torch

    from validate.calibrate.measuring.fused import on_device, rotate

    rows, width = dimensions(shape, "rows", "width")
    heads = max(1, width // ROPE_HEAD)
    x = random(device, plain_dtype(dtype), 1, rows, heads, ROPE_HEAD)
    angle = torch.rand(rows, 1, ROPE_HEAD // 2, device=device).to(x.dtype)
    return without_gradients(lambda: on_device(rotate, x)(x, angle, angle))


def rms_norm(shape: Shape, dtype: str, device: Any) -> Run:
    from torch.nn import functional

    x = matrix(shape, dtype, device)
    gain = random(device, plain_dtype(dtype), int(shape["width"]))
    return without_gradients(lambda: functional.rms_norm(x, (x.shape[1],), gain))


def rms_norm_backward(shape: Shape, dtype: str, device: Any) -> Run:
    import torch
    from torch.nn import functional

    x = matrix(shape, dtype, device).requires_grad_()
    gain = random(device, plain_dtype(dtype), int(shape["width"])).requires_grad_()
    out = functional.rms_norm(x, (x.shape[1],), gain)
    gradient = random(device, plain_dtype(dtype), *x.shape)
    return lambda: torch.autograd.grad(out, (x, gain), gradient, retain_graph=True)


def cross_entropy(shape: Shape, dtype: str, device: Any) -> Run:
    """Logits to loss and back as the project's own model does it: fp32 softmax in place, gradient in place."""
    import torch

    from validate.calibrate.measuring.fused import token_loss

    rows, vocab = dimensions(shape, "rows", "width")
    logits = matrix(shape, dtype, device).requires_grad_()
    target = torch.randint(vocab, (rows,), device=device)
    return lambda: torch.autograd.grad(token_loss(logits, target), logits)


def permute(shape: Shape, dtype: str, device: Any) -> Run:
    """Rows gathered into another order, as tokens are sorted by expert."""
    import torch

    x = matrix(shape, dtype, device)
    order = torch.randperm(x.shape[0], device=device)
    return lambda: x.index_select(0, order)


def unpermute(shape: Shape, dtype: str, device: Any) -> Run:
    """Rows added back to where they came from."""
    import torch

    x = matrix(shape, dtype, device)
    order = torch.randperm(x.shape[0], device=device)
    home = torch.zeros_like(x)
    return lambda: home.index_add_(0, order, x)


def quantise(shape: Shape, dtype: str, device: Any) -> Run:
    """16-bit elements to two FP8 copies, row- and column-wise."""
    import torch

    fp8 = getattr(torch, "float8_e4m3fn", None)
    if fp8 is None:
        raise UnsupportedKernel(f"torch {torch.__version__} has no FP8")
    x = matrix(shape, dtype, device)

    def cast() -> Any:
        by_row = x.to(fp8)
        by_column = by_row.t().contiguous()
        return by_row, by_column

    return without_gradients(cast)


def clamp(shape: Shape, dtype: str, device: Any) -> Run:
    """The left half of a matrix limited from above, as halves of a gated activation's input are: a strided operand."""
    x = matrix(shape, dtype, device)
    left_half = x[:, : x.shape[1] // 2]
    return without_gradients(lambda: left_half.clamp(max=1.0))


def adamw(shape: Shape, dtype: str, device: Any) -> Run:
    """Gradient norm, clipping and update of 16-bit weights with fp32 main copy, gradients and moments."""
    import torch

    from validate.calibrate.measuring.fused import MainAdam

    weights = torch.nn.Parameter(matrix(shape, dtype, device))
    optimizer = MainAdam([weights])
    optimizer.gradients[0].normal_()
    return optimizer.step


@dataclass(frozen=True, slots=True)
class StreamingOp:
    """One memory-bound operation: the kind of `hardware.kernels.streaming` that it measures, the bytes that the
    workload counts per element of rows x width, how many kernels it stands for, and the work itself."""

    kind: str
    bytes_per_element: float
    kernels: int
    work: Callable[[Shape, str, Any], Run]


OPS: dict[str, StreamingOp] = {
    "copy": StreamingOp("copy", 4.0, 1, copy),
    "add": StreamingOp("elementwise", 6.0, 1, add),
    "swiglu": StreamingOp("elementwise", 6.0, 1, swiglu),
    "rope": StreamingOp("elementwise", 4.0, 1, rope),
    "rms_norm": StreamingOp("norm", 4.0, 1, rms_norm),
    "rms_norm_backward": StreamingOp("norm", 6.0, 2, rms_norm_backward),
    "cross_entropy": StreamingOp("softmax_cross_entropy", 22.0, 6, cross_entropy),
    "permute": StreamingOp("permute", 4.0, 1, permute),
    "unpermute": StreamingOp("permute", 4.0, 1, unpermute),
    "quantise": StreamingOp("cast_transpose", 4.0, 1, quantise),
    "clamp": StreamingOp("strided", 2.0, 1, clamp),
    "adamw": StreamingOp("optimizer", 46.0, 1, adamw),
}


def streaming(shape: Shape, dtype: str, device: Any) -> Run:
    return OPS[shape["op"]].work(shape, dtype, device)


def moved_bytes(shape: Shape) -> float:
    """Bytes that the workload counts for the operation."""
    elements = float(shape["rows"]) * float(shape["width"])
    return OPS[shape["op"]].bytes_per_element * elements


def transfer(shape: Shape, dtype: str, device: Any) -> Run:
    """Pinned host memory to the device, or back."""
    import torch

    if device.type != "cuda":
        raise UnsupportedKernel("transfers need a GPU")
    on_host = torch.empty(int(shape["size_bytes"]), dtype=torch.uint8, pin_memory=True)
    on_gpu = torch.empty_like(on_host, device=device)
    if shape["direction"] == "h2d":
        return lambda: on_gpu.copy_(on_host, non_blocking=True)
    return lambda: on_host.copy_(on_gpu, non_blocking=True)


def launch(shape: Shape, dtype: str, device: Any) -> Run:
    """Many one-element kernels, launched one by one or replayed as one graph."""
    import torch

    x = torch.zeros(1, device=device)

    def kernels() -> None:
        for _ in range(LAUNCHES):
            x.add_(1.0)

    if shape["mode"] == "eager":
        return kernels
    if device.type != "cuda":
        raise UnsupportedKernel("graphs need a GPU")
    kernels()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels()
    return graph.replay
