"""Fits to the inference-side collection: dense and grouped products, attention forward."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.attention import flash_s
from hardware.kernels.curves import AttentionCurve, GemmCurve
from hardware.kernels.matmul import tiled_s
from hardware.specs import Accelerator
from validate.kernels.common import OPERAND_BYTES, SETTINGS, Overhead, peak_flops_per_s

COPY_FRACTION = 0.87  # STREAM triad over peak bandwidth: 0.85 to 0.89 on A100, H100, H200 (Azure)
# FlashAttention-3 on H100, 430 TFLOP/s at length 512 and 621 at 16384: rate = 625 / (1 + KEYS_HALF / (length / 2)).
# Held here, because in this collection it cannot be told from the passes around the kernel.
KEYS_HALF = 100.0
CEILING = 1.04  # a sustained rate may exceed the best measured point by so much: the curve's k_half and casts are in it


def gemm_model_s(curve: GemmCurve, part: Accelerator, dtype: str, shape: tuple[Any, Any, Any, Any]) -> Any:
    return tiled_s(
        curve,
        shape,
        bytes_per_element=(OPERAND_BYTES[dtype], 2.0),
        sm_count=part.sm_count,
        flops_per_s=curve.sustained_flops_per_s,
        bytes_per_s=part.memory_bandwidth_bytes_per_s,
    )


def fit_gemm(
    frame: pd.DataFrame, part: Accelerator, dtype: str, kernel_only: bool = False
) -> tuple[GemmCurve, Overhead]:
    """Curve and overhead (cast of the m x k activations, extra launches) of one dtype on one part.

    `kernel_only`: nothing but the kernel was timed, so nothing is set apart. Columns m, n, k, latency_us, tflops, and
    groups where the rows are grouped products.
    """
    from scipy.optimize import least_squares

    measured = np.log(frame.latency_us.to_numpy(float) * 1e-6)
    ceiling = min(CEILING * frame.tflops.max() * 1e12 / peak_flops_per_s(part, dtype), 1.0)
    casts = dtype != "bf16" and not kernel_only

    def build(x: np.ndarray) -> tuple[GemmCurve, Overhead]:
        curve = GemmCurve(
            x[0] * peak_flops_per_s(part, dtype), 100 * x[1], 1e-6 * x[2], COPY_FRACTION, x[4], x[5], x[6], x[3]
        )
        return curve, Overhead(1e-6 * x[7] * casts, (x[8] * casts,))

    def error(x: np.ndarray) -> np.ndarray:
        computed: np.ndarray = np.log(gemm_collection_s(frame, part, dtype, build(x))) - measured
        return computed

    start = [0.9 * ceiling, 1.5, 3.0, 1.0, 0.5, 3.0, 0.1, 0.1, 1.0]
    low = [0.2 * ceiling, 0, 0.5, 0.0, 0, 1, 0, 0, 0]
    high = [ceiling, 10, 10, 6.0, 1, 10, 1, 20, 30]
    return build(least_squares(error, start, bounds=(low, high), **SETTINGS).x)


def with_latency(fitted: tuple[GemmCurve, Overhead], latency_s: float) -> tuple[GemmCurve, Overhead]:
    """The kernel launches like the part's bf16 kernel; what is beyond that belongs to the cast kernels around it."""
    curve, overhead = fitted
    rest = curve.latency_s + overhead.latency_s - latency_s
    return replace(curve, latency_s=latency_s), replace(overhead, latency_s=max(rest, 0.0))


def gemm_collection_s(
    frame: pd.DataFrame, part: Accelerator, dtype: str, fitted: tuple[GemmCurve, Overhead]
) -> np.ndarray:
    """What the collection should have timed: the kernel and its overhead."""
    m, n, k = (frame[c].to_numpy(float) for c in "mnk")
    groups = frame.groups.to_numpy(float) if "groups" in frame else 1.0
    computed: np.ndarray = gemm_model_s(fitted[0], part, dtype, (groups, m, n, k)) + fitted[1].seconds((m * k,), part)
    return computed


def moe_work(frame: pd.DataFrame) -> tuple[list[tuple[Any, Any, Any, Any]], tuple[Any, Any]]:
    """Shapes (groups, rows per group, n, k) of both expert products, and what surrounding passes move.

    Those are the elements of the routed rows (permute, activation) and of the tokens' own rows (routing, combine).
    """
    h, f = frame.hidden_size.to_numpy(float), frame.inter_size.to_numpy(float)
    rows = (frame.num_tokens * frame.topk / frame.moe_ep_size).to_numpy(float)
    groups = (frame.num_experts / frame.moe_ep_size).to_numpy(float)
    gate = np.where(frame.kernel_source.str.contains("nongated"), 1.0, 2.0)
    shapes = [(groups, rows / groups, gate * f, h), (groups, rows / groups, h, f)]
    return shapes, (rows * (2 * h + (gate + 1) * f), frame.num_tokens.to_numpy(float) * h)


def grouped_collection_s(
    frame: pd.DataFrame, part: Accelerator, dtype: str, fitted: tuple[GemmCurve, Overhead]
) -> np.ndarray:
    """What the collection should have timed: both products and the passes around them."""
    shapes, moved = moe_work(frame)
    computed: np.ndarray = sum(gemm_model_s(fitted[0], part, dtype, shape) for shape in shapes) + fitted[1].seconds(
        moved, part
    )
    return computed


