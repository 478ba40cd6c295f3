"""Seconds that dense and grouped matrix multiplications take: tiles, waves, reduction length, memory, latency."""

from __future__ import annotations

from typing import Literal

import numpy as np

from hardware.arrays import Number, floats, plain
from hardware.kernels.curves import GemmCurve, choose, kernel_set
from hardware.specs import Accelerator

Role = Literal["forward", "dgrad", "wgrad"]
ROLES = ("forward", "dgrad", "wgrad")
# Output tiles that a library picks from, rows x columns (256 x 256: a pair of Blackwell SMs).
TILES = ((256, 256), (256, 128), (128, 256), (128, 128), (128, 64), (64, 64))
ACCUMULATE_BYTES = 8.0  # an fp32 main gradient is read and written back
# Rate of a product over that of an aligned one, by how many bytes of power of two divide the rows of its matrices.
# Tensor core kernels load and store 16 bytes at a time; copies into shared memory take no fewer than 4.
ALIGNED_BYTES = 16
ALIGNMENT_RATES = {8: 0.5, 4: 0.5, 2: 0.35, 1: 0.35}


def gemm_s(
    accelerator: Accelerator,
    precision: str,
    m: Number,
    n: Number,
    k: Number,
    *,
    role: Role = "forward",
    sm_fraction: Number = 1.0,
    accumulate: bool = True,
) -> Number:
    """Seconds of an (m x k) by (k x n) product; see `grouped_gemm_s`, of which it is one group with its own curve."""
    return _product_s(accelerator, "gemm", precision, (1.0, m, n, k), role, sm_fraction, accumulate)


def grouped_gemm_s(
    accelerator: Accelerator,
    precision: str,
    groups: Number,
    m_per_group: Number,
    n: Number,
    k: Number,
    *,
    role: Role = "forward",
    sm_fraction: Number = 1.0,
    accumulate: bool = True,
) -> Number:
    """Seconds of `groups` products of (m_per_group x k) by (k x n) in one kernel, as experts compute them.

    m, n, k are the product's own: for wgrad k is the tokens and m x n the weight, whose fp32 main gradient is read
    and written when `accumulate`. Casting and scaling of low-precision operands is not in it (price it as
    streaming). `sm_fraction` is the share of the SMs left to this kernel. Scalars give a float, arrays an array.
    """
    return _product_s(
        accelerator, "grouped_gemm", precision, (groups, m_per_group, n, k), role, sm_fraction, accumulate
    )


def _product_s(
    accelerator: Accelerator,
    family: Literal["gemm", "grouped_gemm"],
    precision: str,
    shape: tuple[Number, Number, Number, Number],
    role: str,
    sm_fraction: Number,
    accumulate: bool,
) -> Number:
    if role not in ROLES:
        raise ValueError(f"role: {role!r} is none of {', '.join(ROLES)}")
    choice = choose(accelerator, family, precision)
    role_rate = kernel_set(accelerator.kernels).role_rates[family][role]
    output_bytes = choice.precision.output_bytes
    if role == "wgrad":
        role_rate *= choice.precision.wgrad_rate
        output_bytes = ACCUMULATE_BYTES if accumulate else 4.0
    elif role == "forward":
        role_rate *= choice.precision.forward_rate
    groups, m, n, k = (floats(x) for x in shape)
    sm_fraction = floats(sm_fraction)
    # Tokens are never the inner dimension: k of a weight gradient, m of the other two.
    inner = (m, n) if role == "wgrad" else (n, k)
    # Formats with scales have sides that their blocks allow, or none.
    aligned = 1.0 if choice.precision.quantized else alignment_rate(inner, choice.precision.operand_bytes)
    seconds = tiled_s(
        choice.curve,
        (groups, m, n, k),
        bytes_per_element=(choice.precision.operand_bytes, output_bytes),
        sm_count=np.maximum(accelerator.sm_count * sm_fraction, 1.0),
        flops_per_s=choice.curve.sustained_flops_per_s * choice.rate * role_rate * aligned * sm_fraction,
        bytes_per_s=accelerator.memory_bandwidth_bytes_per_s,
    )
    floor_s = 2 * groups * m * n * k / (choice.peak_flops_per_s * sm_fraction)
    return plain(np.maximum(seconds, floor_s))


def alignment_rate(rows: tuple[Number, Number], element_bytes: float) -> Number:
    """Rate of a product over that of an aligned one: its matrices' rows are `rows` elements long in memory.

    The worse of both counts. Source: iterations of vTrain's published ground truth with 12 and 24 layers apart, whose
    difference leaves the head: 50,257 columns at 85 TFLOP/s, 25,128 at those of any product (A100, fp16).
    """
    rates = [np.ones(np.shape(each)) for each in rows]
    for size, rate in zip(rows, rates, strict=True):
        row_bytes = floats(size) * element_bytes
        for divisor, lower in ALIGNMENT_RATES.items():
            rate[...] = np.where(row_bytes % (2 * divisor) == 0, rate, np.minimum(rate, lower))
    return np.minimum(*rates)


def tiled_s(
    curve: GemmCurve,
    shape: tuple[Number, Number, Number, Number],
    *,
    bytes_per_element: tuple[float, float],
    sm_count: Number,
    flops_per_s: Number,
    bytes_per_s: float,
) -> Number:
    """The model itself: tiles in waves over the SMs, k + k_half long each, joined with memory time, plus latency.

    The library picks the tile that finishes first. A wave that is partly full costs between its share (ramp 0) and
    a whole one (ramp 1). Grows with every dimension; quantised in m and n.
    """
    groups, m, n, k = shape
    work = np.inf
    for rows, columns in TILES:
        tiles = groups * np.ceil(m / rows) * np.ceil(n / columns) / sm_count
        waves = tiles + curve.ramp * (np.ceil(tiles) - tiles)
        loss = (1 + curve.tile_penalty * 128 / (rows * columns) ** 0.5) / (1 + curve.tile_penalty / 2)
        work = np.minimum(work, waves * (rows * columns * loss))
    compute_s = 2 * work * sm_count * (k + curve.k_half) / flops_per_s
    operand_bytes, output_bytes = bytes_per_element
    moved = groups * (operand_bytes * k * (m + n) + (output_bytes + curve.epilogue_bytes) * m * n)
    memory_s = moved / (bytes_per_s * curve.bandwidth_fraction)
    longest_s = np.maximum(np.maximum(compute_s, memory_s), 1e-12)  # an empty product divides by no zero
    shorter = np.minimum(compute_s, memory_s) / longest_s
    return longest_s * (1 + shorter**curve.overlap) ** (1 / curve.overlap) + curve.latency_s
