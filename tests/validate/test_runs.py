"""Published rows are scenarios that a user could have written, predicted by the one evaluation and summed up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hardware.problems import InputError, Place
from simulator.model import catalogue
from simulator.model.spec import DenseFFN, LatentAttention
from simulator.predict.prediction import evaluate
from simulator.report.document import against_published
from simulator.scenario.schema import load_scenario
from simulator.stack import DEFAULT, names
from validate.report import entry_document, runs_document, runs_text
from validate.row import Measured, Row, Unsupported
from validate.row_scenarios import published_models, scenario_file, scenario_of, step_only
from validate.rows import read_rows
from validate.runs import WIDER_PER_WORD, compare, statistics, summary

SETTINGS = {
    "model": "llama-3.1-8b",
    "cluster.gpus": 8,
    "cluster.node": "hgx-h100",
    "cluster.fabric": "none",
    "run.seq_length": 8192,
    "plan.stack": "megatron-core-0.12",
    "plan.cp": 2,
    "plan.micro_batch_size": 1,
    "plan.global_batch_size": 128,
    "plan.precision": "bf16",
}
Make = Callable[..., Row]


@pytest.fixture
def make() -> Make:
    def made(identifier: str = "T-1", **changes: object) -> Row:
        measured = (Measured("step_time_s", 10.0, "printed"), Measured("peak_memory_bytes", 4e10, "printed"))
        settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()}}
        return Row(identifier, Place("test"), settings, measured, gpu="H100-80G SXM", kind="dense")

    return made


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    return {row.id: row for row in read_rows()}


def test_every_published_row_is_a_scenario_or_says_why_not(rows: dict[str, Row]) -> None:
    refused = {}
    for row in rows.values():
        try:
            scenario, _ = scenario_of(row)
        except Unsupported as reason:
            refused[row.id] = str(reason)
            continue
        assert scenario.plan.gpus == row.count("cluster.gpus")
        assert scenario.plan.microbatches * scenario.plan.micro_batch_size * scenario.plan.dp == (
            scenario.plan.global_batch_size
        )
        assert row.settings["plan.precision"], row.id
        assert row.unknown_words == (), row.id
    counted = [row.id for row in rows.values() if row.quality in ("A", "B")]
    assert len(rows) == 697
    assert len(set(counted) & set(refused)) <= 0.05 * len(counted)
    assert all(refused.values())


def test_every_published_row_written_as_a_file_is_read_back_as_the_same_scenario(
    rows: dict[str, Row], tmp_path: Path
) -> None:
    file = tmp_path / "row.yaml"
    for row in rows.values():
        if row.unsupported:
            continue
        file.write_text(scenario_file(row), encoding="utf-8")
        scenario, _ = scenario_of(row)
        assert replace(load_scenario(file), file=scenario.file) == scenario, row.id


@pytest.mark.parametrize(
    "identifier",
    ["TT-405b-4d-cp4", "MB-dsv3-GB200-MXFP8-26.08-2", "BS-181B-pp12-mbs1", "MPT-7b-s8192-H100-80G-8-amp_bf16"],
)
def test_validation_predicts_what_the_file_of_a_row_predicts(
    rows: dict[str, Row], identifier: str, tmp_path: Path
) -> None:
    file = tmp_path / "row.yaml"
    file.write_text(scenario_file(rows[identifier]), encoding="utf-8")
    prediction = evaluate(step_only(load_scenario(file)))
    (entry, *_) = compare(rows[identifier])
    assert entry.predicted == prediction.step_time_s
    assert entry.interval == pytest.approx(prediction.step_time_interval_s)


@pytest.mark.parametrize(
    "identifier", ["TT-8b-8-2", "BS-181B-pp12-mbs1", "SIMUMAX-llama3_70b_l12_tp1_pp2_dp4_mbc4_cef"]
)
def test_the_file_of_a_row_compares_memory_by_its_meter(rows: dict[str, Row], identifier: str, tmp_path: Path) -> None:
    """Reserved, shown by the device, allocated: the plain verb on the file errs as validation does."""
    file = tmp_path / "row.yaml"
    file.write_text(scenario_file(rows[identifier]), encoding="utf-8")
    by_validation = {entry.quantity: entry.error_fraction for entry in compare(rows[identifier])}
    by_file = {each["quantity"]: each["error_fraction"] for each in against_published(evaluate(load_scenario(file)))}
    assert "peak_memory_bytes" in by_file
    assert by_file == pytest.approx(by_validation)


def test_the_file_of_a_row_invents_no_length_of_training(rows: dict[str, Row]) -> None:
    text = scenario_file(rows["TT-8b-8-2"])
    assert "tokens" not in yaml.safe_load(text)["run"]
    assert "# run.steps = 1: the source measured a step; how long the training was is not said\n" in text


def test_published_models_are_no_models_of_the_catalogue_and_are_all_used(rows: dict[str, Row]) -> None:
    used = {row.settings["model"] for row in rows.values()}
    assert not set(published_models()) & set(catalogue.names())
    assert set(published_models()) <= used
    assert all(model["name"] == name and model["source"] for name, model in published_models().items())


def test_rows_run_on_named_releases(rows: dict[str, Row]) -> None:
    assert {row.settings["plan.stack"] for row in rows.values()} <= set(names())


def test_layer_cuts_are_models_of_their_own(rows: dict[str, Row]) -> None:
    cut = next(row for row in rows.values() if row.settings["model"] == "deepseek-v2-4-layers")
    model = scenario_of(cut)[0].model
    assert len(model.layers) == 4
    assert sum(isinstance(layer.ffn, DenseFFN) for layer in model.layers) == 1
    assert isinstance(model.layers[0].mixer, LatentAttention)
    assert model.mtp == ()
    assert cut.family == "deepseek-v2"


def test_published_llama_405b_splits_with_embedding_and_loss_counted(rows: dict[str, Row]) -> None:
    plan = scenario_of(rows["DGXC-llama3.1-405b-H100-bf16-v25.04.02512"])[0].plan
    assert (plan.tp, plan.cp, plan.pp, plan.vpp, plan.dp) == (8, 2, 8, 8, 4)
    assert plan.account_for_embedding
    assert plan.account_for_loss
    assert plan.overlap.tp_comm


def test_what_a_row_leaves_out_follows_from_its_stack_and_is_listed(make: Make) -> None:
    scenario, assumed = scenario_of(make(plan__stack="torchtitan-0.3"))
    assert scenario.plan.sharding == "full"
    assert any("software stack: torchtitan" in text for text in assumed)
    assert any(text.startswith("sharding = full: FSDP2") for text in assumed)
    stated, assumed = scenario_of(make(plan__stack="torchtitan-0.3", plan__sharding="none"))
    assert stated.plan.sharding == "none"
    assert not any(text.startswith("sharding") for text in assumed)


def test_behaviours_beside_a_release_change_it(make: Make) -> None:
    stack = scenario_of(make(plan__stack__dropout=True))[0].plan.stack
    assert (stack.name, stack.dropout) == ("megatron-core-0.12", True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster__node": "tpu-v5p"}, "tpu-v5p"),
        ({"model": "mystery-1t"}, "mystery-1t"),
        ({"plan__global_batch_size": 126}, "global_batch_size"),
        ({"plan__dp": 3}, "3"),
    ],
)
def test_what_no_user_could_write_is_refused_by_name(make: Make, changes: dict[str, object], reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        scenario_of(make(**changes))


def test_a_refused_row_is_reported_not_dropped(make: Make) -> None:
    (entry,) = compare(make(cluster__node="tpu-v5p"))
    assert entry.predicted is None
    assert "tpu-v5p" in entry.reason


def test_a_word_not_understood_widens_the_interval_and_is_said(make: Make) -> None:
    """Two words make the interval 1 + 2 x 0.5 times as wide on the logarithm of time."""
    plain = make()
    unclear = replace(plain, unknown_words=("warp drive", "ion cannon"))
    (known, _), (unknown, memory) = compare(plain), compare(unclear)
    assert known.interval is not None
    assert unknown.interval is not None
    assert known.predicted is not None
    wider = 1 + 2 * WIDER_PER_WORD
    for narrow, wide in zip(known.interval, unknown.interval, strict=True):
        assert wide / known.predicted == pytest.approx((narrow / known.predicted) ** wider)
    assert entry_document(known)["status"] == "ok"
    document = entry_document(unknown)
    assert document["status"] == "uncertain"
    assert document["reason"] == "words not understood: 'warp drive', 'ion cannon'"
    assert memory.interval is None
    assert "warp drive" in runs_text(runs_document([unknown]))


def test_rows_in_scenario_keys_are_read_with_their_labels_and_measurements(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    columns = "id,model,cluster.gpus,plan.recompute.modules,measured.step_time_s,measured.peak_memory_bytes,"
    columns += "measured.meter,quality,assumed"
    file.write_text(f'{columns}\nA-1,llama-3.1-8b,8,"[mlp, moe]",2.5,1e9,device,B,one thing | another\n')
    (row,) = read_rows([file])
    assert row.settings == {"model": "llama-3.1-8b", "cluster.gpus": 8, "plan.recompute.modules": ["mlp", "moe"]}
    assert [(each.quantity, each.value, each.meter) for each in row.measured] == [
        ("step_time_s", 2.5, "allocated"),
        ("peak_memory_bytes", 1e9, "device"),
    ]
    assert (row.quality, row.assumed, row.origin) == ("B", ("one thing", "another"), "A")


def test_a_row_in_scenario_keys_without_a_precision_is_unsupported_not_bf16(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("id,model,plan.precision\nA-1,llama-3.1-8b,\nA-2,llama-3.1-8b,fp16\n")
    first, second = read_rows([file])
    assert (first.unsupported, second.unsupported) == ("the row does not say plan.precision", "")
    with pytest.raises(Unsupported, match=r"plan\.precision"):
        scenario_of(first)


def test_problems_of_a_row_in_scenario_keys_are_its_files(make: Make) -> None:
    """Only of such a row: words of the older columns are read as far as they go."""
    wrong = make(model="mystery-1t")
    (older,), (own,) = compare(wrong), compare(replace(wrong, in_scenario_keys=True))
    assert older.problems == ()
    assert [problem.key for problem in own.problems] == [", model"]
    assert own.reason.startswith("model: 'mystery-1t' is not known")


def test_the_text_says_which_stack_was_picked(make: Make) -> None:
    named, unnamed = make(), make()
    settings = {key: value for key, value in unnamed.settings.items() if key != "plan.stack"}
    entries = [*compare(named)[:1], *compare(replace(unnamed, settings=settings))[:1]]
    rows = runs_document(entries)["rows"]
    assert [(row["stack"], row["stack_picked"]) for row in rows] == [("megatron-core-0.12", False), (DEFAULT, True)]
    assert runs_text(runs_document(entries)).count("picked, as the row names none") == 1


def test_tables_in_scenario_keys_are_refused_with_every_problem(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text("id,model,speed\nA,x,1\n")
    with pytest.raises(InputError, match="unknown \\['speed'\\]"):
        read_rows([file])
    file.write_text(
        "id,model,measured.step_time_s,measured.peak_memory_bytes,measured.meter\n"
        "A,x,fast,1,scales\n,x,1,,\nB,x,1,,\nB,x,1,,\n"
    )
    with pytest.raises(InputError) as caught:
        read_rows([file])
    messages = [problem.message for problem in caught.value.problems]
    assert len(messages) == 4, messages


def test_summary_counts_and_errors(make: Make) -> None:
    unknown = replace(make("T-2", cluster__node="tpu-v5p"), gpu="TPU v5p")
    entries = [*compare(make())[:1], *compare(unknown)]
    found = statistics(entries)
    assert (found["n"], found["supported"]) == (2, 1)
    assert found["median_abs_error"] == pytest.approx(abs(found["bias"]))
    assert set(summary(entries)["by"]) == {"gpu", "model_kind", "source", "scale"}
    assert set(summary(entries)["by"]["gpu"]) == {"H100-80G", "TPU"}
