"""Models of Mamba and attention layers, exported for Megatron-LM and imported: a pattern of blocks, cut into stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from simulator.launch import Launch, launch
from simulator.launch.importing.importer import import_launch
from simulator.model.catalogue import load
from simulator.model.spec import Attention, DenseFFN, Mamba2
from simulator.plans.layout import stages
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS
from tests.simulator.test_launch_rules import arguments

BASE = SCENARIOS / "qwen3-235b-256xh100.yaml"
PLANS = {
    "nemotron-h-56b": "tp: 8, pp: 2, sequence_parallel: true",
    "nemotron-3-nano-30b-a3b": "tp: 2, pp: 4, ep: 8, sequence_parallel: true",
    "nemotron-3-super-120b-a12b": "tp: 2, pp: 4, vpp: 2, ep: 8, sequence_parallel: true",
    "nemotron-3.5-lightning-30b-a3b": "ep: 8",
}
GIVEN = ("cluster.gpus=256", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")


def scenario_of(model: str, plan: str) -> Scenario:
    written = f"plan={{micro_batch_size: 1, global_batch_size: 256, {plan}}}"
    return load_scenario(BASE, (f"model={model}", written))


def made_of(model: str, plan: str, to: str = "megatron@0.19") -> Launch:
    return launch(scenario_of(model, plan), to, "torchrun", forecast=FORECAST)


def value_of(made: Launch, name: str) -> str:
    words = arguments(made)
    return words[words.index(name) + 1]


def again(folder: Path, text: str) -> Scenario:
    (folder / "arguments.sh").write_text(text)
    (folder / "again.yaml").write_text(import_launch([folder / "arguments.sh"], GIVEN).text)
    return load_scenario(folder / "again.yaml")


@pytest.mark.parametrize("name", PLANS)
def test_catalogue_hybrids_come_back_with_their_stages(name: str, tmp_path: Path) -> None:
    made = made_of(name, PLANS[name])
    assert made.complete, [each.text for each in made.inexpressible]
    assert "pretrain_hybrid.py" in made.files["train.sh"]
    back = again(tmp_path, made.files["arguments.sh"])
    own = made.scenario
    assert back.model == own.model
    assert [stage.symbols for stage in stages(back.model, back.plan)] == [
        stage.symbols for stage in stages(own.model, own.plan)
    ]
    degrees = ("tp", "pp", "vpp", "ep", "dp", "precision", "sharding", "dispatcher")
    assert [getattr(back.plan, key) for key in degrees] == [getattr(own.plan, key) for key in degrees]


def test_the_pattern_has_a_symbol_for_every_block_and_a_mark_for_every_stage() -> None:
    """88 blocks over 4 ranks of 2 stages are 11 each; a prediction module is attention and experts."""
    made = made_of("nemotron-3-super-120b-a12b", PLANS["nemotron-3-super-120b-a12b"])
    main, module = value_of(made, "--hybrid-layer-pattern").split("/")
    assert [len(stage) for stage in main.split("|")] == [11] * 8
    assert module == "*E"
    words = arguments(made)
    refused = ("--num-layers", "--pipeline-model-parallel-layout", "--num-virtual-stages-per-pipeline-rank")
    assert not set(refused) & set(words)
    assert words[words.index("--spec") + 1 :][:2] == [
        "megatron.core.models.hybrid.hybrid_layer_specs",
        "hybrid_stack_spec",
    ]
    assert value_of(made, "--position-embedding-type") == "none"


def test_a_layer_of_mixer_and_experts_is_two_blocks(tmp_path: Path) -> None:
    """Granite 4's hybrids: nine Mamba layers to one of attention, experts in each."""
    config = {"architectures": ["GraniteMoeHybridForCausalLM"], "model_type": "granitemoehybrid", "hidden_size": 1536,
              "num_hidden_layers": 4, "layer_types": ["mamba", "mamba", "attention", "mamba"],
              "num_attention_heads": 12,
              "num_key_value_heads": 4, "num_local_experts": 64, "num_experts_per_tok": 6, "intermediate_size": 512,
              "shared_intermediate_size": 1024, "mamba_n_heads": 48, "mamba_d_head": 64, "mamba_d_state": 128,
              "mamba_n_groups": 1, "mamba_d_conv": 4, "vocab_size": 100352, "tie_word_embeddings": True,
              "position_embedding_type": "nope"}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = made_of(f"{{huggingface: {tmp_path / 'config.json'}}}", "ep: 8")
    assert made.complete, [each.text for each in made.inexpressible]
    assert value_of(made, "--hybrid-layer-pattern") == "MEME*EME"
    back = again(tmp_path, made.files["arguments.sh"])
    whole = [part for layer in made.scenario.model.layers for part in (layer.mixer, layer.ffn)]
    assert [layer.mixer or layer.ffn for layer in back.model.layers] == whole


def test_megatrons_own_patterns_are_read(tmp_path: Path) -> None:
    """The form of Megatron-LM's example: Mamba heads follow from the width, 2 x 1024 / 64."""
    back = again(tmp_path, OWN)
    blocks = [layer.mixer or layer.ffn for layer in back.model.layers]
    kinds: Mapping[type, str] = {Mamba2: "M", Attention: "*", DenseFFN: "-"}
    assert "".join(kinds[type(block)] for block in blocks) == "M-M-*-M-"
    assert blocks[0] == Mamba2(heads=32, head_dim=64, groups=8, state=128, conv_kernel=4)
    assert (back.plan.pp, [stage.layer_count for stage in stages(back.model, back.plan)]) == (2, [3, 5])


OWN = """\
python pretrain_hybrid.py --hybrid-override-pattern 'M-M|-*-M-' --hidden-size 1024 --num-attention-heads 16 \\
  --group-query-attention --num-query-groups 8 --position-embedding-type none --disable-bias-linear \\
  --untie-embeddings-and-output-weights --normalization RMSNorm --vocab-size 32000 --bf16 --seq-length 4096 \\
  --pipeline-model-parallel-size 2 --micro-batch-size 4 --global-batch-size 1024 --use-distributed-optimizer \\
  --spec megatron.core.models.hybrid.hybrid_layer_specs hybrid_stack_spec --train-iters 100
"""


def test_an_older_release_and_other_states_are_refused_by_name(tmp_path: Path) -> None:
    old = made_of("nemotron-h-56b", PLANS["nemotron-h-56b"], "megatron@0.16")
    assert any(each.key == "model.hybrid" and "release 0.19" in each.why for each in old.inexpressible)
    mamba = {"mixer": {"kind": "mamba", "inner": 8192, "state": 16, "step_rank": 256, "conv_kernel": 4}}
    jamba = {"hidden": 4096, "vocab": 65536, "layers": [mamba, {"ffn": {"kind": "dense", "width": 14336}}]}
    made = made_of(json.dumps(jamba), "tp: 1")
    assert any("Mamba1" in str(each.value) for each in made.inexpressible)
    slow: dict[str, Any] = {"base": "nemotron-h-56b", "mixer": {"kind": "mamba2", "conv_kernel": 3}}
    odd = made_of(json.dumps(slow), PLANS["nemotron-h-56b"])
    assert [each.key for each in odd.inexpressible] == ["model.mamba.conv_kernel"]
    assert len(load("nemotron-h-56b").layers) == 118
