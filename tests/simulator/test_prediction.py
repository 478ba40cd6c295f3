"""Whole predictions: what adds up, what must not change, and what the world measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import Scenario
from tests.predicted import shipped

pytestmark = pytest.mark.xdist_group("shipped scenarios")
SCENARIOS = sorted((Path(__file__).parents[2] / "scenarios").glob("*.yaml"))


@pytest.fixture(params=[path.stem for path in SCENARIOS])
def prediction(request: pytest.FixtureRequest) -> Prediction:
    return shipped(request.param)


def test_breakdown_adds_up(prediction: Prediction) -> None:
    assert sum(prediction.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-9)
    for stage in prediction.stages:
        assert sum(stage.breakdown_s.values()) == pytest.approx(prediction.step_time_s, rel=1e-9)
        assert all(seconds >= -1e-12 for seconds in stage.breakdown_s.values())


def test_figures_agree_with_each_other(prediction: Prediction) -> None:
    scenario = prediction.scenario
    assert prediction.tokens_per_s_per_gpu * scenario.cluster.gpus == pytest.approx(prediction.tokens_per_s)
    assert prediction.training_time_s == pytest.approx(scenario.run.tokens / prediction.tokens_per_s)
    assert prediction.gpu_hours_per_1e12_tokens == pytest.approx(1e12 / prediction.tokens_per_s_per_gpu / 3600)
    assert 0 < prediction.mfu_fraction < 1
    assert sum(prediction.evidence.values()) == pytest.approx(1.0)


def test_memory_adds_up(prediction: Prediction) -> None:
    for stage in prediction.stages:
        assert sum(stage.memory_bytes.values()) == pytest.approx(stage.peak_memory_bytes)
        assert all(size >= 0 for size in stage.memory_bytes.values())
    assert prediction.peak_memory_bytes == max(stage.peak_memory_bytes for stage in prediction.stages)
    assert prediction.fits == (prediction.device_memory_bytes <= prediction.memory_capacity_bytes)


def test_deepseek_as_published(deepseek: Scenario) -> None:
    """19.926 s a step, 180 thousand GPU-hours per 10^12 tokens, on 80 GB parts (arXiv 2505.09343, 2412.19437)."""
    prediction = evaluate(deepseek)
    assert prediction.step_time_s == pytest.approx(19.926, rel=0.1)
    assert prediction.gpu_hours_per_1e12_tokens == pytest.approx(180e3, rel=0.1)
    assert all(stage.peak_memory_bytes < 80e9 for stage in prediction.stages)
    assert prediction.fits


def test_slower_hardware_is_never_faster(deepseek: Scenario) -> None:
    node = deepseek.cluster.node
    slower_nic = replace(node, nic=replace(node.nic, bandwidth_bytes_per_s=node.nic.bandwidth_bytes_per_s / 4))
    slower_gpu = replace(node, accelerator=replace(node.accelerator, kernel_scale=0.5))
    base = evaluate(deepseek).step_time_s
    for changed in (slower_nic, slower_gpu):
        assert evaluate(replace(deepseek, cluster=replace(deepseek.cluster, node=changed))).step_time_s > base


def test_two_runs_agree(deepseek: Scenario) -> None:
    assert evaluate(deepseek) == evaluate(deepseek)


def test_the_front_door_stays_a_function_whatever_was_imported_before() -> None:
    import simulator
    import simulator.predict.prediction

    assert simulator.evaluate is simulator.predict.prediction.evaluate
