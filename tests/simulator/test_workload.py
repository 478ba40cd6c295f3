"""Operators and saved tensors against closed forms of the literature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.model.catalogue import load
from simulator.model.flops import core_flops_per_token
from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.plans.spec import Plan
from simulator.workload.ends import loss_pass
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import CoreAttention, Exchange, Matmul, Pass, Work
from simulator.workload.shape import Shape, padded_vocab, shape_of
from tests.simulator.stacks import stack_of

H, N, Q, D, F, S = 4096, 32, 8, 128, 14336, 2048
PLAN = Plan(dp=1, micro_batch_size=1, global_batch_size=1, dispatcher="deepep")


def dense(gated: bool = True, heads: int = N, kv_heads: int = Q, width: int = F) -> Model:
    layer = Layer(Attention(heads, kv_heads, D, D), DenseFFN(width, gated))
    return Model("dense", hidden=heads * D, vocab=32000, layers=(layer,))


def layer_work(model: Model, shape: Shape, index: int = -1) -> Work:
    layer = model.layers[index]
    assert layer.mixer
    assert layer.ffn
    return mixer_work(layer.mixer, shape) + ffn_work(layer.ffn, shape)


def saved_bytes(work: Work) -> float:
    return float(sum(tensor.bytes for tensor in work.saved))


def product_flops(work: Work, prefix: str = "") -> float:
    return float(
        sum(2 * op.groups * op.m * op.n * op.k for op in work.operators if isinstance(op, Matmul) and prefix in op.name)
    )


@pytest.mark.parametrize("tp", [1, 2, 8])
def test_saved_bytes_of_a_modern_layer(tp: int) -> None:
    """8h + 4 n dh + 4 q dh + 6f + 4n bytes per token, all divided by tp with sequence parallelism."""
    model = dense()
    shape = shape_of(model, replace(PLAN, tp=tp, sequence_parallel=tp > 1), S)
    expected = (8 * H + 4 * N * D + 4 * Q * D + 6 * F + 4 * N) * S / tp
    assert saved_bytes(layer_work(model, shape)) == pytest.approx(expected)


@pytest.mark.parametrize("tp", [1, 4])
def test_saved_bytes_of_korthikanti(tp: int) -> None:
    """s b h (34 + 5 n s / h) / t for multi-head attention with dropout and unfused softmax (arXiv 2205.05198)."""
    model = dense(gated=False, kv_heads=N, width=4 * H)
    plan = replace(PLAN, tp=tp, sequence_parallel=tp > 1, stack=stack_of(flash_attention=False, dropout=True))
    assert saved_bytes(layer_work(model, shape_of(model, plan, S))) == pytest.approx(S * H * (34 + 5 * N * S / H) / tp)


def test_saved_bytes_of_deepseek() -> None:
    """MLA about 201 KB and its MoE about 257 KB per token in bf16."""
    model = load("deepseek-v3")
    shape = shape_of(model, PLAN, 4096)
    layer = model.layers[-1]
    assert saved_bytes(mixer_work(layer.mixer, shape)) / 4096 == pytest.approx(201e3, rel=0.02)
    assert saved_bytes(ffn_work(layer.ffn, shape)) / 4096 == pytest.approx(257e3, rel=0.02)


def test_flops_of_a_deepseek_layer() -> None:
    """TFLOP forward of one MoE layer on 4,096 tokens: MLA 1.533, attention 0.687, routed 2.886, shared 0.361."""
    model = load("deepseek-v3")
    shape = shape_of(model, replace(PLAN, ep=64), 4096)
    layer = model.layers[-1]
    assert product_flops(mixer_work(layer.mixer, shape)) == pytest.approx(1.533e12, rel=1e-3)
    ffn = ffn_work(layer.ffn, shape)
    assert product_flops(ffn, "expert_") == pytest.approx(2.886e12, rel=1e-3)
    assert product_flops(ffn, "shared_") == pytest.approx(0.361e12, rel=1e-2)
    assert 4096 * core_flops_per_token(layer.mixer, 4096) == pytest.approx(0.687e12, rel=1e-3)


@pytest.mark.parametrize("name", ["llama-3.1-405b", "mixtral-8x7b", "qwen3-235b-a22b", "gpt-oss-120b"])
def test_tensor_parallelism_splits_the_work(name: str) -> None:
    """tp ranks together do the products of one; so do ep ranks with their local experts."""
    model = load(name)
    whole = product_flops(layer_work(model, shape_of(model, PLAN, S)))
    for plan in (replace(PLAN, tp=4, sequence_parallel=True), replace(PLAN, ep=4), replace(PLAN, cp=2)):
        ranks = plan.tp * plan.cp
        part = product_flops(layer_work(model, shape_of(model, plan, S)))
        # K/V heads fewer than tp are replicated, so a little more than the share may be done.
        assert whole / ranks <= part * (1 + 1e-9) <= whole / ranks * 1.02


def test_sequence_parallel_traffic() -> None:
    """Per layer 2 AG + 2 RS forward, 2 RS + 2 AG backward and 2 more AG beside the input gradients."""
    model = dense()
    shape = shape_of(model, replace(PLAN, tp=4, sequence_parallel=True), S)
    moved = [op for op in layer_work(model, shape).operators if isinstance(op, Exchange) and op.group == "tp"]
    unit = 2 * S * H
    assert sum(op.forward_bytes for op in moved) == 4 * unit
    assert sum(op.backward_bytes for op in moved) == 4 * unit
    assert sum(op.regather_bytes for op in moved) == 2 * unit


def test_ring_exchanges_keys_and_values() -> None:
    model = dense()
    shape = shape_of(model, replace(PLAN, cp=4), S)
    (ring,) = [op for op in layer_work(model, shape).operators if isinstance(op, Exchange) and op.group == "cp"]
    assert ring.forward_bytes == 2 * S * 2 * Q * D
    assert ring.behind_attention


def test_shapes_take_arrays() -> None:
    """Many plans at once give what each gives alone."""
    model = load("deepseek-v3")
    degrees = np.array([1, 2, 4, 8])
    many = layer_work(model, shape_of(model, replace(PLAN, tp=degrees, sequence_parallel=True, ep=degrees), 4096))
    for index, degree in enumerate(degrees.tolist()):
        one = layer_work(model, shape_of(model, replace(PLAN, tp=degree, sequence_parallel=True, ep=degree), 4096))
        for left, right in zip(many.saved, one.saved, strict=True):
            assert np.broadcast_to(left.bytes, 4)[index] == pytest.approx(right.bytes)
        for wide, narrow in zip(many.operators, one.operators, strict=True):
            if isinstance(wide, Matmul) and isinstance(narrow, Matmul):
                assert np.broadcast_to(wide.groups * wide.m * wide.n * wide.k, 4)[index] == pytest.approx(
                    narrow.groups * narrow.m * narrow.n * narrow.k
                )


def test_padded_vocab() -> None:
    assert padded_vocab(129280, PLAN) == 129280
    assert padded_vocab(128256, replace(PLAN, tp=8)) == 129024
    assert padded_vocab(50257, PLAN) == 50304
    as_it_is = replace(PLAN, tp=2, stack=replace(PLAN.stack, vocabulary="as_is"))
    assert padded_vocab(50257, as_it_is) == 2 * 25128


def test_every_catalogue_model_has_work() -> None:
    from simulator.model.catalogue import names

    for name in names():
        model = load(name)
        shape = shape_of(model, PLAN, S)
        for layer in set(model.layers):
            mixer = mixer_work(layer.mixer, shape) if layer.mixer else None
            if mixer is not None:
                assert product_flops(mixer) > 0
                has_core = any(isinstance(op, CoreAttention) for op in mixer.operators)
                assert has_core == (
                    "Attention" in type(layer.mixer).__name__ and "Linear" not in type(layer.mixer).__name__
                )
            if layer.ffn is not None:
                assert saved_bytes(ffn_work(layer.ffn, shape)) > 0


def test_a_loss_on_16_bit_logits_moves_less_than_one_on_an_fp32_copy() -> None:
    """Each way's passes as its docstring lists them, in bytes per logit."""
    in_place = loss_pass(1.0, shape_of(dense(), replace(PLAN, stack=stack_of(fused_loss=True)), S))
    copied = loss_pass(1.0, shape_of(dense(), replace(PLAN, stack=stack_of(fused_loss=False)), S))
    assert (in_place.forward_bytes, in_place.backward_bytes) == (8.0, 8.0)
    assert (copied.forward_bytes, copied.backward_bytes) == (6 + 16 + 8, 8 + 6)


