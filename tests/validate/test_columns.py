"""The older column layout is read by fixed vocabularies: each word is understood, or said with its row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hardware.problems import InputError, Place
from simulator.model.spec import Attention
from simulator.plans.spec import Plan
from simulator.stack import names
from validate.columns import row_of
from validate.columns_cells import COLUMNS, Cells
from validate.columns_words import CellReading, normal, vocabulary
from validate.row import Row, Unsupported
from validate.row_scenarios import scenario_of
from validate.rows import read_rows
from validate.runs import compare

MINIMAL = {"id": "T-1", "model_name": "Llama-3.1-8B", "seq_len": "8192", "gpu_type": "H100-80G SXM", "n_gpus": "8",
           "tp": "1", "cp": "2", "pp": "1", "dp": "4", "micro_batch": "1", "global_batch_sequences": "128",
           "precision": "bf16", "measured_step_time_s": "10"}  # fmt: skip
EXPERTS = {"model_name": "Qwen3-30B-A3B", "cp": "1", "dp": "8", "ep": "8", "dense_or_moe": "moe"}
Make = Callable[..., Row]


@pytest.fixture
def make() -> Make:
    def made(**cells: str) -> Row:
        return row_of(Cells({**MINIMAL, **cells}), Place("test"))

    return made


def plan_of(row: Row) -> Plan:
    assert row.unknown_words == ()
    return scenario_of(row)[0].plan


def test_words_are_compared_without_case_hyphens_and_blanks() -> None:
    assert normal("  EP-A2A   overlap ") == normal("ep_a2a overlap") == "ep a2a overlap"


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("EP-A2A overlap", "overlap.moe_ep", True),
        ("1F1B EP-A2A overlap", "overlap.moe_ep", True),
        ("EP A2A overlap", "overlap.moe_ep", True),
        ("overlap_moe_expert_parallel_comm=False", "overlap.moe_ep", False),
        ("NCCL all-to-all", "dispatcher", "alltoall"),
        ("HybridEP 32 SMs", "dispatcher", "hybridep"),
        ("moe_flex_dispatcher_backend=deepep", "dispatcher", "deepep"),
        ("fused grouped MLP", "stack.fused_experts", True),
        ("layout=Et*6|(t*8|)*8t*4|t*4mL", "layout", "Et*6|(t*8|)*8t*4|t*4mL"),
        ("tp_comm_overlap=True", "overlap.tp_comm", True),
        ("no TP overlap", "overlap.tp_comm", False),
        ("delay_wgrad", "overlap.delay_wgrad", True),
        ("cuda_graph_scope=[attn, moe_router]", "stack.cuda_graphs", "partial"),
        ("cuda_graph_scope=[moe_router, moe_preprocess]", "stack.cuda_graphs", "router"),
        ("cuda_graph_scope=[full_iteration]", "stack.cuda_graphs", "full"),
        ("cuda_graph_scope=[]", "stack.cuda_graphs", "none"),
        ("recompute_modules=[mlp, act]", "recompute.modules", ["mlp", "moe_act"]),
        ("activation offload [expert_fc1, moe_act]", "offload.modules", ["expert_fc1", "moe_act"]),
        ("expert-FC1 activation offload", "offload.activation", 1.0),
    ],
)
def test_flags_met_in_published_files_are_understood(word: str, key: str, value: Any) -> None:
    reading = CellReading()
    reading.read_flags(word)
    assert reading.unknown == []
    assert reading.settings[key] == value


def test_flags_split_outside_brackets_and_unknown_ones_are_returned() -> None:
    reading = CellReading()
    reading.read_flags("P2P overlap, cuda_graph_scope=[attn, moe_router]; warp drive, warp_speed=9")
    assert reading.settings == {"overlap.p2p": True, "stack.cuda_graphs": "partial"}
    assert reading.unknown == ["warp drive", "warp_speed=9"]


def test_a_remark_that_is_not_known_is_not_understood() -> None:
    reading = CellReading()
    assert reading.look_up(vocabulary()["precision"], "fp8 (HEAD recipe)") == "fp8"
    assert reading.unknown == []
    assert reading.look_up(vocabulary()["precision"], "fp8 (of our own)") == "fp8"
    assert reading.unknown == ["(of our own)"]


def test_what_is_read_and_not_modelled_counts_as_not_understood(make: Make) -> None:
    row = make(overlap_flags="moe_grouped_gemm=false; P2P overlap")
    assert len(row.unknown_words) == 1
    assert "not modelled" in row.unknown_words[0]


def test_selective_means_what_the_framework_of_the_row_does(make: Make) -> None:
    titan = plan_of(make(recompute="selective", source="pytorch/torchtitan"))
    megatron = plan_of(make(recompute="selective", source="NVIDIA/Megatron-LM"))
    assert titan.recompute.modules == ("layernorm", "mlp")
    assert megatron.recompute.modules == ("core_attn",)


@pytest.mark.parametrize(
    ("word", "value"), [("on", True), ("True", True), ("off", False), ("no", False), ("", None), ("maybe", None)]
)
def test_sequence_parallelism_is_on_or_off_or_not_understood(make: Make, word: str, value: bool | None) -> None:
    row = make(sequence_parallel=word, tp="2", dp="2")
    assert row.settings.get("plan.sequence_parallel") is value
    assert row.unknown_words == (("maybe",) if word == "maybe" else ())


@pytest.mark.parametrize(("word", "known"), [("GQA8", True), ("gqa 8", True), ("MLA", True), ("GQQ8", False)])
def test_the_kind_of_attention_is_a_known_word_even_of_a_known_model(make: Make, word: str, known: bool) -> None:
    assert make(kv_heads_or_attention=word).unknown_words == (() if known else (word,))


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"measured_step_time_s": "-5"}, "measured_step_time_s must be above zero, not '-5'"),
        ({"measured_step_time_s": "soon"}, "must begin with a number"),
        ({"quality": "D"}, "quality must be A, B or C, not 'D'"),
    ],
)
def test_cells_that_no_source_could_hold_are_problems(cells: dict[str, str], words: str) -> None:
    (problem,) = Cells({**MINIMAL, **cells}).problems()
    assert words in problem


def test_an_unknown_word_widens_the_interval_of_its_row(make: Make) -> None:
    (plain,), (unclear,) = compare(make()), compare(make(overlap_flags="warp drive"))
    assert plain.interval is not None
    assert unclear.interval is not None
    assert plain.predicted == unclear.predicted
    assert unclear.interval[0] < plain.interval[0]
    assert unclear.interval[1] > plain.interval[1]


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"gpu_type": "TPU v5p"}, "no server known for the accelerator 'TPU v5p'"),
        ({"model_name": "Mystery-1T"}, "no catalogue entry"),
        ({"n_gpus": ""}, "n_gpus"),
        ({"precision": ""}, "does not say the precision"),
        ({"precision": "int3"}, "precision 'int3' is not known"),
        ({"global_batch_sequences": ""}, "global batch"),
        ({"global_batch_sequences": "126"}, "126"),
        ({"dp": "3"}, "does not divide 8 GPUs"),
        ({"n_gpus": "64", "tp": "", "pp": "", "dp": ""}, "tp, pp and dp"),
        ({"stack": "frobnicator-3"}, "frobnicator-3"),
    ],
)
def test_what_cannot_be_known_is_refused_by_name(make: Make, cells: dict[str, str], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        scenario_of(make(**cells))


def test_columns_beat_the_stack_and_assumptions_are_listed(make: Make) -> None:
    scenario, assumed = scenario_of(make(source="pytorch/torchtitan", zero_stage_or_distopt="none"))
    assert scenario.plan.sharding == "none"
    assert scenario.plan.stack.name == "torchtitan-0.3"
    assert "stack = torchtitan-0.3: from the words of the source" in assumed


def test_a_stack_column_names_the_release(make: Make) -> None:
    scenario, assumed = scenario_of(make(source="pytorch/torchtitan", stack="megatron-bridge-0.4"))
    assert scenario.plan.stack.name == "megatron-bridge-0.4"
    assert not any(text.startswith("stack = ") for text in assumed)


def test_a_container_names_its_release(make: Make) -> None:
    source = "NVIDIA-NeMo/Megatron-Bridge docs/performance-summary.md, {} NeMo container"
    releases = [plan_of(make(**EXPERTS, source=source.format(version))).stack.name for version in ("25.11", "26.06")]
    assert releases == ["megatron-bridge-0.2", "megatron-bridge-0.5"]


def test_layers_that_do_not_divide_are_spread_by_a_layout(make: Make) -> None:
    """32 layers over 5 stages: the ends get 6, the stages before them 7 less what is left: 6 7 7 6 6 or the like."""
    plan = plan_of(make(n_gpus="40", cp="1", tp="1", pp="5", dp="8", vp="1"))
    assert plan.layout is not None
    shares = [stage.count("t") for stage in expanded(plan.layout)]
    assert sum(shares) == 32
    assert max(shares) - min(shares) == 1


def expanded(layout: str) -> tuple[str, ...]:
    from simulator.plans.layout import parse_layout

    return parse_layout(layout)


def test_a_model_unknown_by_name_is_built_from_its_columns(make: Make) -> None:
    row = make(model_name="Someone's 13B", layers="40", hidden="5120", heads="40", vocab="32000", ffn_hidden="13824",
               kv_heads_or_attention="GQA8")  # fmt: skip
    model = scenario_of(row)[0].model
    mixer = model.layers[0].mixer
    assert isinstance(mixer, Attention)
    assert (len(model.layers), model.hidden, mixer.kv_heads) == (40, 5120, 8)


def test_a_known_model_follows_the_columns_of_its_row(make: Make) -> None:
    row = make(model_name="Llama-3.1-8B (MLPerf)", layers="4", vocab="32000")
    model = scenario_of(row)[0].model
    assert (len(model.layers), model.vocab, model.hidden) == (4, 32000, 4096)
    assert "vocabulary 32000 as the row says" in row.assumed


def test_step_time_by_arithmetic_from_tokens_and_from_mfu(make: Make) -> None:
    # 128 sequences of 8192 on 8 GPUs at 13,107.2 tokens/s each take 10 s.
    found = make(measured_step_time_s="", measured_tokens_per_s_per_gpu="13107.2").measurement("step_time_s")
    assert found is not None
    assert found.value == pytest.approx(10.0)
    row = make(measured_step_time_s="", measured_mfu_pct="50", source="The Llama 3 Herd of Models")
    found = row.measurement("step_time_s")
    # 6 N + 12 L H Q s: 7.504e9 parameters without the input embedding, 32 layers of 4096.
    per_token = 6 * 7.504e9 + 12 * 32 * 4096 * 8192
    assert found is not None
    assert found.value == pytest.approx(128 * 8192 * per_token / (0.5 * 989e12 * 8), rel=2e-3)


@pytest.mark.parametrize(
    ("source", "meter"),
    [("bigscience-workshop/bigscience", "device"), ("pytorch/torchtitan benchmarks", "reserved"), ("", "allocated")],
)
def test_memory_is_compared_by_the_meter_of_its_source(make: Make, source: str, meter: str) -> None:
    found = make(measured_peak_memory_GiB="40", source=source).measurement("peak_memory_bytes")
    assert found is not None
    assert (found.meter, found.value) == (meter, 40 * 2**30)


def test_files_with_other_columns_are_refused_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("id,model_name,speed\nA,x,1\n")
    with pytest.raises(InputError, match="unknown \\['speed'\\]"):
        read_rows([file])
    lines = [",".join(COLUMNS)]
    lines += [",".join({"id": name, "n_gpus": "many", "tp": "0"}.get(c, "") for c in COLUMNS) for name in ("A", "A")]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        read_rows([file])
    assert len(caught.value.problems) == 5


def test_a_file_with_an_unknown_accelerator_keeps_its_other_rows(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    others = [{**MINIMAL, "id": "A-1", "gpu_type": "Ascend NPU"}, {**MINIMAL, "id": "A-2"}]
    lines = [",".join(COLUMNS), *(",".join(row.get(column, "") for column in COLUMNS) for row in others)]
    file.write_text("\n".join(lines) + "\n")
    unknown, known = (compare(row)[0] for row in read_rows([file]))
    assert unknown.predicted is None
    assert "Ascend NPU" in unknown.reason
    assert known.predicted is not None


def test_vocabularies_name_only_what_exists() -> None:
    tables = vocabulary()
    assert {entry["release"] for entry in tables["stacks"]} <= set(names())
    assert {entry["gpu"] for entry in tables["machines"]} == set(tables["gpus"].values())
    kinds = {entry.get("network", "") for entry in tables["machines"]}
    assert set(tables["networks"].values()) <= kinds
    for table in ("precision", "sharding", "schedule", "flags", "recompute", "gpus", "networks", "models", "modules"):
        assert all(word == normal(word) for word in tables[table]), table
