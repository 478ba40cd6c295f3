"""One interval of a step: what the run, its phases, a purchase and a comparison say of the step's error is the same."""

from __future__ import annotations

import math

import pytest

from simulator.planner.job import job_of
from simulator.planner.shared_error import error_shares
from simulator.planner.size import summary
from simulator.planner.sizing import Question
from simulator.predict.confidence import STANDARD_DEVIATIONS
from simulator.predict.prediction import Prediction, predict
from simulator.predict.run_spec import whole_run_spec
from simulator.predict.simulate import Simulated, simulate
from simulator.scenario.schema import load_scenario
from tests.command import ROOT

# Tensor parallel collectives on a part whose links nobody has swept rest on assumptions.
THIN_EVIDENCE = [
    "plan.tp=4",
    "plan.sequence_parallel=true",
    "cluster.node=mi300x-platform",
    "run.phases=[{name: only}]",
]


@pytest.fixture(scope="module")
def thin() -> Simulated:
    return simulate(load_scenario(ROOT / "scenarios" / "tiny.yaml", THIN_EVIDENCE))


@pytest.fixture(scope="module")
def prediction(thin: Simulated) -> Prediction:
    return predict(thin)


def test_assumed_evidence_is_in_this_step(prediction: Prediction) -> None:
    assert prediction.evidence["assumed"] > 0.05


def test_the_run_draws_its_step_from_the_interval_that_is_printed(thin: Simulated, prediction: Prediction) -> None:
    spec = whole_run_spec(thin)
    assert spec is not None
    low_s, high_s = prediction.step_time_interval_s
    assert spec.uncertainty.step_p10 * prediction.step_time_s == pytest.approx(min(low_s, prediction.step_time_s))
    assert spec.uncertainty.step_p90 * prediction.step_time_s == pytest.approx(max(high_s, prediction.step_time_s))


def test_a_phase_of_the_same_plan_has_the_same_interval(prediction: Prediction) -> None:
    assert prediction.phases[0].step_time_interval_s == prediction.step_time_interval_s


def test_a_purchase_has_the_interval_that_is_printed(thin: Simulated, prediction: Prediction) -> None:
    bought = summary(job_of(thin), Question(confidence=0.9))
    assert bought.step_time_interval_s == prediction.step_time_interval_s


def test_a_comparison_takes_its_error_from_the_interval_that_is_printed(
    thin: Simulated, prediction: Prediction
) -> None:
    low_s, high_s = prediction.step_time_interval_s
    assert error_shares(thin).log_sigma == pytest.approx(math.log(high_s / low_s) / 2 / STANDARD_DEVIATIONS)
