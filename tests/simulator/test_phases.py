"""Phases of a run with plans of their own: priced, weighed and judged one by one, and all of them in the whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from hardware.problems import InputError
from simulator.predict.prediction import Prediction, evaluate, predict
from simulator.predict.run_spec import whole_run_spec
from simulator.predict.simulate import simulate
from simulator.report.document import document_schema, evaluate_document
from simulator.report.terminal import evaluation_text
from simulator.scenario.phases import merged, phases_of
from simulator.scenario.schema import load_scenario
from tests.command import traincast

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
LONG = "{name: long, tokens: 0.1B, seq_length: 8192, plan: {recompute: {granularity: full}}}"


def phased(*phases: str) -> Prediction:
    return evaluate(load_scenario(TINY, [f"run.phases=[{', '.join(phases)}]"]))


def test_a_phase_is_the_scenario_with_its_plan() -> None:
    """Step, memory and MFU are those of the scenario that says the same outright."""
    long = phased("{name: main}", LONG).phases[1]
    alone = evaluate(load_scenario(TINY, ["run.seq_length=8192", "plan.recompute={granularity: full}"]))
    assert long.step_time_s == alone.step_time_s
    assert long.device_memory_bytes == alone.device_memory_bytes
    assert long.mfu_fraction == alone.mfu_fraction
    assert long.plan_changes == {"recompute.granularity": "full"}


def test_a_phases_plan_takes_short_forms() -> None:
    long = phased("{name: main}", LONG).phases[1]
    short = phased("{name: main}", LONG.replace("{granularity: full}", "full")).phases[1]
    assert short == long


def test_time_of_the_whole_contains_every_phase() -> None:
    done = simulate(load_scenario(TINY, [f"run.phases=[{{name: main}}, {LONG}]"]))
    prediction, spec = predict(done), whole_run_spec(done)
    main, long = prediction.phases
    assert (main.tokens, long.tokens) == (0.9e9, 0.1e9)
    assert main.training_time_s == pytest.approx(0.9e9 / (64 * 2048) * prediction.step_time_s)
    assert prediction.training_time_s == pytest.approx(main.training_time_s + long.training_time_s)
    assert spec is not None
    assert spec.work_s == pytest.approx(prediction.training_time_s, rel=1e-3)


def test_phases_keep_batch_and_length_that_they_do_not_name() -> None:
    ramp = "{name: ramp, tokens: 0.2B, global_batch_size: 32}"
    scenario = load_scenario(TINY, [f"run.phases=[{ramp}, {{name: main}}, {LONG}]"])
    found = [(each.name, each.tokens, each.plan.global_batch_size, each.seq_length) for each in phases_of(scenario)]
    assert found == [("ramp", 0.2e9, 32, 2048), ("main", 0.7e9, 64, 2048), ("long", 0.1e9, 64, 8192)]


def test_dp_follows_a_phases_degrees() -> None:
    scenario = load_scenario(
        TINY, ["run.phases=[{name: main}, {name: wide, tokens: 0.1B, plan: {tp: 2, sequence_parallel: true}}]"]
    )
    assert (scenario.plan.dp, phases_of(scenario)[1].plan.dp) == (4, 2)


def test_a_section_is_changed_key_by_key_but_recomputation_is_said_anew() -> None:
    written = {"dp": 4, "overlap": {"p2p": True}, "recompute": {"granularity": "selective", "modules": ["moe"]}}
    changes = {"overlap": {"grad_reduce": False}, "recompute": {"granularity": "full"}}
    assert merged(written, changes) == {
        "overlap": {"p2p": True, "grad_reduce": False},
        "recompute": {"granularity": "full"},
    }


def test_a_phase_that_does_not_fit_is_the_answer_and_named() -> None:
    huge = "run.phases=[{name: main}, {name: huge, tokens: 0.1B, seq_length: 1048576}]"
    done = traincast("evaluate", str(TINY), "--set", huge)
    assert done.returncode == 1
    assert "phase huge does not fit" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("phase", "key", "words"),
    [
        ("{name: b, tokens: 0.1B, plan: {ep: 3}}", "run.phases.1.plan.ep", "phase b"),
        ("{name: b, tokens: 0.1B, plan: {tpp: 3}}", "run.phases.1.plan.tpp", "is not known"),
        ("{name: b, tokens: 0.1B, global_batch_size: 7}", "run.phases.1.global_batch_size", "phase b"),
        ("{name: b, tokens: 1, seq_length: 8192}", "run.phases.1.tokens", "less than one step"),
        ("{name: b, tokens: 0.1B, global_batch_size: 8, plan: {global_batch_size: 8}}",
         "run.phases.1.global_batch_size", "drop one"),
    ],
)  # fmt: skip
def test_what_a_phase_breaks_names_phase_and_key(phase: str, key: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_scenario(TINY, [f"run.phases=[{{name: a}}, {phase}]"])
    assert key in [problem.key for problem in caught.value.problems]
    assert words in str(caught.value)


def test_the_main_phase_is_shown_where_none_runs_the_plan_as_written() -> None:
    prediction = phased("{name: a, plan: {micro_batch_size: 4}}", "{name: b, tokens: 0.1B, seq_length: 8192}")
    assert prediction.step_time_s == prediction.phases[0].step_time_s
    assert any("no phase runs the scenario's own plan" in warning for warning in prediction.warnings)
    assert prediction.phases[1].plan_changes == {"micro_batch_size": 2}


def test_documents_and_reports_hold_every_phase() -> None:
    document = evaluate_document(phased("{name: main}", LONG))
    jsonschema.validate(document, {**document_schema("evaluate"), "additionalProperties": False})
    text = " ".join(evaluation_text(document).split())
    assert "long 100 M" in text
    assert "recompute.granularity full" in text


def test_python_is_held_to_the_rules_of_files() -> None:
    scenario = load_scenario(TINY)
    for changes, key in (({"ep": 3}, "plan.ep"), ({"tp": 0}, "plan.tp"), ({"precision": "fp9"}, "plan.precision"),
                         ({"micro_batch_size": 2.5}, "plan.micro_batch_size")):  # fmt: skip
        with pytest.raises(InputError) as caught:
            evaluate(replace(scenario, plan=replace(scenario.plan, **changes)))
        assert key in [problem.key for problem in caught.value.problems]
    assert simulate(scenario).step.step_time_s == evaluate(scenario).step_time_s
