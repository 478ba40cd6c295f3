"""Seconds that attention takes: flash kernels by head size, length and heads, and the unfused kernels before them."""

from __future__ import annotations

import numpy as np

from hardware.arrays import Number, floats, plain
from hardware.kernels.curves import AttentionCurve, Choice, choose
from hardware.kernels.matmul import grouped_gemm_s
from hardware.kernels.streaming import streaming_s
from hardware.precisions import PRECISIONS
from hardware.specs import Accelerator

QUERY_TILE = 128  # rows of queries one thread block works on
BACKWARD_FLOPS = 2.5  # five products for the forward's two: dV, dP, dQ, dK and the recomputed scores
# Bytes per score that unfused kernels move besides the products: scale-mask-softmax reads and writes 2 + 2, dropout
# 2 + 2 and a mask of 1; backward dropout 2 + 2 + 1, softmax 4 + 2 (Korthikanti et al., arXiv 2205.05198, what is kept).
SCORE_BYTES = {False: 9.0, True: 11.0}

# Older flash attention beside the curves, which are version 2 on Ampere and 3 or cuDNN after it. Version 1 reached 0.54
# of version 2 on A100 (124 of 230 TFLOP/s forward, arXiv 2307.08691); version 2 reaches 35 % of the H100's peak (arXiv
# 2407.08608), 346 TFLOP/s, and by its Ampere instructions no more on Blackwell (assumed).
FLASH_RATES: dict[str, dict[int, float]] = {
    "volta": {1: 0.54},
    "ampere": {1: 0.54},
    "hopper": {1: 0.29, 2: 0.54},
    "blackwell": {1: 0.16, 2: 0.30},
}


def flash_rate(accelerator: Accelerator, version: int) -> float:
    """Rate of an older generation of flash attention over that of the part's curve."""
    return FLASH_RATES.get(accelerator.generation.lower(), {}).get(version, 1.0)


def attention_s(
    accelerator: Accelerator,
    precision: str,
    *,
    batch: Number,
    queries: Number,
    keys: Number,
    heads: Number,
    kv_heads: Number,
    qk_dim: Number,
    v_dim: Number,
    causal: bool,
    backward: bool,
    window: Number | None = None,
    sm_fraction: Number = 1.0,
    flash: bool = True,
) -> Number:
    """Seconds of one attention kernel, forward or backward, over `batch` sequences.

    With `causal` and fewer queries than keys the queries are the last rows (a chunk of a longer sequence); a ring
    step over a foreign block of keys is `causal=False` with that block's length. `window` is how many keys back a
    query sees. FLOPs: 2 (qk_dim + v_dim) per query-key pair forward, 2.5 times that backward. Raises ValueError for
    a precision that the part lacks or in which no attention kernel computes (such as nvfp4).
    """
    choice = _attention_choice(accelerator, precision)
    if not flash:
        scores = (batch * heads, queries, keys)
        return unfused_attention_s(accelerator, precision, scores, qk_dim, v_dim, backward, sm_fraction)
    batch, queries, keys, heads, kv_heads = (floats(x) for x in (batch, queries, keys, heads, kv_heads))
    qk_dim, v_dim, sm_fraction = floats(qk_dim), floats(v_dim), floats(sm_fraction)
    pairs = visible_pairs(queries, keys, causal=causal, window=window)
    work, dims = (batch * heads, queries, pairs), (qk_dim, v_dim)
    sm_count, rate = accelerator.sm_count * sm_fraction, choice.rate * sm_fraction
    compute_s = flash_s(choice.curve, work, dims, sm_count=sm_count, rate=rate, backward=backward)
    tensor_bytes = _tensor_bytes((heads * queries, kv_heads * keys), dims, choice.precision.operand_bytes)
    memory_s = _traffic_s(accelerator, choice, batch * tensor_bytes, backward)
    flops = 2 * batch * heads * pairs * (qk_dim + v_dim) * (BACKWARD_FLOPS if backward else 1.0)
    floor_s = flops / (choice.peak_flops_per_s * sm_fraction)
    return plain(np.maximum(np.maximum(compute_s, memory_s + choice.curve.latency_s), floor_s))


def _attention_choice(accelerator: Accelerator, precision: str) -> Choice:
    if precision in PRECISIONS and not PRECISIONS[precision].attention_kernels:
        raise ValueError(f"precision: no attention kernel computes in {precision!r}; use bf16 or an fp8 precision")
    return choose(accelerator, "attention", precision)


