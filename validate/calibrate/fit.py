"""From measured points to curves: the same fits as of the published collections, with intervals and held-out errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.curves import GemmCurve
from hardware.kernels.matmul import ACCUMULATE_BYTES, ROLES, tiled_s
from hardware.specs import Accelerator
from validate.calibrate.passes import OPS, moved_bytes
from validate.calibrate.points import Point, frame
from validate.kernels.common import OPERAND_BYTES, rounded, significant
from validate.kernels.heldout import error_summary, held_out
from validate.kernels.inference import attention_collection_s, fit_attention, fit_gemm
from validate.kernels.training import quantiles

FEWEST = 10  # forward products that a curve of seven numbers is fitted to
T_95 = 2.776  # Student's t for 95 % with the four degrees of freedom of five folds
Fitted = tuple[Any, Mapping[str, float]]


class TooFew(Exception):
    """Not enough points for a curve; the message says of what and how many there are."""


def with_intervals(
    rows: pd.DataFrame, groups: np.ndarray, fit: Callable[..., Any], predict: Callable[..., Any]
) -> tuple[Any, dict[str, Any]]:
    """The fit to all rows, with its held-out errors and 95 % intervals of its numbers.

    Each of five refits leaves a fifth of the groups out: their errors are the held-out errors, and the scatter of
    their numbers gives the intervals (delete-a-group jackknife, t with four degrees of freedom).
    """
    refits: list[Any] = []

    def recorded(some: pd.DataFrame) -> Any:
        refits.append(fit(some))
        return refits[-1]

    errors = held_out(rows, groups, recorded, predict)
    whole = fit(rows)
    return whole, {"held_out": {"fit": error_summary(errors)}, "interval": intervals(whole, refits)}


def intervals(whole: Any, refits: list[Any]) -> dict[str, list[Any]]:
    """Name -> [low, high] of every number that the fit moved."""
    found: dict[str, list[Any]] = {}
    tables = [numbers(each) for each in refits]
    for name, value in numbers(whole).items():
        if not all(name in table for table in tables):
            continue  # a head size that one of the refits never saw
        values = np.array([table[name] for table in tables])
        half = T_95 * np.sqrt((len(values) - 1) / len(values) * np.sum((values - values.mean()) ** 2))
        if half > 0:
            found[name] = [significant(max(value - half, 0.0)), significant(value + half)]
    return found


COEFFICIENTS = ("fixed_s", "step_s", "efficiency", "copies", "sharpness")


def numbers(fitted: Fitted | list[float]) -> dict[str, float]:
    """The numbers of a curve and its role rates, lists spelled out; or a collective's five coefficients."""
    if isinstance(fitted, list):
        return dict(zip(COEFFICIENTS, fitted, strict=True))
    curve, rates = fitted
    found: dict[str, float] = {}
    for name, value in (asdict(curve) if curve is not None else {}).items():
        parts = value if isinstance(value, list | tuple) else [value]
        found |= {name if len(parts) == 1 else f"{name}.{index}": float(part) for index, part in enumerate(parts)}
    return found | {f"rate.{role}": rate for role, rate in rates.items()}


# ---- products


def product_rows(points: Iterable[Point], family: str, dtype: str) -> pd.DataFrame:
    rows = frame(points, family, dtype)
    if len(rows):
        groups = rows.get("groups", 1.0)
        rows["tflops"] = 2e-12 * groups * rows.m * rows.n * rows.k / (rows.latency_us * 1e-6)
    return rows


def weights_of(rows: pd.DataFrame) -> np.ndarray:
    """The weight matrix that each product belongs to, so that a fold leaves out all three roles of a layer."""
    wide = np.where(rows.role == "dgrad", rows.k, np.where(rows.role == "wgrad", rows.m, rows.n))
    deep = np.where(rows.role == "dgrad", rows.n, np.where(rows.role == "wgrad", rows.n, rows.k))
    return wide * 1_000_000 + deep


