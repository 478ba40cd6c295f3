"""Memory-bound kernels, copies and launches, ready to be timed, with the bytes that the workload counts for them.

Bytes follow `simulator.workload`: what a fused kernel has to move. A kernel that moves more than it must shows as a
smaller share of the memory bandwidth, which is what the prediction has to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from validate.calibrate.points import Shape
from validate.calibrate.products import Run, Unsupported, plain_dtype, random, without_gradients

LAUNCHES = 1000  # so many that the time before the first one starts does not count


def element_bytes(dtype: str) -> float:
    return 4.0 if dtype == "fp32" else 2.0


def copy(shape: Shape, dtype: str, device: Any) -> Run:
    source = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))
    target = source.clone()
    return lambda: target.copy_(source)


def add(shape: Shape, dtype: str, device: Any) -> Run:
    """The residual: two tensors read, one written."""
    import torch

    left, right = (random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"])) for _ in range(2))
    out = torch.empty_like(left)
    return lambda: torch.add(left, right, out=out)


def swiglu(shape: Shape, dtype: str, device: Any) -> Run:
    """Two tensors read, one written, as the project's own model does it."""
    from validate.calibrate.model import SwiGLU

    both = random(device, plain_dtype(dtype), int(shape["rows"]), 2 * int(shape["width"]))
    return without_gradients(lambda: SwiGLU.apply(both, None))


def rope(shape: Shape, dtype: str, device: Any) -> Run:
    """Heads of 128 turned in place, as the project's own model does it."""
    import torch

    from validate.calibrate.model import on_device, turn

    rows, heads = int(shape["rows"]), max(1, int(shape["width"]) // 128)
    x = random(device, plain_dtype(dtype), 1, rows, heads, 128)
    angle = torch.rand(rows, 1, 64, device=device).to(x.dtype)
    return without_gradients(lambda: on_device(turn, x)(x, angle, angle))


def rms_norm(shape: Shape, dtype: str, device: Any) -> Run:
    from torch.nn.functional import rms_norm as norm

    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))
    gain = random(device, plain_dtype(dtype), int(shape["width"]))
    return without_gradients(lambda: norm(x, (x.shape[1],), gain))


def rms_norm_backward(shape: Shape, dtype: str, device: Any) -> Run:
    import torch
    from torch.nn.functional import rms_norm as norm

    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"])).requires_grad_()
    gain = random(device, plain_dtype(dtype), int(shape["width"])).requires_grad_()
    out = norm(x, (x.shape[1],), gain)
    gradient = random(device, plain_dtype(dtype), *x.shape)
    return lambda: torch.autograd.grad(out, (x, gain), gradient, retain_graph=True)


def cross_entropy(shape: Shape, dtype: str, device: Any) -> Run:
    """Logits to loss and back as the project's own model does it: fp32 softmax in place, gradient in place."""
    import torch

    from validate.calibrate.model import TokenLoss

    rows, width = int(shape["rows"]), int(shape["width"])
    logits = random(device, plain_dtype(dtype), rows, width).requires_grad_()
    target = torch.randint(width, (rows,), device=device)
    return lambda: torch.autograd.grad(TokenLoss.apply(logits, target), logits)


def permute(shape: Shape, dtype: str, device: Any) -> Run:
    """Rows gathered into another order, as tokens are sorted by expert."""
    import torch

    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))
    order = torch.randperm(x.shape[0], device=device)
    return lambda: x.index_select(0, order)


def unpermute(shape: Shape, dtype: str, device: Any) -> Run:
    """Rows added back to where they came from."""
    import torch

    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))
    order, home = torch.randperm(x.shape[0], device=device), torch.zeros_like(x)
    return lambda: home.index_add_(0, order, x)


def quantise(shape: Shape, dtype: str, device: Any) -> Run:
    """16-bit elements to two FP8 copies, row- and column-wise."""
    import torch

    low = getattr(torch, "float8_e4m3fn", None)
    if low is None:
        raise Unsupported(f"torch {torch.__version__} has no FP8")
    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))

    def cast() -> Any:
        narrow = x.to(low)
        return narrow, narrow.t().contiguous()

    return without_gradients(cast)


def clamp(shape: Shape, dtype: str, device: Any) -> Run:
    """The left half of a matrix limited from above, as halves of a gated activation's input are: a strided operand."""
    x = random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"]))
    return without_gradients(lambda: x[:, : x.shape[1] // 2].clamp(max=1.0))


def adamw(shape: Shape, dtype: str, device: Any) -> Run:
    """Gradient norm, clipping and update of 16-bit weights with fp32 main copy, gradients and moments."""
    import torch

    from validate.calibrate.optimizer import MainAdam

    weights = torch.nn.Parameter(random(device, plain_dtype(dtype), int(shape["rows"]), int(shape["width"])))
    optimizer = MainAdam([weights])
    optimizer.gradients[0].normal_()
    return optimizer.step


# op -> (kind of `hardware.kernels.streaming`, bytes per element of rows x width, kernels that it stands for, work)
OPS: dict[str, tuple[str, float, int, Callable[[Shape, str, Any], Run]]] = {
    "copy": ("copy", 4.0, 1, copy),
    "add": ("elementwise", 6.0, 1, add),
    "swiglu": ("elementwise", 6.0, 1, swiglu),
    "rope": ("elementwise", 4.0, 1, rope),
    "rms_norm": ("norm", 4.0, 1, rms_norm),
    "rms_norm_backward": ("norm", 6.0, 2, rms_norm_backward),
    "cross_entropy": ("softmax_cross_entropy", 22.0, 6, cross_entropy),
    "permute": ("permute", 4.0, 1, permute),
    "unpermute": ("permute", 4.0, 1, unpermute),
    "quantise": ("cast_transpose", 4.0, 1, quantise),
    "clamp": ("strided", 2.0, 1, clamp),
    "adamw": ("optimizer", 46.0, 1, adamw),
}


def streaming(shape: Shape, dtype: str, device: Any) -> Run:
    return OPS[shape["op"]][3](shape, dtype, device)


def moved_bytes(shape: Shape) -> float:
    """Bytes that the workload counts for the operation."""
    return OPS[shape["op"]][1] * shape["rows"] * shape["width"]


def transfer(shape: Shape, dtype: str, device: Any) -> Run:
    """Pinned host memory to the device, or back."""
    import torch

    if device.type != "cuda":
        raise Unsupported("transfers need a GPU")
    host = torch.empty(int(shape["size_bytes"]), dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device)
    source, target = (host, there) if shape["direction"] == "h2d" else (there, host)
    return lambda: target.copy_(source, non_blocking=True)


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
        raise Unsupported("graphs need a GPU")
    kernels()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernels()
    return graph.replay
