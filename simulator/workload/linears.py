"""The model's weight matrices as matrix products on one rank, with the casts that low precision adds."""

from __future__ import annotations

from typing import Literal

from hardware.precisions import PRECISIONS
from simulator.model.parts import Linear
from simulator.workload.operators import Exchange, Matmul, Modules, Number, Pass
from simulator.workload.shape import Shape
from simulator.workload.torchao import gathers_low, torchao_casts, uses_torchao

# How tensor parallelism splits a quantised linear: "column" behind a norm, "row", or neither of these.
CastRole = Literal["column", "row", ""]


def matmul(linear: Linear, shape: Shape, modules: Modules = ()) -> Matmul:
    """One linear outside the routed experts on one rank: columns or rows split over tp, or on tp's token shard.

    Routers, indexers and residual mixing stay in 16 bit, as Megatron-Core keeps them. Block-diagonal matrices
    (`copies`) split their blocks over tp.
    """
    tp = shape.plan.tp
    groups: Number = linear.used / tp if linear.copies > 1 else 1
    whole_columns = linear.parallel == "column" and linear.copies == 1
    return Matmul(
        linear.name,
        m=shape.sharded_tokens if linear.parallel == "replicated" else shape.tokens,
        n=linear.outputs / tp if whole_columns else linear.outputs,
        k=linear.inputs / tp if linear.parallel == "row" else linear.inputs,
        groups=groups,
        quantized=shape.quantized and linear.role == "compute",
        modules=modules,
        column=linear.parallel == "column",
    )


def casts(
    product: Matmul, shape: Shape, cast_input: bool = True, cast_grad: bool = True, role: CastRole = ""
) -> tuple[Pass, ...]:
    """Quantisation of a linear's input (forward) and output gradient (backward), each with its transposed copy.

    Reads 16-bit elements and writes two low-precision copies (row- and column-wise): weight gradients need the
    transpose. A producer that already hands over low precision (FP8 dispatch) leaves only the transpose to make.
    DeepSeek's software keeps the row-wise input alone and transposes it before the weight gradient (arXiv 2412.19437
    section 3.5.2). Transformer Engine's one scale per tensor is priced apart, see `tensor_casts`, and so are torchao's
    casts.
    """
    if not product.quantized:
        return ()
    if uses_torchao(shape):
        return torchao_casts(product, shape, cast_input)
    if has_tensor_scales(shape):
        return tensor_casts(product, shape, cast_input, role)
    rows = product.m * product.groups
    written = 2 * shape.input_bytes
    entering = shape.element_bytes if cast_input else shape.input_bytes
    leaving = shape.element_bytes if cast_grad else shape.input_bytes
    ahead, late = entering + written, 0.0
    if shape.plan.stack.casts == "late_transpose":
        ahead, late = (entering + shape.input_bytes if cast_input else 0.0), written
    return (
        Pass(
            f"{product.name}_cast",
            "cast_transpose",
            forward_bytes=rows * product.k * ahead,
            backward_bytes=rows * product.n * (leaving + written),
            modules=product.modules,
            weight_bytes=rows * product.k * late,
        ),
    )


def has_tensor_scales(shape: Shape) -> bool:
    """Whether Transformer Engine casts with one scale per tensor: delayed (of earlier steps) or current scaling."""
    plan = shape.plan
    return plan.stack.casts == "transformer_engine" and PRECISIONS[plan.precision].scales_by_tensor


def tensor_casts(product: Matmul, shape: Shape, cast_input: bool, role: CastRole) -> tuple[Pass, ...]:
    """Transformer Engine's casts with one scale per tensor, which stream like any tiled elementwise kernel.

    A cast reads 16 bit and writes FP8 row- and column-wise at once. Under sequence parallelism a column-parallel
    linear's input and a row-parallel one's gradient are cast on the rank's own tokens, gathered in FP8 and transposed
    after that. A norm before the linear writes FP8 by itself where the scale is known beforehand (delayed); where it is
    not, every tensor is read once more for its largest value (current scaling).
    """
    rows, element = product.m * product.groups, shape.element_bytes
    current = PRECISIONS[shape.plan.precision].scales_by_largest
    share = shape.sharded_tokens / shape.tokens
    largest = element if current else 0.0
    whole = largest + element + 2.0  # bytes per element cast and transposed in one kernel
    gathered = (largest + element + 1.0) * share + 2.0  # cast before, transposed after the gathering
    entering = gathered if role == "column" and share < 1 else whole
    if role == "column" and not current:
        entering = 2.0  # the norm has cast it
    leaving = gathered if role == "row" and share < 1 else whole
    kernels = 2 if current else 1
    return (
        Pass(
            f"{product.name}_cast",
            "elementwise",
            forward_bytes=rows * product.k * (entering if cast_input else 0.0),
            backward_bytes=rows * product.n * leaving,
            forward_kernels=kernels if cast_input else 1,
            backward_kernels=kernels,
            modules=product.modules,
        ),
    )


def column_input(name: str, width: Number, shape: Shape, modules: Modules = ()) -> Exchange:
    """What tensor parallelism moves before a column-parallel linear (arXiv 2205.05198: two all-gathers and two
    reduce-scatters forward per layer).

    With sequence parallelism the token shards are gathered (in the linear's own precision), reduce-scattered in
    backward, and gathered once more for the weight gradient; without it backward all-reduces the input gradient.
    """
    total = shape.tokens * width
    if shape.plan.sequence_parallel:
        gathered = total * (shape.input_bytes if gathers_low(shape) else shape.element_bytes)
        return Exchange(
            name,
            "tp",
            "all_gather",
            "reduce_scatter",
            forward_bytes=gathered,
            backward_bytes=total * shape.element_bytes,
            regather_bytes=gathered,
            modules=modules,
            before_column=True,
        )
    summed = total * shape.element_bytes
    return Exchange(name, "tp", None, "all_reduce", backward_bytes=summed, modules=modules, before_column=True)


def row_output(name: str, width: Number, shape: Shape, modules: Modules = ()) -> Exchange:
    """What tensor parallelism moves after a row-parallel linear: the adjoint of `column_input`."""
    total = shape.tokens * width
    if shape.plan.sequence_parallel:
        gathered = total * (shape.input_bytes if gathers_low(shape) else shape.element_bytes)
        return Exchange(
            name,
            "tp",
            "reduce_scatter",
            "all_gather",
            forward_bytes=total * shape.element_bytes,
            backward_bytes=gathered,
            modules=modules,
        )
    return Exchange(name, "tp", "all_reduce", None, forward_bytes=total * shape.element_bytes, modules=modules)


def norm(name: str, width: Number, rows: Number, shape: Shape, modules: Modules = ()) -> Pass:
    """A norm: forward reads and writes the stream; backward reads gradient and input and writes.

    Unfused software (2021-22) casts to fp32 and back in kernels of their own.
    """
    element = shape.element_bytes
    fused = shape.plan.stack.fused_kernels
    return Pass(
        name,
        "norm",
        forward_bytes=rows * width * element * (2 if fused else 4),
        backward_bytes=rows * width * element * (3 if fused else 5),
        forward_kernels=1 if fused else 2,
        backward_kernels=2 if fused else 3,
        modules=modules,
    )


def addition(name: str, width: Number, rows: Number, shape: Shape, terms: int = 2, modules: Modules = ()) -> Pass:
    """Sum of `terms` tensors: reads them and writes one; backward sums the gradients that come back."""
    moved = rows * width * shape.element_bytes * (terms + 1)
    return Pass(name, "elementwise", moved, moved, terms - 1, terms - 1, modules)
