"""Fits the kernel curves of `hardware/data/kernels` to measured kernel times: `python -m validate.kernels RAW_DIR`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.attention import flash_s
from hardware.kernels.curves import AttentionCurve, GemmCurve, attention_curve
from hardware.kernels.matmul import ACCUMULATE_BYTES, ROLES, tiled_s

OUT = Path(__file__).parent.parent / "hardware" / "data" / "kernels"
INFERENCE = "ai-dynamo/aiconfigurator (Apache-2.0), TensorRT-LLM 1.3.0rc20 collection (A100: 1.0.0), read 2026-11-21"
TRAINING = "MooreThreads/SimuMax system files b200_bf16_ceperm.json and a100_pcie.json of 2026-05-11, read 2026-11-21"


@dataclass(frozen=True, slots=True)
class Part:
    """What the fit must know of a measured part. Peaks are dense, from vendors' data sheets."""

    sm_count: int
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]

    def peak(self, dtype: str) -> float:
        return self.peak_flops_per_s[{"fp8_block": "fp8", "nvfp4": "fp4"}.get(dtype, dtype)]


def _part(sms: int, bandwidth: float, bf16: float, fp8: float = 0.0, fp4: float = 0.0) -> Part:
    peaks = {"bf16": bf16 * 1e12, "fp8": fp8 * 1e12, "fp4": fp4 * 1e12}
    return Part(sms, bandwidth * 1e12, {key: peak for key, peak in peaks.items() if peak})


PARTS = {
    "a100-sxm-80gb": _part(108, 2.0, 312),
    "h100-sxm-80gb": _part(132, 3.35, 989, 1979),
    "h200-sxm-141gb": _part(132, 4.8, 989, 1979),
    "b200-sxm-180gb": _part(148, 7.7, 2250, 4500, 9000),
    "b300-sxm-288gb": _part(148, 8.0, 2250, 4500, 14000),
    "gb200-nvl72": _part(148, 8.0, 2500, 5000, 10000),
    "gb300-nvl72": _part(148, 8.0, 2500, 5000, 15000),
}
A100, B200 = "a100-sxm-80gb", "b200-sxm-180gb"
# Training collections that stand for a part: its own family's, or both around Hopper. The A100 one is a PCIe card.
TRAINED = {A100: [A100], "h100-sxm-80gb": [A100, B200], "h200-sxm-141gb": [A100, B200]}
OPERAND_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4 / 128, "nvfp4": 0.5 + 1 / 16}
ROLE = {"TN": "forward", "NN": "dgrad", "NT": "wgrad", "fwd": "forward", "bwd_grad_act": "dgrad", "bwd_grad_w": "wgrad"}
# FlashAttention-3 on H100, bf16, causal, head size 128, forward, 16k tokens: pytorch/benchmark pull request 2391.
FA3_TFLOPS = {512: 430.0, 1024: 517.0, 2048: 566.0, 4096: 590.0, 8192: 614.0, 16384: 621.0}
KEYS_HALF = 100.0  # 430 at 512 and 621 at 16384 in that sweep: rate = 625 / (1 + KEYS_HALF / (length / 2))
SETTINGS = {"loss": "soft_l1", "f_scale": 0.05}  # errors of some 5 % count squared, outliers linearly


# ---- dense products


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a collection timed besides the kernel, and the fit sets apart: casts, copies, extra launches.

    `passes` are bytes per element of each kind of traffic, as if at the full memory bandwidth.
    """

    latency_s: float
    passes: tuple[float, ...]

    def seconds(self, elements: tuple[Any, ...], part: Part) -> Any:
        moved = sum(p * e for p, e in zip(self.passes, elements, strict=True))
        return self.latency_s + moved / part.memory_bandwidth_bytes_per_s


def gemm_model_s(curve: GemmCurve, part: Part, dtype: str, shape: tuple[Any, Any, Any, Any]) -> Any:
    return tiled_s(
        curve,
        shape,
        bytes_per_element=(OPERAND_BYTES[dtype], 2.0),
        sm_count=part.sm_count,
        flops_per_s=curve.sustained_flops_per_s,
        bytes_per_s=part.memory_bandwidth_bytes_per_s,
    )


def fit_gemm(frame: pd.DataFrame, part: Part, dtype: str) -> tuple[GemmCurve, Overhead]:
    """Curve and overhead (cast of the m x k activations, extra launches) of one dtype on one part."""
    from scipy.optimize import least_squares

    measured = np.log(frame.latency_us.to_numpy(float) * 1e-6)
    ceiling = min(1.1 * frame.tflops.max() * 1e12 / part.peak(dtype), 1.0)
    casts = dtype != "bf16"

    def build(x: np.ndarray) -> tuple[GemmCurve, Overhead]:
        curve = GemmCurve(x[0] * part.peak(dtype), 100 * x[1], 1e-6 * x[2], x[3], x[4], x[5], x[6])
        return curve, Overhead(1e-6 * x[7] * casts, (x[8] * casts,))

    def error(x: np.ndarray) -> np.ndarray:
        return np.log(gemm_collection_s(frame, part, dtype, build(x))) - measured

    start = [0.9 * ceiling, 1.5, 3.0, 0.7, 0.5, 3.0, 0.1, 0.1, 1.0]
    low = [0.2 * ceiling, 0, 0.5, 0.3, 0, 1, 0, 0, 0]
    high = [ceiling, 10, 10, 1.0, 1, 10, 1, 20, 30]
    return build(least_squares(error, start, bounds=(low, high), **SETTINGS).x)


def with_latency(fitted: tuple[GemmCurve, Overhead], latency_s: float) -> tuple[GemmCurve, Overhead]:
    """The kernel launches like the part's bf16 kernel; what is beyond that belongs to the cast kernels around it."""
    curve, overhead = fitted
    rest = curve.latency_s + overhead.latency_s - latency_s
    return replace(curve, latency_s=latency_s), replace(overhead, latency_s=max(rest, 0.0))


