"""Launches of NVIDIA's published layouts set what the published recipes set.

The recipes are those of megatron-bridge 0.6.2 (perf_recipes/deepseek/h100/deepseek_v3.py, qwen/h100/qwen3_moe.py,
llama/h100/llama31.py and recipes/llama/h100/llama3.py for the split of the layers): what a recipe says of parallelism,
batch, recomputation and overlap.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from simulator.launch import Launch, launch
from simulator.launch.tables import table
from simulator.scenario.schema import load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS
from tests.simulator.megatron_rules import read
from tests.simulator.test_launch_rules import arguments

DEEPSEEK = (
    "cluster={gpus: 1024, node: hgx-h100, fabric: ndr-rail-2tier}",
    "plan={tp: 2, sequence_parallel: true, pp: 8, vpp: 4, ep: 64, micro_batch_size: 1, global_batch_size: 16384, "
    "layout: Et|(tt|)*30mL, recompute: {granularity: selective, modules: [mla_up_proj, mlp]}, "
    "overlap: {grad_reduce: false, param_gather: false}, optimizer: {grads: bf16, grad_reduce: bf16}, "
    "dispatcher: hybridep, stack: megatron-bridge-0.6}",
)
QWEN = (
    "plan={tp: 2, sequence_parallel: true, pp: 8, vpp: 4, ep: 32, micro_batch_size: 1, global_batch_size: 8192, "
    "account_for_embedding: true, account_for_loss: true, dispatcher: alltoall, precision: bf16, "
    "fp8_param_gather: false, overlap: {moe_ep: true, delay_wgrad: true, tp_comm: false}, stack: megatron-bridge-0.6}",
)
LLAMA = (
    "cluster.gpus=1024",
    "plan={tp: 8, sequence_parallel: true, pp: 8, vpp: 8, cp: 2, micro_batch_size: 1, global_batch_size: 1536, "
    "account_for_embedding: true, account_for_loss: true, overlap: {tp_comm: true}, fp8_param_gather: false, "
    "stack: megatron-bridge-0.6}",
)
# Scenario and overrides; fields that the recipe sets; Megatron's arguments of the same.
RECIPES: dict[str, tuple[str, tuple[str, ...], dict[str, Any], dict[str, str]]] = {
    "deepseek_v3_pretrain_1024gpu_h100_bf16": (
        "deepseek-v3-2048xh800",
        DEEPSEEK,
        {
            "model.tensor_model_parallel_size": 2,
            "model.pipeline_model_parallel_size": 8,
            "model.virtual_pipeline_model_parallel_size": 4,
            "model.context_parallel_size": 1,
            "model.expert_model_parallel_size": 64,
            "model.sequence_parallel": True,
            "model.pipeline_model_parallel_layout": "Et|(tt|)*30mL",
            "model.recompute_modules": ["mla_up_proj", "mlp"],
            "train.global_batch_size": 16384,
            "train.micro_batch_size": 1,
            "ddp.overlap_grad_reduce": False,
            "comm_overlap.overlap_grad_reduce": False,
        },
        {
            "--tensor-model-parallel-size": "2",
            "--pipeline-model-parallel-size": "8",
            "--expert-model-parallel-size": "64",
            "--pipeline-model-parallel-layout": "Et|(tt|)*30mL",
            "--global-batch-size": "16384",
        },
    ),
    "qwen3_235b_a22b_pretrain_256gpu_h100_bf16": (
        "qwen3-235b-256xh100",
        QWEN,
        {
            "model.tensor_model_parallel_size": 2,
            "model.pipeline_model_parallel_size": 8,
            "model.virtual_pipeline_model_parallel_size": 4,
            "model.context_parallel_size": 1,
            "model.expert_model_parallel_size": 32,
            "model.sequence_parallel": True,
            "model.recompute_granularity": None,
            "model.moe_token_dispatcher_type": "alltoall",
            "model.account_for_embedding_in_pipeline_split": True,
            "model.account_for_loss_in_pipeline_split": True,
            "comm_overlap.tp_comm_overlap": False,
            "comm_overlap.overlap_moe_expert_parallel_comm": True,
            "comm_overlap.delay_wgrad_compute": True,
            "model.seq_length": 4096,
            "train.global_batch_size": 8192,
            "train.micro_batch_size": 1,
        },
        {
            "--tensor-model-parallel-size": "2",
            "--pipeline-model-parallel-size": "8",
            "--num-virtual-stages-per-pipeline-rank": "4",
            "--expert-model-parallel-size": "32",
            "--moe-token-dispatcher-type": "alltoall",
            "--global-batch-size": "8192",
        },
    ),
    "llama31_405b_pretrain_1024gpu_h100_bf16": (
        "llama-3.1-405b-16384xh100",
        LLAMA,
        {
            "model.tensor_model_parallel_size": 8,
            "model.pipeline_model_parallel_size": 8,
            "model.virtual_pipeline_model_parallel_size": 8,
            "model.context_parallel_size": 2,
            "model.sequence_parallel": True,
            "model.account_for_embedding_in_pipeline_split": True,
            "model.account_for_loss_in_pipeline_split": True,
            "comm_overlap.tp_comm_overlap": True,
            "model.seq_length": 8192,
            "dataset.seq_length": 8192,
            "train.global_batch_size": 1536,
            "train.micro_batch_size": 1,
        },
        {
            "--tensor-model-parallel-size": "8",
            "--pipeline-model-parallel-size": "8",
            "--context-parallel-size": "2",
            "--num-virtual-stages-per-pipeline-rank": "8",
            "--global-batch-size": "1536",
            "--seq-length": "8192",
        },
    ),
}


def of_recipe(name: str, to: str) -> Launch:
    scenario, overrides, _, _ = RECIPES[name]
    if to == "megatron":  # whose release refuses the loss that the recipes use
        overrides = (*overrides, "plan.stack.fused_loss=false")
    return launch(load_scenario(SCENARIOS / f"{scenario}.yaml", overrides), to, forecast=FORECAST)


@pytest.mark.parametrize("name", RECIPES)
def test_overrides_say_what_the_published_recipe_says(name: str) -> None:
    made = of_recipe(name, "bridge")
    assert made.complete, [each.text for each in made.inexpressible]
    said = {each["name"]: each["value"] for each in json.loads(made.files["manifest.json"])["settings"]}
    assert {key: said.get(key) for key in RECIPES[name][2]} == RECIPES[name][2]


@pytest.mark.parametrize("name", RECIPES)
def test_arguments_say_what_the_published_recipe_says(name: str) -> None:
    made = of_recipe(name, "megatron")
    assert made.complete, [each.text for each in made.inexpressible]
    said = read(arguments(made), made.scenario.plan.gpus, {}, "").words
    assert {key: " ".join(said[key]) for key in RECIPES[name][3]} == RECIPES[name][3]


@pytest.mark.parametrize("name", RECIPES)
def test_overrides_and_recipe_say_the_same(name: str) -> None:
    """The Python assignments and Hydra's words of one launch agree, field by field."""
    made = of_recipe(name, "bridge")
    assigned = {}
    for node in ast.walk(ast.parse(made.files["recipe.py"])):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("cfg."):
            assigned[ast.unparse(node.targets[0]).removeprefix("cfg.")] = ast.unparse(node.value)
    lines = [line.partition("  # ")[0] for line in made.files["overrides.txt"].splitlines() if not line.startswith("#")]
    overridden = dict(line.split("=", 1) for line in lines)
    assert set(overridden) <= set(assigned)
    for key, word in overridden.items():
        python = {"true": "True", "false": "False", "null": "None"}.get(word, word.strip('"'))
        assert python.replace(" ", "") in assigned[key].replace(" ", "").replace("'", ""), key


def test_models_of_registries_are_in_the_catalogue(tmp_path: Path) -> None:
    from simulator.model.catalogue import names

    for each in ("megatron-bridge-0.6", "torchtitan-0.3"):
        assert set(table(each).models) <= set(names())


def test_a_changed_model_is_not_taken_for_the_registrys() -> None:
    """Fewer layers are a setting of Megatron-Bridge (num_layers), and none of torchtitan's registry."""
    fewer = load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml", ("model={base: qwen3-235b-a22b, layers: 62}",))
    assert "model" not in {each.key for each in launch(fewer, "bridge", forecast=FORECAST).inexpressible}
    assert "model" in {each.key for each in launch(fewer, "torchtitan", forecast=FORECAST).inexpressible}
