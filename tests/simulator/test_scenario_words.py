"""Names that people type: other tools' words are told what to write, and short forms are written out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hardware.problems import InputError
from simulator.model.spec import MoE
from simulator.scenario.schema import Scenario, load_scenario, own_keys, scenario_schema
from simulator.scenario.words import COUNTED, words

SCENARIOS = Path(__file__).parents[2] / "scenarios"
GOOD = """\
model: llama-3.1-8b
cluster: {gpus: 16, node: hgx-h100, fabric: ndr-rail-2tier}
plan: {tp: 2, micro_batch_size: 1, global_batch_size: 64}
run: {seq_length: 4096, tokens: 1B}
"""


def load(folder: Path, text: str, *overrides: str) -> Scenario:
    file = folder / "scenario.yaml"
    file.write_text(text)
    return load_scenario(file, overrides)


def problems(folder: Path, text: str, *overrides: str) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides)
    return {problem.key: problem.message for problem in caught.value.problems}


def keys_below(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every (dotted key, name) that the schema of scenario files describes."""
    for branch in schema.get("anyOf", ()):
        yield from keys_below(branch, path)
    for name, inner in schema.get("properties", {}).items():
        dotted = f"{path}.{name}" if path else name
        yield dotted, name
        yield from keys_below(inner, dotted)


def test_no_word_is_a_key_of_the_scenario_itself_and_every_word_leads_to_one() -> None:
    known = {(dotted, name) for dotted, name in keys_below(scenario_schema())
             if dotted.split(".")[0] in ("cluster", "plan", "run") and not dotted.startswith("plan.stack")}  # fmt: skip
    own_names = {name for _, name in known}
    assert not own_names & set(words()), "a scenario's own key cannot be another tool's word"
    targets = {word.key for word in words().values() if word.key is not None}
    assert targets <= {dotted for dotted, _ in known}
    assert all(words()[name].advice for name in COUNTED)


def test_every_value_of_the_table_is_one_that_the_key_takes(tmp_path: Path) -> None:
    plan = scenario_schema()["properties"]["plan"]["properties"]
    for name, word in words().items():
        if word.values is None or word.key is None:
            continue
        _, key, *below = word.key.split(".")
        schema = plan[key]
        if below:
            schema = next(b for b in (schema, *schema.get("anyOf", ())) if "properties" in b)["properties"][below[0]]
        if key == "rank_order":  # a text that placement reads
            continue
        for value in word.values.values():
            jsonschema.validate(value, schema)
            assert value is not None, name


def test_each_word_is_told_key_and_value_and_all_of_them_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("gpus: 16", "nodes: 2")
        .replace("tp: 2", "--tensor-model-parallel-size: 2, zero_stage: 2, recompute_granularity: full")
        .replace("tokens: 1B", "train_iters: 100")
    )
    found = problems(tmp_path, text)
    assert found["cluster.nodes"].endswith("gpus: 16 under cluster")
    assert found["plan.--tensor-model-parallel-size"] == "is another tool's word; write tp: 2 under plan"
    assert found["plan.zero_stage"].endswith("write sharding: optimizer_gradients under plan")
    assert found["plan.recompute_granularity"].endswith("write recompute: {granularity: full} under plan")
    assert found["run.train_iters"].endswith("write steps: 100 under run")
    assert len(found) == 5, "what the words stand for is understood: nothing is reported as missing"


def test_what_a_word_stands_for_is_checked_like_the_rest(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("tp: 2", "tensor_model_parallel_size: 3"))
    assert "3 GPUs to a replica does not divide" in found["plan.tp"]


def test_accumulation_steps_become_a_global_batch(tmp_path: Path) -> None:
    """16 GPUs / tp 2 = 8 replicas, 1 sequence each, 6 times: 48."""
    found = problems(tmp_path, GOOD.replace("global_batch_size: 64", "gradient_accumulation_steps: 6"))
    assert found["plan.gradient_accumulation_steps"].endswith("global_batch_size: 48 under plan")


def test_a_key_in_the_wrong_section_is_told_its_home(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("tp: 2, ", "") + "tp: 2\n")
    assert found == {"tp": "belongs to plan; write tp: 2 under plan"}


def test_a_value_that_the_table_does_not_know_is_answered_with_those_it_does(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD.replace("tp: 2", "zero_stage: 7"))
    assert "optimizer_gradients for 2, full for 3" in found["plan.zero_stage"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("plan.zero_optimization=2", "write sharding: optimizer_gradients under plan"),
        ("plan.zero_optimization={stage: 3}", "write sharding: full under plan"),
        ("plan.activation_checkpointing=full", "write recompute: {granularity: full} under plan"),
        ("plan.activation_checkpoint={mode: selective}", "write recompute: {granularity: selective} under plan"),
        ("run.save_interval=100", "write checkpoint: {every: 30 min} under run"),
        ("plan.compile=true", "write stack: torchtitan-0.3-compiled under plan"),
        ("plan.transformer_impl=transformer_engine", "has no place of its own"),
    ],
)
def test_words_without_a_key_alike_are_told_where_they_belong(tmp_path: Path, override: str, told: str) -> None:
    found = problems(tmp_path, GOOD, override)
    assert told in found[override.partition("=")[0]]