def product_s(curve: GemmCurve, rows: pd.DataFrame, part: Accelerator, dtype: str) -> np.ndarray:
    """Seconds by the curve at role rate 1; weight gradients read and write an fp32 main gradient."""
    written = np.where(rows.role == "wgrad", ACCUMULATE_BYTES, 2.0)
    groups = rows.groups.to_numpy(float) if "groups" in rows else np.ones(len(rows))
    return tiled_s(
        curve,
        (groups, rows.m.to_numpy(float), rows.n.to_numpy(float), rows.k.to_numpy(float)),
        bytes_per_element=(OPERAND_BYTES[dtype], written),  # type: ignore[arg-type]
        sm_count=part.sm_count,
        flops_per_s=curve.sustained_flops_per_s,
        bytes_per_s=part.memory_bandwidth_bytes_per_s,
    )


def fit_products(rows: pd.DataFrame, part: Accelerator, dtype: str) -> tuple[GemmCurve, dict[str, float]]:
    """The forward curve and the rate of each role over it, never above it."""
    forward = rows[rows.role == "forward"]
    curve, _ = fit_gemm(forward, part, dtype, kernel_only=True)
    ratio = pd.Series(rows.latency_us.to_numpy(float) * 1e-6 / product_s(curve, rows, part, dtype)).groupby(
        rows.role.to_numpy()
    ).median()  # fmt: skip
    return curve, {role: min(1.0, 1.0 / ratio.get(role, 1.0)) if role != "forward" else 1.0 for role in ROLES}


def predict_products(rows: pd.DataFrame, fitted: Fitted, part: Accelerator, dtype: str) -> np.ndarray:
    """Seconds as `hardware.kernels` will have them: the role's rate slows the compute part alone."""
    curve, rates = fitted
    seconds = np.empty(len(rows))
    for role, rate in rates.items():
        mine = (rows.role == role).to_numpy()
        slowed = GemmCurve(**{**asdict(curve), "sustained_flops_per_s": curve.sustained_flops_per_s * rate})
        seconds[mine] = product_s(slowed, rows[mine], part, dtype)
    return seconds


def fit_product_family(points: list[Point], family: str, part: Accelerator, notes: list[str]) -> dict[str, Any]:
    """dtype -> curve, role rates, held-out errors, intervals; too few points are noted and left out."""
    found: dict[str, Any] = {}
    for dtype in sorted({point.dtype for point in points if point.family == family}):
        rows = product_rows(points, family, dtype)
        count = int((rows.role == "forward").sum()) if len(rows) else 0
        if count < FEWEST or len(np.unique(weights_of(rows))) < 5:
            notes.append(f"{family} {dtype}: {count} forward products, {FEWEST} over 5 weights are the fewest to fit")
            continue
        fitted, quality = with_intervals(
            rows, weights_of(rows), lambda some, d=dtype: fit_products(some, part, d),
            lambda some, fitted, d=dtype: predict_products(some, fitted, part, d))  # fmt: skip
        curve, rates = fitted
        ratio = rows.latency_us.to_numpy(float) * 1e-6 / predict_products(rows, fitted, part, dtype)
        spread = {
            role: quantiles(pd.Series(ratio[(rows.role == role).to_numpy()]))
            for role in ROLES
            if (rows.role == role).any()
        }
        found[dtype] = {"curve": rounded(asdict(curve)), **quality, "role_rates": rounded(rates), "spread": spread}
    return found


# ---- attention


def attention_table(points: Iterable[Point], dtype: str, role: str) -> pd.DataFrame:
    """Causal rows with equal queries and keys, in the columns of the published collection."""
    rows = frame(points, "attention", dtype)
    if not len(rows):
        return rows
    rows = rows[(rows.role == role) & (rows.causal == 1)]
    names = {"batch": "batch_size", "heads": "num_heads", "kv_heads": "num_key_value_heads", "qk_dim": "head_dim"}
    return rows.rename(columns=names).reset_index(drop=True)


