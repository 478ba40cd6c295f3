"""A launch that leaves out pipeline stages: its batch is that of the replicas which it starts."""

from __future__ import annotations

import json
from pathlib import Path

from simulator.launch.assemble import launch
from simulator.scenario.schema import load_scenario

SCENARIO = """\
model: llama-3.1-8b
cluster: {gpus: 64, node: hgx-h100}
plan: {tp: 2, pp: 4, sharding: optimizer, micro_batch_size: 1, global_batch_size: 128, sequence_parallel: true}
run: {seq_length: 8192, tokens: 100B}
"""


def test_deepspeeds_batch_holds_for_the_replicas_that_start(tmp_path: Path) -> None:
    """64 GPUs of tp 2 are 32 replicas where pp 4 is left out: 128 = 1 x 4 x 32."""
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO)
    files = launch(load_scenario(file), "deepspeed", "slurm", partial=True).files
    config = json.loads(files["ds_config.json"])
    assert (config["train_batch_size"], config["gradient_accumulation_steps"]) == (128, 4)
    assert "- dp: groups of 32 ranks, 2 apart" in files["README.md"]
    assert "- pp: groups" not in files["README.md"]


def test_a_batch_that_the_replicas_do_not_divide_is_told(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(SCENARIO.replace("128", "72"))
    files = launch(load_scenario(file), "deepspeed", "slurm", partial=True).files
    assert "72 sequences a step are no multiple of 1 x 32 replicas" in files["README.md"]
