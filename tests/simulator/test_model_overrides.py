"""Models of the catalogue with changes: depth, prediction modules, vocabulary and fields, and what makes no sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardware.problems import InputError, Place
from simulator import load_scenario
from simulator.model.catalogue import load
from simulator.model.overrides import from_base
from simulator.model.parameters import model_parameters, total_parameters
from simulator.model.spec import Attention, DenseFFN, LatentAttention, LinearAttention, Model, MoE

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"


def changed(base: str, **changes: Any) -> Model:
    return from_base({"base": base, **changes}, Place("scenario.yaml", "model"))


def problems(mapping: dict[str, Any]) -> list[str]:
    with pytest.raises(InputError) as caught:
        from_base(mapping, Place("scenario.yaml", "model"))
    assert all(problem.file == "scenario.yaml" for problem in caught.value.problems)
    return [problem.key for problem in caught.value.problems]


def test_without_changes_it_is_the_base() -> None:
    base, same = load("deepseek-v3"), changed("deepseek-v3")
    assert (same.layers, same.mtp, same.vocab, same.source) == (base.layers, base.mtp, base.vocab, base.source)


def test_fewer_layers_and_more_prediction_modules() -> None:
    """31 of the 58 expert layers go; the second module weighs as much as the first."""
    base, model = load("deepseek-v3"), changed("deepseek-v3", layers=30, mtp=2)
    counted, base_counted = model_parameters(model), model_parameters(base)
    assert [isinstance(layer.ffn, MoE) for layer in model.layers] == [False] * 3 + [True] * 27
    assert base_counted.main.total - counted.main.total == 31 * base_counted.layers[-1].total
    assert [module.total for module in counted.mtp] == [base_counted.mtp[0].total] * 2


def test_more_layers_go_on_with_the_pattern() -> None:
    base, model = load("qwen3-next-80b-a3b"), changed("qwen3-next-80b-a3b", layers=52)
    assert model.layers[:48] == base.layers
    assert [isinstance(layer.mixer, LinearAttention) for layer in model.layers[48:]] == [True, True, True, False]
    assert changed("deepseek-v3", layers=70).layers[61:] == (load("deepseek-v3").layers[-1],) * 9


def test_vocabulary_weighs_in_embedding_and_head() -> None:
    assert total_parameters(load("llama-3-8b")) - total_parameters(changed("llama-3-8b", vocab=32000)) == (
        2 * (128256 - 32000) * 4096
    )
    tied = changed("llama-3-8b", tied_embeddings=True)
    assert total_parameters(load("llama-3-8b")) - total_parameters(tied) == 128256 * 4096


def test_fields_of_every_mixer_and_ffn() -> None:
    model = changed("mixtral-8x7b", mixer={"window": 4096}, ffn={"top_k": 1, "experts": 16})
    mixers = {layer.mixer for layer in model.layers}
    assert mixers == {Attention(32, 8, 128, 128, window=4096)}
    assert {(layer.ffn.experts, layer.ffn.top_k) for layer in model.layers if isinstance(layer.ffn, MoE)} == {(16, 1)}
    full_rank = changed("deepseek-v3", mixer={"q_lora_rank": None}).layers[0].mixer
    assert isinstance(full_rank, LatentAttention)
    assert full_rank.q_lora_rank is None


def test_a_field_of_several_kinds_asks_for_the_kind() -> None:
    """DeepSeek-V3 has three dense ffns of 18432 and experts of 2048: a width alone could mean either."""
    assert problems({"base": "deepseek-v3", "ffn": {"width": 4096}}) == ["model.ffn"]
    dense = changed("deepseek-v3", ffn={"kind": "dense", "width": 4096})
    experts = changed("deepseek-v3", ffn={"kind": "moe", "width": 4096})
    widths = [{type(layer.ffn): layer.ffn.width for layer in model.layers if layer.ffn} for model in (dense, experts)]
    assert widths == [{DenseFFN: 4096, MoE: 2048}, {DenseFFN: 18432, MoE: 4096}]


def test_an_unknown_field_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"model\.ffn: 'topk' is not known; did you mean top_k"):
        from_base({"base": "deepseek-v3", "ffn": {"topk": 4}}, Place("test", "model"))


def test_layers_and_modules_written_out() -> None:
    layer = {"mixer": {"kind": "attention", "heads": 32}, "ffn": {"kind": "dense", "width": 100}}
    model = changed("llama-3-8b", layers=[{"repeat": 2, **layer}], mtp=layer)
    assert len(model.layers) == 2
    assert model.mtp == model.layers[:1]
    assert model.vocab == 128256


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"base": "deepseekv3"}, "model.base"),
        ({"base": 3}, "model.base"),
        ({"layers": 0}, "model.layers"),
        ({"layers": 10**9}, "model.layers"),
        ({"layers": "many"}, "model.layers"),
        ({"mtp": -1}, "model.mtp"),
        ({"vocab": 0}, "model.vocab"),
        ({"norm": "batch"}, "model.norm"),
        ({"depth": 3}, "model.depth"),
        ({"mixer": {"kv_heads": 5}}, "model.mixer.kv_heads"),
        ({"mixer": {"state": 5}}, "model.mixer"),
        ({"mixer": [3]}, "model.mixer"),
        ({"ffn": {"experts": 3}}, "model.ffn"),
        ({"ffn": {"width": "x"}}, "model.ffn.width"),
        ({"layer_embedding": 256}, "model.layer_vocab"),
    ],
)
def test_what_makes_no_sense_is_refused_by_key(changes: dict[str, Any], key: str) -> None:
    assert key in problems({"base": "llama-3-8b", **changes})


def test_every_problem_at_once() -> None:
    found = problems({"base": "llama-3-8b", "layers": -3, "vocab": "big", "colour": "red"})
    assert {"model.layers", "model.vocab", "model.colour"} <= set(found)


def test_a_scenario_names_a_base_and_its_changes(tmp_path: Path) -> None:
    before, rest = TINY.read_text(encoding="utf-8").split("\nmodel:\n")
    after = rest[rest.index("\ncluster:") :]
    text = f"{before}\nmodel: {{base: llama-3-8b, layers: 4, vocab: 32000}}\n{after.replace('ep: 4', 'ep: 1')}"
    scenario = tmp_path / "scenario.yaml"
    scenario.write_text(text, encoding="utf-8")
    model = load_scenario(scenario).model
    assert (len(model.layers), model.vocab) == (4, 32000)