def gemm_collection_s(frame: pd.DataFrame, part: Part, dtype: str, fitted: tuple[GemmCurve, Overhead]) -> np.ndarray:
    """What the collection should have timed: the kernel and its overhead."""
    m, n, k = (frame[c].to_numpy(float) for c in "mnk")
    return gemm_model_s(fitted[0], part, dtype, (1.0, m, n, k)) + fitted[1].seconds((m * k,), part)


# ---- grouped products: one MoE layer's experts forward


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


def grouped_collection_s(frame: pd.DataFrame, part: Part, dtype: str, fitted: tuple[GemmCurve, Overhead]) -> np.ndarray:
    """What the collection should have timed: both products and the passes around them."""
    shapes, moved = moe_work(frame)
    return sum(gemm_model_s(fitted[0], part, dtype, shape) for shape in shapes) + fitted[1].seconds(moved, part)


def fit_grouped(frame: pd.DataFrame, part: Part, dtype: str, dense: GemmCurve) -> tuple[GemmCurve, Overhead]:
    """Grouped curve, with the dense curve's reduction length and tile loss, and the passes around the products."""
    from scipy.optimize import least_squares

    measured = np.log(frame.latency_us.to_numpy(float) * 1e-6)

    def build(x: np.ndarray) -> tuple[GemmCurve, Overhead]:
        rate = x[0] * dense.sustained_flops_per_s
        curve = replace(dense, sustained_flops_per_s=rate, bandwidth_fraction=x[1], ramp=x[2], overlap=x[3])
        return curve, Overhead(1e-6 * x[4], (x[5], x[6]))

    def error(x: np.ndarray) -> np.ndarray:
        return np.log(grouped_collection_s(frame, part, dtype, build(x))) - measured

    bounds = ([0.3, 0.2, 0, 1, 0, 0.5, 0], [1.0, 1.0, 1, 10, 200, 30, 30])
    return build(least_squares(error, [0.9, 0.7, 0.5, 3, 20, 2, 2], bounds=bounds, **SETTINGS).x)


# ---- attention


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


def attention_collection_s(rows: pd.DataFrame, part: Part, fitted: tuple[AttentionCurve, Overhead]) -> np.ndarray:
    """What the collection should have timed: the forward kernel, rotary embedding and cache writes."""
    work, dims, moved = attention_work(rows)
    kernel = flash_s(fitted[0], work, dims, sm_count=part.sm_count, rate=1.0, backward=False)
    return kernel + fitted[1].seconds(moved, part)


def fit_attention(rows: pd.DataFrame, part: Part, latency_s: float) -> tuple[AttentionCurve, Overhead]:
    """Forward rate by head size, short-length loss and tail; rotary and cache traffic are set apart."""
    from scipy.optimize import least_squares

    sizes = tuple(float(d) for d in sorted(rows.head_dim.unique()))
    measured = np.log(rows.latency_us.to_numpy(float) * 1e-6)

    def build(x: np.ndarray) -> tuple[AttentionCurve, Overhead]:
        rates = tuple(float(r) * 1e14 for r in x[3:])
        curve = AttentionCurve(sizes, rates, KEYS_HALF, x[0], latency_s, 0.8, 1.0, (128.0,), (1.0,))
        return curve, Overhead(1e-6 * x[1], (x[2],))

    def error(x: np.ndarray) -> np.ndarray:
        return np.log(attention_collection_s(rows, part, build(x))) - measured

    count = len(sizes)
    bounds = ([0, 0, 0] + [0.1] * count, [2, 100, 20] + [40.0] * count)
    return build(least_squares(error, [0.5, 20, 1] + [5.0] * count, bounds=bounds, **SETTINGS).x)


