"""Model FLOPs against published figures (TFLOP/s over tokens/s of one run), closed forms and brute force."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from simulator.model import spec
from simulator.model.catalogue import load
from simulator.model.components import linears
from simulator.model.flops import (
    CONVENTIONS,
    core_flops_per_token,
    flops_per_token,
    indexer_flops_per_token,
    linear_flops_per_token,
)
from simulator.model.masks import chunk_keys, keys_seen
from simulator.model.spec import Attention, Indexer, LatentAttention


def matrix_flops(component: spec.Mixer | spec.FFN | None, hidden: int) -> float:
    return sum(linear_flops_per_token(linear) for linear in linears(component, hidden))


@pytest.mark.parametrize(
    ("convention", "gflops"),
    # arXiv 2505.09343 (385 and 432 TFLOP/s at 1541.7 tokens/s) and Megatron-Bridge (1635 TFLOP/s at 6288 tokens/s).
    [("deepseek-causal", 249.81), ("deepseek-noncausal", 280.51), ("megatron", 259.99)],
)
def test_deepseek_v3_identities(convention: str, gflops: float) -> None:
    assert float(flops_per_token(load("deepseek-v3"), 4096, convention)) == pytest.approx(gflops * 1e9, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "seq_length", "convention", "gflops"),
    [
        # Megatron-Bridge performance summary and verification cards: TFLOP/s/GPU over tokens/s/GPU.
        ("qwen3-235b-a22b", 4096, "megatron", 148.04),
        ("qwen3-30b-a3b", 4096, "megatron", 23.01),
        ("qwen3-8b", 4096, "megatron", 49.03),
        ("kimi-k2", 4096, "megatron", 204.58),
        ("moonlight-16b-a3b", 4096, "megatron", 17.16),
        ("llama-3.1-8b", 8192, "megatron", 51.48),
        ("llama-3-70b", 8192, "megatron", 449.08),
        ("llama-3.1-405b", 8192, "megatron", 2524.6),
        ("gpt-oss-120b", 4096, "megatron", 32.63),
        ("deepseek-v4-flash", 4096, "megatron", 90.81),
        # NeMo 24.07 performance pages: whole masks.
        ("gpt3-175b", 2048, "megatron-2021", 1076.6),
        ("nemotron-4-340b", 4096, "megatron-2021", 2104.3),
        ("llama-3-8b", 8192, "megatron-2021", 57.93),
        ("llama-3-70b", 8192, "megatron-2021", 481.6),
        # llm-foundry benchmarking README.
        ("mpt-70b", 2048, "palm", 404.8),
        ("mpt-7b", 2048, "palm", 43.11),
    ],
)
def test_published_flops_per_token(name: str, seq_length: int, convention: str, gflops: float) -> None:
    assert float(flops_per_token(load(name), seq_length, convention)) == pytest.approx(gflops * 1e9, rel=2.5e-3)


@pytest.mark.parametrize(
    ("name", "layers", "hidden"), [("gpt3-175b", 96, 12288), ("gpt-530b", 105, 20480), ("gpt-1t", 128, 25600)]
)
def test_closed_forms_of_2021(name: str, layers: int, hidden: int) -> None:
    """arXiv 2104.04473 equation 3 (with recomputation, 96) and the same without (72)."""
    seq, vocab = 2048, 51200
    with_recompute = 96 * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (16 * layers * hidden))
    without = 72 * layers * hidden**2 * (1 + seq / (6 * hidden) + vocab / (12 * layers * hidden))
    model = load(name)
    assert float(flops_per_token(model, seq, "megatron-2021-recompute")) == pytest.approx(with_recompute, rel=1e-9)
    assert float(flops_per_token(model, seq, "megatron-2021")) == pytest.approx(without, rel=1e-9)


def test_palm_closed_form() -> None:
    """6 N + 12 L H Q T, arXiv 2204.02311 appendix B."""
    closed = 6 * (8_030_261_248 - 128256 * 4096) + 12 * 32 * 32 * 128 * 8192
    assert float(flops_per_token(load("llama-3-8b"), 8192, "palm")) == pytest.approx(closed, rel=1e-9)


def test_deepseek_v3_layer_parts() -> None:
    """Forward TFLOP of 4096 tokens: MLA matrices 1.533, causal core 0.687, routed experts 2.886, shared 0.361."""
    layer = load("deepseek-v3").layers[-1]
    assert matrix_flops(layer.mixer, 7168) * 4096 == pytest.approx(1.533e12, rel=5e-4)
    assert float(core_flops_per_token(layer.mixer, 4096)) * 4096 == pytest.approx(0.687e12, rel=5e-4)
    ffn = matrix_flops(layer.ffn, 7168) * 4096 - 2 * 7168 * 256 * 4096
    assert ffn == pytest.approx((2.886 + 0.361) * 1e12, rel=5e-4)
    assert float(core_flops_per_token(layer.mixer, 4096, "full")) == pytest.approx(335.5e6, rel=5e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", ["llama-3-8b", "deepseek-v4-flash", "kimi-k3", "nemotron-3-super-120b-a12b"])
def test_contract_of_conventions(convention: str, name: str) -> None:
    """Arrays agree with scalars, work grows with length, and padding adds its logits."""
    model = load(name)
    seq = np.array([512, 2048, 8192, 131072])
    many = flops_per_token(model, seq, convention)
    assert many.shape == (4,)
    assert many.tolist() == [float(flops_per_token(model, int(one), convention)) for one in seq]
    assert np.all(np.diff(many) >= 0)
    padded = flops_per_token(model, 2048, convention, padded_vocab=model.vocab + 1024)
    heads = 1 + len(model.mtp) if convention in ("megatron", "executed") else 1
    assert float(padded - many[1]) == pytest.approx(6 * 1024 * model.hidden * heads, rel=1e-6)


def test_every_mixer_has_its_core() -> None:
    assert set(spec.MIXERS.values()) == set(get_args(spec.Mixer))
    assert all(callable(record.core_flops) for record in spec.MIXERS.values())


@pytest.mark.parametrize(("seq", "window"), [(256, None), (256, 256), (256, 32), (200, 1000)])
def test_keys_seen_by_counting(seq: int, window: int | None) -> None:
    """Count the pairs of a causal mask; the diagonal makes the difference of at most half a key."""
    pairs = sum(min(query + 1, window or seq) for query in range(seq))
    assert float(keys_seen(seq, window, "causal")) == pytest.approx(pairs / seq, abs=0.51)
    assert float(keys_seen(seq, window, "full")) == min(seq, window or seq)
    assert float(keys_seen(seq, window, "megatron")) == min(seq, window or seq) / 2


def test_chunks_by_counting() -> None:
    pairs = sum(query % 48 + 1 for query in range(256))
    assert float(chunk_keys(256, 48, "causal")) == pytest.approx(pairs / 256, abs=0.51)
    assert float(chunk_keys(40, 48, "full")) == 40


def test_attention_by_matrix_shapes() -> None:
    """Scores s x s x d and values s x s x dv for every head, two operations each, over s tokens."""
    mixer = Attention(heads=4, kv_heads=2, head_dim=16, v_head_dim=8)
    seq = 64
    scores_and_values = 4 * (2 * seq * seq * 16 + 2 * seq * seq * 8)
    assert float(core_flops_per_token(mixer, seq, "full")) == scores_and_values / seq
    assert float(core_flops_per_token(mixer, seq)) == scores_and_values / seq / 2


def test_sparse_attention_keeps_top_k_and_pays_the_indexer() -> None:
    dense = LatentAttention(heads=8, q_lora_rank=None, kv_lora_rank=16, nope_head_dim=8, rope_head_dim=4, v_head_dim=8)
    sparse = LatentAttention(8, None, 16, 8, 4, 8, indexer=Indexer(heads=2, head_dim=4, top_k=128))
    assert float(core_flops_per_token(sparse, 128)) == float(core_flops_per_token(dense, 128))
    long = 1 << 20
    assert float(core_flops_per_token(sparse, long)) == pytest.approx(2 * 8 * 20 * 128, rel=1e-3)
    assert float(indexer_flops_per_token(sparse, long)) == 2 * 2 * 4 * long / 2
    assert float(indexer_flops_per_token(dense, long)) == 0


def test_recurrent_mixers_do_not_see_the_length() -> None:
    for layer in load("kimi-k3").layers[:3] + load("nemotron-3-nano-30b-a3b").layers[:1]:
        short, long = core_flops_per_token(layer.mixer, np.array([128.0, 1e6]))
        assert short == long > 0


def test_an_encoder_sees_everything() -> None:
    bert = load("bert-large")
    assert float(flops_per_token(bert, 512, "megatron")) == float(flops_per_token(bert, 512, "megatron-2021"))


def test_cores_of_recurrent_mixers_by_hand() -> None:
    """Whatever the sequence: states of heads x width x width, of channels x states, and taps with their gates."""
    lightning = spec.LightningAttention(heads=4, head_dim=8)
    mamba = spec.Mamba1(inner=32, state=16, step_rank=2, conv_kernel=4)
    convolution = spec.ShortConvolution(width=64, kernel=3)
    for seq in (16, 4096):
        assert float(core_flops_per_token(lightning, seq)) == 2 * 2 * 4 * 8 * 8
        assert float(core_flops_per_token(mamba, seq)) == 9 * 32 * 16
        assert float(core_flops_per_token(convolution, seq)) == 2 * 3 * 64 + 2 * 64


def test_a_window_limits_latent_attention_as_any_other() -> None:
    wide = LatentAttention(4, None, 32, 16, 8, 16)
    narrow = LatentAttention(4, None, 32, 16, 8, 16, window=128)
    assert float(core_flops_per_token(narrow, 128)) == float(core_flops_per_token(wide, 128))
    assert float(core_flops_per_token(narrow, 1024)) == pytest.approx(2 * 4 * 40 * 128 * (1 - 128 / 2048))