def fit_attention_family(points: list[Point], part: Accelerator, latency_s: float, notes: list[str]) -> dict[str, Any]:
    """dtype -> curve: forward by head size, backward over forward, and what unequal head sizes lose."""
    found: dict[str, Any] = {}
    for dtype in sorted({point.dtype for point in points if point.family == "attention"}):
        ahead, back = (attention_table(points, dtype, role) for role in ("forward", "backward"))
        equal = ahead[ahead.head_dim == ahead.v_dim].reset_index(drop=True) if len(ahead) else ahead
        if len(equal) < FEWEST // 2:
            notes.append(
                f"attention {dtype}: {len(equal)} causal forward shapes with equal heads, {FEWEST // 2} are the fewest"
            )
            continue
        fitted, quality = with_intervals(
            equal, np.arange(len(equal)), lambda some: (fit_attention(some, part, latency_s, kernel_only=True)[0], {}),
            lambda some, fitted: attention_s(some, fitted[0], part))  # fmt: skip
        curve = asdict(fitted[0])
        scale_unequal(curve, fitted[0], ahead, part)
        scale_backward(curve, fitted[0], back, part)
        found[dtype] = {"curve": rounded(curve), **quality}
    return found


def attention_s(rows: pd.DataFrame, curve: Any, part: Accelerator) -> np.ndarray:
    from validate.kernels.common import Overhead

    return attention_collection_s(rows, part, (curve, Overhead(0.0, (0.0,))))


def ratios(rows: pd.DataFrame, curve: Any, part: Accelerator) -> pd.Series:
    """Measured over predicted forward seconds for the FLOPs that the rows' head sizes ask for."""
    flops_share = (rows.head_dim + rows.v_dim) / (2 * rows.head_dim)
    return rows.latency_us * 1e-6 / (attention_s(rows, curve, part) * flops_share)


def scale_unequal(raw: dict[str, Any], curve: Any, ahead: pd.DataFrame, part: Accelerator) -> None:
    unequal = ahead[ahead.head_dim != ahead.v_dim]
    if len(unequal):
        raw["unequal_rate"] = min(1.0, 1.0 / float(ratios(unequal, curve, part).median()))


def scale_backward(raw: dict[str, Any], curve: Any, back: pd.DataFrame, part: Accelerator) -> None:
    """Backward over forward rate by mean head size, 2.5 times the FLOPs counted."""
    if not len(back):
        return
    head = (back.head_dim + back.v_dim) / 2
    unequal = np.where(back.head_dim != back.v_dim, raw["unequal_rate"], 1.0)
    rate = (2.5 / (ratios(back, curve, part) * unequal)).groupby(head).median()
    raw["backward_head_dims"], raw["backward_rates"] = [float(d) for d in rate.index], [float(r) for r in rate]


# ---- memory-bound kernels


def streaming_rows(points: Iterable[Point]) -> pd.DataFrame:
    rows = frame(points, "streaming")
    if len(rows):
        rows["kind"] = [OPS[op][0] for op in rows.op]
        rows["bytes"] = [moved_bytes(dict(row)) for _, row in rows.iterrows()]
        rows["kernels"] = [OPS[op][2] for op in rows.op]
    return rows


def fit_streaming(points: list[Point], part: Accelerator, latency_s: float) -> dict[str, Any]:
    """kind -> share of the memory bandwidth: harmonic mean over its operations, each the median over larger shapes.

    `low` and `high` are the slowest and fastest operation; held-out errors are of single shapes, by operation.
    """
    rows = streaming_rows(points)
    found: dict[str, Any] = {}
    for kind, own in rows.groupby("kind") if len(rows) else ():
        shares: dict[str, float] = {}
        errors: list[float] = []
        for op, each in own.groupby("op"):
            large = each[each.bytes >= each.bytes.median()]
            shares[str(op)] = streaming_fraction(large, part, latency_s)
            if len(large) > 1:
                errors += left_out(large, part, latency_s)
        values = list(shares.values())
        entry = {
            "fraction": 1.0 / float(np.mean([1.0 / each for each in values])),
            "low": min(values),
            "high": max(values),
            "ops": shares,
        }
        found[str(kind)] = rounded(entry) | ({"held_out": {"fit": error_summary(np.array(errors))}} if errors else {})
    return found


