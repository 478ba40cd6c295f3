"""Parameter counts against published check values, closed forms and sums made by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from simulator.model import spec
from simulator.model.catalogue import load
from simulator.model.components import layer_linears, linears, vectors
from simulator.model.parameters import (
    Split,
    active_parameters,
    block_parameters,
    embedding_parameters,
    head_parameters,
    layer_parameters,
    model_parameters,
    parts_parameters,
    total_parameters,
)
from simulator.model.spec import Attention, DenseFFN, Layer, Mamba2, Model, MoE


def matrices(component: object, hidden: int) -> int:
    return sum(linear.inputs * linear.outputs * linear.copies for linear in linears(component, hidden))


def test_deepseek_v3_check_values() -> None:
    """arXiv 2412.19437 and the public config_671B.json."""
    model = load("deepseek-v3")
    first, last = model.layers[0], model.layers[-1]
    assert matrices(first.mixer, 7168) == pytest.approx(187.105e6, abs=500)
    assert matrices(first.ffn, 7168) == pytest.approx(396.362e6, abs=500)
    by_name = {linear.name: linear for linear in linears(last.ffn, 7168)}
    expert = sum(by_name[name].inputs * by_name[name].outputs for name in ("expert_fc1", "expert_fc2"))
    assert expert == pytest.approx(44.040e6, abs=500)
    assert by_name["router"].inputs * by_name["router"].outputs == pytest.approx(1.835e6, abs=500)
    assert total_parameters(model) == pytest.approx(671.026e9, abs=0.5e6)
    assert active_parameters(model, input_embedding=False) == pytest.approx(36.62e9, rel=5e-4)
    assert active_parameters(model) == pytest.approx(37.55e9, rel=5e-4)
    mtp = model_parameters(model).mtp
    assert len(mtp) == 1
    assert mtp[0].total == pytest.approx(11.61e9, abs=5e6)
    # The Hugging Face checkpoint stores the prediction module with its own embedding and head: "685B".
    assert total_parameters(model) + mtp[0].total + 2 * 129280 * 7168 == pytest.approx(684.49e9, abs=5e6)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        # llm-foundry benchmarking README, sequence 2048 (learned positions), to its last digit.
        ("mpt-1b", 1.316e9), ("mpt-7b", 6.659e9), ("mpt-13b", 12.854e9), ("mpt-30b", 29.975e9), ("mpt-70b", 64.862e9),
        # Model cards and papers.
        ("llama-3.1-8b", 8.030e9), ("llama-3.1-70b", 70.554e9), ("llama-2-7b", 6.738e9), ("deepseek-v2", 235.7e9),
        ("moonlight-16b-a3b", 15.96e9), ("qwen2-57b-a14b", 57.41e9), ("qwen3-next-80b-a3b", 79.7e9),
        ("nemotron-h-56b", 56.3e9), ("nemotron-4-340b", 341e9), ("opt-175b", 174.6e9), ("gpt-530b", 529.6e9),
    ],
)  # fmt: skip
def test_published_totals(name: str, published: float) -> None:
    assert total_parameters(load(name)) == pytest.approx(published, rel=5e-4)


def test_bloom_to_the_parameter() -> None:
    """arXiv 2211.05100: 176,247,271,424, of which the embedding's own norm (2 x 14336) is not ours."""
    assert total_parameters(load("bloom-176b")) == 176_247_271_424 - 2 * 14336


def test_bert_large_to_the_parameter() -> None:
    """336,226,108 with pre-training heads: less pooler, transform with norm, output bias and next-sentence head."""
    heads = (1024 * 1024 + 1024) + (1024 * 1024 + 1024 + 2 * 1024) + 30522 + (2 * 1024 + 2)
    assert total_parameters(load("bert-large")) == 336_226_108 - heads


