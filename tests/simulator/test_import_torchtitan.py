"""torchtitan's launches read into scenarios: TOML of 2025, Python recipes, batches of replicas and of pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulator.test_import_launch import imported, scenario

TOML = """\
[model]
name = "llama3"
flavor = "405B"
converters = ["float8"]
[training]
local_batch_size = 2
seq_len = 8192
steps = 3000
[parallelism]
data_parallel_shard_degree = -1
tensor_parallel_degree = 8
[activation_checkpoint]
mode = "full"
[compile]
enable = true
"""
TITAN = """\
import os
from torchtitan.models.deepseek_v3 import model_registry
os.system("touch HACKED")
def config():
    return Trainer.Config(
        model_spec=model_registry("671B"),
        training=TrainingConfig(local_batch_size=4, seq_len=4096, steps=100),
        parallelism=ParallelismConfig(data_parallel_shard_degree=-1, expert_parallel_degree=8),
        activation_checkpoint=FullAC.Config(),
    )
"""
SEVENTY_B = """\
[model]
name = "llama3"
flavor = "70B"
[training]
local_batch_size = 8
seq_len = 8192
steps = 100
"""
PIPELINED = (
    SEVENTY_B
    + """\
[parallelism]
tensor_parallel_degree = 8
pipeline_parallel_degree = 4
"""
)


def test_torchtitan_of_2025_in_toml(tmp_path: Path) -> None:
    given = ("cluster.gpus=512", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    read = scenario(tmp_path, {"llama3.toml": TOML}, *given)
    assert (read.model.name, read.plan.tp, read.plan.sharding) == ("llama-3.1-405b", 8, "full")
    assert (read.plan.micro_batch_size, read.plan.global_batch_size) == (2, 2 * 64)
    assert read.plan.recompute.granularity == "full"
    assert read.plan.precision.startswith("fp8-")
    assert read.plan.stack.name == "torchtitan-0.3-compiled"
    assert "llama3.toml:11" in (tmp_path / "imported.yaml").read_text()


def test_torchtitans_python_is_read_and_not_executed(tmp_path: Path) -> None:
    given = ("cluster.gpus=64", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    read = scenario(tmp_path, {"config.py": TITAN}, *given)
    assert (read.model.name, read.plan.ep, read.plan.micro_batch_size) == ("deepseek-v3", 8, 4)
    assert (read.plan.recompute.granularity, read.run.tokens) == ("full", 100 * 256 * 4096)


@pytest.mark.parametrize(
    ("added", "micro", "vpp"),
    [
        ("", 1, 1),
        ("pipeline_parallel_microbatch_size = 2\n", 2, 1),
        ("pipeline_parallel_microbatches = 2\n", 4, 1),
        ('pipeline_parallel_schedule = "Interleaved1F1B"\n', 1, 2),
    ],
)
def test_torchtitans_pipelines_cut_a_replicas_batch_by_their_own_key(
    tmp_path: Path, added: str, micro: int, vpp: int
) -> None:
    """Eight sequences on each of four replicas; a pipeline's micro-batch is 1 unless its own key says otherwise."""
    given = ("cluster.gpus=128", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    plan = scenario(tmp_path, {"llama3.toml": PIPELINED + added}, *given).plan
    assert (plan.micro_batch_size, plan.vpp, plan.global_batch_size) == (micro, vpp, 32)
    assert plan.sharding == "optimizer", "whole gradients are kept until the last micro-batch"


def test_a_replicas_batch_in_several_pipelines_is_told(tmp_path: Path) -> None:
    text = PIPELINED.replace("local_batch_size = 8", "local_batch_size = 8\nglobal_batch_size = 64")
    given = ("cluster.gpus=128", "cluster.node=hgx-h100", "cluster.fabric=ndr-rail-2tier")
    assert scenario(tmp_path, {"llama3.toml": text}, *given).plan.global_batch_size == 64
    notes = imported(tmp_path, {"llama3.toml": text}, *given).notes
    assert any("empties the pipeline after every 8 sequences of a replica, 2 times a step" in note for note in notes)


def test_python_names_that_are_assigned_once_have_their_value_and_others_none(tmp_path: Path) -> None:
    text = TITAN.replace("expert_parallel_degree=8", "expert_parallel_degree=EP, tensor_parallel_degree=args.tp")
    found = imported(tmp_path, {"config.py": f"EP = 16\n{text}"})
    assert "ep: 16" in found.text
    assert any("tensor_parallel_degree is not told by the file; plan.tp is left out" in note for note in found.notes)
