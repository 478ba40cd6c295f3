"""Curves of matrix products and attention from measured points, by the fits of the published collections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.curves import AttentionCurve, GemmCurve
from hardware.kernels.matmul import ACCUMULATE_BYTES, ROLES, tiled_s
from hardware.specs import Accelerator
from validate.calibrate.fitting.held_out import Fitted, with_intervals
from validate.calibrate.points import MeasuredPoint, frame
from validate.kernels.common import OPERAND_BYTES, Overhead, rounded
from validate.kernels.inference import attention_collection_s, fit_attention, fit_gemm
from validate.kernels.training import quantiles

FEWEST_PRODUCTS = 10  # forward products that a curve of seven numbers is fitted to
FEWEST_WEIGHTS = 5  # distinct weight matrices, one for each fold
FEWEST_ATTENTION = 5  # forward shapes with equal head sizes
BACKWARD_FLOPS = 2.5  # over forward, as flash attention recomputes the scores
BYTES_PER_OPERAND = {**OPERAND_BYTES, "fp16": 2.0}
# The number format whose dense peak each dtype's curve is a share of; fp16 runs as bf16 does.
PEAK_FORMAT = {"bf16": "bf16", "fp16": "bf16", "fp8": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}


# ---- products


def fit_product_family(points: list[MeasuredPoint], family: str, part: Accelerator, notes: list[str]) -> dict[str, Any]:
    """dtype -> curve, role rates, held-out errors, intervals; what cannot be fitted is noted and left out."""
    fits: dict[str, Any] = {}
    for dtype in sorted({point.dtype for point in points if point.family == family}):
        if dtype not in BYTES_PER_OPERAND:
            notes.append(f"{family} {dtype}: no curve of this format, only of {', '.join(BYTES_PER_OPERAND)}")
            continue
        if PEAK_FORMAT[dtype] not in part.peak_flops_per_s:
            notes.append(f"{family} {dtype}: {part.name} has no peak of {PEAK_FORMAT[dtype]} to fit a share of")
            continue
        rows = product_rows(points, family, dtype)
        forward = int((rows.role == "forward").sum())
        weights = weights_of(rows)
        if forward < FEWEST_PRODUCTS or len(np.unique(weights)) < FEWEST_WEIGHTS:
            notes.append(
                f"{family} {dtype}: {forward} forward products, {FEWEST_PRODUCTS} over {FEWEST_WEIGHTS} weights are "
                "the fewest to fit"
            )
            continue
        fits[dtype] = fit_dtype(rows, weights, part, dtype)
    return fits


def fit_dtype(rows: pd.DataFrame, weights: np.ndarray, part: Accelerator, dtype: str) -> dict[str, Any]:
    """Curve and role rates of one number format, how well they hold, and the spread of each role around them."""

    def fit(fold: pd.DataFrame) -> Fitted:
        return fit_products(fold, part, dtype)

    def predict(fold: pd.DataFrame, fitted: Fitted) -> np.ndarray:
        return predict_products(fold, fitted, part, dtype)

    fitted, quality = with_intervals(rows, weights, fit, predict)
    curve, rates = fitted
    ratio = rows.latency_us.to_numpy(float) * 1e-6 / predict(rows, fitted)
    spread = {}
    for role in ROLES:
        own = (rows.role == role).to_numpy()
        if own.any():
            spread[role] = quantiles(pd.Series(ratio[own]))
    return {"curve": rounded(asdict(curve)), **quality, "role_rates": rounded(rates), "spread": spread}


def product_rows(points: Iterable[MeasuredPoint], family: str, dtype: str) -> pd.DataFrame:
    """The family's points of known roles with `tflops`, reached TFLOP/s."""
    rows = frame(points, family, dtype)
    rows = rows[rows.role.isin(ROLES)].reset_index(drop=True)
    if family == "gemm":
        rows = rows.drop(columns="groups", errors="ignore")
    groups = rows.groups if "groups" in rows else 1.0
    seconds = rows.latency_us * 1e-6
    rows["tflops"] = 2e-12 * groups * rows.m * rows.n * rows.k / seconds
    return rows


def weights_of(rows: pd.DataFrame) -> np.ndarray:
    """The weight matrix that each product belongs to, so that a fold leaves out all three roles of a layer."""
    dgrad, wgrad = rows.role == "dgrad", rows.role == "wgrad"
    outputs = np.where(dgrad, rows.k, np.where(wgrad, rows.m, rows.n))
    inputs = np.where(dgrad | wgrad, rows.n, rows.k)
    identity: np.ndarray = outputs * 1_000_000 + inputs
    return identity


def product_s(curve: GemmCurve, rows: pd.DataFrame, part: Accelerator, dtype: str) -> np.ndarray:
    """Seconds by the curve at role rate 1; weight gradients read and write an fp32 main gradient."""
    written_bytes = np.where(rows.role == "wgrad", ACCUMULATE_BYTES, 2.0)
    groups = rows.groups.to_numpy(float) if "groups" in rows else np.ones(len(rows))
    m, n, k = (rows[name].to_numpy(float) for name in ("m", "n", "k"))
    seconds = tiled_s(
        curve,
        (groups, m, n, k),
        bytes_per_element=(BYTES_PER_OPERAND[dtype], written_bytes),  # type: ignore[arg-type]
        sm_count=part.sm_count,
        flops_per_s=curve.sustained_flops_per_s,
        bytes_per_s=part.memory_bandwidth_bytes_per_s,
    )
    return np.asarray(seconds)


