"""What training kernels say: rates of dgrad and wgrad, attention as training runs it, and the spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from hardware.kernels.attention import flash_s
from hardware.kernels.curves import AttentionCurve, GemmCurve, attention_curve
from hardware.kernels.matmul import ACCUMULATE_BYTES, ROLES, tiled_s
from hardware.specs import Accelerator
from validate.kernels.common import A100, B200, H100, H200, part, significant

# Training collections that stand for a part: its own family's, or both around Hopper. The A100 one is a PCIe card.
HOPPER = (H100, H200)
TRAINED = {A100: [A100]} | {name: [A100, B200] for name in HOPPER}
COLLECTED = {A100: "A100-PCIe-80GB", B200: "B200-SXM-180GB"}
ROLE = {"TN": "forward", "NN": "dgrad", "NT": "wgrad", "fwd": "forward", "bwd_grad_act": "dgrad", "bwd_grad_w": "wgrad"}
# FlashAttention-3 on H100, bf16, causal, head size 128, forward, 16k tokens: pytorch/benchmark pull request 2391.
FA3_TFLOPS = {512: 430.0, 1024: 517.0, 2048: 566.0, 4096: 590.0, 8192: 614.0, 16384: 621.0}


def training_products(frame: pd.DataFrame, curves: Mapping[str, GemmCurve], part: Accelerator) -> pd.DataFrame:
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


def training_attention(frame: pd.DataFrame, curve: AttentionCurve, part: Accelerator) -> pd.DataFrame:
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
    computed: pd.DataFrame = pd.DataFrame({"role": role, "unequal": qk != v, "ratio": ratio})[measured > 250e-6]
    return computed


def quantiles(values: pd.Series) -> list[float]:
    return [significant(v) for v in values.quantile([0.1, 0.5, 0.9])]


def role_rates(ratios: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Family -> role -> rate over the forward rate, never above it."""
    median = ratios.groupby(["family", "role"]).ratio.median()
    return {
        family: {role: significant(min(1.0, median[family]["forward"] / median[family][role])) for role in ROLES}
        for family in ("gemm", "grouped_gemm")
    }


def apply_training(entries: dict[str, dict[str, Any]], training: pd.DataFrame) -> None:
    """Adds to every part what training kernels say: attention rates, backward, roles and spread."""
    frames = {name: training[training.gpu == gpu] for name, gpu in COLLECTED.items()}
    products = {
        name: training_products(frame, gemm_curves(entries[name]), part(name)) for name, frame in frames.items()
    }
    loss = {name: attention_loss(frame, entries[name], part(name)) for name, frame in frames.items()}
    sweep = fa3_ratio(bf16_attention(entries[H100]))
    for name, entry in entries.items():
        trained = TRAINED.get(name, [B200])
        pooled = pd.concat([evenly(products[t]) for t in trained])
        entry["role_rates"] = role_rates(pooled)
        entry["borrowed"] = ["grouped_gemm"] if name == A100 else []
        entry["spread"] = spread_of(pooled, entry["role_rates"])
        scale_attention(entry["attention"], [loss[t] for t in trained], sweep if name in HOPPER else None)
    ratios = {n: training_attention(frame, bf16_attention(entries[n]), part(n)) for n, frame in frames.items()}
    for name, entry in entries.items():
        near = pd.concat([ratios[t] for t in TRAINED.get(name, [B200])])
        entry["spread"]["attention"] = {role: quantiles(r.ratio) for role, r in near.groupby("role")}


def gemm_curves(entry: Mapping[str, Any]) -> dict[str, GemmCurve]:
    return {family: GemmCurve(**entry[family]["bf16"]["curve"]) for family in ("gemm", "grouped_gemm")}


def bf16_attention(entry: Mapping[str, Any]) -> AttentionCurve:
    return attention_curve(entry["attention"]["bf16"]["curve"])


def attention_loss(frame: pd.DataFrame, entry: Mapping[str, Any], part: Accelerator) -> pd.Series:
    """Median time of training kernels over the inference kernels' curve, by (role, unequal head sizes)."""
    return training_attention(frame, bf16_attention(entry), part).groupby(["role", "unequal"]).ratio.median()


def scale_attention(curves: Mapping[str, Any], losses: list[pd.Series], sweep: float | None) -> None:
    """Turns inference curves into training ones. `sweep`: FlashAttention-3's times over the curve, on Hopper.

    FlashAttention-3 computes unequal head sizes as they are: no loss there, nor in its backward, whose rate comes
    from equal sizes on the parts around it. The fp8 forward keeps its own rate: nothing in training measured it.
    """
    equal = [loss["forward", False] / loss["backward", False] for loss in losses]
    unequal = [loss["forward", True] / loss["backward", True] for loss in losses]
    rates = [np.mean(equal), np.mean(unequal)]
    own = losses[0]
    scale = own["forward", False] if sweep is None else sweep
    bf16 = curves["bf16"]["curve"]
    bf16["sustained_flops_per_s"] = [significant(rate / scale) for rate in bf16["sustained_flops_per_s"]]
    for entry in curves.values():
        curve, native = entry["curve"], sweep is not None
        curve["unequal_rate"] = 1.0 if native else significant(own["forward", False] / own["forward", True])
        curve["backward_head_dims"] = [128.0] if native else [128.0, 160.0]
        curve["backward_rates"] = [significant(rate) for rate in (rates[:1] if native else rates)]


def evenly(ratios: pd.DataFrame) -> pd.DataFrame:
    """The same number of rows from every part, so that the larger collection does not outvote the other."""
    grid = np.linspace(0, 1, 101)
    return ratios.groupby(["family", "role"]).ratio.quantile(grid).reset_index(level=[0, 1])


def spread_of(ratios: pd.DataFrame, rates: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, list[float]]]:
    """Measured over predicted seconds once the role's rate is in the prediction, by family and role."""
    spread: dict[str, dict[str, list[float]]] = {}
    for family, roles in rates.items():
        own = ratios[ratios.family == family]
        spread[family] = {role: quantiles(own[own.role == role].ratio * rate) for role, rate in roles.items()}
    return spread


def fa3_ratio(curve: AttentionCurve) -> float:
    """Published FlashAttention-3 times over the fitted ones, at 16k tokens and 16 heads of 128."""
    length = np.array(list(FA3_TFLOPS), float)
    rows = 16384 / length * 16
    work = (rows, length, length**2 / 2)
    model = flash_s(curve, work, (128.0, 128.0), sm_count=part(H100).sm_count, rate=1.0, backward=False)
    published = 2 * rows * length**2 * 128 / (np.array(list(FA3_TFLOPS.values())) * 1e12)
    return float(np.median(published / model))
