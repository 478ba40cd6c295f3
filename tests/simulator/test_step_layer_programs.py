"""Real scenarios, GPU by GPU: the layer-by-layer programs take the seconds of the folded slots, and the whole step
without spread is the folded step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.predict.simulate import simulate_step
from simulator.predict.step import Step
from simulator.scenario.schema import Scenario, load_scenario
from simulator.step.graph import KIND, KINDS, STREAM, slot_pieces
from simulator.step.layer_programs import Programs, grid_of, study_plan
from simulator.step.phases import folded
from simulator.step.ranks import simulate_ranks
from simulator.step.spread import Spread
from simulator.step.times import SLOT_CAUSES

SCENARIOS = Path(__file__).parents[2] / "scenarios"
SMALL = ["tiny", "bert-large-64xv100", "deepseek-v3-256xgb200"]
LARGE = ["qwen3-235b-256xh100", "deepseek-v3-2048xh800", "kimi-k2-10240xh100", "llama-3.1-405b-16384xh100"]


def simulated(name: str) -> tuple[Scenario, Step, Programs]:
    scenario = load_scenario(SCENARIOS / f"{name}.yaml")
    step = simulate_step(scenario)
    return scenario, step, Programs(step.slots, scenario.plan)


@pytest.mark.parametrize("name", SMALL + LARGE)
def test_programs_take_the_seconds_of_the_slots(name: str) -> None:
    """By cause, for every slot that the schedule has."""
    _, step, programs = simulated(name)
    graph, stage_of = step.timeline.graph, step.schedule.stage_of_chunk
    _, pieces = slot_pieces(graph)
    seen: dict[tuple[str, int, int], np.ndarray] = {}
    for task in np.flatnonzero((graph.stream == STREAM["compute"]) & (graph.kind <= KIND["FB"])).tolist():
        rank, kind = int(graph.rank[task]), KINDS[graph.kind[task]]
        stage = int(stage_of[rank, graph.chunk[task]])
        back = int(stage_of[rank, graph.backward_chunk[task]]) if kind == "FB" else stage
        seen[kind, stage, back] = graph.duration_s[task] * graph.cause_fraction[task] * pieces[task]
    assert seen
    for (kind, stage, back), seconds in seen.items():
        spent = folded(programs.of(kind, stage, back))
        assert [spent[cause] for cause in SLOT_CAUSES] == pytest.approx(seconds, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", SMALL + [pytest.param(name, marks=pytest.mark.slow) for name in LARGE])
def test_every_gpu_alike_is_the_folded_step(name: str) -> None:
    scenario, step, programs = simulated(name)
    grid = grid_of(scenario.plan, scenario.cluster.node.gpus)
    assert grid.gpus == scenario.cluster.gpus
    found = simulate_ranks(step.timeline.graph, step.schedule.stage_of_chunk, programs.of, grid, Spread())
    assert found.step_time_s == pytest.approx(step.timeline.step_time_s, rel=1e-9)


def test_study_of_a_real_plan() -> None:
    """Spread costs time, every cause its own, and the slow GPU is found among 256."""
    scenario, step, programs = simulated("deepseek-v3-256xgb200")
    spread = Spread(gpu_sigma=0.01, slow_gpus={77: 1.3})
    node = scenario.cluster.node.gpus
    report = study_plan(step.timeline, step.schedule, programs, node, spread, seeds=(1,))
    assert report.ideal_s == pytest.approx(step.timeline.step_time_s, rel=1e-9)
    assert report.blamed[0][0] == 77
    assert 0 < report.tax_fraction["gpu_sigma"] < report.tax_fraction["slow_gpus"] < 0.3
