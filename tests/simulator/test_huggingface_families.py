"""Every family of Hugging Face configs: parameters as transformers' own modelling code counts them, and refusals.

data/huggingface_parameters.tsv: parameters of 120 model types counted by transformers 5.24 on the meta device, for the
default config of each and for configs with other depths, widths, heads, experts, windows, ranks and biases. A row's
keys stand on top of those of its type's first row.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from collections import defaultdict
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from hardware.problems import InputError
from simulator.model.catalogue import load
from simulator.model.components import layer_linears
from simulator.model.families import families, vocabulary
from simulator.model.flops import linear_flops_per_token
from simulator.model.huggingface import from_huggingface
from simulator.model.parameters import total_parameters
from simulator.model.read_mixers import MIXER_READERS
from simulator.model.spec import MIXERS, Mamba2
from simulator.plans.spec import Plan
from simulator.scenario.schema import load_scenario
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import Matmul, Work
from simulator.workload.shape import shape_of

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
ORACLE = Path(__file__).parent / "data" / "huggingface_parameters.tsv"


def oracle() -> dict[str, dict[str, tuple[dict[str, Any], int]]]:
    """model_type -> variant -> (config, parameters)."""
    csv.field_size_limit(sys.maxsize)
    rows: dict[str, dict[str, tuple[dict[str, Any], int]]] = defaultdict(dict)
    first: dict[str, dict[str, Any]] = {}
    with ORACLE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            keys = json.loads(row["keys"])
            config = {**first.setdefault(row["model_type"], keys), **keys}
            if row["parameters"]:
                rows[row["model_type"]][row["variant"]] = config, int(row["parameters"])
    return rows


ROWS = oracle()
READ_TYPES = sorted(ROWS)


def refused(config: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        from_huggingface(config, "config.json")
    return str(caught.value)


def default(model_type: str) -> dict[str, Any]:
    return next(iter(ROWS[model_type].values()))[0]


@pytest.mark.parametrize("model_type", READ_TYPES)
def test_parameters_are_those_of_the_modelling_code(model_type: str) -> None:
    for variant, (config, parameters) in ROWS[model_type].items():
        counted = total_parameters(from_huggingface(config, f"{model_type} {variant}"))
        assert counted == pytest.approx(parameters, rel=1e-3), variant


def test_the_oracle_covers_what_the_reader_claims() -> None:
    assert len(READ_TYPES) >= 100
    assert sum(len(variants) for variants in ROWS.values()) >= 600
    assert set(READ_TYPES) <= set(families())


@pytest.mark.parametrize("model_type", sorted(vocabulary().refused_types))
def test_what_is_not_modelled_is_refused_by_name_with_the_reason(model_type: str) -> None:
    message = refused({"model_type": model_type, "hidden_size": 64})
    assert model_type in message
    assert vocabulary().refused_types[model_type] in message
    assert model_type not in families()


def test_longcat_holds_512_experts_beside_256_that_return_their_input() -> None:
    """560 B as published (arXiv 2509.01322); transformers allocates gate and up weights for all 768."""
    config = {"model_type": "longcat_flash", "vocab_size": 131072, "hidden_size": 6144, "num_layers": 28,
              "num_attention_heads": 64, "ffn_hidden_size": 12288, "q_lora_rank": 1536, "kv_lora_rank": 512,
              "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "moe_topk": 12,
              "n_routed_experts": 512, "zero_expert_num": 256, "expert_ffn_hidden_size": 2048}  # fmt: skip
    model = from_huggingface(config, "longcat")
    unused = 28 * 256 * 2 * 6144 * 2048
    assert total_parameters(model) + unused == pytest.approx(741053585408, rel=1e-3)
    assert total_parameters(model) == pytest.approx(560e9, rel=2e-3)
    assert len(model.layers) == 2 * 28
    experts = model.layers[0].ffn
    assert getattr(experts, "top_k", None) == 8  # 12 x 512 / 768


@pytest.mark.parametrize("key", ["id2label", "label2id", "tokenizer_name", "chunk_size_feed_forward", "architectures"])
def test_keys_that_decide_no_size_pass(key: str) -> None:
    values = {"id2label": {"0": "a"}, "label2id": {"a": 0}, "tokenizer_name": "x", "chunk_size_feed_forward": 0,
              "architectures": ["LlamaForCausalLM"]}  # fmt: skip
    config = default("llama")
    assert from_huggingface({**config, key: values[key]}, "m").layers == from_huggingface(config, "m").layers


@pytest.mark.parametrize(
    ("model_type", "change", "key"),
    [
        ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder"),
        ("llama", {"chunk_size_feed_forward": 4}, "chunk_size_feed_forward"),
        ("llama", {"add_cross_attention": True}, "add_cross_attention"),
        ("mpt", {"embedding_fraction": 0.5}, "embedding_fraction"),
        ("gemma3_text", {"use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ("llama", {"kv_lora_rank": 512}, "kv_lora_rank"),
        ("llama", {"layer_types": ["full_attention", "mystery"] * 16}, "layer_types"),
        ("bamba", {"attn_layer_indices": [99]}, "attn_layer_indices"),
        ("mamba", {"use_bias": True}, "use_bias"),
        ("deepseek_v4", {"layer_types": None, "compress_rates": {"x": -1}}, "compress_rates"),
        ("gemma4_text", {"per_layer_config": {"77": {"head_dim": 2}}}, "per_layer_config"),
        ("nemotron_h", {"layers_block_type": None}, "layers_block_type"),
    ],
)
def test_keys_that_change_what_is_not_modelled_are_refused(model_type: str, change: dict[str, Any], key: str) -> None:
    assert f"config.json: {key}" in refused({**default(model_type), **change})


def test_an_absent_expert_width_is_the_familys_own_or_said_to_be_missing() -> None:
    config = default("deepseek_v3")
    without = {key: value for key, value in config.items() if key != "moe_intermediate_size"}
    assert total_parameters(from_huggingface(without, "m")) == pytest.approx(671.03e9, rel=1e-3)
    assert "moe_intermediate_size: missing" in refused({**without, "model_type": "kimi_k2"})


def test_an_absent_number_of_experts_is_the_familys_own() -> None:
    config = default("deepseek_v3")
    without = {key: value for key, value in config.items() if key != "n_routed_experts"}
    assert total_parameters(from_huggingface(without, "m")) == total_parameters(from_huggingface(config, "m"))


@pytest.mark.parametrize("model_type", READ_TYPES)
def test_what_is_read_is_priced_to_the_last_matrix(model_type: str) -> None:
    """The products of the workload on one rank do the FLOPs of the model's matrices, every expert's tokens included."""
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=1)
    for variant, (config, _) in ROWS[model_type].items():
        model = from_huggingface(config, variant)
        shape = shape_of(model, plan, 512)
        for layer in set(model.layers):
            nothing = Work((), ())
            mixer = mixer_work(layer.mixer, shape) if layer.mixer else nothing
            ffn = ffn_work(layer.ffn, shape) if layer.ffn else nothing
            products = [op for op in mixer.operators + ffn.operators if isinstance(op, Matmul)]
            flops = sum(2 * op.groups * op.m * op.n * op.k for op in products)
            counted = sum(linear_flops_per_token(linear) for linear in layer_linears(model, layer))
            assert flops / 512 == pytest.approx(counted, rel=2e-3), (variant, layer)


def mutated(config: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The config with one to three keys lost, or holding something of another type or size."""
    junk = [None, True, False, -1, 0, 1, 3, 10**15, -(10**9), 0.5, 1e300, float("nan"), float("inf"), "", "x", [], [1],
            [[]], {}, {"a": 1}, {"0": {}}, ["full_attention"], "auto"]  # fmt: skip
    changed = dict(config)
    for key in chance.sample(sorted(config), k=min(len(config), chance.randint(1, 3))):
        if chance.random() < 0.2:
            del changed[key]
        elif isinstance(config[key], list) and chance.random() < 0.5:
            changed[key] = config[key][: chance.randrange(len(config[key]) + 1)]
        else:
            changed[key] = chance.choice(junk)
    return changed


