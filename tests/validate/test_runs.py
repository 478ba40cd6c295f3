"""Published rows become scenarios: what is read, what is assumed, what is refused, and how quantities are taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hardware.problems import InputError, Place
from simulator.model.spec import DenseFFN, LatentAttention
from validate.rows import COLUMNS, Row, Unsupported, read_rows
from validate.rows_measured import peak_memory, step_time
from validate.rows_tables import flags_of, recipe_flags, tables
from validate.runs import compare, scenario_of, statistics, summary

MINIMAL = {"id": "T-1", "model_name": "Llama-3.1-8B", "seq_len": "8192", "gpu_type": "H100-80G SXM", "n_gpus": "8",
           "tp": "1", "cp": "2", "pp": "1", "dp": "4", "micro_batch": "1", "global_batch_sequences": "128",
           "precision": "bf16", "measured_step_time_s": "10"}  # fmt: skip
Make = Callable[..., Row]


@pytest.fixture
def make() -> Make:
    def made(**cells: str) -> Row:
        return Row({**dict.fromkeys(COLUMNS, ""), **MINIMAL, **cells}, Place("test"))

    return made


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.id: row for row in read_rows()}


def test_every_published_row_is_a_scenario_or_says_why_not(rows: dict[str, Row]) -> None:
    refused = {}
    for row in rows.values():
        try:
            scenario, assumed = scenario_of(row)
        except Unsupported as reason:
            refused[row.id] = str(reason)
            continue
        assert scenario.plan.gpus == row.count("n_gpus")
        assert scenario.plan.microbatches * scenario.plan.micro_batch_size * scenario.plan.dp == (
            scenario.plan.global_batch_size
        )
        assert not [text for text in assumed if "not understood" in text], row.id
    counted = [row.id for row in rows.values() if row.text("quality") in ("A", "B")]
    assert len(rows) == 395
    assert len(set(counted) & set(refused)) <= 0.05 * len(counted)
    assert all(refused.values())


def test_layer_cuts_follow_the_row(rows: dict[str, Row]) -> None:
    cut = next(row for row in rows.values() if row.text("model_name").startswith("DeepSeek-V2 cut"))
    model = scenario_of(cut)[0].model
    assert len(model.layers) == 4
    assert sum(isinstance(layer.ffn, DenseFFN) for layer in model.layers) == 1
    assert isinstance(model.layers[0].mixer, LatentAttention)
    assert model.mtp == ()


def test_published_llama_405b_splits_with_embedding_and_loss_counted(rows: dict[str, Row]) -> None:
    plan = scenario_of(rows["DGXC-llama3.1-405b-H100-bf16-v25.04.02512"])[0].plan
    assert (plan.tp, plan.cp, plan.pp, plan.vpp, plan.dp) == (8, 2, 8, 8, 4)
    assert plan.account_for_embedding
    assert plan.account_for_loss
    assert plan.overlap.tp_comm


def test_columns_beat_defaults_and_assumptions_are_listed(make: Make) -> None:
    scenario, assumed = scenario_of(make(source="pytorch/torchtitan", zero_stage_or_distopt="none"))
    assert scenario.plan.sharding == "none"
    assert any("software stack: torchtitan" in text for text in assumed)
    assert any("network" not in text for text in assumed)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"gpu_type": "TPU v5p"}, "no server known"),
        ({"model_name": "Mystery-1T"}, "no catalogue entry"),
        ({"n_gpus": ""}, "n_gpus"),
        ({"global_batch_sequences": ""}, "global batch"),
        ({"global_batch_sequences": "126"}, "does not divide"),
        ({"dp": "3"}, "does not divide 8 GPUs"),
        ({"n_gpus": "64", "tp": "", "pp": "", "dp": ""}, "tp, pp and dp"),
    ],
)
def test_what_cannot_be_known_is_refused_by_name(make: Make, cells: dict[str, str], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        scenario_of(make(**cells))


def test_a_refused_row_is_reported_not_dropped(make: Make) -> None:
    (entry,) = compare(make(gpu_type="TPU v5p"))
    assert entry.predicted is None
    assert "TPU" in entry.reason


def test_a_model_unknown_by_name_is_built_from_its_columns(make: Make) -> None:
    row = make(model_name="Someone's 13B", layers="40", hidden="5120", heads="40", vocab="32000", ffn_hidden="13824",
               kv_heads_or_attention="GQA8")  # fmt: skip
    model = scenario_of(row)[0].model
    assert (len(model.layers), model.hidden, model.layers[0].mixer.kv_heads) == (40, 5120, 8)  # type: ignore[union-attr]


def test_step_time_by_arithmetic_from_tokens_and_from_mfu(make: Make) -> None:
    # 128 sequences of 8192 on 8 GPUs at 13,107.2 tokens/s each take 10 s.
    row = make(measured_step_time_s="", measured_tokens_per_s_per_gpu="13107.2")
    scenario = scenario_of(row)[0]
    found = step_time(row, scenario.model, scenario.plan, 989e12)
    assert found is not None
    assert found.value == pytest.approx(10.0)
    row = make(measured_step_time_s="", measured_mfu_pct="50", source="The Llama 3 Herd of Models")
    found = step_time(row, scenario.model, scenario.plan, 989e12)
    # 6 N + 12 L H Q s: 7.504e9 parameters without the input embedding, 32 layers of 4096.
    per_token = 6 * 7.504e9 + 12 * 32 * 4096 * 8192
    assert found is not None
    assert found.value == pytest.approx(128 * 8192 * per_token / (0.5 * 989e12 * 8), rel=2e-3)


@pytest.mark.parametrize(
    ("cells", "meter"),
    [
        ({"notes": "Memory = nvidia-smi GB"}, "device"),
        ({"source": "pytorch/torchtitan benchmarks"}, "reserved"),
        ({"notes": "peak = torch max_memory_allocated"}, "allocated"),
    ],
)
def test_memory_is_compared_by_the_meter_of_its_source(make: Make, cells: dict[str, str], meter: str) -> None:
    found = peak_memory(make(measured_peak_memory_GiB="40", **cells))
    assert found is not None
    assert (found.meter, found.value) == (meter, 40 * 2**30)


def test_flags_split_outside_brackets_and_unknown_ones_are_returned() -> None:
    entries, unknown = flags_of("P2P overlap, cuda_graph_scope=[attn, moe_router]; warp drive")
    assert [entry["set"] for entry in entries] == [{"overlap.p2p": True}, {"stack.cuda_graphs": "partial"}]
    assert unknown == ["warp drive"]


def test_a_recipe_in_the_notes_becomes_flags() -> None:
    notes = 'HEAD recipe x: {"sequence_parallel": "True", "cuda_graph_impl": "\\"local\\""}'
    assert recipe_flags(notes) == "sequence_parallel=True; cuda_graph_impl=local"


def test_the_recipe_of_the_container_is_stronger_than_the_newest_one(make: Make) -> None:
    """Of a row that quotes the newest recipe, the version that its container holds decides; printed flags stay."""
    said = {
        "model_name": "Qwen3-30B-A3B", "gpu_type": "B200", "n_gpus": "8",
        "tp": "1", "cp": "1", "pp": "1", "vp": "1", "dp": "8",
        "ep": "8", "micro_batch": "1", "global_batch_sequences": "512",
        "precision": "mxfp8", "dense_or_moe": "moe", "overlap_flags": "", "recompute": "",
        "notes": 'HEAD recipe x: {"moe_flex_dispatcher_backend": "\"hybridep\"", "cuda_graph_scope": "[\"attn\"]"}',
    }  # fmt: skip
    source = "NVIDIA-NeMo/Megatron-Bridge, {} NeMo container"
    old = scenario_of(make(**said, source=source.format("25.11")))[0].plan
    assert (old.dispatcher, old.stack.cuda_graphs, old.overlap.moe_ep) == ("alltoall", "router", False)
    mid = scenario_of(make(**said, source=source.format("26.04")))[0].plan
    assert (mid.dispatcher, mid.stack.cuda_graphs, mid.overlap.moe_ep) == ("hybridep", "partial", False)
    new = scenario_of(make(**said, source=source.format("26.08")))[0].plan
    assert (new.stack.fused_experts, new.stack.cuda_graphs, new.overlap.moe_ep) == (True, "full", True)
    flagged = scenario_of(make(**{**said, "overlap_flags": "no A2A overlap"}, source=source.format("26.08")))[0].plan
    assert not flagged.overlap.moe_ep


def test_every_default_has_a_source() -> None:
    for stack in tables()["stacks"]:
        for key, entry in stack["plan"].items():
            assert len(entry) == 2, f"{stack['name']}: {key}"
            assert entry[1], f"{stack['name']}: {key}"


def test_files_with_other_columns_are_refused_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "runs.csv"
    file.write_text("id,source,speed\nA,x,1\n")
    with pytest.raises(InputError, match="unknown \\['speed'\\]"):
        read_rows([file])
    lines = [",".join(COLUMNS)]
    lines += [",".join({"id": name, "n_gpus": "many", "tp": "0"}.get(c, "") for c in COLUMNS) for name in ("A", "A")]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError) as caught:
        read_rows([file])
    assert len(caught.value.problems) == 5


def test_summary_counts_and_errors(make: Make) -> None:
    entries = compare(make()) + compare(make(id="T-2", gpu_type="TPU v5p"))
    found = statistics(entries)
    assert (found["n"], found["supported"]) == (2, 1)
    assert found["median_abs_error"] == pytest.approx(abs(found["bias"]))
    assert set(summary(entries)["by"]) == {"gpu", "model_kind", "source", "scale"}
