"""Keys of the run and of what surrounds the step: a launch says them, or names them as keys that it does not carry."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.cli.launch import launch_text
from simulator.launch import Launch, launch, write_launch
from simulator.launch.importing.importer import import_launch
from simulator.launch.targets import TARGETS
from simulator.launch.uncarried import OF_THE_JOB, REASONS
from simulator.run.read import KEYS
from simulator.scenario.outer_sections import SPECS
from simulator.scenario.schema import load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS

# tiny: sequences of 2048 tokens; a step of 64 is 131,072 tokens, and ten of them are an evaluation.
EVALUATION = "run.evaluation={every: 500, tokens: 1310720}"
SECTIONS = {
    "distillation": "distillation={teacher: llama-3-8b}",
    "local_sgd": "local_sgd={clusters: 2, inner_steps: 500, link: 100 Gb/s}",
    "run.prices": "run.prices={gpu_hour: 2 USD/h}",
    "run.failures": "run.failures=none",
    "run.simulation": "run.simulation.seed=3",
    "run.restart": "run.restart.process_start=2 min",
    "run.recovery": "run.recovery.when_short=shrink",
    "run.spares": "run.spares.hot_swap=2 min",
}


def made(to: str, *overrides: str) -> Launch:
    given = ["model=llama-3-8b", "plan={micro_batch_size: 1, global_batch_size: 64}", *overrides]
    return launch(load_scenario(SCENARIOS / "tiny.yaml", given), to, partial=True, forecast=FORECAST)


def not_carried(of: Launch) -> str:
    return of.files["README.md"].partition("## Keys that no launch carries")[2]


@pytest.mark.parametrize(
    ("to", "file", "lines"),
    [
        ("megatron", "arguments.sh", ("--eval-interval 500 ", "--eval-iters 10 ")),
        ("bridge", "overrides.txt", ("validation.eval_interval=500 ", "validation.eval_iters=10 ")),
    ],
)
def test_evaluation_is_told_and_imported_again(to: str, file: str, lines: tuple[str, ...], tmp_path: Path) -> None:
    launched = made(to, EVALUATION)
    assert all(line in launched.files[file] for line in lines)
    assert "run.evaluation" not in not_carried(launched)
    write_launch(launched, tmp_path / "run")
    names = ("arguments.sh", "train.sh") if to == "megatron" else ("overrides.txt", "train.sh")
    text = import_launch([tmp_path / "run" / name for name in names if name in launched.files]).text
    assert "every: 500 " in text
    assert "tokens: 1310720 " in text


def test_a_run_without_evaluations_is_launched_without(tmp_path: Path) -> None:
    """Megatron would evaluate every 1000 steps by default."""
    launched = made("megatron")
    assert "--eval-iters 0 " in launched.files["arguments.sh"]
    assert "--eval-interval" not in launched.files["arguments.sh"]
    write_launch(launched, tmp_path / "run")
    assert "evaluation" not in import_launch([tmp_path / "run" / "arguments.sh", tmp_path / "run" / "train.sh"]).text


def test_evaluations_by_time_leave_the_batches_to_the_software() -> None:
    launched = made("megatron", "run.evaluation={every: 500, lasts: 2 min}")
    assert "--eval-interval 500 " in launched.files["arguments.sh"]
    assert "--eval-iters" not in launched.files["arguments.sh"]
    assert "- `run.evaluation.lasts`: " in not_carried(launched)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("key", SECTIONS)
def test_what_no_file_says_is_named(to: str, key: str) -> None:
    assert f"- `{key}`: " in not_carried(made(to, SECTIONS[key]))
    assert f"- `{key}`: " not in not_carried(made(to))


@pytest.mark.parametrize("to", ["torchtitan", "deepspeed"])
def test_evaluations_and_copies_in_memory_that_a_target_has_not_are_named(to: str, tmp_path: Path) -> None:
    launched = made(to, EVALUATION, "run.checkpoint={policy: in-memory, every: 2 h, fast_every: 5 min}")
    named = ("run.evaluation.every", "run.evaluation.tokens", "run.checkpoint.fast_every")
    assert all(f"- `{key}`: " in not_carried(launched) for key in named)
    (note,) = (each for each in launched.notes if "not in these files" in each)
    assert all(key in note for key in named)
    policy = "run.checkpoint.policy"
    assert policy in not_carried(launched) or policy in {each.key for each in launched.inexpressible}
    assert note in launch_text(launched, tmp_path)


def test_a_key_beside_the_plan_that_must_change_is_said_with_its_nearest_value(tmp_path: Path) -> None:
    text = launch_text(made("torchtitan", "run.checkpoint={policy: in-memory}"), tmp_path)
    assert "--set 'run.checkpoint.policy=async'" in text
    assert "no plan near this one" not in text


def test_no_section_of_a_run_is_left_without_a_reason() -> None:
    """A section that is new to scenarios needs one here: named by its own reason, told, or written by the job file."""
    known = {*(key.split(".")[1] for key in (*REASONS, *OF_THE_JOB) if key.startswith("run.")), *REASONS}
    assert set(KEYS) | set(SPECS) <= known
