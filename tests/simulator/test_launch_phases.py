"""A run of several phases: a launch for each, in order, and the checkpoint that one hands to the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hardware.problems import InputError
from simulator.launch import Launch, launch
from simulator.scenario.schema import Scenario, load_scenario
from tests.command import traincast
from tests.simulator.launch_draws import FORECAST, SCENARIOS
from tests.simulator.megatron_rules import read
from tests.simulator.test_launch_rules import arguments, broken_rules

TINY = SCENARIOS / "tiny.yaml"
SPLIT = "{name: long, tokens: 0.1B, seq_length: 8192, plan: {tp: 2, sequence_parallel: true}}"
ALIKE = "{name: long, tokens: 0.1B, seq_length: 8192}"


def phased(*phases: str) -> Scenario:
    return load_scenario(TINY, [f"run.phases=[{', '.join(phases)}]"])


def of_phase(name: str, *phases: str, to: str = "megatron") -> Launch:
    return launch(phased(*phases), to, "torchrun", forecast=FORECAST, phase=name)


def test_a_phase_has_its_own_plan_and_steps_count_on() -> None:
    """0.9 B tokens in steps of 64 x 2,048, then 0.1 B in steps of 64 x 8,192: 6,867 and 191 steps."""
    main, long = (of_phase(name, "{name: main}", SPLIT) for name in ("main", "long"))
    first, second = (read(arguments(made), 8, {}, "") for made in (main, long))
    assert (first.tp, first.number("--seq-length"), first.number("--train-iters")) == (1, 2048, 6867)
    assert (second.tp, second.number("--seq-length"), second.number("--train-iters")) == (2, 8192, 6867 + 191)
    assert broken_rules(main) == broken_rules(long) == []
    assert "phase 2 of 2 (long): steps 6868 to 7058" in long.files["README.md"]


def test_the_checkpoint_is_handed_over() -> None:
    """The optimizer's states can be split anew where the next phase does; a schedule of the phase's own replaces that
    in the checkpoint."""
    main, long = (read(arguments(of_phase(name, "{name: main}", SPLIT)), 8, {}, "") for name in ("main", "long"))
    assert main.has("--dist-ckpt-optim-fully-reshardable")
    assert not main.has("--override-opt-param-scheduler")
    assert long.has("--override-opt-param-scheduler")
    assert not long.has("--dist-ckpt-optim-fully-reshardable"), "nothing comes after it"
    alike = read(arguments(of_phase("main", "{name: main}", ALIKE)), 8, {}, "")
    assert not alike.has("--dist-ckpt-optim-fully-reshardable")
    train = of_phase("long", "{name: main}", SPLIT).files["train.sh"]
    assert '--save "$CHECKPOINT_DIR" --load "$CHECKPOINT_DIR"' in train


def test_a_phases_scenario_is_the_phase_alone(tmp_path: Path) -> None:
    long = of_phase("long", "{name: main}", SPLIT)
    (tmp_path / "phase.yaml").write_text(long.files["scenario.yaml"])
    again = load_scenario(tmp_path / "phase.yaml")
    assert (again.plan, again.run.seq_length, again.run.tokens) == (long.scenario.plan, 8192, 0.1e9)
    assert "phases" not in yaml.safe_load(long.files["scenario.yaml"])["run"]


def test_torchtitan_keeps_the_states_of_the_optimizer_for_the_next_phase() -> None:
    phases = "run.phases=[{name: main}, {name: long, tokens: 1B, seq_length: 8192}]"
    plan = "plan={ep: 64, micro_batch_size: 1, global_batch_size: 1024, stack: torchtitan-0.3}"
    scenario = load_scenario(SCENARIOS / "qwen3-235b-256xh100.yaml", [plan, phases])
    main, long = (launch(scenario, "torchtitan", phase=name, forecast=FORECAST) for name in ("main", "long"))
    recipes = [main.files["recipe.py"], long.files["recipe.py"]]
    assert ["last_save_model_only=False" in recipe for recipe in recipes] == [True, False]


def test_unknown_phases_and_runs_without_any_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean main"):
        of_phase("mian", "{name: main}", ALIKE)
    with pytest.raises(InputError, match="leave --phase out"):
        launch(load_scenario(TINY), "megatron", phase="main", forecast=FORECAST)


def test_the_verb_writes_a_folder_for_each_phase_or_one(tmp_path: Path) -> None:
    overrides = ("--set", f"run.phases=[{{name: main}}, {SPLIT}]")
    done = traincast("launch", str(TINY), "--to", "megatron", "--out", str(tmp_path / "all"), "--json", *overrides)
    document = json.loads(done.stdout)
    assert (done.returncode, document["complete"]) == (0, True)
    assert [Path(each["folder"]).name for each in document["phases"]] == ["1-main", "2-long"]
    assert all((tmp_path / "all" / name / "job.sbatch").is_file() for name in ("1-main", "2-long"))
    one = traincast(
        "launch", str(TINY), "--to", "megatron", "--out", str(tmp_path / "one"), "--phase", "long", *overrides
    )
    assert one.returncode == 0
    assert (tmp_path / "one" / "arguments.sh").read_text() == (tmp_path / "all" / "2-long" / "arguments.sh").read_text()
