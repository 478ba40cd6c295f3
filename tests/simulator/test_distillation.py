"""Distillation: the teacher's forward beside the student's, its weights and logits, and what goes with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.model.catalogue import load
from simulator.planner.planning import plan
from simulator.predict.prediction import Prediction, evaluate
from simulator.predict.simulate import simulate, simulate_step
from simulator.scenario.schema import load_scenario

EXAMPLE = Path(__file__).parents[2] / "scenarios" / "examples" / "distillation.yaml"
TEACHER = load("llama-3-70b")


def predicted(*overrides: str) -> Prediction:
    return evaluate(load_scenario(EXAMPLE, ["run.failures=none", *overrides]))


def test_the_step_holds_the_forward_of_the_teacher_and_nothing_else_of_it() -> None:
    """One stage: 32 micro-batches, each with one forward of the teacher more, and no collective that it could hide."""
    scenario = load_scenario(EXAMPLE, ["plan.overlap.grad_reduce=false", "plan.overlap.param_gather=false"])
    both = simulate_step(scenario)
    student = simulate_step(replace(scenario, distillation=None))
    teacher = simulate_step(replace(scenario, distillation=None, model=TEACHER))
    forward_s = float(teacher.slots.stages[0].forward.total_s)
    assert both.timeline.step_time_s - student.timeline.step_time_s == pytest.approx(32 * forward_s)
    backward_s = [float(step.slots.stages[0].input.total_s) for step in (both, student)]
    assert backward_s[0] == backward_s[1]


def test_the_teacher_holds_its_weights_in_16_bit_and_the_logits_of_a_micro_batch() -> None:
    """A tensor-parallel rank holds an eighth of 70.55 billion weights, and of a token 256 logits of 6 bytes."""
    owners = predicted().stages[0].memory_bytes
    assert owners["teacher weights"] == pytest.approx(70.55e9 / 8 * 2, rel=0.001)
    assert owners["soft labels"] == 4096 * 256 * 6
    every = predicted("distillation={teacher: llama-3-70b}").stages[0].memory_bytes
    assert every["soft labels"] == 4096 * 129024 / 8 * 2  # padded to a multiple of 128 x 8


def test_a_pipeline_spreads_the_teacher_over_its_stages() -> None:
    given = ("plan.tp=4", "plan.pp=2", "plan.sequence_parallel=true")
    first, last = (stage.memory_bytes for stage in predicted(*given).stages)
    assert first["teacher weights"] + last["teacher weights"] == pytest.approx(70.55e9 / 4 * 2, rel=0.001)
    assert first["soft labels"] == 0
    assert last["soft labels"] > 0


def test_a_larger_teacher_costs_more_of_everything() -> None:
    without = evaluate(replace(load_scenario(EXAMPLE, ["run.failures=none"]), distillation=None))
    small, large = predicted("distillation.teacher=llama-3-8b"), predicted()
    for less, more in ((without, small), (small, large)):
        assert more.step_time_s > less.step_time_s
        assert more.training_time_s > less.training_time_s
        assert more.peak_memory_bytes > less.peak_memory_bytes
        assert more.run is not None
        assert less.run is not None
        assert more.run.cost_usd > less.run.cost_usd
        assert more.run.energy_j > less.run.energy_j
    assert sum(large.breakdown_s.values()) == pytest.approx(large.step_time_s)
    assert sum(large.evidence.values()) == pytest.approx(1)


def test_evaluation_needs_no_teacher() -> None:
    given = "run.evaluation={every: 100, tokens: 10M}"
    paused = simulate(load_scenario(EXAMPLE, [given]))
    alone = simulate(replace(load_scenario(EXAMPLE, [given]), distillation=None))
    late = paused.step.alone_s / paused.step.timeline.step_time_s
    late_alone = alone.step.alone_s / alone.step.timeline.step_time_s
    assert paused.evaluation_pause_s / late == pytest.approx(alone.evaluation_pause_s / late_alone)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["distillation.teacher=llama-2-70b"], "its vocabulary has 32,000 tokens, the student 128,256"),
        (["distillation.teacher=llama-9"], "distillation.teacher: "),
        (["distillation.top_logits=200000"], "is 200,000 of 128,256. Write fewer"),
        (["plan.sharding=full"], "beside a teacher write optimizer"),
        (["distillation.teacher={base: llama-3-70b, mixer: {heads: 60, kv_heads: 60}}"], "plan.tp: of the teacher"),
    ],
)  # fmt: skip
def test_teachers_that_do_not_go_with_the_plan_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(EXAMPLE, overrides)


def test_the_search_says_that_it_knows_no_teachers() -> None:
    with pytest.raises(InputError, match="a teacher beside the model is not searched"):
        plan(load_scenario(EXAMPLE))
