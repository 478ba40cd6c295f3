"""The kernel set of a profile: curves of products and attention, bandwidth shares of passes, what was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.matmul import ROLES
from hardware.specs import Accelerator
from validate.calibrate.fitting.held_out import TooFew
from validate.calibrate.fitting.kernel_curves import fit_attention_family, fit_product_family
from validate.calibrate.measuring.passes import OPS, moved_bytes
from validate.calibrate.points import MeasuredPoint, frame
from validate.kernels.common import rounded
from validate.kernels.heldout import error_summary

PRODUCT_FAMILIES = ("gemm", "grouped_gemm")
KERNEL_FAMILIES = (*PRODUCT_FAMILIES, "attention", "streaming")


def fit_kernels(
    points: list[MeasuredPoint], part: Accelerator, shipped: Mapping[str, Any] | None, source: str
) -> dict[str, Any]:
    """A kernel set in the form of `hardware/data/kernels`, with what was measured and how well it holds.

    Families that were not measured are borrowed from `shipped`, the set that ships for this part, and named in
    `borrowed`. Raises TooFew where neither has what every prediction needs: bf16 products and attention.
    """
    usable = [point for point in points if point.usable]
    notes: list[str] = []
    borrowed: list[str] = []
    gemm = fit_product_family(usable, "gemm", part, notes)
    grouped = fit_product_family(usable, "grouped_gemm", part, notes)
    if "bf16" not in gemm:
        gemm = {**shipped_family("gemm", shipped, notes), **gemm}
        borrowed.append("gemm")
    latency_s = gemm["bf16"]["curve"]["latency_s"]
    attention = fit_attention_family(usable, part, latency_s, notes)
    if "bf16" not in attention:
        attention = {**shipped_family("attention", shipped, notes), **attention}
        borrowed.append("attention")
    if "bf16" not in grouped:
        dense = {"curve": gemm["bf16"]["curve"]}
        grouped = {"bf16": shipped["grouped_gemm"]["bf16"] if shipped else dense, **grouped}
        borrowed.append("grouped_gemm")
    products = {"gemm": gemm, "grouped_gemm": grouped}
    return {
        "name": part.name.lower(),
        "source": source,
        "part": {"peak_flops_per_s": dict(part.peak_flops_per_s)},
        **products,
        "attention": attention,
        "streaming": fit_streaming(usable, part, latency_s),
        "role_rates": {family: role_rates(family, fits["bf16"], shipped) for family, fits in products.items()},
        "borrowed": borrowed,
        "spread": {family: fits["bf16"]["spread"] for family, fits in products.items() if "spread" in fits["bf16"]},
        "measured_range": measured_range(usable),
        "notes": notes,
    }


def shipped_family(family: str, shipped: Mapping[str, Any] | None, notes: list[str]) -> Mapping[str, Any]:
    """The family's curves of the shipped set. Raises TooFew, with the notes of what was too few, without one."""
    if shipped is None:
        nothing = f"{family} bf16: nothing was measured, and no set ships for this part"
        raise TooFew("; ".join(notes) or nothing)
    curves: Mapping[str, Any] = shipped[family]
    return curves


def role_rates(family: str, fit: Mapping[str, Any], shipped: Mapping[str, Any] | None) -> Mapping[str, float]:
    """The rates of the roles as fitted, else as shipped, else 1."""
    rates: Mapping[str, float] | None = fit.get("role_rates")
    if not rates and shipped:
        rates = shipped["role_rates"][family]
    return rates or dict.fromkeys(ROLES, 1.0)


# ---- memory-bound passes


def fit_streaming(points: list[MeasuredPoint], part: Accelerator, latency_s: float) -> dict[str, Any]:
    """kind -> share of the memory bandwidth: harmonic mean over its operations, each the median over larger shapes.

    `low` and `high` are the slowest and fastest operation; held-out errors are of single shapes, by operation.
    """
    rows = streaming_rows(points)
    if not len(rows):
        return {}
    return {str(kind): fit_kind(of_kind, part, latency_s) for kind, of_kind in rows.groupby("kind")}


def streaming_rows(points: Iterable[MeasuredPoint]) -> pd.DataFrame:
    """The points of passes with `kind`, `bytes` and `kernels` of their operations."""
    known = [point for point in points if point.family == "streaming" and point.shape["op"] in OPS]
    rows = frame(known, "streaming")
    if len(rows):
        rows["kind"] = [OPS[op].kind for op in rows.op]
        rows["bytes"] = [moved_bytes(dict(row)) for _, row in rows.iterrows()]
        rows["kernels"] = [OPS[op].kernels for op in rows.op]
    return rows


def fit_kind(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> dict[str, Any]:
    """The bandwidth share of one kind of pass, with its held-out errors where a shape can be left out."""
    shares: dict[str, float] = {}
    errors: list[float] = []
    for op, of_op in rows.groupby("op"):
        large = of_op[of_op.bytes >= of_op.bytes.median()]
        shares[str(op)] = bandwidth_share(large, part, latency_s)
        if len(large) > 1:
            errors += left_out_errors(large, part, latency_s)
    slowness = [1.0 / share for share in shares.values()]
    entry = {
        "fraction": 1.0 / float(np.mean(slowness)),
        "low": min(shares.values()),
        "high": max(shares.values()),
        "ops": shares,
    }
    quality = {"held_out": {"fit": error_summary(np.array(errors))}} if errors else {}
    return {**rounded(entry), **quality}


def left_out_errors(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> list[float]:
    """Relative error of each row, predicted by the share of the others."""
    errors = []
    for index in rows.index:
        share = bandwidth_share(rows.drop(index), part, latency_s)
        row = rows.loc[index]
        transfer_s = row.bytes / (part.memory_bandwidth_bytes_per_s * share)
        predicted_s = transfer_s + row.kernels * latency_s
        errors.append(float(predicted_s / (row.latency_us * 1e-6) - 1))
    return errors


def bandwidth_share(rows: pd.DataFrame, part: Accelerator, latency_s: float) -> float:
    """The median share of the bandwidth; a kernel that hits the cache may pass 1 and is held there."""
    measured_s = rows.latency_us * 1e-6
    transfer_s = np.maximum(measured_s - rows.kernels * latency_s, 0.1 * measured_s)
    share = rows.bytes / transfer_s / part.memory_bandwidth_bytes_per_s
    return float(np.median(np.minimum(share, 1.0)))


# ---- what was measured


def measured_range(points: Iterable[MeasuredPoint]) -> dict[str, Any]:
    """family -> dtype -> dimension -> [smallest, largest] that was measured."""
    ranges: dict[str, Any] = {}
    for point in points:
        if point.family not in (*PRODUCT_FAMILIES, "attention"):
            continue
        own = ranges.setdefault(point.family, {}).setdefault(point.dtype, {})
        for name, value in point.shape.items():
            if isinstance(value, int | float) and name != "causal":
                low, high = own.get(name, (value, value))
                own[name] = [min(low, value), max(high, value)]
    return ranges