# ---- training collections: roles, backward, and how far they lie from the prediction


def training_products(frame: pd.DataFrame, curves: Mapping[str, GemmCurve], part: Part) -> pd.DataFrame:
    """Columns family, role, ratio (measured over predicted seconds at role rate 1) of the matrix products."""
    rows = []
    for row in frame[frame.op.isin(["matmul", "group_matmul"])].to_dict("records"):
        grouped = row["op"] == "group_matmul"
        role = ROLE[row["stage"] if grouped else row["layout"]]
        if grouped:
            m, n, k = row["M"], row["N"], row["K"]
            shape = {"forward": (m, n, k), "dgrad": (m, k, n), "wgrad": (n, k, m)}[role]
            groups, main = row["ng"], row["main_grad_dtype"]
        else:
            shape, groups, main = (row["m"], row["n"], row["k"]), 1.0, row["out_dtype"]
        curve = curves["grouped_gemm" if grouped else "gemm"]
        written = (ACCUMULATE_BYTES if main == "fp32" else ACCUMULATE_BYTES / 2) if role == "wgrad" else 2.0
        predicted = tiled_s(curve, (groups, *shape), bytes_per_element=(2.0, written), sm_count=part.sm_count,
                            flops_per_s=curve.sustained_flops_per_s,
                            bytes_per_s=part.memory_bandwidth_bytes_per_s)  # fmt: skip
        flops = 2 * groups * shape[0] * shape[1] * shape[2]
        measured = flops / (row["efficiency"] * row["peak_tflops"] * 1e12)
        rows.append(("grouped_gemm" if grouped else "gemm", role, measured / predicted))
    return pd.DataFrame(rows, columns=["family", "role", "ratio"])


def training_attention(frame: pd.DataFrame, curve: AttentionCurve, part: Part) -> pd.DataFrame:
    """Columns role, unequal, ratio of the attention kernels; full-square FLOPs counted there, half computed.

    Kernels below 250 us are left out: the shortest stand at some 90 us whatever the work, which is the host's.
    """
    d = frame[frame.op.isin(["sdp_fwd", "sdp_bwd"])]
    b, s, h, qk, v = (d[c].to_numpy(float) for c in ("batch", "seq_len", "head_num", "qk_head_dim", "v_head_dim"))
    backward = (d.op == "sdp_bwd").to_numpy()
    work, dims = (b * h, s, s * s / 2), (qk, v)
    forward_s = flash_s(curve, work, dims, sm_count=part.sm_count, rate=1.0, backward=False)
    backward_s = flash_s(curve, work, dims, sm_count=part.sm_count, rate=1.0, backward=True)
    flops = 2 * b * s * s * h * (qk + v) * np.where(backward, 2.5, 1.0)
    measured = flops / (d.efficiency * d.peak_tflops * 1e12).to_numpy()
    ratio = measured / np.where(backward, backward_s, forward_s)
    role = np.where(backward, "backward", "forward")
    return pd.DataFrame({"role": role, "unequal": qk != v, "ratio": ratio})[measured > 250e-6]


def quantiles(values: pd.Series) -> list[float]:
    return [significant(v) for v in values.quantile([0.1, 0.5, 0.9])]