@pytest.mark.parametrize(("name", "layers", "hidden"), [("gpt3-175b", 96, 12288), ("gpt-1t", 128, 25600)])
def test_gpt_closed_form(name: str, layers: int, hidden: int) -> None:
    """12 L h^2 (1 + 13/12h + (V + s)/12Lh), arXiv 2104.04473 equation 2; it leaves out the final norm."""
    closed = 12 * layers * hidden**2 * (1 + 13 / (12 * hidden) + (51200 + 2048) / (12 * layers * hidden))
    assert total_parameters(load(name)) == pytest.approx(closed + 2 * hidden, abs=1)


def test_every_component_of_the_spec_has_its_parts() -> None:
    records = {*spec.MIXERS.values(), *spec.FFNS.values()}
    assert records == {*get_args(spec.Mixer), *get_args(spec.FFN)}
    seen = {type(part) for name in ("deepseek-v4-flash", "kimi-k3", "nemotron-3-nano-30b-a3b", "llama-3-8b")
            for layer in load(name).layers for part in (layer.mixer, layer.ffn) if part}  # fmt: skip
    assert seen == records - {spec.LightningAttention, spec.Mamba1, spec.ShortConvolution}
    assert all(record.parts for record in records)


def test_split_by_parallelism_of_deepseek_v3() -> None:
    """MLA down-projections, their norms, the router and the layer norms stay whole on every tensor-parallel rank."""
    split = layer_parameters(load("deepseek-v3"), load("deepseek-v3").layers[-1])
    down = 7168 * 1536 + 7168 * (512 + 64)
    assert split.mixer.replicated == down + 1536 + 512 + 7168
    assert split.ffn.replicated == 7168 * 256 + 7168
    assert split.ffn.expert == 256 * 3 * 7168 * 2048
    assert split.ffn.sharded == 3 * 7168 * 2048
    assert split.mixer.expert == 0


def test_row_bias_is_replicated_and_column_bias_split() -> None:
    ffn = DenseFFN(width=40, gated=False, bias=True)
    assert parts_parameters(linears(ffn, 10), vectors(ffn, 10)) == Split(sharded=10 * 40 + 40 + 40 * 10, replicated=10)


def test_parts_add_up_to_the_whole() -> None:
    for name in ("deepseek-v4-pro", "gpt-oss-20b", "qwen3.5-397b-a17b", "bert-large"):
        model = load(name)
        counted = model_parameters(model)
        parts = [counted.embedding, counted.head, counted.final_norm, *(layer.all for layer in counted.layers)]
        assert sum(part.total for part in parts) == total_parameters(model) == counted.main.total
        assert len(counted.layers) == len(model.layers)


def test_tied_embeddings_and_padding() -> None:
    model = Model("m", hidden=8, vocab=100, layers=(Layer(None, DenseFFN(16)),), tied_embeddings=True)
    assert head_parameters(model) == Split()
    assert embedding_parameters(model, 128).sharded == 128 * 8
    assert active_parameters(model, input_embedding=False) == active_parameters(model) == total_parameters(model)


def test_active_parameters_leave_out_idle_experts() -> None:
    moe = MoE(experts=8, top_k=2, width=5, gated=False, bias=True)
    model = Model("m", hidden=4, vocab=10, layers=(Layer(None, moe),))
    expert = 2 * 4 * 5 + 5 + 4
    assert total_parameters(model) - active_parameters(model) == 6 * expert
    assert active_parameters(model) - active_parameters(model, input_embedding=False) == 40


def test_a_layer_of_one_block_has_one_norm() -> None:
    model = Model("m", hidden=16, vocab=10, layers=())
    alone = layer_parameters(model, Layer(Mamba2(heads=2, head_dim=8, groups=1, state=4, conv_kernel=4), None))
    assert alone.ffn == Split()
    # in: 16 x (2 x 16 + 2 x 4 + 2), out 16 x 16, convolution (4 + 1) x 24, 3 x 2 scalars, inner norm 16, norm 16
    assert alone.total == 16 * 42 + 256 + 120 + 6 + 16 + 16
    assert block_parameters(model, None) == Split()


