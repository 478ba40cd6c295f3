"""Evaluation within the run: the forward pass that a pause is, and its place in time, goodput, cost and energy."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.plans.spec import Plan
from simulator.predict.evaluation_pass import forward_pass_s
from simulator.predict.prediction import Prediction, evaluate
from simulator.predict.simulate import simulate
from simulator.run.montecarlo import simulate as simulate_run
from simulator.run.result import RunResult
from simulator.run.specs import Segment
from simulator.scenario.schema import load_scenario
from tests.simulator.run_specs import crashes, quiet

SCENARIOS = Path(__file__).parents[2] / "scenarios"


def predicted(*overrides: str) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / "tiny.yaml", list(overrides)))


def run_of(prediction: Prediction) -> RunResult:
    assert prediction.run is not None
    return prediction.run


def test_a_pause_after_every_so_many_steps_counts_once_each() -> None:
    """1,050 steps of 2 s with a pause of 30 s after every 100: ten pauses, 2,400 s in all."""
    segment = Segment("main", 1050 * 10.0, 10.0, 2.0, evaluation_every_steps=100, evaluation_pause_s=30.0)
    assert segment.evaluation_s == 300.0
    assert segment.work_s == 2400.0


def test_evaluation_is_told_apart_from_useful_time() -> None:
    """A day of steps of 10 s, 360 s of evaluation after every 360: a tenth on top."""
    spec = quiet(days=1, policy="none", every_s=None)
    segments = (replace(spec.segments[0], evaluation_every_steps=360, evaluation_pause_s=360.0),)
    paused, plain = simulate_run(replace(spec, segments=segments)), simulate_run(spec)
    assert paused.lost_s["evaluation"] == pytest.approx(86400 * 0.1)
    assert paused.ideal_s == pytest.approx(plain.ideal_s)
    assert paused.finish_s.p50 == pytest.approx(1.1 * plain.finish_s.p50)
    assert paused.goodput_fraction == pytest.approx(1 / 1.1)
    assert paused.first_order_goodput_fraction == pytest.approx(plain.first_order_goodput_fraction / 1.1)


def test_time_adds_up_with_failures_and_evaluation() -> None:
    spec = quiet(days=2, every_s=600.0)
    segments = (replace(spec.segments[0], evaluation_every_steps=60, evaluation_pause_s=30.0),)
    result = simulate_run(replace(spec, segments=segments, failures=crashes(4 * 3600.0, spec.job_gpus)))
    assert result.lost_s["evaluation"] == pytest.approx(0.05 * result.ideal_s)
    assert result.lost_s["lost_work"] > 0
    mean_s = result.ideal_s + sum(result.lost_s.values())
    assert result.goodput_fraction == pytest.approx(result.ideal_s / mean_s)


@pytest.mark.parametrize(
    ("pp", "microbatches", "seconds"),
    [(1, 5, 5 * 2.0), (2, 1, 2.0 + 3.0 + 0.5), (2, 5, 2.0 + 3.0 + 0.5 + 4 * (3.0 + 0.5))],
)
def test_forwards_stream_through_the_pipeline(pp: int, microbatches: int, seconds: float) -> None:
    """Stages of 2 and 3 s with sends of 0.5 s: the first passes all, each further one holds up the slowest."""
    plan = Plan(pp=pp, dp=1, micro_batch_size=1, global_batch_size=8)
    assert forward_pass_s(plan, [2.0, 3.0][:pp], 0.5, microbatches) == pytest.approx(seconds)


def test_a_mirrored_pipeline_shares_the_forwards_between_its_directions() -> None:
    """Each rank holds one stage of both directions: 8 micro-batches are 4 a route, of 5 s a rank."""
    plan = Plan(pp=2, dp=1, micro_batch_size=1, global_batch_size=8, schedule="dualpipe")
    assert forward_pass_s(plan, [2.0, 3.0], 0.0, 8) == pytest.approx(5.0 + 3 * 5.0)


def test_evaluation_takes_as_long_as_the_forwards_of_its_tokens() -> None:
    """On one stage 8 replicas take 131,072 tokens in 4 micro-batches each, as slow as the step's stragglers make it."""
    alone = ("plan.pp=1", "plan.ep=8", "run.failures=none")
    given = (*alone, "run.evaluation={every: 10, tokens: 131072}")
    prediction = predicted(*given)
    step = simulate(load_scenario(SCENARIOS / "tiny.yaml", list(given))).step
    forward_s = 4 * float(step.slots.stages[0].forward.total_s)
    assert prediction.evaluation_pause_s == pytest.approx(forward_s * step.step_time_s / step.timeline.step_time_s)
    twice = predicted(*alone, "run.evaluation={every: 10, tokens: 262144}")
    assert twice.evaluation_pause_s == pytest.approx(2 * prediction.evaluation_pause_s)
    assert prediction.step_time_s == predicted(*alone).step_time_s


def test_rarer_evaluation_is_sooner_done_and_cheaper() -> None:
    every = ("run.evaluation={every: 10, lasts: 1 s}", "run.evaluation={every: 40, lasts: 1 s}", "run.failures=none")
    found = [predicted(each, "run.failures=none") for each in every]
    for often, seldom in pairwise(found):
        assert seldom.training_time_s < often.training_time_s
        assert run_of(seldom).finish_s.p50 < run_of(often).finish_s.p50
        assert run_of(seldom).cost_usd < run_of(often).cost_usd
        assert run_of(seldom).energy_j < run_of(often).energy_j
        assert run_of(seldom).goodput_fraction > run_of(often).goodput_fraction
    steps = found[0].scenario.run.tokens // found[0].tokens_per_step
    assert found[0].training_time_s - found[2].training_time_s == pytest.approx(steps // 10, abs=1)


def test_every_phase_evaluates_with_its_own_plan() -> None:
    phases = "run.phases=[{name: short}, {name: long, tokens: 200M, seq_length: 8192}]"
    given = (phases, "run.evaluation={every: 10, tokens: 1M}", "run.failures=none")
    prediction = predicted(*given)
    assert sum(phase.training_time_s for phase in prediction.phases) == pytest.approx(prediction.training_time_s)
    assert run_of(prediction).lost_s["evaluation"] > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.evaluation={every: 10}", "tokens: is missing: say what one evaluation takes"),
        ("run.evaluation={tokens: 10M}", "every: is missing"),
        ("run.evaluation={every: 10, tokens: 10M, lasts: 1 min}", "and tokens exclude each other"),
        ("run.evaluation={every: 0, tokens: 10M}", "whole number of at least 1"),
    ],
)
def test_wrong_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(SCENARIOS / "tiny.yaml", [override])