@pytest.mark.parametrize("model_type", READ_TYPES)
def test_mutated_configs_are_read_or_refused_politely(model_type: str) -> None:
    chance = random.Random(model_type)
    config = {**default(model_type), "num_hidden_layers": 8} if model_type == "llama" else default(model_type)
    for _ in range(25):
        try:
            model = from_huggingface(mutated(config, chance), "config.json")
        except InputError:
            continue
        assert total_parameters(model) > 0


def test_every_word_of_layers_names_a_mixer_that_can_be_read() -> None:
    words = [vocabulary().kinds, *(family.kinds for family in families().values())]
    readable = set(MIXER_READERS) | set(vocabulary().mixers)
    assert {kind for kinds in words for kind in kinds.values()} <= readable


def test_mixers_in_data_fill_their_records() -> None:
    for table in vocabulary().mixers.values():
        record = MIXERS[table["record"]]
        filled = {*table["fields"], *table.get("fixed", {})}
        required = {item.name for item in fields(record) if item.default is MISSING}
        assert required <= filled <= {item.name for item in fields(record)}


GRANITE = {"hidden_size": 1536, "mamba_expand": 2, "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_n_groups": 1}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mamba_n_heads": 47}, "mamba_n_heads: 47 heads of 64 make 3,008 channels, and expand x hidden is 3,072. "),
        ({"mamba_n_heads": 47, "mamba_d_head": "auto"}, "mamba_n_heads: 47 does not divide the mixer's 3,072 channels"),
        ({"mamba_n_groups": 5}, "mamba_n_groups: 5 does not divide 48 heads"),
        ({"mamba_n_heads": 0}, "mamba_n_heads: 0 is not a whole number"),
        ({"layer_types": ["mamba", "attn"]}, "layer_types: must be a list of"),
    ],
)
def test_sizes_of_a_state_that_contradict_each_other_get_one_error(change: dict[str, Any], said: str) -> None:
    """Granite 4: 2 x 1,536 channels are 48 heads of 64."""
    config = {**default("granitemoehybrid"), **GRANITE}
    assert from_huggingface(config, "m").layers
    message = refused({**config, **change})
    assert said in message
    assert message.count("config.json: ") == 1