def _tensor_bytes(rows: tuple[Number, Number], dims: tuple[Number, Number], element_bytes: float) -> Number:
    """Bytes of q, o (16 bit), k and v of one sequence, by rows of queries and of keys over all heads."""
    query_rows, key_rows = rows
    qk_dim, v_dim = dims
    query_bytes = query_rows * (element_bytes * qk_dim + 2 * v_dim)
    return query_bytes + key_rows * element_bytes * (qk_dim + v_dim)


def _traffic_s(accelerator: Accelerator, choice: Choice, moved_bytes: Number, backward: bool) -> Number:
    """Backward reads q, k, v, o and do, and writes dq (fp32), dk and dv: three times what forward moves."""
    passes = 3.0 if backward else 1.0
    bytes_per_s: float = accelerator.memory_bandwidth_bytes_per_s * choice.curve.bandwidth_fraction
    return passes * moved_bytes / bytes_per_s


def flash_s(
    curve: AttentionCurve,
    work: tuple[Number, Number, Number],
    dims: tuple[Number, Number],
    *,
    sm_count: Number,
    rate: Number,
    backward: bool,
) -> Number:
    """Compute time of flash attention: work = (batch x heads, queries, visible pairs), dims = (qk_dim, v_dim).

    The sustained rate by head size, a loss of `keys_half` / keys for the tiles at the diagonal and the softmax
    prologue, and a tail: the longest tile of queries, which runs alone once the others are done.
    """
    rows, queries, pairs = work
    flops = 2 * pairs * (dims[0] + dims[1])
    seen = pairs / queries  # keys an average query sees
    tile_s = 2 * np.minimum(QUERY_TILE, queries) * seen * (dims[0] + dims[1]) * sm_count
    head_dim = (dims[0] + dims[1]) / 2
    rate = rate * np.where(dims[0] == dims[1], 1.0, curve.unequal_rate)
    if backward:
        flops, tile_s = flops * BACKWARD_FLOPS, tile_s * BACKWARD_FLOPS
        rate = rate * np.interp(head_dim, curve.backward_head_dims, curve.backward_rates)
    cost = seconds_per_flop(curve, head_dim) / rate
    spread_s = rows * flops * cost * (1 + curve.keys_half / seen)
    return spread_s + curve.tail * tile_s * cost + curve.latency_s


def seconds_per_flop(curve: AttentionCurve, head_dim: Number) -> Number:
    """Inverse sustained rate at a head size: linear in 1 / head_dim between the measured sizes.

    Below the smallest the softmax alone counts, so the rate falls with head_dim; above the largest it is held.
    """
    inverse = 1.0 / np.asarray(curve.head_dims[::-1])
    cost = 1.0 / np.asarray(curve.sustained_flops_per_s[::-1])
    x = 1.0 / np.asarray(head_dim)
    beyond_smallest = np.maximum(1.0, x / inverse[-1])
    return np.asarray(np.interp(x, inverse, cost) * beyond_smallest)


def visible_pairs(queries: Number, keys: Number, *, causal: bool, window: Number | None = None) -> Number:
    """Query-key pairs that count, with the published convention of s^2 / 2 for a full causal square."""
    if not causal:
        return queries * (keys if window is None else np.minimum(keys, window))
    before = np.maximum(keys - queries, 0.0)
    return _triangle(keys, window) - _triangle(before, window)


def _triangle(length: Number, window: Number | None) -> Number:
    seen = length if window is None else np.minimum(length, window)
    return length * seen - seen * seen / 2


def unfused_attention_s(
    accelerator: Accelerator,
    precision: str,
    scores: tuple[Number, Number, Number],
    qk_dim: Number,
    v_dim: Number,
    backward: bool,
    sm_fraction: Number = 1.0,
) -> Number:
    """Attention as separate kernels (2021-22 software): batched products, and passes over the scores in memory.

    scores = (batch x heads, queries, keys). Masked scores are computed like the others. Backward: four products.
    """
    rows, queries, keys = scores
    shapes = [(queries, keys, qk_dim), (queries, v_dim, keys)]
    if backward:
        shapes = [(queries, keys, v_dim), (keys, v_dim, queries), (queries, qk_dim, keys), (keys, qk_dim, queries)]
    products_s = sum(
        grouped_gemm_s(accelerator, precision, rows, m, n, k, sm_fraction=sm_fraction) for m, n, k in shapes
    )
    return products_s + streaming_s(accelerator, SCORE_BYTES[backward] * rows * queries * keys, "elementwise")
