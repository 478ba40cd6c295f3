"""The fits to measured kernel times: on a sample of the collection, and on data made from known curves."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hardware.kernels.curves import DATA, AttentionCurve, GemmCurve, attention_curve
from validate.kernels.__main__ import samples
from validate.kernels.common import MEASURED, Overhead, part, rounded
from validate.kernels.heldout import error_summary, held_out, interpolation, report
from validate.kernels.inference import (
    attention_collection_s,
    attention_rows,
    fit_attention,
    fit_gemm,
    fit_grouped,
    gemm_collection_s,
    grouped_collection_s,
    moe_rows,
    with_latency,
)
from validate.kernels.training import role_rates, scale_attention, training_attention, training_products

GEMM = GemmCurve(800e12, 150.0, 3e-6, 0.87, 0.6, 4.0, 0.05, 0.5)


def shipped(name: str) -> dict:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def read_sample(family: str) -> pd.DataFrame:
    return pd.read_csv(DATA / f"sample_{family}.csv")


def overhead(entry: dict) -> Overhead:
    return Overhead(entry["set_apart"]["latency_s"], tuple(entry["set_apart"]["passes"]))


def shapes(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({axis: 2 ** rng.integers(9, 15, rows) for axis in "mnk"})


# ---- what ships, against the sample of what was measured


@pytest.mark.parametrize("name", MEASURED)
@pytest.mark.parametrize("dtype", ["bf16", "fp8", "fp8_block", "nvfp4"])
def test_shipped_product_curves_meet_the_sample(name: str, dtype: str) -> None:
    """FIT.md's bounds with room for a sample of 20 to 40 rows, of which MoE rows hold the known fall-backs."""
    raw, measured = shipped(name), part(name)
    if dtype not in raw["gemm"]:
        assert name == "a100-sxm-80gb" or dtype == "nvfp4"
        return
    for family, key, predict, median, p90 in (
        ("gemm", "gemm", gemm_collection_s, 0.09, 0.20),
        ("grouped_gemm", "moe", grouped_collection_s, 0.20, 0.80),
    ):
        entry, rows = raw[family][dtype], read_sample(key)
        rows = rows[(rows.gpu == name) & (rows.dtype == dtype)]
        if rows.empty:
            assert raw["borrowed"] == ["grouped_gemm"]
            continue
        model_s = predict(rows, measured, dtype, (GemmCurve(**entry["curve"]), overhead(entry)))
        errors = np.abs(model_s / (rows.latency_us.to_numpy(float) * 1e-6) - 1)
        assert np.median(errors) < median
        assert np.quantile(errors, 0.9) < p90


@pytest.mark.parametrize("name", MEASURED)
def test_shipped_fp8_attention_meets_the_sample(name: str) -> None:
    """fp8 forward rates ship as fitted, bf16 ones scaled to training kernels: so the first can be checked here."""
    raw, rows = shipped(name), read_sample("attention")
    rows = rows[(rows.gpu == name) & (rows.dtype == "fp8")]
    if rows.empty:
        assert name == "a100-sxm-80gb"
        return
    entry = raw["attention"]["fp8"]
    model_s = attention_collection_s(rows, part(name), (attention_curve(entry["curve"]), overhead(entry)))
    errors = np.abs(model_s / (rows.latency_us.to_numpy(float) * 1e-6) - 1)
    assert np.median(errors) < 0.08
    assert np.quantile(errors, 0.9) < 0.25


def test_the_page_says_what_the_files_say() -> None:
    entries = {name: shipped(name) for name in MEASURED}
    assert (DATA / "FIT.md").read_text(encoding="utf-8") == report(entries)


@pytest.mark.parametrize("name", MEASURED)
def test_held_out_errors_of_what_ships(name: str) -> None:
    for dtype, entry in shipped(name)["gemm"].items():
        fit = entry["held_out"]["fit"]
        assert fit["median"] < 0.065, dtype
        assert fit["p90"] < 0.15, dtype
        assert abs(fit["bias"]) < 0.015, dtype
    for entry in shipped(name)["attention"].values():
        assert entry["held_out"]["fit"]["median"] < 0.06
        assert entry["held_out"]["fit"]["p90"] < 0.16


# ---- the fits find what is there


def test_a_known_product_curve_is_found() -> None:
    h100, frame = part("h100-sxm-80gb"), shapes()
    true_s = gemm_collection_s(frame, h100, "bf16", (GEMM, Overhead(0.0, (0.0,))))
    frame = frame.assign(latency_us=1e6 * true_s, tflops=2 * frame.m * frame.n * frame.k / true_s / 1e12)
    fitted = fit_gemm(frame, h100, "bf16")
    assert gemm_collection_s(frame, h100, "bf16", fitted) == pytest.approx(true_s, rel=0.02)
    assert fitted[0].sustained_flops_per_s == pytest.approx(800e12, rel=0.02)
    assert fitted[1].latency_s == 0.0