def fit_grouped(frame: pd.DataFrame, part: Accelerator, dtype: str, dense: GemmCurve) -> tuple[GemmCurve, Overhead]:
    """Grouped curve, with the dense curve's reduction length and tile loss, and the passes around the products."""
    from scipy.optimize import least_squares

    measured = np.log(frame.latency_us.to_numpy(float) * 1e-6)

    def build(x: np.ndarray) -> tuple[GemmCurve, Overhead]:
        rate = x[0] * dense.sustained_flops_per_s
        curve = replace(dense, sustained_flops_per_s=rate, bandwidth_fraction=x[1], ramp=x[2], overlap=x[3])
        return curve, Overhead(1e-6 * x[4], (x[5], x[6]))

    def error(x: np.ndarray) -> np.ndarray:
        computed: np.ndarray = np.log(grouped_collection_s(frame, part, dtype, build(x))) - measured
        return computed

    bounds = ([0.3, 0.2, 0, 1, 0, 0.5, 0], [1.0, 1.0, 1, 10, 200, 30, 30])
    return build(least_squares(error, [0.9, 0.7, 0.5, 3, 20, 2, 2], bounds=bounds, **SETTINGS).x)


def attention_rows(frame: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """One row per shape. bf16 rows come in pairs, of which the faster ran on an fp8 cache in the fp8 kernel.

    It passes the dense bf16 ceiling and equals the fp8 rows, so the slower of a pair is the bf16 kernel.
    """
    frame = frame[(frame.dtype == dtype) & (frame.kernel_source == "torch_flow")]
    keys = ["batch_size", "seq_len", "num_heads", "num_key_value_heads", "head_dim"]
    rows = frame.groupby(keys, as_index=False).agg(latency_us=("latency_us", "max"), count=("latency_us", "size"))
    paired = dtype == "bf16" and bool((rows["count"] == 2).any())
    return rows[rows["count"] == 2] if paired else rows


def attention_work(rows: pd.DataFrame) -> tuple[tuple[Any, Any, Any], tuple[Any, Any], tuple[Any]]:
    """Work and dims as `flash_s` takes them, and the elements that rotary embedding and cache writes move."""
    names = ("batch_size", "seq_len", "num_heads", "num_key_value_heads", "head_dim")
    b, s, h, kv, d = (rows[c].to_numpy(float) for c in names)
    return (b * h, s, s * s / 2), (d, d), (b * s * d * 4 * (h + kv),)


def attention_collection_s(
    rows: pd.DataFrame, part: Accelerator, fitted: tuple[AttentionCurve, Overhead]
) -> np.ndarray:
    """What the collection should have timed: the forward kernel, rotary embedding and cache writes."""
    work, dims, moved = attention_work(rows)
    kernel = flash_s(fitted[0], work, dims, sm_count=part.sm_count, rate=1.0, backward=False)
    computed: np.ndarray = kernel + fitted[1].seconds(moved, part)
    return computed


def fit_attention(
    rows: pd.DataFrame, part: Accelerator, latency_s: float, kernel_only: bool = False
) -> tuple[AttentionCurve, Overhead]:
    """Forward rate by head size, short-length loss and tail; rotary and cache traffic are set apart.

    `kernel_only`: nothing but the kernel was timed, so nothing is set apart and the loss at short lengths is fitted.
    """
    from scipy.optimize import least_squares

    sizes = tuple(float(d) for d in sorted(rows.head_dim.unique()))
    measured = np.log(rows.latency_us.to_numpy(float) * 1e-6)

    def build(x: np.ndarray) -> tuple[AttentionCurve, Overhead]:
        rates = tuple(float(r) * unit for r in x[4:])
        curve = AttentionCurve(sizes, rates, x[3] * KEYS_HALF, x[0], latency_s, 0.8, 1.0, (128.0,), (1.0,))
        return curve, Overhead(1e-6 * x[1], (x[2],))

    def error(x: np.ndarray) -> np.ndarray:
        computed: np.ndarray = np.log(attention_collection_s(rows, part, build(x))) - measured
        return computed

    count, tiny = len(sizes), 1e-9
    unit = peak_flops_per_s(part, "bf16") / 10
    if kernel_only:
        start, low, high = [0.5, tiny, tiny, 1.0], [0.0, 0, 0, 0], [2.0, 2 * tiny, 2 * tiny, 20]
    else:
        start, low, high = [0.5, 20.0, 1.0, 1.0], [0.0, 0, 0, 1 - tiny], [2.0, 100, 20, 1 + tiny]
    bounds = (low + [0.01] * count, high + [40.0] * count)
    return build(least_squares(error, start + [5.0] * count, bounds=bounds, **SETTINGS).x)


def moe_rows(frame: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """Balanced rows at training sizes: at least 64 rows per expert."""
    frame = frame[(frame.dtype == dtype) & (frame.distribution == "balanced")]
    return frame[frame.num_tokens * frame.topk / frame.num_experts >= 64]