def test_nemotrons_states_are_as_wide_as_their_heads() -> None:
    """Nemotron 3 Nano: 64 heads of 64 at a width of 2,688, whatever its expand of 2 says."""
    model = load("nemotron-3-nano-30b-a3b")
    (mixer,) = {layer.mixer for layer in model.layers if isinstance(layer.mixer, Mamba2)}
    assert (mixer.heads * mixer.head_dim, model.hidden) == (4096, 2688)
    assert "n_groups: 7 does not divide" in refused({**default("nemotron_h"), "n_groups": 7})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hybrid_override_pattern": "MXMX*"}, "hybrid_override_pattern: layer 2 is 'X', which is no layer; write M"),
        ({"hybrid_override_pattern": ""}, "hybrid_override_pattern: must be a string of the letters M (mamba)"),
        ({"layers_block_type": ["mamba", "expert"]}, "layers_block_type: layer 2: 'expert' is not known"),
        ({"layers_block_type": "mamba"}, "layers_block_type: must be a list"),
    ],
)
def test_a_hybrid_stack_that_cannot_be_read_gets_one_error(changes: dict[str, Any], said: str) -> None:
    """The keys of its layers are neither superfluous nor missing for that."""
    config = {key: value for key, value in default("nemotron_h").items() if key != "layers_block_type"}
    message = refused({**config, **changes})
    assert said in message
    assert message.count("config.json: ") == 1


@pytest.mark.parametrize(
    ("mixer", "said"),
    [
        ("{kind: mamba2, heads: 48, head_dim: 64, groups: 5, state: 128, conv_kernel: 4}", "5 does not divide 48"),
        ("{kind: linear, variant: gdn, key_heads: 3, value_heads: 16, key_head_dim: 64, value_head_dim: 64, "
         "conv_kernel: 4}", "3 does not divide 16 value heads"),
    ],
)  # fmt: skip
def test_a_written_state_is_held_to_the_same_rules(mixer: str, said: str) -> None:
    layers = f"[{{mixer: {mixer}, ffn: {{kind: dense, width: 4096}}}}]"
    with pytest.raises(InputError, match=said):
        load_scenario(TINY, [f"model={{hidden: 1024, vocab: 32000, layers: {layers}}}", "plan.pp=1", "plan.ep=1"])