def test_casts_are_told_from_the_product() -> None:
    h100, frame = part("h100-sxm-80gb"), shapes()
    curve = replace(GEMM, sustained_flops_per_s=1400e12, k_half=500.0)
    true_s = gemm_collection_s(frame, h100, "fp8", (curve, Overhead(9e-6, (8.0,))))
    frame = frame.assign(latency_us=1e6 * true_s, tflops=2 * frame.m * frame.n * frame.k / true_s / 1e12)
    fitted = with_latency(fit_gemm(frame, h100, "fp8"), 3e-6)
    assert fitted[1].passes[0] == pytest.approx(8.0, rel=0.1)
    assert fitted[1].latency_s == pytest.approx(9e-6, rel=0.1)
    kernel_s = gemm_collection_s(frame, h100, "fp8", (curve, Overhead(0.0, (0.0,))))
    errors = gemm_collection_s(frame, h100, "fp8", (fitted[0], Overhead(0.0, (0.0,)))) / kernel_s - 1
    assert np.quantile(np.abs(errors), [0.5, 0.95]) == pytest.approx([0, 0], abs=0.1)  # the smallest hide in the casts


def test_known_grouped_curve_is_found() -> None:
    h100 = part("h100-sxm-80gb")
    models = ((2048, 768, 8, 128), (4096, 14336, 2, 8))
    rows = [(t, *model, ep) for t in (1024, 4096, 16384) for model in models for ep in (1, 2, 4)]
    names = ["num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_ep_size"]
    frame = pd.DataFrame(rows, columns=names).assign(kernel_source="fused")
    curve = replace(GEMM, sustained_flops_per_s=700e12, bandwidth_fraction=0.8)
    true_s = grouped_collection_s(frame, h100, "bf16", (curve, Overhead(30e-6, (4.0, 2.0))))
    fitted = fit_grouped(frame.assign(latency_us=1e6 * true_s), h100, "bf16", GEMM)
    assert grouped_collection_s(frame, h100, "bf16", fitted) == pytest.approx(true_s, rel=0.02)
    assert fitted[0].sustained_flops_per_s == pytest.approx(700e12, rel=0.05)


