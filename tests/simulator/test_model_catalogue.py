"""The catalogue loads whole, every entry says where it comes from, and models written inline read the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hardware.problems import InputError, Place
from simulator.model import catalogue
from simulator.model.inline import from_mapping
from simulator.model.parameters import active_parameters, total_parameters
from simulator.model.spec import Attention, DenseFFN, LinearAttention, MoE


@pytest.mark.parametrize("name", catalogue.names())
def test_every_entry_loads_with_its_source_near_its_published_size(name: str) -> None:
    model = catalogue.load(name)
    entry = json.loads((catalogue.DATA / f"{name}.json").read_text())
    assert model.name == name
    assert model.source
    published = entry.get("published", {})
    if "total_B" in published:  # vendors round, and count vision towers: two per cent
        assert total_parameters(model) / 1e9 == pytest.approx(published["total_B"], rel=0.02)
    if "active_B" in published:  # with or without the input embedding
        counted = [active_parameters(model, embedding) / 1e9 for embedding in (True, False)]
        assert min(counted) * 0.9 < published["active_B"] < max(counted) * 1.1


def test_unknown_name_is_answered_with_near_ones() -> None:
    with pytest.raises(InputError, match="deepseek-v3"):
        catalogue.load("deepseekv3")


@pytest.mark.parametrize("name", ["../data/deepseek-v3", "", "/etc/passwd"])
def test_names_are_not_paths(name: str) -> None:
    with pytest.raises(InputError):
        catalogue.load(name)


LLAMA = {
    "hidden": 4096,
    "vocab": 128256,
    "layers": {
        "repeat": 32,
        "mixer": {"kind": "attention", "heads": 32, "kv_heads": 8},
        "ffn": {"kind": "dense", "width": 14336},
    },
}


def test_inline_model_equals_the_catalogue() -> None:
    inline, known = from_mapping(LLAMA), catalogue.load("llama-3-8b")
    assert inline.layers == known.layers
    assert total_parameters(inline) == total_parameters(known)


def test_inline_stack_of_different_layers() -> None:
    linear = {"kind": "linear", "variant": "gdn", "key_heads": 4, "value_heads": 8, "key_head_dim": 16,
              "value_head_dim": 16, "conv_kernel": 4}  # fmt: skip
    model = from_mapping(
        {
            "hidden": 64,
            "vocab": 1000,
            "layers": [
                {"repeat": 3, "mixer": linear, "ffn": {"kind": "dense", "width": 256, "gated": False}},
                {
                    "mixer": {"kind": "attention", "heads": 4, "qk_norm": "head", "window": 128},
                    "ffn": {"kind": "moe", "experts": 8, "top_k": 2, "width": 32, "shared_width": 32},
                },
            ],
            "mtp": {"mixer": {"kind": "attention", "heads": 4}, "ffn": {"kind": "dense", "width": 256}},
        }
    )
    assert [type(layer.mixer) for layer in model.layers] == [LinearAttention] * 3 + [Attention]
    assert model.layers[0].ffn == DenseFFN(256, gated=False)
    assert model.layers[3].ffn == MoE(8, 2, 32, shared_width=32)
    assert model.layers[3].mixer == Attention(4, 4, 16, 16, window=128, qk_norm="head")
    assert len(model.mtp) == 1


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"hidden": 0}, "model.hidden"),
        ({"vocab": True}, "model.vocab"),
        ({"depth": 3}, "model.depth"),
        ({"layers": []}, "model.layers"),
        ({"layers": [7]}, "model.layers"),
        ({"layers": [{}]}, "model.layers.0.mixer"),
        ({"layers": {"repeat": 10**9, "ffn": {"kind": "dense", "width": 1}}}, "model.layers.0.repeat"),
        ({"layers": {"mixer": {"kind": "atention", "heads": 2}}}, "model.layers.0.mixer.kind"),
        ({"layers": {"mixer": {"kind": "attention", "heads": 5}}}, "model.layers.0.mixer.head_dim"),
        ({"layers": {"mixer": {"kind": "attention", "heads": 8, "kv_heads": 3}}}, "model.layers.0.mixer.kv_heads"),
        ({"layers": {"ffn": {"kind": "moe", "experts": 4, "top_k": 9, "width": 1}}}, "model.layers.0.ffn.top_k"),
        ({"layers": {"ffn": {"kind": "dense", "width": 2, "wide": 3}}}, "model.layers.0.ffn.wide"),
        ({"layers": {"mixer": "attention"}}, "model.layers.0.mixer"),
        ({"norm": "batch"}, "model.norm"),
    ],
)
def test_broken_inline_models_name_the_key(change: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError) as caught:
        from_mapping({**LLAMA, **change}, place=Place("scenario.yaml", "model"))
    assert key in [problem.key for problem in caught.value.problems]
    assert all(problem.file == "scenario.yaml" for problem in caught.value.problems)


def test_every_inline_problem_at_once() -> None:
    with pytest.raises(InputError) as caught:
        from_mapping({"hidden": -1, "vocab": "big", "layers": {"mixer": {"kind": "mla", "heads": 2}}, "colour": "red"})
    keys = {problem.key for problem in caught.value.problems}
    assert {"hidden", "vocab", "colour", "layers.0.mixer.kv_lora_rank", "layers.0.mixer.v_head_dim"} <= keys
