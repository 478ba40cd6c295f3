"""The model's weight matrices as matrix products on one rank, with the casts that low precision adds."""

from __future__ import annotations

from simulator.model.components import Linear
from simulator.workload.operators import Exchange, Matmul, Modules, Number, Pass
from simulator.workload.shape import Shape


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
    )


def casts(product: Matmul, shape: Shape, cast_input: bool = True, cast_grad: bool = True) -> tuple[Pass, ...]:
    """Quantisation of a linear's input (forward) and output gradient (backward), each with its transposed copy.

    Reads 16-bit elements and writes two low-precision copies (row- and column-wise): weight gradients need the
    transpose. A producer that already hands over low precision (FP8 dispatch) leaves only the transpose to make.
    """
    if not product.quantized:
        return ()
    rows = product.m * product.groups
    written = 2 * shape.input_bytes
    entering = shape.element_bytes if cast_input else shape.input_bytes
    leaving = shape.element_bytes if cast_grad else shape.input_bytes
    return (
        Pass(
            f"{product.name}_cast",
            "cast_transpose",
            forward_bytes=rows * product.k * (entering + written),
            backward_bytes=rows * product.n * (leaving + written),
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
        gathered = total * (shape.input_bytes if shape.quantized else shape.element_bytes)
        return Exchange(
            name,
            "tp",
            "all_gather",
            "reduce_scatter",
            forward_bytes=gathered,
            backward_bytes=total * shape.element_bytes,
            regather_bytes=gathered,
            modules=modules,
        )
    return Exchange(name, "tp", None, "all_reduce", backward_bytes=total * shape.element_bytes, modules=modules)


def row_output(name: str, width: Number, shape: Shape, modules: Modules = ()) -> Exchange:
    """What tensor parallelism moves after a row-parallel linear: the adjoint of `column_input`."""
    total = shape.tokens * width
    if shape.plan.sequence_parallel:
        gathered = total * (shape.input_bytes if shape.quantized else shape.element_bytes)
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
