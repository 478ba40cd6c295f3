"""How well the fits hold on rows they never saw, and the rival they were chosen over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from validate.kernels.common import INFERENCE, TRAINING, significant

HEAD = """# How well the kernel curves fit

Made by `python -m validate.kernels RAW_DIR`, as the JSON files beside it.
Forward kernels: {inference}. Training kernels: {training}.

Errors are relative, of rows that the fit never saw (five folds): of products at m >= 1024 with whole (n, k) cells left
out, of grouped products (a whole MoE layer, at least 64 rows per expert, balanced) with whole models left out, of
attention with single shapes left out. The last two columns interpolate the measured times in log m, log n, log k.
Interpolation wins one to three points in the middle of that dense grid and little or nothing in the tail; it was not
chosen because it cannot tell the kernel from the casts timed with it, scale to a sibling part or fewer SMs, or leave
the grid: on the independent DeepGEMM rows, from m = 64 up, the curves are within 25 %, from m = 4096 within 10 %.
A table of residuals on top would gain half a point to two and a half, well below the spread at the end of this page.
The long tail of bf16, fp8 and nvfp4 grouped products is two kinds of shape (16 experts top-1 and 512 experts top-22)
on which that library falls back to kernels two to five times slower; fp8_block, another library, has none.
bf16 attention: of each pair of rows the slower was taken, the faster being the fp8 kernel on an fp8 cache.
The A100 set has no balanced MoE rows: its dense curve stands in for grouped products.

| part | family | precision | rows | median | p90 | bias | interpolation median | p90 |
|---|---|---|--:|--:|--:|--:|--:|--:|"""
SPREAD_HEAD = """
## Training kernels against these curves

Measured over predicted seconds in the training collections (A100 PCIe card, B200; Hopper: both). Attention was scaled
to them, products were not: they are the other measurement of the same work, slower by library, layout and power.

| part | family | role | p10 | p50 | p90 |
|---|---|---|--:|--:|--:|"""


def held_out(
    frame: pd.DataFrame, groups: np.ndarray, fit: Callable[..., Any], predict: Callable[..., Any]
) -> np.ndarray:
    """Relative errors of each row, predicted by a fit that never saw the row's group (five folds of groups)."""
    fold = np.unique(groups, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(fold.max() + 1)
    fold = order[fold] % 5
    errors = np.empty(len(frame))
    for number in range(5):
        out = fold == number
        errors[out] = predict(frame[out], fit(frame[~out])) / (frame.latency_us[out].to_numpy(float) * 1e-6) - 1
    return errors


def interpolation(frame: pd.DataFrame) -> Any:
    """The rival: latency interpolated in the logarithms of m, n, k; the nearest point outside the hull."""
    from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

    points, values = np.log(frame[list("mnk")].to_numpy(float)), np.log(frame.latency_us.to_numpy(float) * 1e-6)
    linear, nearest = LinearNDInterpolator(points, values), NearestNDInterpolator(points, values)

    def predict(shapes: np.ndarray) -> np.ndarray:
        inside = linear(shapes)
        computed: np.ndarray = np.exp(np.where(np.isnan(inside), nearest(shapes), inside))
        return computed

    return predict


def error_summary(errors: np.ndarray) -> dict[str, float]:
    size = np.abs(errors)
    return {
        "rows": len(errors),
        "median": significant(float(np.median(size)), 3),
        "p90": significant(float(np.quantile(size, 0.9)), 3),
        "bias": significant(float(np.median(errors)), 3),
    }


def sample(frame: pd.DataFrame, rows: int) -> pd.DataFrame:
    """Evenly spaced rows of every (gpu, dtype): enough to check the shipped curves without the collection."""
    picks = []
    for _, group in frame.groupby(["gpu", "dtype"]):
        step = np.linspace(0, len(group) - 1, min(rows, len(group))).astype(int)
        picks.append(group.iloc[step])
    return pd.concat(picks)


def report(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The held-out errors as a page."""
    lines = [HEAD.format(inference=INFERENCE, training=TRAINING)]
    for name, entry in entries.items():
        for family in ("gemm", "grouped_gemm", "attention"):
            lines += [row(name, family, dtype, v["held_out"]) for dtype, v in entry[family].items() if "held_out" in v]
    lines.append(SPREAD_HEAD)
    for name, entry in entries.items():
        for family, roles in entry["spread"].items():
            lines += [f"| {name} | {family} | {role} | " + " | ".join(f"{q:.2f}" for q in quantiles) + " |"
                      for role, quantiles in roles.items()]  # fmt: skip
    return "\n".join(lines) + "\n"


def row(name: str, family: str, dtype: str, held: Mapping[str, Any]) -> str:
    fit, rival = held["fit"], held.get("interpolation")
    cells = [name, family, dtype, str(fit["rows"]), f"{fit['median']:.1%}", f"{fit['p90']:.1%}", f"{fit['bias']:+.1%}"]
    cells += [f"{rival['median']:.1%}", f"{rival['p90']:.1%}"] if rival else ["", ""]
    return "| " + " | ".join(cells) + " |"
