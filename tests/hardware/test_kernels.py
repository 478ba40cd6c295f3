"""Kernel times against published measurements that no fit has seen, closed forms and identities."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.catalogue import accelerator
from hardware.kernels import (
    attention_s,
    evidence,
    gemm_s,
    grouped_gemm_s,
    kernel_set,
    launch_s,
    spread,
    streaming_s,
)
from hardware.kernels.attention import SCORE_BYTES, visible_pairs
from hardware.kernels.curves import DATA
from hardware.kernels.streaming import fractions
from hardware.precisions import PRECISIONS
from hardware.specs import Accelerator

SETS = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb", "b300-sxm-288gb", "gb200-nvl72",
        "gb300-nvl72")  # fmt: skip
BIG = 4096.0


def attend(part: Accelerator, precision: str = "bf16", **changes: object) -> object:
    shape = {"batch": 1, "queries": 4096, "keys": 4096, "heads": 32, "kv_heads": 8, "qk_dim": 128, "v_dim": 128,
             "causal": True, "backward": False}  # fmt: skip
    return attention_s(part, precision, **(shape | changes))


def usable(part: Accelerator, precision: str) -> bool:
    wanted = PRECISIONS[precision]
    return not wanted.lacks(part.peak_flops_per_s)


# ---- published measurements


@pytest.mark.parametrize(
    ("m", "n", "k", "tflops", "tolerance"),
    [
        (64, 2112, 7168, 206, 0.3), (64, 7168, 16384, 336, 0.3), (128, 2112, 7168, 352, 0.3),
        (128, 24576, 1536, 535, 0.3), (128, 7168, 16384, 645, 0.3), (128, 7168, 2048, 510, 0.3),
        (4096, 2112, 7168, 1058, 0.1), (4096, 24576, 1536, 990, 0.1), (4096, 32768, 512, 590, 0.1),
        (4096, 7168, 16384, 1358, 0.1), (4096, 4096, 7168, 1304, 0.1), (4096, 7168, 2048, 1025, 0.1),
    ],
)  # fmt: skip
def test_deepgemm_dense_rows_on_h800(m: int, n: int, k: int, tflops: float, tolerance: float) -> None:
    """DeepGEMM's published table, fp8 with 1 x 128 and 128 x 128 scales, March 2025."""
    rate = 2 * m * n * k / gemm_s(accelerator("h800-sxm-80gb"), "fp8-blockwise", m, n, k)
    assert rate == pytest.approx(tflops * 1e12, rel=tolerance)


@pytest.mark.parametrize(
    ("groups", "m", "n", "k", "tflops"),
    [
        (4, 8192, 4096, 7168, 1297), (4, 8192, 7168, 2048, 1099), (8, 4096, 4096, 7168, 1288),
        (8, 4096, 7168, 2048, 1093), (1, 1024, 4096, 7168, 1233), (1, 1024, 7168, 2048, 925),
        (2, 512, 4096, 7168, 1040), (2, 512, 7168, 2048, 916), (4, 256, 4096, 7168, 932), (4, 256, 7168, 2048, 815),
    ],
)  # fmt: skip
def test_deepgemm_grouped_rows_on_h800(groups: int, m: int, n: int, k: int, tflops: float) -> None:
    rate = 2 * groups * m * n * k / grouped_gemm_s(accelerator("h800-sxm-80gb"), "fp8-blockwise", groups, m, n, k)
    assert rate == pytest.approx(tflops * 1e12, rel=0.16)


def test_routed_experts_of_deepseeks_profile() -> None:
    """16 grouped products (four layers, both, forward and dgrad), 4 experts x 8192 rows, 112 of 132 SMs: 22.9 ms."""
    h800 = accelerator("h800-sxm-80gb")
    once = [(4096, 7168, "forward"), (7168, 2048, "forward"), (7168, 4096, "dgrad"), (2048, 7168, "dgrad")]
    seconds = [grouped_gemm_s(h800, "fp8-blockwise", 4, 8192, n, k, role=role, sm_fraction=112 / 132)
               for n, k, role in once]  # fmt: skip
    assert 4 * sum(seconds) == pytest.approx(22.9e-3, rel=0.1)