def left_out(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> list[float]:
    """Relative error of each row, predicted by the share of the others."""
    errors = []
    for index in rows.index:
        share = streaming_fraction(rows.drop(index), part, latency_s)
        row = rows.loc[index]
        predicted = row.bytes / (part.memory_bandwidth_bytes_per_s * share) + row.kernels * latency_s
        errors.append(float(predicted / (row.latency_us * 1e-6) - 1))
    return errors


def fractions_of(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> np.ndarray:
    """Share of the bandwidth of each row; a kernel that hits the cache may pass 1 and is held there."""
    seconds = np.maximum(rows.latency_us * 1e-6 - rows.kernels * latency_s, 0.1 * rows.latency_us * 1e-6)
    return np.minimum(rows.bytes / seconds / part.memory_bandwidth_bytes_per_s, 1.0).to_numpy(float)


def streaming_fraction(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> float:
    return float(np.median(fractions_of(rows, part, latency_s)))


# ---- the whole kernel set


def measured_range(points: Iterable[Point]) -> dict[str, Any]:
    """family -> dtype -> dimension -> [smallest, largest] that was measured."""
    found: dict[str, Any] = {}
    for point in points:
        if point.family not in ("gemm", "grouped_gemm", "attention"):
            continue
        own = found.setdefault(point.family, {}).setdefault(point.dtype, {})
        for name, value in point.shape.items():
            if isinstance(value, int | float) and name not in ("causal",):
                low, high = own.get(name, (value, value))
                own[name] = [min(low, value), max(high, value)]
    return found


def fit_kernels(
    points: list[Point], part: Accelerator, shipped: Mapping[str, Any] | None, source: str
) -> dict[str, Any]:
    """A kernel set in the form of `hardware/data/kernels`, with what was measured and how well it holds.

    Families that were not measured are borrowed from `shipped`, the set that ships for this part, and named in
    `borrowed`. Raises TooFew where neither has what every prediction needs: bf16 products and attention.
    """
    usable = [point for point in points if point.usable]
    notes: list[str] = []
    gemm = fit_product_family(usable, "gemm", part, notes)
    grouped = fit_product_family(usable, "grouped_gemm", part, notes)
    borrowed = []
    if "bf16" not in gemm:
        if shipped is None:
            raise TooFew("; ".join(notes) or "gemm bf16: nothing was measured, and no set ships for this part")
        gemm = {**shipped["gemm"], **gemm}
        borrowed.append("gemm")
    latency_s = gemm["bf16"]["curve"]["latency_s"]
    attention = fit_attention_family(usable, part, latency_s, notes)
    if "bf16" not in attention:
        if shipped is None:
            raise TooFew("; ".join(notes) or "attention bf16: nothing was measured, and no set ships for this part")
        attention = {**shipped["attention"], **attention}
        borrowed.append("attention")
    if "bf16" not in grouped:
        curve = shipped["grouped_gemm"]["bf16"] if shipped else {"curve": gemm["bf16"]["curve"]}
        grouped = {"bf16": curve, **grouped}
        borrowed.append("grouped_gemm")
    rates = {family: dict.fromkeys(ROLES, 1.0) for family in ("gemm", "grouped_gemm")}
    spread: dict[str, Any] = {}
    for family, entries in (("gemm", gemm), ("grouped_gemm", grouped)):
        own = entries["bf16"]
        rates[family] = own.get("role_rates") or (shipped["role_rates"][family] if shipped else rates["gemm"])
        if "spread" in own:
            spread[family] = own["spread"]
    return {
        "name": part.name.lower(),
        "source": source,
        "part": {"peak_flops_per_s": dict(part.peak_flops_per_s)},
        "gemm": gemm,
        "grouped_gemm": grouped,
        "attention": attention,
        "streaming": fit_streaming(usable, part, latency_s),
        "role_rates": rates,
        "borrowed": borrowed,
        "spread": spread,
        "measured_range": measured_range(usable),
        "notes": notes,
    }
