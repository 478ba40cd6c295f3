"""Examples held against calculations by hand: prediction depth, a floor under the checkpoint interval, reductions."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.model.parameters import mtp_modules, mtp_parameters
from simulator.predict.prediction import Prediction, evaluate
from simulator.predict.simulate import simulate
from simulator.scenario.schema import load_scenario

FOLDER = Path(__file__).parents[2] / "scenarios" / "examples"


def example(name: str, *overrides: str) -> Prediction:
    return evaluate(load_scenario(FOLDER / f"{name}.yaml", ["run.simulation={runs: 20}", *overrides]))


def test_a_prediction_module_is_a_layer_and_a_projection() -> None:
    """257 experts of three 7,168 x 2,048 matrices, latent attention, router, and 2 x 7,168 to 7,168: 11.61 x 10^9."""
    model = load_scenario(FOLDER / "prediction-depth.yaml").model
    first, second = mtp_modules(model)
    experts = 257 * 3 * 7168 * 2048
    attention = 7168 * 1536 + 1536 * 128 * 192 + 7168 * 576 + 512 * 128 * 256 + 128 * 128 * 7168
    module = experts + attention + 256 * 7168 + 2 * 7168 * 7168
    for layer in (first, second):
        assert mtp_parameters(model, layer).total == pytest.approx(module, rel=1e-4)


def test_each_prediction_module_takes_time_and_memory_on_the_last_stage() -> None:
    depths = [
        simulate(load_scenario(FOLDER / "prediction-depth.yaml", [f"model.mtp={depth}", f"plan.layout={layout}"]))
        for depth, layout in ((1, "Et*7|(t*8|)*6t*6mL"), (2, "Et*7|(t*8|)*6t*6mmL"))
    ]
    one, two = (done.step.step_time_s for done in depths)
    assert two > one
    held = [done.memory[-1].device_bytes for done in depths]
    assert held[1] > held[0]
    assert depths[0].memory[1].device_bytes == depths[1].memory[1].device_bytes


def test_a_floor_under_the_interval_costs_half_of_it_per_failure() -> None:
    """Every failure loses an hour of work in the mean, half of the two hours between saves."""
    floored, free = example("checkpoint-minimum").run, example("checkpoint-minimum", "run.checkpoint={}").run
    assert floored is not None
    assert free is not None
    (every_s,) = set(floored.checkpoint_every_s.values())
    assert 7200 <= every_s < 7200 + 60
    assert min(free.checkpoint_every_s.values()) < 1000
    failures = sum(floored.interruptions.values())
    assert floored.lost_s["lost_work"] / failures == pytest.approx(every_s / 2, rel=0.1)
    assert floored.cost_usd > free.cost_usd  # type: ignore[operator]


def test_recursive_doubling_sends_whole_buckets_between_nodes_three_times() -> None:
    """Exchanges with ranks 8, 16 and 32 away cross nodes with all 4-byte gradients at 12.5 GB/s; a ring's do not."""
    doubling, ring = example("reduction-trees"), example("reduction-trees", "plan.gradients.algorithm=ring")
    crossing_s = 3 * 4 * doubling.parameters_total / 12.5e9
    assert doubling.step_time_s > crossing_s > ring.step_time_s
