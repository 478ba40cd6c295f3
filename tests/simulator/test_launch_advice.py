"""What a launch says beside its files: one prediction with evaluate's, plans that fit, a document with a schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from simulator import compare, evaluate, plan, size
from simulator.cli.launch import launch_text
from simulator.launch import launch
from simulator.launch.targets import TARGETS
from simulator.predict.prediction import predict
from simulator.predict.simulate import simulate
from simulator.report.beyond import step_seconds
from simulator.report.document import document_schema
from simulator.scenario.schema import Scenario, load_scenario
from tests.command import ROOT, traincast
from tests.simulator.launch_draws import FORECAST, SCENARIOS

TINY = SCENARIOS / "tiny.yaml"
DENSE = SCENARIOS / "qwen3-235b-256xh100.yaml"


def without_run(scenario: Scenario) -> Scenario:
    return replace(scenario, run=replace(scenario.run, policies=None))


def test_a_launch_predicts_the_interval_that_evaluate_does() -> None:
    """tiny names no stack: nobody chose its release, and a launch on it does not either."""
    scenario = without_run(load_scenario(TINY))
    made = launch(scenario, "megatron", "torchrun")
    assert made.forecast.step_time_interval_s == predict(simulate(scenario)).step_time_interval_s
    narrower = launch(without_run(load_scenario(TINY, ["plan.stack=megatron-core-0.19"])), "megatron", "torchrun")
    (low, high), (named_low, named_high) = (each.forecast.step_time_interval_s for each in (made, narrower))
    assert high - low > named_high - named_low


def test_the_scenario_of_a_launch_evaluates_to_what_the_launch_says(tmp_path: Path) -> None:
    """On another stack than the default too."""
    scenario = without_run(load_scenario(DENSE, ["model=llama-3-8b", "plan={tp: 1, micro_batch_size: 1, "
                                                 "global_batch_size: 512, sharding: full}"]))  # fmt: skip
    made = launch(scenario, "deepspeed", "torchrun", partial=True)
    (tmp_path / "scenario.yaml").write_text(made.files["scenario.yaml"])
    again = predict(simulate(without_run(load_scenario(tmp_path / "scenario.yaml"))))
    assert again.step_time_s == pytest.approx(made.forecast.step_time_s)
    assert again.step_time_interval_s == pytest.approx(made.forecast.step_time_interval_s)


@pytest.mark.parametrize(("plan", "stage"), [("", 3), (", sharding: optimizer", 1)])
def test_deepspeed_shards_as_its_release_does_unless_the_plan_says(plan: str, stage: int) -> None:
    """A scenario that names no stack takes what DeepSpeed brings: ZeRO-3."""
    written = f"plan={{micro_batch_size: 1, global_batch_size: 256{plan}}}"
    made = launch(load_scenario(DENSE, ["model=llama-3-8b", written]), "deepspeed", "torchrun", forecast=FORECAST)
    assert json.loads(made.files["ds_config.json"])["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("name", ["bert-large-64xv100", "deepseek-v3-2048xh800", "qwen3-235b-256xh100", "tiny"])
def test_a_plan_that_a_launch_advises_is_legal_fits_and_takes_what_it_says(name: str, to: str) -> None:
    path = SCENARIOS / f"{name}.yaml"
    made = launch(without_run(load_scenario(path)), to, "torchrun")
    if made.nearest is None:
        assert made.nearest_step_time_s is None or made.complete or any("does not fit" in each for each in made.notes)
        return
    near = predict(simulate(without_run(load_scenario(path, made.nearest.overrides))))
    assert near.fits
    assert made.nearest_step_time_s == pytest.approx(near.step_time_s)


@pytest.mark.parametrize("stack", ["hai-llm-2024", "torchtitan-0.3", "deepspeed-0.19", "megascale-moe-2025"])
def test_advice_spells_out_what_the_stack_that_it_leaves_brings(stack: str) -> None:
    """Sharding and dispatcher of the file's stack hold in the plan that is quoted, so they are among the overrides."""
    given = ["model=qwen3-30b-a3b", "cluster={gpus: 16, node: hgx-h100}", "run.seq_length=4096",
             f"plan={{micro_batch_size: 1, global_batch_size: 64, ep: 8, stack: {stack}}}"]  # fmt: skip
    made = launch(without_run(load_scenario(TINY, given)), "megatron", "torchrun")
    assert made.nearest is not None
    applied = load_scenario(TINY, [*given, *made.nearest.overrides])
    assert applied.plan == made.nearest.plan
    assert predict(simulate(without_run(applied))).step_time_s == pytest.approx(made.nearest_step_time_s)


def test_the_document_of_a_launch_keeps_its_schema(tmp_path: Path) -> None:
    """Of one launch, and of a run's phases."""
    schema = document_schema("launch")
    done = traincast("launch", str(TINY), "--to", "torchtitan", "--out", str(tmp_path / "one"), "--json")
    assert done.returncode == 1
    jsonschema.validate(json.loads(done.stdout), schema)
    phases = "run.phases=[{name: short, tokens: 1e8, seq_length: 2048}, {name: long, seq_length: 4096}]"
    arguments = ("launch", str(TINY), "--to", "megatron", "--out", str(tmp_path / "two"), "--set", phases, "--json")
    done = traincast(*arguments)
    document = json.loads(done.stdout)
    jsonschema.validate(document, schema)
    assert len(document["phases"]) == 2
    assert traincast("schema", "launch").returncode == 0