def fit_products(rows: pd.DataFrame, part: Accelerator, dtype: str) -> tuple[GemmCurve, dict[str, float]]:
    """The forward curve and the rate of each role over it, never above it."""
    forward = rows[rows.role == "forward"]
    curve, _ = fit_gemm(forward, part, "bf16" if dtype == "fp16" else dtype, kernel_only=True)
    slowdown = pd.Series(rows.latency_us.to_numpy(float) * 1e-6 / product_s(curve, rows, part, dtype))
    by_role = slowdown.groupby(rows.role.to_numpy()).median()
    rates = dict.fromkeys(ROLES, 1.0)
    for role in ROLES:
        if role != "forward" and role in by_role:
            rates[role] = min(1.0, 1.0 / by_role[role])
    return curve, rates


def predict_products(rows: pd.DataFrame, fitted: Fitted, part: Accelerator, dtype: str) -> np.ndarray:
    """Seconds as `hardware.kernels` will have them: the role's rate slows the compute part alone."""
    curve, rates = fitted
    seconds = np.empty(len(rows))
    for role, rate in rates.items():
        own = (rows.role == role).to_numpy()
        slowed = replace(curve, sustained_flops_per_s=curve.sustained_flops_per_s * rate)
        seconds[own] = product_s(slowed, rows[own], part, dtype)
    return seconds


# ---- attention


def fit_attention_family(
    points: list[MeasuredPoint], part: Accelerator, latency_s: float, notes: list[str]
) -> dict[str, Any]:
    """dtype -> curve: forward by head size, backward over forward, and what unequal head sizes lose."""

    def fit(fold: pd.DataFrame) -> Fitted:
        return fit_attention(fold, part, latency_s, kernel_only=True)[0], {}

    def predict(fold: pd.DataFrame, fitted: Fitted) -> np.ndarray:
        return attention_s(fold, fitted[0], part)

    fits: dict[str, Any] = {}
    for dtype in sorted({point.dtype for point in points if point.family == "attention"}):
        forward = attention_table(points, dtype, "forward")
        backward = attention_table(points, dtype, "backward")
        equal = forward[forward.head_dim == forward.v_dim].reset_index(drop=True)
        if len(equal) < FEWEST_ATTENTION:
            notes.append(
                f"attention {dtype}: {len(equal)} causal forward shapes with equal heads, {FEWEST_ATTENTION} are the "
                "fewest"
            )
            continue
        fitted, quality = with_intervals(equal, np.arange(len(equal)), fit, predict)
        curve = with_unequal_rate(fitted[0], forward, part)
        curve = with_backward_rates(curve, fitted[0], backward, part)
        fits[dtype] = {"curve": rounded(asdict(curve)), **quality}
    return fits


def attention_table(points: Iterable[MeasuredPoint], dtype: str, role: str) -> pd.DataFrame:
    """Causal rows with equal queries and keys, in the columns of the published collection."""
    rows = frame(points, "attention", dtype)
    rows = rows[(rows.role == role) & (rows.causal == 1)]
    names = {"batch": "batch_size", "heads": "num_heads", "kv_heads": "num_key_value_heads", "qk_dim": "head_dim"}
    return rows.rename(columns=names).reset_index(drop=True)


def attention_s(rows: pd.DataFrame, curve: AttentionCurve, part: Accelerator) -> np.ndarray:
    """Forward seconds by the curve, of heads of `head_dim` throughout."""
    nothing_beside = Overhead(0.0, (0.0,))
    seconds: np.ndarray = attention_collection_s(rows, part, (curve, nothing_beside))
    return seconds


def slowdowns(rows: pd.DataFrame, curve: AttentionCurve, part: Accelerator) -> pd.Series[float]:
    """Measured over predicted forward seconds for the FLOPs that the rows' head sizes ask for."""
    flops_share = (rows.head_dim + rows.v_dim) / (2 * rows.head_dim)
    predicted_s = attention_s(rows, curve, part) * flops_share
    ratio: pd.Series[float] = rows.latency_us * 1e-6 / predicted_s
    return ratio


def with_unequal_rate(curve: AttentionCurve, forward: pd.DataFrame, part: Accelerator) -> AttentionCurve:
    """The curve with what heads of unequal query and value sizes reach of it, where such were measured."""
    unequal = forward[forward.head_dim != forward.v_dim]
    if not len(unequal):
        return curve
    slowdown = float(slowdowns(unequal, curve, part).median())
    return replace(curve, unequal_rate=min(1.0, 1.0 / slowdown))


def with_backward_rates(
    curve: AttentionCurve, forward_curve: AttentionCurve, backward: pd.DataFrame, part: Accelerator
) -> AttentionCurve:
    """The curve with backward over forward rate by mean head size, 2.5 times the FLOPs counted."""
    if not len(backward):
        return curve
    head_dim = (backward.head_dim + backward.v_dim) / 2
    unequal_rate = np.where(backward.head_dim != backward.v_dim, curve.unequal_rate, 1.0)
    slowdown: pd.Series[float] = slowdowns(backward, forward_curve, part) * unequal_rate
    by_head_dim: pd.Series[float] = slowdown.rdiv(BACKWARD_FLOPS).groupby(head_dim).median()
    return replace(
        curve,
        backward_head_dims=tuple(float(size) for size in by_head_dim.index),
        backward_rates=tuple(float(median) for median in by_head_dim),
    )