def test_what_those_words_are_told_to_write_is_read(tmp_path: Path) -> None:
    written = load(tmp_path, GOOD, "plan.stack=torchtitan-0.3-compiled", "run.checkpoint={every: 30 min}")
    assert written.plan.stack.name == "torchtitan-0.3-compiled"
    behaviours = {"flash_attention": "true", "fused_kernels": "true", "fused_loss": "true", "cuda_graphs": "full"}
    for name, value in behaviours.items():
        load(tmp_path, GOOD, f"plan.stack={{base: megatron-core-0.19, {name}: {value}}}")


def test_a_word_in_an_override_is_told_the_same(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD, "plan.expert_model_parallel_size=2")
    assert "write ep: 2 under plan" in found["plan.expert_model_parallel_size"]


def test_short_forms_mean_what_they_stand_for(tmp_path: Path) -> None:
    short = GOOD.replace(
        "tp: 2", "tp: 2, recompute: full, optimizer: muon, sharding: zero1, precision: fp8, loss: 4"
    ).replace("tokens: 1B", "tokens: 1B, spares: 8, checkpoint: in-memory")
    long = GOOD.replace(
        "tp: 2",
        "tp: 2, recompute: {granularity: full}, optimizer: {kind: muon}, sharding: optimizer, precision: fp8, "
        "loss: {chunks: 4}",
    ).replace("tokens: 1B", "tokens: 1B, spares: {hot: 8}, checkpoint: {policy: in-memory}")
    assert load(tmp_path, short).plan == load(tmp_path, long).plan
    assert load(tmp_path, short).run == load(tmp_path, long).run
    modules = load(tmp_path, GOOD.replace("tp: 2", "recompute: [layernorm, mlp]")).plan.recompute
    assert (modules.granularity, modules.modules) == ("selective", ("layernorm", "mlp"))
    assert load(tmp_path, GOOD.replace("tp: 2", "sharding: fsdp, optimizer: adam")).plan.sharding == "full"


def test_selective_alone_is_attentions_core(tmp_path: Path) -> None:
    """As in Megatron-LM; modules that are named stay."""
    ours = load(tmp_path, GOOD.replace("tp: 2", "recompute: selective")).plan.recompute
    assert (ours.granularity, ours.modules) == ("selective", ("core_attn",))
    named = GOOD.replace("tp: 2", "recompute: {granularity: selective, modules: [mlp]}")
    assert load(tmp_path, named).plan.recompute.modules == ("mlp",)


def test_an_override_reaches_below_a_short_form_and_may_be_one(tmp_path: Path) -> None:
    text = GOOD.replace("tp: 2", "recompute: full")
    assert load(tmp_path, text, "plan.recompute.method=block").plan.recompute.method == "block"
    assert load(tmp_path, GOOD, "plan.optimizer=muon").plan.optimizer.kind == "muon"


def test_a_short_form_with_a_wrong_word_is_told_the_right_ones(tmp_path: Path) -> None:
    assert "did you mean muon" in problems(tmp_path, GOOD.replace("tp: 2", "optimizer: moun"))["plan.optimizer.kind"]


def test_the_schema_for_editors_takes_the_short_forms() -> None:
    data = {
        "model": "llama-3.1-8b",
        "cluster": {"gpus": 16, "node": "hgx-h100", "fabric": "ndr-rail-2tier"},
        "plan": {"micro_batch_size": 1, "global_batch_size": 64, "recompute": "full", "sharding": "zero1"},
        "run": {"seq_length": 4096, "tokens": "1B", "spares": 8, "checkpoint": "tiered"},
    }
    jsonschema.validate(data, scenario_schema())
    wrong = {**data, "plan": {**data["plan"], "recompute": "fully"}}  # type: ignore[dict-item]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, scenario_schema())
    assert "tp" in own_keys()["plan"]


@pytest.mark.parametrize(
    ("written", "right"),
    [
        ("num_layers: 30", "layers: 30 under model"),
        ("mtp_num_layers: 0", "mtp: 0 under model"),
        ("num_nextn_predict_layers: 2", "mtp: 2 under model"),
        ("num_experts: 128", "ffn: {experts: 128} under model"),
        ("ffn: {num_experts_per_tok: 4}", "ffn: {top_k: 4} under model"),
        ("vocab_size: 32000", "vocab: 32000 under model"),
        ("max_position_embeddings: 8192", "seq_length: 8192 under run"),
    ],
)
def test_words_for_sizes_of_a_changed_model_are_told_what_to_write(written: str, right: str) -> None:
    path = SCENARIOS / "deepseek-v3-2048xh800.yaml"
    with pytest.raises(InputError) as error:
        load_scenario(path, [f"model={{base: deepseek-v3, {written}}}", "plan.layout=auto"])
    assert f"is another word here; write {right}" in str(error.value)


def test_a_catalogue_model_takes_changes_one_by_one() -> None:
    """61 layers and a prediction module of DeepSeek-V3, 256 experts of which 8 are chosen."""
    path = SCENARIOS / "deepseek-v3-2048xh800.yaml"
    changes = ["model.layers=30", "model.mtp=0", "model.ffn.experts=128", "model.ffn.top_k=4", "model.vocab=32000"]
    model = load_scenario(path, [*changes, "run.seq_length=8192", "plan.layout=auto"]).model
    (moe,) = {layer.ffn for layer in model.layers if isinstance(layer.ffn, MoE)}
    assert (len(model.layers), len(model.mtp), model.vocab) == (30, 0, 32000)
    assert (moe.experts, moe.top_k) == (128, 4)
