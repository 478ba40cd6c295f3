"""The Hugging Face reader: counts made independently from the same public configs, and broken configs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.problems import InputError, Place
from simulator.model import catalogue
from simulator.model.families import families
from simulator.model.huggingface import from_huggingface
from simulator.model.parameters import active_parameters, model_parameters, total_parameters
from simulator.model.spec import Attention, CompressedAttention, LatentAttention, LinearAttention, Mamba2, MoE

# name -> (total, active with the input embedding, active without it), made by another formula over the same configs
# (main model, text tower; it also counts the routing bias, a buffer that is balanced and not trained).
COUNTS = {
    "deepseek-v3": (671026419200, 37552297472, 36625618432),
    "deepseek-v3.2": (671877944064, 38403822336, 37477143296),
    "deepseek-v4-pro": (1572997088222, 49778967518, 48852288478),
    "deepseek-v4-flash": (284332175698, 13799567698, 13270036818),
    "kimi-k2": (1026408232448, 32861500928, 31687095808),
    "kimi-k3": (2779481449984, 105360991744, 104186586624),
    "glm-4.5": (352797829024, 33632266144, 32856319904),
    "glm-5": (743911218432, 41784728832, 40833146112),
    "glm-5.2": (743377019904, 41250530304, 40298947584),
    "qwen3-235b-a22b": (235093634560, 22190763520, 21568433664),
    "qwen3-coder-480b-a35b": (480154875392, 35474765312, 34541270528),
    "qwen3-30b-a3b": (30532122624, 3353032704, 3041867776),
    "qwen3.5-397b-a17b": (396346350336, 17349040896, 16331922176),
    "mixtral-8x7b": (46702792704, 12879925248, 12748853248),
    "mixtral-8x22b": (140620634112, 39152031744, 38955423744),
    "llama-3.1-405b": (405853388800, 405853388800, 403752042496),
    "llama-4-maverick": (400711848960, 17184691200, 16150205440),
    "gpt-oss-120b": (116829156672, 5711982912, 5132849472),
    "gpt-oss-20b": (20914757184, 4187440704, 3608307264),
    "minimax-m2.5": (228689764864, 11030553088, 10415956480),
    "minimax-m3": (426174558336, 25962459264, 24733266048),
    "nemotron-3-nano-30b-a3b": (31577940288, 3580076352, 3227754816),
    "nemotron-3-super-120b-a12b": (120668707840, 12770237440, 12233366528),
    "nemotron-3-ultra-550b-a55b": (549308993536, 56058843136, 54985101312),
    "mimo-v2-flash": (308778778368, 15445933824, 14820982528),
    "ling-1t": (999705328640, 51054427136, 49766775808),
}
MTP = {"deepseek-v3": 11610067968, "deepseek-v3.2": 11624027392, "glm-5": 9952920320}


def config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((catalogue.DATA / f"{name}.json").read_text())["config"]
    return loaded


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        from_huggingface(values, "config.json")
    return str(caught.value)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_public_models(name: str) -> None:
    model = catalogue.load(name)
    counted = total_parameters(model), active_parameters(model), active_parameters(model, input_embedding=False)
    assert counted == pytest.approx(COUNTS[name], rel=1e-5)


@pytest.mark.parametrize("name", MTP)
def test_prediction_modules_of_public_models(name: str) -> None:
    assert sum(depth.total for depth in model_parameters(catalogue.load(name)).mtp) == MTP[name]


# Configs and counts as the model hubs state them.
OTHERS: list[tuple[int, dict[str, Any]]] = [
    (20_554_567_680, {"model_type": "gpt_neox", "hidden_size": 6144, "num_hidden_layers": 44, "vocab_size": 50432,
                      "num_attention_heads": 64, "intermediate_size": 24576, "hidden_act": "gelu_fast",
                      "rotary_pct": 0.25}),
    (3_821_079_552, {"model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "vocab_size": 32064,
                     "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 8192}),
    (6_919_161_856, {"model_type": "olmoe", "hidden_size": 2048, "num_hidden_layers": 16, "vocab_size": 50304,
                     "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 1024,
                     "num_experts": 64, "num_experts_per_tok": 8}),
    (16_375_728_128, {"model_type": "deepseek", "hidden_size": 2048, "num_hidden_layers": 28, "vocab_size": 102400,
                      "num_attention_heads": 16, "num_key_value_heads": 16, "intermediate_size": 10944,
                      "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
                      "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1}),
    (124_439_808, {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
                   "n_ctx": 1024, "vocab_size": 50257, "activation_function": "gelu_new"}),
    (494_032_768, {"model_type": "qwen2", "hidden_size": 896, "num_hidden_layers": 24, "vocab_size": 151936,
                   "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 4864,
                   "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768,
                   "max_window_layers": 24}),
]  # fmt: skip


@pytest.mark.parametrize(("count", "values"), OTHERS, ids=[values["model_type"] for _, values in OTHERS])
def test_models_outside_the_catalogue_to_the_parameter(count: int, values: dict[str, Any]) -> None:
    assert total_parameters(from_huggingface(values, values["model_type"])) == count


def test_routing_bias_is_the_only_difference_for_deepseek_v3() -> None:
    assert COUNTS["deepseek-v3"][0] - total_parameters(catalogue.load("deepseek-v3")) == 58 * 256


def test_layers_of_mixed_models() -> None:
    kimi = catalogue.load("kimi-k3").layers
    assert [type(layer.mixer) for layer in kimi[:4]] == [LinearAttention] * 3 + [LatentAttention]
    assert sum(isinstance(layer.mixer, LatentAttention) for layer in kimi) == 24
    nemotron = catalogue.load("nemotron-3-super-120b-a12b")
    kinds = [type(layer.mixer or layer.ffn) for layer in nemotron.layers]
    assert (kinds.count(Mamba2), kinds.count(Attention), kinds.count(MoE)) == (40, 8, 40)
    assert len(nemotron.mtp) == 1
    v4 = catalogue.load("deepseek-v4-flash")
    ratios = [layer.mixer.compress_ratio for layer in v4.layers if isinstance(layer.mixer, CompressedAttention)]
    assert ratios[:4] == [0, 0, 4, 128]
    assert len(ratios) == 43
    assert v4.hyper_connections == 4
    llama4 = catalogue.load("llama-4-maverick").layers
    assert [layer.mixer.chunk for layer in llama4[:4] if isinstance(layer.mixer, Attention)] == [8192] * 3 + [None]
    assert [isinstance(layer.ffn, MoE) for layer in llama4[:4]] == [False, True, False, True]
    glm = catalogue.load("glm-5.2").layers
    assert sum(getattr(layer.mixer, "indexer", None) is not None for layer in glm) == 21


def test_nested_text_config_and_outer_tie() -> None:
    inner = config("qwen3-30b-a3b")
    inner.pop("tie_word_embeddings")
    model = from_huggingface({"text_config": inner, "vision_config": {"x": 1}, "tie_word_embeddings": True}, "nested")
    assert model.tied_embeddings
    assert model.layers == catalogue.load("qwen3-30b-a3b").layers


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3.5-397b-a17b", "nemotron-3-ultra-550b-a55b"])
def test_unknown_key_is_refused_by_name(name: str) -> None:
    assert "wondrous_width" in refused({**config(name), "wondrous_width": 7})


def test_every_problem_at_once() -> None:
    values = config("deepseek-v3")
    del values["kv_lora_rank"], values["moe_intermediate_size"]
    values |= {"hidden_size": -1, "num_attention_heads": "many", "hidden_act": "tanh", "q_lora_rank": True}
    message = refused({**values, "n_group": 7})
    for key in ("hidden_size", "num_attention_heads", "hidden_act", "n_group", "q_lora_rank"):
        assert key in message


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model_type": "alien"}, "model_type"),
        ({"model_type": None}, "model_type"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": 61.5}, "num_hidden_layers"),
        ({"vocab_size": float("inf")}, "vocab_size"),
        ({"vocab_size": float("nan")}, "vocab_size"),
        ({"num_experts_per_tok": 300}, "num_experts_per_tok"),
        ({"num_experts": 128}, "num_experts"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"moe_layer_freq": [1, 0]}, "moe_layer_freq"),
        ({"attention_bias": True}, "attention_bias"),
        ({"num_nextn_predict_layers": 10**9}, "num_nextn_predict_layers"),
    ],
)
def test_broken_configs_name_the_key(change: dict[str, Any], key: str) -> None:
    assert f"config.json: {key}" in refused({**config("deepseek-v3"), **change})


@pytest.mark.parametrize(
    ("rope", "scaled"),
    [
        ({"type": "yarn", "factor": 4.0}, True),
        ({"rope_type": "longrope", "factor": 32.0}, True),
        ({"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.0}, False),
        ({"rope_type": "llama3", "factor": 8.0}, False),
        ({"full_attention": {"rope_type": "yarn", "factor": 4.0}}, True),
        (None, False),
    ],
)
def test_rotary_embeddings_that_scale_are_read(rope: dict[str, Any] | None, scaled: bool) -> None:
    """YaRN multiplies queries and keys by 0.1 ln(factor) + 1; Llama 3's stretching multiplies nothing."""
    config = {"model_type": "llama", "num_hidden_layers": 1, "num_attention_heads": 16, "intermediate_size": 4096,
              "vocab_size": 32000, "hidden_size": 1024, "rope_scaling": rope}  # fmt: skip
    mixer = from_huggingface(config, "test").layers[0].mixer
    assert isinstance(mixer, Attention)
    assert mixer.scaled_rope is scaled


