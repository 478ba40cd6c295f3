"""Launches read by the frameworks themselves, on a CPU: run with `-m oracle` where tests/oracles.txt is installed.

megatron-core 0.16.1 builds its configuration from exported arguments, torchtitan 0.3.0 its Trainer.Config from the
recipe, DeepSpeed 0.19.8 its DeepSpeedConfig from the JSON. Each test is skipped where its package is missing.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from simulator.launch import Launch, launch, write_launch
from simulator.launch.answer import answer
from simulator.launch.forecast import Forecast
from simulator.launch.targets import TARGETS
from simulator.plans.layout import stages
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS, drawn
from tests.simulator.megatron_rules import read
from tests.simulator.test_launch_rules import arguments

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore"),
]
DRAWN = 50
# Arguments that are fields of another name or of the opposite sense.
FIELDS = {
    "num_experts": "num_moe_experts",
    "disable_bias_linear": "add_bias_linear",
    "swiglu": "gated_linear_unit",
    "fp8_format": "fp8",
    "fp4_format": "fp4",
    "decoder_first_pipeline_num_layers": "num_layers_in_first_pipeline_stage",
    "decoder_last_pipeline_num_layers": "num_layers_in_last_pipeline_stage",
    "microbatch_group_size_per_virtual_pipeline_stage": "microbatch_group_size_per_vp_stage",
    "no_overlap_p2p_communication": "overlap_p2p_comm",
    "no_gradient_accumulation_fusion": "gradient_accumulation_fusion",
    "group_query_attention": "",
}
NEGATED = ("--disable-bias-linear", "--no-overlap-p2p-communication", "--no-gradient-accumulation-fusion")
# Need Transformer Engine, which a CPU machine does not have: what they fuse changes no size.
WITHOUT_ENGINE = ("moe_permute_fusion", "cuda_graph_impl", "cuda_graph_scope", "attention_backend", "tp_comm_overlap")


def as_field(name: str, words: tuple[str, ...]) -> Any:
    """The words of an argument as its field wants them."""
    if not words:
        return name not in NEGATED
    if "[" in words[0]:
        return [int(kind) for kind, count in re.findall(r"\[(\d)\]\*(\d+)", words[0]) for _ in range(int(count))]
    if name.endswith(("-modules", "-scope")):
        return list(words)
    for convert in (int, float):
        try:
            return convert(words[0])
        except ValueError:
            continue
    return words[0]


def config_fields(cls: type, made: Launch) -> dict[str, Any]:
    """The exported arguments that are fields of a Megatron configuration."""
    said = read(arguments(made), made.scenario.plan.gpus, {}, "")
    known = {field.name for field in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for name, words in said.words.items():
        plain = name.removeprefix("--").replace("-", "_")
        field = FIELDS.get(plain, plain)
        if field in known and field not in WITHOUT_ENGINE:
            found[field] = as_field(name, words)
    if said.vpp > 1:
        found["virtual_pipeline_model_parallel_size"] = said.vpp
    found["pipeline_dtype"] = importlib.import_module("torch").bfloat16
    return found


def build_megatron(made: Launch) -> Any:
    transformer = pytest.importorskip("megatron.core.transformer.transformer_config")
    is_latent = "--multi-latent-attention" in arguments(made)
    cls = transformer.MLATransformerConfig if is_latent else transformer.TransformerConfig
    values = config_fields(cls, made)
    # Kernels of Transformer Engine and of expert overlap are checked against installed versions.
    for name in ("overlap_moe_expert_parallel_comm", "delay_wgrad_compute", "fp8", "fp8_recipe", "fp4", "fp4_recipe"):
        values.pop(name, None)
    values.pop("fp8_param_gather", None)
    return cls(**values, apply_rope_fusion=False)


def check_config(config: Any, scenario: Scenario) -> None:
    plan, model = scenario.plan, scenario.model
    assert config.num_layers == len(model.layers)
    assert config.tensor_model_parallel_size == plan.tp
    assert config.expert_model_parallel_size == (plan.ep if config.num_moe_experts else 1)
    if config.pipeline_model_parallel_layout is not None:
        by_rank = [
            [len([kind for kind in chunk if kind.name == "decoder"]) for chunk in rank]
            for rank in config.pipeline_model_parallel_layout.layout
        ]
        counts = [stage.layer_count for stage in stages(model, plan)]
        assert by_rank == [[counts[chunk * plan.pp + rank] for chunk in range(plan.vpp)] for rank in range(plan.pp)]


def test_megatron_core_builds_what_shipped_scenarios_export() -> None:
    pytest.importorskip("megatron.core")
    built = set()
    for path in sorted(SCENARIOS.glob("*.yaml")):
        made = launch(load_scenario(path), "megatron@0.16", "torchrun", forecast=FORECAST)
        if made.nearest is not None:
            near = load_scenario(path, made.nearest.overrides)
            made = launch(near, "megatron@0.16", "torchrun", forecast=FORECAST)
        if made.complete:
            check_config(build_megatron(made), made.scenario)
            built.add(path.stem)
    others = {path.stem for path in SCENARIOS.glob("*.yaml")} - built
    assert others == {"bert-large-64xv100", "gpt3-175b-1024xa100"}  # an encoder, and blocks side by side


def test_megatron_core_builds_what_drawn_plans_export() -> None:
    pytest.importorskip("megatron.core")
    built = 0
    for scenario in drawn(2 * DRAWN, seed=7):
        made = launch(scenario, "megatron@0.16", "torchrun", forecast=FORECAST)
        if made.complete and built < DRAWN:
            check_config(build_megatron(made), scenario)
            built += 1
    assert built == DRAWN


def recipe_of(made: Launch, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_launch(made, folder)
    spec = importlib.util.spec_from_file_location("launched_recipe", folder / "recipe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TORCHTITAN = {
    "llama-3.1-405b": ("llama-3.1-405b-16384xh100", ()),
    "deepseek-v3": (
        "deepseek-v3-2048xh800",
        (
            "model={base: deepseek-v3, mtp: 0}",
            "plan={pp: 8, vpp: 2, ep: 32, micro_batch_size: 1, global_batch_size: 8192, schedule: interleaved, "
            "layout: Etttt|(tttt|)*14tL, stack: torchtitan-0.3}",
        ),
    ),
    "qwen3-235b-a22b": (
        "qwen3-235b-256xh100",
        ("plan={ep: 64, micro_batch_size: 1, global_batch_size: 1024, recompute: {granularity: full}, "
         "stack: torchtitan-0.3}",),
    ),
    "llama-3-8b": (
        "qwen3-235b-256xh100",
        ("model=llama-3-8b", "plan={tp: 2, sequence_parallel: true, micro_batch_size: 1, global_batch_size: 256, "
         "recompute: {granularity: selective, modules: [core_attn]}, stack: torchtitan-0.3-compiled}"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHTITAN)
def test_torchtitan_builds_its_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchtitan.trainer")
    scenario, overrides = TORCHTITAN[name]
    if not overrides:
        overrides = (
            "plan={tp: 8, sequence_parallel: true, pp: 16, micro_batch_size: 1, global_batch_size: 4096, "
            "layout: E(t*8|)*15t*6L, stack: torchtitan-0.3}",
        )
    loaded = load_scenario(SCENARIOS / f"{scenario}.yaml", overrides)
    made = launch(loaded, "torchtitan", "torchrun", forecast=FORECAST)
    assert made.complete, [each.text for each in made.inexpressible]
    config = recipe_of(made, tmp_path / "run", monkeypatch).launch_config()
    plan, parallel = loaded.plan, config.parallelism
    assert parallel.data_parallel_replicate_degree * parallel.data_parallel_shard_degree == plan.dp
    assert (parallel.tensor_parallel_degree, parallel.pipeline_parallel_degree) == (plan.tp, plan.pp)
    assert parallel.expert_parallel_degree == plan.ep
    assert len(config.model_spec.model.layers) == len(loaded.model.layers)
    if plan.pp > 1:
        from torchtitan.distributed.pipeline_parallel import get_schedule_class  # type: ignore[import-not-found]

        assert get_schedule_class(parallel.pipeline_parallel_schedule) is not None
        named = [name for part in parallel.module_fqns_per_model_part for name in part]
        assert named == ["tok_embeddings", *(f"layers.{i}" for i in range(len(loaded.model.layers))), "norm", "lm_head"]


DEEPSPEED = (
    ("plan={micro_batch_size: 1, global_batch_size: 256, stack: deepspeed-0.19}", 3),
    ("plan={micro_batch_size: 2, global_batch_size: 512, sharding: optimizer_gradients, stack: deepspeed-0.19}", 2),
    ("plan={micro_batch_size: 1, global_batch_size: 256, sharding: full, stack: deepspeed-0.19, "
     "offload: {optimizer: 1.0, params: host}}", 3),
)  # fmt: skip


@pytest.mark.parametrize(("plan", "stage"), DEEPSPEED)
def test_deepspeed_loads_its_json(plan: str, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "DS_ACCELERATOR", "cpu")
    runtime = pytest.importorskip("deepspeed.runtime.config")
    constants = importlib.import_module("deepspeed.runtime.constants")
    scenario = load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml", ("model=llama-3-8b", plan))
    made = launch(scenario, "deepspeed", "torchrun", forecast=FORECAST)
    assert made.complete, [each.text for each in made.inexpressible]
    document = json.loads(made.files["ds_config.json"])
    assert unknown_keys(document, vars(constants)) == []
    config = runtime.DeepSpeedConfig({**document, "train_batch_size": document["train_batch_size"] // 256})
    assert config.zero_optimization_stage == stage
    assert config.gradient_accumulation_steps == scenario.plan.microbatches
    assert config.train_micro_batch_size_per_gpu == scenario.plan.micro_batch_size


def unknown_keys(document: Mapping[str, Any], constants: Mapping[str, Any]) -> list[str]:
    """Top-level keys that no constant of DeepSpeed names: it accepts a misspelt one in silence."""
    known = {value for value in constants.values() if isinstance(value, str)}
    known |= {"zero_optimization", "tensor_parallel", "data_types", "activation_checkpointing", "bf16", "fp16"}
    return [key for key in document if key not in known]


def test_answers_do_not_depend_on_the_forecast() -> None:
    """What a target can be told follows from the plan alone."""
    scenario = load_scenario(SCENARIOS / "tiny.yaml")
    other = Forecast(1.0, (0.5, 2.0), 1e9, False, {"storage": 60.0}, spares=0)
    for target in TARGETS.values():
        chosen = target.table_for(None, scenario.plan.stack.name)
        first, second = (answer(target, chosen, scenario, each).inexpressible for each in (FORECAST, other))
        assert first == second