@pytest.mark.parametrize("verb", [evaluate, plan, size, launch, lambda path: compare([path])])
def test_a_path_where_a_scenario_belongs_gets_a_clear_error(verb: Any) -> None:
    path = str(ROOT / "scenarios" / "tiny.yaml")
    with pytest.raises(TypeError, match=r"takes a Scenario, not the path .*Write \w+\(load_scenario"):
        verb(path)
    with pytest.raises(TypeError, match="takes a Scenario, as load_scenario"):
        verb({"model": "x"})


def test_a_launch_on_another_stack_than_evaluates_says_of_which_every_figure_is(tmp_path: Path) -> None:
    """tiny names no stack: evaluate takes Megatron-Core, a launch for torchtitan its own."""
    scenario = without_run(
        load_scenario(TINY, ["plan={micro_batch_size: 1, global_batch_size: 64}", "model=llama-3-8b"])
    )
    made = launch(scenario, "torchtitan", "torchrun", partial=True)
    of_file = step_seconds(predict(simulate(scenario)).step_time_s)
    (note,) = (each for each in made.notes if "names no stack" in each)
    assert "the figures here are of torchtitan-0.3" in note
    assert f"are of megatron-core-0.19, {of_file} a step" in note
    assert f"Predicted on `torchtitan-0.3`: {step_seconds(made.forecast.step_time_s)} a step" in made.files["README.md"]
    assert note in made.files["README.md"]
    assert json.loads(made.files["manifest.json"])["prediction"]["stack"] == "torchtitan-0.3"
    assert "predicted on torchtitan-0.3: " in launch_text(made, tmp_path)


def test_a_launch_on_the_very_stack_needs_no_word_about_another() -> None:
    assert not any("names no stack" in each for each in launch(without_run(load_scenario(TINY)), "megatron").notes)
    named = load_scenario(TINY, ["plan.stack=torchtitan-0.3"])
    assert not any("names no stack" in each for each in launch(without_run(named), "torchtitan").notes)


def test_the_step_of_a_nearest_plan_and_the_asked_one_name_their_stacks(tmp_path: Path) -> None:
    named = ["model=llama-3-8b", "plan={tp: 2, micro_batch_size: 1, global_batch_size: 64, stack: megatron-core-0.16}"]
    made = launch(without_run(load_scenario(TINY, named)), "deepspeed", "torchrun")
    assert made.to_dict()["nearest_stack"] == "deepspeed-0.19"
    near, asked = (step_seconds(each or 0.0) for each in (made.nearest_step_time_s, made.forecast.step_time_s))
    assert f"{near} a step on deepspeed-0.19 instead of {asked} on megatron-core-0.16" in launch_text(made, tmp_path)


def test_what_a_stack_brings_is_not_said_to_stand_in_the_plan() -> None:
    """DeepSpeed brings ZeRO-3, which its tensor parallelism does not go with."""
    given = "plan={tp: 2, micro_batch_size: 1, global_batch_size: 64%s}"
    for sharding, brought in (("", True), (", sharding: full", False)):
        loaded = load_scenario(TINY, ["model=llama-3-8b", given % sharding])
        refused = launch(loaded, "deepspeed", "torchrun", forecast=FORECAST).inexpressible
        (why,) = (each.why for each in refused if each.key == "plan.sharding")
        assert ("deepspeed-0.19 brings it" in why) == brought


def test_the_nearest_precision_is_one_of_the_same_width() -> None:
    """torchtitan 0.3 has no word for tensor-wise FP8; row-wise FP8 is nearer to it than 16 bit. What the scenario calls
    fp8 the stack says; it is not left out."""
    given = "plan={tp: 1, micro_batch_size: 1, global_batch_size: 64, precision: fp8}"
    made = launch(without_run(load_scenario(TINY, ["model=llama-3-8b", "plan.pp=1", given])), "torchtitan", "torchrun")
    assert "plan.precision=fp8-rowwise" in made.to_dict()["nearest"]
    (why,) = (each.why for each in made.inexpressible if each.key == "plan.precision")
    assert why.endswith("(the fp8 of torchtitan-0.3)")


def test_a_step_of_minutes_is_told_in_seconds_as_evaluate_does(tmp_path: Path) -> None:
    slow = replace(FORECAST, step_time_s=927.06)
    made = launch(without_run(load_scenario(TINY)), "megatron", "torchrun", forecast=slow)
    assert "927.06 s a step" in launch_text(made, tmp_path)
    assert "927.06 s a step" in made.files["README.md"]


def test_a_nearest_plan_that_does_not_fit_is_said_once(tmp_path: Path) -> None:
    """Not that there is none, too."""
    given = ["model=llama-3-70b", "run.seq_length=32768",
             "plan={tp: 8, cp: 1, micro_batch_size: 1, global_batch_size: 8, stack: torchtitan-0.3}"]  # fmt: skip
    made = launch(without_run(load_scenario(TINY, given)), "deepspeed", "torchrun")
    assert made.nearest is None
    assert any("does not fit in memory, so none is proposed" in note for note in made.notes)
    assert "no plan near this one" not in launch_text(made, tmp_path)