def test_linears_list_gemm_shapes() -> None:
    mixer = Attention(heads=32, kv_heads=8, head_dim=128, v_head_dim=128)
    model = Model("m", hidden=4096, vocab=10, layers=())
    shapes = [(linear.name, linear.inputs, linear.outputs) for linear in layer_linears(model, Layer(mixer, None))]
    assert shapes == [("qkv", 4096, 6144), ("out", 4096, 4096)]


@pytest.mark.parametrize(
    ("name", "elements", "expert_layers"),
    [("nemotron-3-super-120b-a12b", 123_611_033_088, 41), ("nemotron-3.5-lightning-30b-a3b", 32_913_266_240, 24)],
)
def test_hybrids_count_their_checkpoints_elements(name: str, elements: int, expert_layers: int) -> None:
    """Megatron-Bridge's verification cards audit every tensor; each router also has a correction bias per expert,
    which no gradient trains and we do not count. Depths that share a module share its weights."""
    model = load(name)
    experts = next(layer.ffn.experts for layer in model.layers if isinstance(layer.ffn, MoE))
    for depths in (1, 2):
        counted = model_parameters(replace(model, mtp=model.mtp * depths, mtp_shared=True))
        total = counted.main.total + sum(module.total for module in counted.mtp)
        assert total == elements - expert_layers * experts


def test_variants_of_attention_by_hand() -> None:
    """Hidden 64, 4 heads of 16, 2 key/value heads: what a gate, shared projections and a window add or leave out."""
    plain = Attention(4, 2, 16, 16)
    assert matrices(plain, 64) == 64 * (64 + 32 + 32) + 64 * 64
    assert matrices(replace(plain, head_gate=True), 64) == matrices(plain, 64) + 64 * 4
    assert matrices(replace(plain, keys_from="values"), 64) == matrices(plain, 64) - 64 * 32
    assert matrices(replace(plain, keys_from="earlier layer"), 64) == matrices(plain, 64) - 2 * 64 * 32
    assert matrices(replace(plain, window=8), 64) == matrices(plain, 64)


def test_recurrent_mixers_by_hand() -> None:
    assert matrices(spec.LightningAttention(4, 16), 64) == 5 * 64 * 64
    assert matrices(spec.ShortConvolution(64, 3), 64) == 4 * 64 * 64
    assert matrices(spec.Mamba1(128, 16, 4, 4), 64) == 64 * 256 + 128 * (4 + 32) + 4 * 128 + 128 * 64
    assert sum(vector.size for vector in vectors(spec.Mamba1(128, 16, 4, 4), 64)) == 128 * (4 + 1) + 128 * (16 + 1)
    ungated = Mamba2(8, 16, 1, 32, 4, gated_norm=False)
    assert parts_parameters([], vectors(replace(ungated, gated_norm=True), 64)).total == (
        parts_parameters([], vectors(ungated, 64)).total + 8 * 16
    )


def test_identity_experts_have_a_row_of_the_router_and_nothing_else() -> None:
    plain, more = MoE(8, 2, 32), MoE(8, 2, 32, identity_experts=4)
    assert matrices(more, 64) == matrices(plain, 64) + 4 * 64


def test_norms_around_blocks_and_embeddings_of_layers() -> None:
    layer = Layer(Attention(4, 4, 16, 16), DenseFFN(128))
    single = Model("m", hidden=64, vocab=100, layers=(layer, layer))
    sandwich = replace(single, block_norms="sandwich")
    shared = replace(single, block_norms="shared")
    own = replace(single, layer_embedding=8, layer_vocab=50)
    assert total_parameters(sandwich) - total_parameters(single) == 2 * 2 * 64
    assert total_parameters(single) - total_parameters(shared) == 2 * 64
    assert total_parameters(own) - total_parameters(single) == 2 * (50 * 8 + 3 * 64 * 8)
    assert total_parameters(single) - total_parameters(replace(single, norm="none")) == 5 * 64