def test_a_missing_width_is_one_problem() -> None:
    """What would follow from it, a head's width, is no second one."""
    config = {"model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 16, "intermediate_size": 4096,
              "vocab_size": 32000}  # fmt: skip
    with pytest.raises(InputError) as caught:
        from_huggingface(config, "test")
    assert [problem.key for problem in caught.value.problems] == ["hidden_size"]


def test_problems_say_file_line_and_nested_key() -> None:
    place = Place("config.json", "", {"text_config": 2, "text_config.hidden_size": 5})
    with pytest.raises(InputError) as caught:
        from_huggingface({"text_config": {**config("qwen3-30b-a3b"), "hidden_size": 0}}, "m", place)
    problem = caught.value.problems[0]
    assert (problem.file, problem.line, problem.key) == ("config.json", 5, "text_config.hidden_size")


@pytest.mark.parametrize("values", [{}, {"model_type": "llama"}, {"text_config": 3, "model_type": "llama"}])
def test_empty_configs(values: dict[str, Any]) -> None:
    assert refused(values)


ORACLE = Path(__file__).parent / "data" / "huggingface_parameters.tsv"


@pytest.mark.parametrize("family", families())
def test_every_family_has_a_catalogued_model_or_a_counted_one_or_reads_a_plain_one(family: str) -> None:
    catalogued = [name for name in catalogue.names() if json.loads((catalogue.DATA / f"{name}.json").read_text())
                  .get("config", {}).get("model_type") == family]  # fmt: skip
    if catalogued:
        assert all(total_parameters(catalogue.load(name)) > 0 for name in catalogued)
        return
    if f"\n{family}\t" in ORACLE.read_text(encoding="utf-8"):  # test_huggingface_families.py reads it
        return
    plain = {"model_type": family, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "intermediate_size": 128, "vocab_size": 100}  # fmt: skip
    assert len(from_huggingface(plain, family).layers) == 2 * families()[family].layers_per_layer


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FUZZED = ["deepseek-v3", "deepseek-v4-flash", "kimi-k3", "minimax-m3", "nemotron-3-ultra-550b-a55b", "mpt-7b",
          "nemotron-3-super-120b-a12b", "mimo-v2-flash", "llama-4-scout", "qwen3.5-397b-a17b", "glm-5.2"]  # fmt: skip


@pytest.mark.parametrize("name", FUZZED)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_junk_is_read_or_refused_politely(name: str, data: st.DataObject) -> None:
    values = config(name)
    for key in data.draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3)):
        values[key] = data.draw(JUNK)
    try:
        model = from_huggingface(values, "config.json")
    except InputError:
        return
    assert total_parameters(model) > 0
