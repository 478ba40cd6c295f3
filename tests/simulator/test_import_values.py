"""Values that a launch states: which setting decides, what has no counterpart, and what no framework would take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hardware.problems import InputError
from tests.simulator.test_import_launch import imported, scenario
from tests.simulator.test_import_torchtitan import SEVENTY_B

MEGATRON = "torchrun --nproc_per_node 8 --nnodes 4 pretrain_gpt.py --micro-batch-size 1 --seq-length 2048 --bf16"
TITAN = (
    SEVENTY_B
    + """\
[activation_checkpoint]
mode = "selective"
"""
)
FLOAT8 = "torchrun --nnodes 16 --nproc_per_node=8 -m torchtitan.train --training.local_batch_size 4 {more}\n"
NODE = "cluster.node=hgx-h100"


@pytest.mark.parametrize("form", ["hybrid", "e4m3"])
@pytest.mark.parametrize(
    ("recipe", "precision"),
    [("delayed", "fp8-delayed"), ("tensorwise", "fp8-tensorwise"), ("blockwise", "fp8-blockwise"), ("mxfp8", "mxfp8")],
)
def test_the_recipe_decides_the_precision_whatever_the_format(
    tmp_path: Path, form: str, recipe: str, precision: str
) -> None:
    text = f"{MEGATRON} --fp8-format {form} --fp8-recipe {recipe}\n"
    assert f"  precision: {precision} " in imported(tmp_path, {"run.sh": text}).text
    overrides = f"{{bf16: true, fp8: {form}, fp8_recipe: {recipe}}}"
    primus = f"modules:\n  pre_trainer:\n    framework: megatron\n    overrides: {overrides}\n"
    assert f"  precision: {precision} " in imported(tmp_path, {"exp.yaml": primus}).text


def test_a_secondary_copy_of_weights_is_no_shard_group(tmp_path: Path) -> None:
    zero = {"stage": 3, "zero_hpz_partition_size": 8}
    found = imported(tmp_path, {"ds.json": json.dumps({"train_batch_size": 64, "zero_optimization": zero})})
    assert "shard_group" not in found.text
    assert any("zero_hpz_partition_size 8 has no counterpart" in note for note in found.notes)


@pytest.mark.parametrize("order", [("tt.toml", "run.sh"), ("run.sh", "tt.toml")])
def test_torchtitans_command_line_overrides_its_file_in_any_order(tmp_path: Path, order: tuple[str, str]) -> None:
    texts = {"tt.toml": TITAN, "run.sh": FLOAT8.format(more="")}
    files = {name: texts[name] for name in order}
    found = imported(tmp_path, files, NODE)
    assert "run.sh:1: --training.local_batch_size 4 overrides 8 of tt.toml:5" in found.notes
    assert scenario(tmp_path, files, NODE).plan.micro_batch_size == 4


@pytest.mark.parametrize(
    ("table", "precision"),
    [
        ("", "fp8-tensorwise"),
        ('[quantize.linear.float8]\nrecipe_name = "tensorwise"\n', "fp8-tensorwise"),
        ('[float8]\nrecipe_name = "rowwise"\n', "fp8-rowwise"),
        ("[quantize.linear.float8]\nenable_fsdp_float8_all_gather = true\n", "fp8-tensorwise"),
    ],
)
def test_torchtitans_float8_recipe_is_the_precision(tmp_path: Path, table: str, precision: str) -> None:
    files = {"tt.toml": TITAN + table, "run.sh": FLOAT8.format(more="--model.converters float8")}
    read = scenario(tmp_path, files, NODE)
    assert read.plan.precision == precision


def test_a_float8_converter_of_python_scales_rows_unless_told(tmp_path: Path) -> None:
    recipe = (
        "def config():\n    return Trainer.Config(training=TrainingConfig(local_batch_size=4, seq_len=4096),\n"
        "        converters=[Float8LinearConverter.Config({})])\n"
    )
    assert "precision: fp8-rowwise " in imported(tmp_path, {"recipe.py": recipe.format("")}).text


def test_torchtitans_selective_recompute_names_no_modules(tmp_path: Path) -> None:
    found = imported(tmp_path, {"tt.toml": TITAN})
    assert "granularity: selective" in found.text
    assert "modules:" not in found.text


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("--num-layers abc", "run.sh:1: --num-layers: abc is not a whole number above 0"),
        ("--tensor-model-parallel-size two", "run.sh:1: --tensor-model-parallel-size: two is not a whole number"),
        ("--micro-batch-size -1", "run.sh:1: --micro-batch-size: -1 is not a whole number above 0"),
        ("--global-batch-size 0", "run.sh:1: --global-batch-size: 0 is not a whole number above 0"),
        ("--seq-length 4096.5", "run.sh:1: --seq-length: 4096.5 is not a whole number above 0"),
        ("--hidden-size", "run.sh:1: --hidden-size: nothing is not a whole number above 0"),
    ],
)
def test_sizes_that_are_none_are_refused_by_line_and_setting(tmp_path: Path, argument: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        imported(tmp_path, {"run.sh": f"{MEGATRON} {argument}\n"})


def test_a_stage_that_zero_has_not_is_refused(tmp_path: Path) -> None:
    text = '{"train_batch_size": "auto",\n "zero_optimization": {\n  "stage": 5}}'
    with pytest.raises(InputError, match=r"ds.json:3: zero_optimization.stage: 5 is not known. Write 0, 1, 2 or 3."):
        imported(tmp_path, {"ds.json": text})


def test_what_a_framework_works_out_is_no_error(tmp_path: Path) -> None:
    settings = {"train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto", "zero_optimization": {"stage": 1}}
    assert imported(tmp_path, {"ds.json": json.dumps(settings)}).text
    assert imported(tmp_path, {"tt.toml": TITAN.replace("steps", "global_batch_size = -1\nsteps")}).text


def test_evaluation_comes_from_its_interval_and_its_batches(tmp_path: Path) -> None:
    """10 global batches of 256 sequences of 2048 tokens; without their number it is left to fill in."""
    text = f"{MEGATRON} --global-batch-size 256 --eval-interval 1000"
    found = imported(tmp_path, {"run.sh": f"{text} --eval-iters 10\n"})
    assert "every: 1000 " in found.text
    assert f"tokens: {10 * 256 * 2048} " in found.text
    assert not any("eval" in note for note in found.notes)
    assert "  # evaluation: " in imported(tmp_path, {"run.sh": f"{text}\n"}).text


def test_arguments_of_a_sourced_file_are_cited_by_its_lines(tmp_path: Path) -> None:
    files = {
        "train.sh": 'source arguments.sh\ntorchrun --nnodes 1 pretrain_gpt.py "${ARGUMENTS[@]}" --bf16\n',
        "arguments.sh": "#\nARGUMENTS=(\n  --tensor-model-parallel-size 2\n  --seq-length 4096\n)\n",
    }
    found = imported(tmp_path, {"arguments.sh": files["arguments.sh"]} | {"train.sh": files["train.sh"]})
    assert "# arguments.sh:3: --tensor-model-parallel-size" in found.text
    assert "# train.sh:2: --bf16" in found.text


def test_what_only_goes_with_checkpoints_does_not_say_their_policy(tmp_path: Path) -> None:
    beside = "--rerun-mode validate_results --exit-signal-handler"
    assert "policy:" not in imported(tmp_path, {"run.sh": f"{MEGATRON} {beside}\n"}).text
    told = imported(tmp_path, {"run.sh": f"{MEGATRON} --async-save {beside}\n"}).text
    assert "policy: async" in told
    assert "run.sh:1: --async-save\n" in told


def test_settings_that_lines_cite_are_not_told_as_unread(tmp_path: Path) -> None:
    recipe = (
        "def config():\n    return Trainer.Config(\n"
        "        training=TrainingConfig(local_batch_size=4, seq_len=4096),\n"
        "        metrics=MetricsConfig(log_freq=10),\n    )\n"
    )
    (note,) = imported(tmp_path, {"recipe.py": recipe}).notes
    assert note == "recipe.py: no key of a scenario comes from metrics.log_freq"