def role_rates(ratios: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Family -> role -> rate over the forward rate, never above it."""
    median = ratios.groupby(["family", "role"]).ratio.median()
    return {
        family: {role: significant(min(1.0, median[family]["forward"] / median[family][role])) for role in ROLES}
        for family in ("gemm", "grouped_gemm")
    }


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


# ---- held-out errors


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
        return np.exp(np.where(np.isnan(inside), nearest(shapes), inside))

    return predict


def error_summary(errors: np.ndarray) -> dict[str, float]:
    size = np.abs(errors)
    return {
        "rows": len(errors),
        "median": significant(float(np.median(size)), 3),
        "p90": significant(float(np.quantile(size, 0.9)), 3),
        "bias": significant(float(np.median(errors)), 3),
    }


# ---- one part, all parts


def fit_part(name: str, tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """All curves of one part, from the inference-side collection, with their held-out errors."""
    part = PARTS[name]
    own = {key: table[table.gpu == name] for key, table in tables.items()}
    entry: dict[str, Any] = {"gemm": {}, "grouped_gemm": {}, "attention": {}}
    latency_s = None
    for dtype in sorted(own["gemm"].dtype.unique()):
        frame = own["gemm"][own["gemm"].dtype == dtype]
        fitted = fit_gemm(frame, part, dtype)
        latency_s = latency_s or fitted[0].latency_s  # bf16 sorts first
        fitted = with_latency(fitted, latency_s)
        entry["gemm"][dtype] = record(fitted, gemm_held_out(frame, part, dtype))
        moe = moe_rows(own["moe"], dtype)
        if not moe.empty:
            grouped = fit_grouped(moe, part, dtype, fitted[0])
            entry["grouped_gemm"][dtype] = record(grouped, grouped_held_out(moe, part, dtype, fitted[0]))
    for dtype in sorted(own["attention"].dtype.unique()):
        rows = attention_rows(own["attention"], dtype)
        errors = held_out(rows, rows.index.to_numpy(), lambda r: fit_attention(r, part, latency_s),
                          lambda r, fitted: attention_collection_s(r, part, fitted))  # fmt: skip
        entry["attention"][dtype] = record(fit_attention(rows, part, latency_s), {"fit": error_summary(errors)})
    if not entry["grouped_gemm"]:  # collected with skewed routing only: the dense kernels stand in
        entry["grouped_gemm"]["bf16"] = {"curve": entry["gemm"]["bf16"]["curve"]}
    return entry


def moe_rows(frame: pd.DataFrame, dtype: str) -> pd.DataFrame:
    """Balanced rows at training sizes: at least 64 rows per expert."""
    frame = frame[(frame.dtype == dtype) & (frame.distribution == "balanced")]
    return frame[frame.num_tokens * frame.topk / frame.num_experts >= 64]


def gemm_held_out(frame: pd.DataFrame, part: Part, dtype: str) -> dict[str, Any]:
    """Errors at training sizes (m >= 1024) with whole (n, k) cells held out, of the fit and of interpolation."""
    frame = frame.reset_index(drop=True)
    cells = (frame.n * 100_000 + frame.k).to_numpy()
    training = (frame.m >= 1024).to_numpy()
    fit = held_out(frame, cells, lambda f: fit_gemm(f, part, dtype), lambda f, x: gemm_collection_s(f, part, dtype, x))
    rival = held_out(frame, cells, interpolation, lambda f, x: x(np.log(f[list("mnk")].to_numpy(float))))
    return {"fit": error_summary(fit[training]), "interpolation": error_summary(rival[training])}


def grouped_held_out(frame: pd.DataFrame, part: Part, dtype: str, dense: GemmCurve) -> dict[str, Any]:
    """Errors with whole models (hidden, inter, experts, top-k) held out."""
    frame = frame.reset_index(drop=True)
    models = frame.groupby(["hidden_size", "inter_size", "num_experts", "topk"]).ngroup().to_numpy()
    errors = held_out(frame, models, lambda f: fit_grouped(f, part, dtype, dense),
                      lambda f, x: grouped_collection_s(f, part, dtype, x))  # fmt: skip
    return {"fit": error_summary(errors)}


def record(fitted: tuple[Any, Overhead], errors: Mapping[str, Any]) -> dict[str, Any]:
    return {"curve": rounded(asdict(fitted[0])), "set_apart": rounded(asdict(fitted[1])), "held_out": errors}


def rounded(value: Any) -> Any:
    """Four significant digits, plain Python types: what JSON holds and a diff shows."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return significant(float(value)) if isinstance(value, float | np.floating) else value


def apply_training(entries: dict[str, dict[str, Any]], training: pd.DataFrame) -> None:
    """Adds to every part what training kernels say: attention rates, backward, roles and spread."""
    products, attention, loss = {}, {}, {}
    for gpu, name in {"A100-PCIe-80GB": A100, "B200-SXM-180GB": B200}.items():
        frame, entry, part = training[training.gpu == gpu], entries[name], PARTS[name]
        curves = {family: GemmCurve(**entry[family]["bf16"]["curve"]) for family in ("gemm", "grouped_gemm")}
        products[name] = training_products(frame, curves, part)
        before = training_attention(frame, attention_curve(entry["attention"]["bf16"]["curve"]), part)
        loss[name] = before.groupby(["role", "unequal"]).ratio.median()
    backward = {name: [loss[name]["forward", u] / loss[name]["backward", u] for u in (False, True)] for name in loss}
    sweep = fa3_ratio(attention_curve(entries["h100-sxm-80gb"]["attention"]["bf16"]["curve"]))
    for name, entry in entries.items():
        trained = TRAINED.get(name, [B200])
        curve = entry["attention"]["bf16"]["curve"]
        native = len(trained) == 2  # Hopper: FlashAttention-3 computes unequal sizes as they are
        scale = sweep if native else loss[trained[0]]["forward", False]
        curve["sustained_flops_per_s"] = [significant(r / scale) for r in curve["sustained_flops_per_s"]]
        for values in entry["attention"].values():
            unequal = loss[trained[0]]["forward", False] / loss[trained[0]]["forward", True]
            values["curve"]["unequal_rate"] = 1.0 if native else significant(unequal)
            values["curve"]["backward_head_dims"] = [128.0, 160.0]
            values["curve"]["backward_rates"] = rounded(np.mean([backward[t] for t in trained], axis=0).tolist())
        pooled = pd.concat([evenly(products[t]) for t in trained])
        entry["role_rates"] = role_rates(pooled)
        entry["borrowed"] = ["grouped_gemm"] if name == A100 else []
        entry["spread"] = spread_of(pooled, entry["role_rates"])
    for name in loss:
        attention[name] = training_attention(
            training[training.gpu.str.lower().str.startswith(name[:4])],
            attention_curve(entries[name]["attention"]["bf16"]["curve"]), PARTS[name])  # fmt: skip
    for name, entry in entries.items():
        ratios = pd.concat([attention[t] for t in TRAINED.get(name, [B200])])
        entry["spread"]["attention"] = {role: quantiles(r.ratio) for role, r in ratios.groupby("role")}


def evenly(ratios: pd.DataFrame) -> pd.DataFrame:
    """The same number of rows from every part, so that the larger collection does not outvote the other."""
    grid = np.linspace(0, 1, 101)
    return ratios.groupby(["family", "role"]).ratio.quantile(grid).reset_index(level=[0, 1])


def spread_of(ratios: pd.DataFrame, rates: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Measured over predicted seconds once the role's rate is in the prediction, by family and role."""
    return {
        family: {role: quantiles(ratios[(ratios.family == family) & (ratios.role == role)].ratio * rates[family][role])
                 for role in ROLES} for family in ("gemm", "grouped_gemm")
    }  # fmt: skip


def fa3_ratio(curve: AttentionCurve) -> float:
    """Published FlashAttention-3 times over the fitted ones, at 16k tokens and 16 heads of 128."""
    length = np.array(list(FA3_TFLOPS), float)
    rows = 16384 / length * 16
    model = flash_s(curve, (rows, length, length**2 / 2), (128.0, 128.0), sm_count=132, rate=1.0, backward=False)
    published = 2 * rows * length**2 * 128 / (np.array(list(FA3_TFLOPS.values())) * 1e12)
    return float(np.median(published / model))


def read(raw: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    for key, file in {"gemm": "gemm", "moe": "moe_layer_forward", "attention": "attention_forward"}.items():
        frame = pd.read_csv(raw / f"{file}.csv.gz")
        yield key, frame.assign(gpu=frame.gpu.str.lower(), dtype=frame.dtype.replace("bfloat16", "bf16"))


def main(raw: Path, out: Path = OUT) -> None:
    tables = dict(read(raw))
    entries = {name: fit_part(name, tables) for name in PARTS}
    apply_training(entries, pd.read_csv(raw / "training_kernel_efficiency.csv.gz"))
    out.mkdir(parents=True, exist_ok=True)
    for name, entry in entries.items():
        head = {"name": name, "source": INFERENCE, "training_source": TRAINING, "part": asdict(PARTS[name])}
        write(out / f"{name}.json", json.dumps(head | entry, indent=1) + "\n")
    write(out / "FIT.md", report(entries))


def report(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """The held-out errors as a table."""
    lines = ["# How well the kernel curves fit", "", f"Made by `python -m validate.kernels`. Source: {INFERENCE}; training kernels: {TRAINING}.",
             "", "| part | family | precision | rows | held-out median | p90 | bias | interpolation median | p90 |", "|---|---|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name, entry in entries.items():
        for family in ("gemm", "grouped_gemm", "attention"):
            for dtype, values in entry[family].items():
                held = values.get("held_out")
                if not held:
                    continue
                fit, rival = held["fit"], held.get("interpolation", {})
                lines.append(f"| {name} | {family} | {dtype} | {fit['rows']} | {fit['median']:.1%} | {fit['p90']:.1%} | {fit['bias']:+.1%} | "
                             + " | ".join(f"{rival[q]:.1%}" if rival else "" for q in ("median", "p90")) + " |")  # fmt: skip
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    aside = path.with_suffix(path.suffix + ".part")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