@pytest.mark.parametrize(
    ("name", "precision", "tflops"),
    [
        ("a100-sxm-80gb", "bf16", 271.2), ("h100-sxm-80gb", "bf16", 794.5), ("h200-sxm-141gb", "bf16", 794.5),
        ("b200-sxm-180gb", "bf16", 1745.0), ("b300-sxm-288gb", "bf16", 1769.0), ("gb200-nvl72", "bf16", 1822.0),
        ("h100-sxm-80gb", "fp8-tensorwise", 1402.6), ("h200-sxm-141gb", "fp8-tensorwise", 1453.4),
        ("b200-sxm-180gb", "fp8-tensorwise", 3432.5), ("b300-sxm-288gb", "fp8-tensorwise", 3353.3),
        ("gb200-nvl72", "fp8-tensorwise", 3615.6),
    ],
)  # fmt: skip
def test_maximum_achievable_matmul_is_hardly_exceeded(name: str, precision: str, tflops: float) -> None:
    """Best shape found by a search on each part (stas00/ml-engineering, MAMF): a ceiling, within 6 %."""
    m, n, k = np.meshgrid(*[2.0 ** np.arange(9, 16)] * 3)
    rate = 2 * m * n * k / gemm_s(accelerator(name), precision, m, n, k)
    assert 0.75 * tflops * 1e12 < rate.max() < 1.06 * tflops * 1e12


@pytest.mark.parametrize(("backward", "tflops"), [(False, 555), (True, 455)])
def test_mla_attention_on_h800(backward: bool, tflops: float) -> None:
    """DeepSeek's published profile: heads of 192 and 128, 4096 tokens, 112 free SMs, causal FLOPs, 2.5 backward."""
    seconds = attend(accelerator("h800-sxm-80gb"), heads=128, kv_heads=128, qk_dim=192, backward=backward,
                     sm_fraction=112 / 132)  # fmt: skip
    flops = 128 * 4096**2 * 320 * (2.5 if backward else 1.0)
    assert flops / seconds == pytest.approx(tflops * 1e12, rel=0.15)


@pytest.mark.parametrize(
    ("length", "tflops", "tolerance"),
    [(512, 430, 0.25), (1024, 517, 0.05), (2048, 566, 0.05), (4096, 590, 0.05), (8192, 614, 0.05), (16384, 621, 0.05)],
)
def test_flash_attention_3_sweep(length: int, tflops: float, tolerance: float) -> None:
    """H100, causal, head size 128, 16k tokens (pytorch/benchmark pull request 2391): the sweep sets level and bend."""
    batch = 16384 // length
    seconds = attend(accelerator("h100-sxm-80gb"), batch=batch, queries=length, keys=length, heads=16, kv_heads=16)
    assert 2 * batch * 16 * length**2 * 128 / seconds == pytest.approx(tflops * 1e12, rel=tolerance)


