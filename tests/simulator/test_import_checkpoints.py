"""Checkpoints of a launch: their policy is carried, and intervals, which a launch has in steps, are named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.launch import launch, write_launch
from simulator.launch.importing.importer import import_launch
from simulator.scenario.schema import load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS

# Steps of 10 s: 1,800 s are 180 steps, 300 s are 30.
SAVING = replace(FORECAST, checkpoint_every_s={"storage": 1800.0, "memory": 300.0})
STATED = {"megatron": ("arguments.sh", "train.sh", "job.sbatch"), "bridge": ("overrides.txt", "train.sh", "job.sbatch")}


@pytest.mark.parametrize("to", STATED)
def test_intervals_of_saves_are_named_and_their_times_left_to_fill_in(to: str, tmp_path: Path) -> None:
    given = ["model=llama-3-8b", "plan={micro_batch_size: 1, global_batch_size: 64}",
             "run.checkpoint={policy: in-memory, peer_distance: 2}", "cluster.gpus=32"]  # fmt: skip
    made = launch(load_scenario(SCENARIOS / "tiny.yaml", given), to, partial=True, forecast=SAVING)
    write_launch(made, tmp_path / "run")
    files = [tmp_path / "run" / name for name in STATED[to]]
    named = ("model=llama-3-8b", "cluster.node=hgx-h100", "run.checkpoint.every=30 min")
    text = import_launch(files).text
    assert "policy: in-memory" in text
    assert "the launch saves every 180 steps" in text
    assert "the launch saves every 30 steps" in text
    assert "peer_distance: 2 " in text
    (tmp_path / "s.yaml").write_text(import_launch(files, named).text)
    policies = load_scenario(tmp_path / "s.yaml").run.policies
    assert policies is not None
    assert policies.checkpoint.every_s == 1800
    assert policies.checkpoint.peer_distance_nodes == 2


def test_a_torchtitan_launch_that_compiles_its_loss_alone_is_no_compiled_release(tmp_path: Path) -> None:
    given = ["model=qwen3-30b-a3b", "cluster={gpus: 16, node: hgx-h100}",
             "plan={micro_batch_size: 1, global_batch_size: 64, ep: 8, stack: torchtitan-0.3}"]  # fmt: skip
    made = launch(load_scenario(SCENARIOS / "tiny.yaml", given), "torchtitan", partial=True, forecast=FORECAST)
    write_launch(made, tmp_path / "run")
    text = import_launch(sorted((tmp_path / "run").glob("*.py"))).text
    assert "stack: torchtitan-0.3 " in text
