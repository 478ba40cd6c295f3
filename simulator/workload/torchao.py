"""The casts that torchao's float8 and MX linears add around their products, as torch.compile launches them."""

from __future__ import annotations

from hardware.precisions import PRECISIONS
from simulator.workload.operators import Matmul, Pass
from simulator.workload.shape import Shape

# A cast by rows reads each 16-bit element once, one by columns (the transpose) as often as `column_reads` of the
# precision says; each writes it once. Cast are: the input in forward by rows and in backward by columns, anew for the
# weight gradient; the output gradient both ways; the weight by rows in forward and by columns in backward. Where one
# scale holds for a tensor, Inductor takes its maximum in the kernel that makes it (pytorch 111122), a weight's in a
# pass of its own. A row is read once for its scale and cast, columns are read twice. MX scales never leave their
# block.
ROW_PARALLEL = ("out", "fc2")


def uses_torchao(shape: Shape) -> bool:
    return shape.plan.stack.casts == "torchao" and PRECISIONS[shape.plan.precision].column_reads is not None


def gathers_low(shape: Shape) -> bool:
    """Whether tensor parallelism gathers activations in the linears' own low precision; scales by row come after."""
    return shape.quantized and not PRECISIONS[shape.plan.precision].scales_by_row


def torchao_casts(product: Matmul, shape: Shape, cast_input: bool) -> tuple[Pass, ...]:
    """Row-wise casts, which stream like any elementwise kernel, and column-wise ones, which write strided.

    Under sequence parallelism a tensor with one scale is cast before it is gathered and only turned over after it; rows
    are scaled after the gather. Weights gathered in FP8 are cast as shards and turned over for the backward. Products
    of row-scaled operands without fast accumulation are scaled in a pass of their own.
    """
    plan, high, low = shape.plan, shape.element_bytes, shape.input_bytes
    entering = leaving = high + low
    precision = PRECISIONS[plan.precision]
    again = leaving_columns = weight_again = (precision.column_reads or 0) * high + low
    weight = (2 if precision.scales_by_largest else 1) * high + low
    if plan.fp8_param_gather:
        weight, weight_again = 0.0, 2 * low
    if plan.sequence_parallel and gathers_low(shape):
        if product.name in ROW_PARALLEL:
            leaving, leaving_columns = leaving / plan.tp, 2 * low
        else:
            entering, again = entering / plan.tp, 2 * low
    inputs, outputs, weights = product.m * product.k, product.m * product.n, product.n * product.k
    scaled = 2 * high * (inputs + weights) if precision.scales_by_row else 0.0
    first = float(cast_input)
    by_rows = (first * entering * inputs + weight * weights, leaving * outputs + scaled)
    by_columns = (0.0, first * again * inputs + leaving_columns * outputs + weight_again * weights)
    return (
        Pass(f"{product.name}_cast", "elementwise", *by_rows, modules=product.modules),
        Pass(f"{product.name}_columns", "cast_transpose", *by_columns, modules=product.modules),
    )