def attention_shapes() -> pd.DataFrame:
    rows = [(b, s, h, h // 4, d) for b in (1, 4) for s in (1024, 4096, 16384) for h in (8, 32) for d in (64, 128)]
    return pd.DataFrame(rows, columns=["batch_size", "seq_len", "num_heads", "num_key_value_heads", "head_dim"])


def known_attention() -> AttentionCurve:
    return AttentionCurve((64.0, 128.0), (450e12, 600e12), 100.0, 0.5, 3e-6, 0.8, 1.0, (128.0,), (0.85,))


def test_a_known_attention_curve_is_found() -> None:
    h100, frame = part("h100-sxm-80gb"), attention_shapes()
    true_s = attention_collection_s(frame, h100, (known_attention(), Overhead(15e-6, (2.0,))))
    fitted = fit_attention(frame.assign(latency_us=1e6 * true_s), h100, 3e-6)
    assert fitted[0].sustained_flops_per_s == pytest.approx((450e12, 600e12), rel=0.02)


def test_of_a_pair_the_slower_is_the_bf16_kernel() -> None:
    frame = attention_shapes().assign(dtype="bf16", kernel_source="torch_flow")
    pairs = pd.concat([frame.assign(latency_us=100.0), frame.assign(latency_us=70.0), frame[:1].assign(latency_us=5.0)])
    chosen = attention_rows(pairs, "bf16")
    assert set(chosen.latency_us) == {100.0}
    assert len(chosen) == len(frame) - 1  # three readings of one shape are no pair
    assert set(attention_rows(frame.assign(latency_us=90.0), "bf16").latency_us) == {90.0}


def test_expert_rows_are_balanced_and_of_training_size() -> None:
    frame = pd.DataFrame({
        "dtype": "bf16", "num_tokens": [1024, 1024, 16384], "topk": 8, "num_experts": [256, 64, 256],
        "distribution": ["balanced", "power_law_1.2", "balanced"],
    })  # fmt: skip
    assert moe_rows(frame, "bf16").num_tokens.tolist() == [16384]


# ---- held out, training


def test_no_row_is_predicted_by_a_fit_that_saw_its_group() -> None:
    frame = pd.DataFrame({"group": np.arange(60) % 12, "latency_us": 1e6})

    def predict(out: pd.DataFrame, seen: set[int]) -> np.ndarray:
        assert not seen & set(out.group)
        return np.full(len(out), 1.1)

    errors = held_out(frame, frame.group.to_numpy(), lambda rows: set(rows.group), predict)
    assert errors == pytest.approx(np.full(60, 0.1))
    assert error_summary(errors) == {"rows": 60, "median": 0.1, "p90": 0.1, "bias": 0.1}


def test_interpolation_is_exact_on_a_power_law() -> None:
    frame = shapes().drop_duplicates()
    frame = frame.assign(latency_us=1e-3 * frame.m * frame.n * frame.k**0.5)
    predict = interpolation(frame)
    inside = pd.DataFrame({"m": [3000.0], "n": [3000.0], "k": [3000.0]})
    assert predict(np.log(inside.to_numpy())) == pytest.approx([1e-9 * 3000**2.5], rel=1e-6)


def test_training_rows_at_twice_the_predicted_time_read_two() -> None:
    """A product, a grouped dgrad and a wgrad whose efficiency is half of what the curve gives."""
    h100 = part("h100-sxm-80gb")
    row = {"op": "matmul", "layout": "TN", "m": 4096, "n": 4096, "k": 4096, "out_dtype": "bf16", "peak_tflops": 989.0}
    frame = pd.DataFrame([row | {"efficiency": 1.0}])
    fast = training_products(frame, {"gemm": GEMM, "grouped_gemm": GEMM}, h100).ratio[0]
    slow = training_products(frame.assign(efficiency=0.5), {"gemm": GEMM, "grouped_gemm": GEMM}, h100).ratio[0]
    assert slow == pytest.approx(2 * fast)
    assert fast == pytest.approx(800 / 989, rel=0.1)


def test_roles_never_outrun_the_forward() -> None:
    ratios = pd.DataFrame([(family, role, value) for family in ("gemm", "grouped_gemm")
                           for role, value in (("forward", 1.2), ("dgrad", 1.1), ("wgrad", 1.5))],
                          columns=["family", "role", "ratio"])  # fmt: skip
    assert role_rates(ratios)["gemm"] == {"forward": 1.0, "dgrad": 1.0, "wgrad": 0.8}


def test_attention_is_scaled_to_what_training_measured() -> None:
    """Full-square FLOPs at twice the causal rate: an efficiency of 0.8 of 1000 TFLOP/s is a causal 400."""
    h100 = part("h100-sxm-80gb")
    columns = {
        "batch": 1.0,
        "seq_len": 16384.0,
        "head_num": 64.0,
        "qk_head_dim": [128.0, 192.0] * 2,
        "v_head_dim": 128.0,
    }
    frame = pd.DataFrame(columns | {"op": ["sdp_fwd"] * 2 + ["sdp_bwd"] * 2, "efficiency": 0.8, "peak_tflops": 1000.0})
    curve = replace(known_attention(), backward_rates=(1.0,))
    ratios = training_attention(frame, curve, h100)
    assert ratios.ratio[0] == pytest.approx(600 / 400, rel=0.05)
    loss = ratios.groupby(["role", "unequal"]).ratio.median()
    curves = {"bf16": {"curve": {"sustained_flops_per_s": [600e12]}}}
    scale_attention(curves, [loss], None)
    scaled = curves["bf16"]["curve"]
    assert scaled["sustained_flops_per_s"][0] == pytest.approx(400e12, rel=0.05)
    assert scaled["backward_head_dims"] == [128.0, 160.0]
    assert scaled["backward_rates"][0] == pytest.approx(1.0, rel=0.05)


def test_samples_take_some_rows_of_every_set() -> None:
    gemm = shapes(100).assign(gpu="x", dtype="bf16", latency_us=1.0, tflops=1.0)
    moe = pd.DataFrame({"gpu": ["x"], "dtype": "bf16", "num_tokens": 9999, "topk": 8, "num_experts": 8,
                        "distribution": "balanced"})  # fmt: skip
    attention = attention_shapes().assign(gpu="x", dtype="fp8", kernel_source="torch_flow", latency_us=1.0)
    picked = samples({"gemm": gemm, "moe": moe, "attention": attention})
    assert {key: len(rows) for key, rows in picked.items()} == {"gemm": 40, "moe": 1, "attention": 20}
    assert (picked["gemm"].m >= 1024).all()


def test_rounding_keeps_four_digits() -> None:
    assert rounded({"a": (np.float64(1.234567), "x", None, True, 3)}) == {"a": [1.235, "x", None, True, 3]}