@pytest.mark.parametrize("gated", [True, False])
def test_a_product_made_again_is_not_kept_but_written_twice(gated: bool) -> None:
    """2 f bytes per token less, as many more written in backward; without a gate the output is an activation's."""
    model = dense(gated=gated)
    kept, again = (
        layer_work(model, shape_of(model, replace(PLAN, stack=stack_of(gated_product=word)), S))
        for word in ("kept", "again")
    )
    written = [
        next(op for op in work.operators if isinstance(op, Pass) and op.name == "activation") for work in (kept, again)
    ]
    saved = 2 * F * S if gated else 0
    assert saved_bytes(kept) - saved_bytes(again) == saved
    assert written[1].backward_bytes - written[0].backward_bytes == saved
    assert written[1].forward_bytes == written[0].forward_bytes


def test_fused_experts_still_quantise_what_arrives() -> None:
    """Tokens before the first product and gradients behind the second: read in 16 bit, written twice in 8 bit."""
    model = load("deepseek-v3")
    plan = replace(PLAN, ep=8, dp=8, precision="mxfp8", stack=stack_of(fused_experts=True))
    shape = shape_of(model, plan, S)
    ffn = model.layers[-1].ffn
    work = ffn_work(ffn, shape)
    casts = {op.name: op for op in work.operators if isinstance(op, Pass) and op.kind == "cast_transpose"}
    before, behind = casts["expert_fc1_cast"], casts["expert_fc2_cast"]
    assert not [op for op in work.operators if op.name == "expert_activation"]
    arriving = S * 8 * model.hidden * (2 + 2 * (1 + 1 / 32))
    assert (before.forward_bytes, before.backward_bytes) == (pytest.approx(arriving), 0.0)
    assert (behind.forward_bytes, behind.backward_bytes) == (0.0, pytest.approx(arriving))