def test_flash_attention_on_b200_lies_between_its_published_figures() -> None:
    """Causal forward, heads of 128: 1121 at 4k x 128 heads and 1311 at 32k x 16 heads in one collection."""
    b200 = accelerator("b200-sxm-180gb")
    for length, heads, tflops in [(4096, 128, 1121), (32768, 16, 1311)]:
        seconds = attend(b200, queries=length, keys=length, heads=heads, kv_heads=heads // 8)
        assert 2 * heads * length**2 * 128 / seconds == pytest.approx(tflops * 1e12, rel=0.16)


@pytest.mark.parametrize(
    ("m", "n", "k", "role", "efficiency"),
    [
        (4096, 10240, 8192, "forward", 0.6452), (4096, 57344, 8192, "forward", 0.4867),
        (4096, 8192, 28672, "dgrad", 0.4819), (4096, 8192, 57344, "dgrad", 0.4829),
        (10240, 8192, 4096, "wgrad", 0.5979), (57344, 8192, 4096, "wgrad", 0.4536),
    ],
)  # fmt: skip
def test_training_products_on_b200_lie_within_the_spread(m: int, n: int, k: int, role: str, efficiency: float) -> None:
    """Llama-like products of a training collection on B200, as fractions of 2250 TFLOP/s."""
    b200 = accelerator("b200-sxm-180gb")
    predicted_s = gemm_s(b200, "bf16", m, n, k, role=role)
    low, _, high = spread(b200, "gemm")[role]
    assert 0.97 * low * predicted_s <= 2 * m * n * k / (efficiency * 2250e12) <= 1.06 * high * predicted_s


# ---- every part, every precision


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_priced_or_refused(name: str, precision: str) -> None:
    part = accelerator(name)
    if not usable(part, precision):
        for refused in (lambda: gemm_s(part, precision, BIG, BIG, BIG), lambda: evidence(part, "gemm", precision)):
            with pytest.raises(ValueError, match="cannot compute"):
                refused()
        return
    peak = part.peak_flops_per_s[PRECISIONS[precision].format]
    for role in ("forward", "dgrad", "wgrad"):
        assert 2 * BIG**3 / peak < gemm_s(part, precision, BIG, BIG, BIG, role=role) < 2 * BIG**3 / peak / 0.2
        grouped_s = grouped_gemm_s(part, precision, 8, BIG, BIG, BIG, role=role)
        assert 16 * BIG**3 / peak < grouped_s < 16 * BIG**3 / peak / 0.2
    assert evidence(part, "gemm", precision) in ("measured", "nominal")


@pytest.mark.parametrize("name", SETS)
def test_attention_in_every_precision_that_has_kernels(name: str) -> None:
    part = accelerator(name)
    for precision in (p for p in PRECISIONS if usable(part, p)):
        if precision == "nvfp4":
            with pytest.raises(ValueError, match="nvfp4"):
                attend(part, precision)
            continue
        forward_s, backward_s = attend(part, precision), attend(part, precision, backward=True)
        assert 2.2 * forward_s < backward_s < 5 * forward_s
        assert 2 * 32 * 4096**2 * 128 / forward_s < part.peak_flops_per_s[PRECISIONS[precision].format]


@settings(deadline=None)
@given(
    m=st.integers(1, 40000), n=st.integers(1, 5000), k=st.integers(1, 5000), more=st.integers(0, 3000),
    name=st.sampled_from(SETS),
)  # fmt: skip
def test_products_grow_with_each_dimension_and_stay_below_the_peak(
    m: int, n: int, k: int, more: int, name: str
) -> None:
    """Rows of 16 bytes or multiples of them; others are slower than longer ones that are aligned."""
    part = accelerator(name)
    n, k, more = 8 * n, 8 * k, 8 * more
    seconds = gemm_s(part, "bf16", m, n, k)
    assert seconds >= 2 * m * n * k / part.peak_flops_per_s["bf16"]
    assert seconds >= launch_s(part)
    for larger in ((m + more, n, k), (m, n + more, k), (m, n, k + more)):
        assert gemm_s(part, "bf16", *larger) >= seconds * (1 - 1e-12)


def test_rows_that_are_no_multiple_of_16_bytes_slow_products_of_16_bit() -> None:
    """GPT-2's vocabulary of 50,257 takes 1 / 0.35 of 50,264; 50,260, a multiple of 8 bytes, half the rate. Tokens are
    no rows of memory; in a weight gradient they are the inner dimension. Formats with scales have sides of their own.
    """
    part = accelerator("a100-sxm-80gb")
    for role, odd, even in (
        ("forward", (8192, 50257, 2048), (8192, 50264, 2048)),
        ("dgrad", (8192, 2048, 50257), (8192, 2048, 50264)),
        ("wgrad", (50257, 2048, 8192), (50264, 2048, 8192)),
    ):
        assert gemm_s(part, "fp16", *odd, role=role) / gemm_s(part, "fp16", *even, role=role) == pytest.approx(
            1 / 0.35, rel=0.01
        )
    assert gemm_s(part, "fp16", 8192, 50260, 2048) / gemm_s(part, "fp16", 8192, 50264, 2048) == pytest.approx(
        2.0, rel=0.01
    )
    assert gemm_s(part, "fp16", 8191, 2048, 2048) == pytest.approx(gemm_s(part, "fp16", 8192, 2048, 2048), rel=1e-3)
    assert gemm_s(part, "fp16", 2048, 2048, 8191, role="wgrad") == pytest.approx(
        gemm_s(part, "fp16", 2048, 2048, 8192, role="wgrad"), rel=1e-3
    )
    h100 = accelerator("h100-sxm-80gb")
    assert gemm_s(h100, "fp8-delayed", 8192, 50257, 2048) == pytest.approx(
        gemm_s(h100, "fp8-delayed", 8192, 50264, 2048), rel=1e-3
    )


@settings(deadline=None)
@given(length=st.integers(16, 200_000), more=st.integers(0, 5000), name=st.sampled_from(SETS), backward=st.booleans())
def test_attention_grows_with_length_and_stays_below_the_peak(
    length: int, more: int, name: str, backward: bool
) -> None:
    part = accelerator(name)
    seconds = attend(part, queries=length, keys=length, backward=backward)
    longer = attend(part, queries=length + more, keys=length + more, backward=backward)
    assert longer >= seconds * (1 - 1e-12)
    assert seconds >= 2 * 32 * length**2 * 128 / part.peak_flops_per_s["bf16"]


def test_arrays_price_like_scalars() -> None:
    part = accelerator("h100-sxm-80gb")
    m, n, k = np.array([300, 4096, 70000]), np.array([[512], [7168]]), 2048
    for role in ("forward", "dgrad", "wgrad"):
        together = gemm_s(part, "bf16", m, n, k, role=role)
        single = [[gemm_s(part, "bf16", int(a), int(b), k, role=role) for a in m] for b in n[:, 0]]
        assert together == pytest.approx(np.array(single), rel=1e-13)
    grouped = grouped_gemm_s(part, "fp8-blockwise", np.array([4, 32]), 512, 4096, 7168)
    single = [grouped_gemm_s(part, "fp8-blockwise", g, 512, 4096, 7168) for g in (4, 32)]
    assert grouped == pytest.approx(np.array(single), rel=1e-13)
    for changes in ({}, {"backward": True}, {"window": 1024}, {"flash": False}, {"qk_dim": 192}):
        together = attend(part, queries=np.array([512, 4096]), **changes)
        assert together == pytest.approx(np.array([attend(part, queries=q, **changes) for q in (512, 4096)]), rel=1e-13)
    assert isinstance(gemm_s(part, "bf16", np.int64(512), 512, 512), float)
    assert isinstance(attend(part), float)


def test_integer_arrays_do_not_overflow() -> None:
    part = accelerator("h100-sxm-80gb")
    sizes = np.array([65536], dtype=np.int32)
    assert gemm_s(part, "bf16", sizes, sizes, sizes)[0] == gemm_s(part, "bf16", 65536, 65536, 65536)


def test_empty_products_cost_their_launch() -> None:
    part = accelerator("h100-sxm-80gb")
    assert grouped_gemm_s(part, "bf16", 0, 512, 4096, 4096) == pytest.approx(launch_s(part))


# ---- roles, shares, siblings


def test_weight_gradient_of_a_small_expert_is_bound_by_its_main_gradient() -> None:
    """DeepSeek-V3's expert: 8 bytes x 3 x 7168 x 2048 = 352 MB whatever the tokens, 0.11 ms at 3.3 TB/s."""
    part = accelerator("h800-sxm-80gb")
    few, more = (
        sum(grouped_gemm_s(part, "bf16", 1, m, n, tokens, role="wgrad") for m, n in ((4096, 7168), (7168, 2048)))
        for tokens in (8, 64)
    )
    assert 0.105e-3 < few < 0.22e-3
    assert more < 1.2 * few
    without = grouped_gemm_s(part, "bf16", 1, 4096, 7168, 8, role="wgrad", accumulate=False)
    assert without < grouped_gemm_s(part, "bf16", 1, 4096, 7168, 8, role="wgrad")


def test_fewer_sms_take_longer_in_proportion() -> None:
    part = accelerator("h100-sxm-80gb")
    whole, part_of = (gemm_s(part, "bf16", 16384, 8192, 8192, sm_fraction=f) for f in (1.0, 112 / 132))
    assert part_of / whole == pytest.approx(132 / 112, rel=0.03)
    assert attend(part, sm_fraction=0.5) > 1.8 * attend(part)


def test_a_sibling_is_scaled_and_known_as_fitted() -> None:
    h100, h20 = accelerator("h100-sxm-80gb"), accelerator("h20-sxm-96gb")
    ratio = gemm_s(h20, "bf16", 16384, 8192, 8192) / gemm_s(h100, "bf16", 16384, 8192, 8192)
    assert ratio == pytest.approx(1 / h20.kernel_scale, rel=0.06)
    assert [evidence(h100, "gemm"), evidence(h20, "gemm")] == ["measured", "fitted"]
    assert evidence(accelerator("a100-sxm-80gb"), "grouped_gemm") == "fitted"
    assert evidence(h100, "gemm", "tf32") == "nominal"
    assert evidence(accelerator("h200-sxm-141gb"), "norm") == "assumed"
    assert evidence(h100, "copy") == "measured"


def test_a_scale_above_one_does_not_break_the_peak() -> None:
    part = replace(accelerator("h100-sxm-80gb"), kernel_scale=3.0)
    assert gemm_s(part, "bf16", BIG, BIG, BIG) >= 2 * BIG**3 / part.peak_flops_per_s["bf16"]


@pytest.mark.parametrize("precision", ["bf16", "fp8-delayed", "mxfp8", "nvfp4"])
def test_volta_has_only_half_precision(precision: str) -> None:
    v100 = accelerator("v100-sxm2-32gb")
    with pytest.raises(ValueError, match=r"V100.*cannot compute"):
        gemm_s(v100, precision, BIG, BIG, BIG)
    assert 0.6 * 125e12 < 2 * BIG**3 / gemm_s(v100, "fp16", BIG, BIG, BIG) < 125e12


def test_block_scaled_fp8_needs_the_hardware() -> None:
    with pytest.raises(ValueError, match="mxfp8"):
        gemm_s(accelerator("h100-sxm-80gb"), "mxfp8", BIG, BIG, BIG)


def test_unknown_names_are_refused_by_name() -> None:
    part = accelerator("h100-sxm-80gb")
    with pytest.raises(ValueError, match="'int3' is unknown; known: fp32"):
        gemm_s(part, "int3", 1, 1, 1)
    with pytest.raises(ValueError, match="role: 'sideways'"):
        gemm_s(part, "bf16", 1, 1, 1, role="sideways")
    with pytest.raises(ValueError, match="kind: 'stirring'"):
        streaming_s(part, 1.0, "stirring")
    with pytest.raises(ValueError, match="operation: 'stirring'"):
        evidence(part, "stirring")
    with pytest.raises(ValueError, match="operation: 'stirring'"):
        spread(part, "stirring")
    with pytest.raises(ValueError, match=r"no measured kernel set '\.\./x'"):
        kernel_set("../x")


# ---- attention's shapes


@settings(deadline=None)
@given(queries=st.integers(1, 40), keys=st.integers(1, 40), window=st.none() | st.integers(1, 50))
def test_visible_pairs_count_the_mask(queries: int, keys: int, window: int | None) -> None:
    """Against the mask itself; the continuous count gives a diagonal element one half."""
    queries = min(queries, keys)
    row = np.arange(keys - queries, keys)[:, None]
    column = np.arange(keys)[None, :]
    mask = (column <= row) & (row - column < (window or keys))
    diagonal = queries / 2
    edge = 0 if window is None else np.count_nonzero(row - column == window) / 2
    assert visible_pairs(queries, keys, causal=True, window=window) == pytest.approx(mask.sum() - diagonal + edge)


def test_a_long_sequence_in_chunks_costs_a_little_more_than_at_once() -> None:
    part = accelerator("h100-sxm-80gb")
    whole = attend(part, queries=32768, keys=32768)
    chunks = sum(attend(part, queries=4096, keys=4096 * (i + 1)) for i in range(8))
    assert whole < chunks < 1.1 * whole


def test_a_ring_of_blocks_adds_up_to_the_triangle() -> None:
    """Two ranks' worth of zig-zag: own causal block, then half a foreign block."""
    part = accelerator("h100-sxm-80gb")
    ring = attend(part, queries=16384, keys=16384) + attend(part, queries=16384, keys=8192, causal=False)
    assert ring == pytest.approx(attend(part, queries=32768, keys=32768) / 2, rel=0.05)


def test_a_window_saves_what_it_hides() -> None:
    part = accelerator("h100-sxm-80gb")
    full, windowed = attend(part, queries=32768, keys=32768), attend(part, queries=32768, keys=32768, window=1024)
    assert windowed < full / 10
    assert attend(part, window=4096) == attend(part)


def test_one_query_per_sequence_is_bound_by_reading_keys_and_values() -> None:
    part = accelerator("h100-sxm-80gb")
    seconds = attend(part, batch=64, queries=1, keys=32768)
    read_bytes = 64 * 8 * 32768 * 2 * 256
    assert read_bytes / 3.35e12 < seconds < 1.5 * read_bytes / 3.35e12


def test_unfused_attention_is_bound_by_its_scores() -> None:
    part = accelerator("a100-sxm-80gb")
    unfused, fused = attend(part, flash=False), attend(part)
    assert unfused > 3 * fused
    assert unfused > SCORE_BYTES[False] * 32 * 4096**2 / part.memory_bandwidth_bytes_per_s
    assert attend(part, flash=False, backward=True) > 1.2 * unfused


# ---- memory-bound kernels


def test_streaming_is_bytes_over_the_achieved_bandwidth() -> None:
    """STREAM triad on H100: 2.97 TB/s (Azure)."""
    part = accelerator("h100-sxm-80gb")
    assert streaming_s(part, 2.97e12, "copy") == pytest.approx(1.0, rel=0.01)
    assert streaming_s(part, 0.0, "copy") == launch_s(part)
    assert streaming_s(part, np.array([0.0, 1e9])).shape == (2,)


@pytest.mark.parametrize("kind", fractions())
def test_every_kind_stays_within_its_range_and_names_its_source(kind: str) -> None:
    entry = fractions()[kind]
    assert 0 < entry.low <= entry.default <= entry.high <= 1
    assert set(entry.by_set) <= set(SETS)
    assert all(entry.low - 0.01 <= value <= entry.high for value in entry.by_set.values())
    assert len(entry.source) > 20


@pytest.mark.parametrize("name", SETS)
def test_launch_is_a_few_microseconds(name: str) -> None:
    """2 to 5 us per kernel when the host keeps ahead."""
    assert 2e-6 < launch_s(accelerator(name)) < 5e-6


@pytest.mark.parametrize("name", SETS[1:])
def test_casts_are_the_ones_beside_the_fitted_products(name: str) -> None:
    """Quantising reads 2 bytes and writes 1: the streaming table and the fits speak of the same passes.

    On Hopper the table has the slower casts of a training profile, which also copy column-wise.
    """
    raw = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    fitted = 3 / raw["gemm"]["fp8_block"]["set_apart"]["passes"][0]
    shipped = fractions()["cast_transpose"].by_set[name]
    if name in ("h100-sxm-80gb", "h200-sxm-141gb"):
        assert 0.5 * fitted < shipped < fitted
    else:
        assert shipped == pytest.approx(fitted, abs=0.006)
