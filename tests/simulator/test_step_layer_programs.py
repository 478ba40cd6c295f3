"""Real scenarios, GPU by GPU: the layer-by-layer programs take the seconds of the folded slots, and the whole step
without spread is the folded step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.cost.blocks import BlockCost, Exchanges
from simulator.cost.layers import HANDOVER_FRACTION, Beside, LayerCost
from simulator.cost.seconds import Seconds
from simulator.cost.stages import Lost, StageCost
from simulator.cost.step_times import SlotTimes
from simulator.plans.spec import Overlap, Plan
from simulator.predict.simulate import simulate_step
from simulator.predict.step import Step
from simulator.scenario.schema import Scenario, load_scenario
from simulator.step.graph import KIND, KINDS, STREAM, slot_pieces
from simulator.step.layer_programs import Programs, grid_of, study_plan
from simulator.step.phases import Program, folded
from simulator.step.ranks import Grid, simulate_ranks
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


def layer_of(seconds: float, experts: bool = True) -> LayerCost:
    """A layer whose parts take so many times 1, 2, 3 ... s."""
    mixer = BlockCost(Seconds(seconds), Seconds(2 * seconds), Seconds(3 * seconds))
    ffn = BlockCost(Seconds(4 * seconds, tp_s=0.5), Seconds(5 * seconds), Seconds(6 * seconds))
    if experts:
        there, back = Exchanges(7 * seconds, 8 * seconds), Exchanges(9 * seconds, 10 * seconds)
        ffn = replace(ffn, routing_forward=there, routing_backward=back, routing_recompute_s=11 * seconds)
    return LayerCost(mixer, replace(ffn, shared_s=(3 * seconds, 0.0)))


def stage_of(*layers: LayerCost, host_s: float = 0.0) -> StageCost:
    host = Seconds(host_s=host_s)
    lost = Lost(Seconds(0.25), Seconds(0.5), Seconds(0.125))
    return StageCost(layers, host, host, host, {}, 0.0, lost=lost)


def named(program: Program) -> list[list[tuple[str, float, int, bool]]]:
    return [[(op.kernel, op.seconds, op.layer, op.backward) for op in phase.main] for phase in program]


def test_the_order_of_a_lone_slot() -> None:
    """Forward: mixer, out, experts with what they expose, home; backward the other way round; dense layers have no
    number, and those with experts are counted through the model. Last what sharded layers lose, and the host."""
    stages = (stage_of(layer_of(1.0)), stage_of(layer_of(1.0, experts=False), layer_of(2.0), host_s=0.75))
    times = SlotTimes(stages, None, 0.0)
    programs = Programs(times, Plan(dp=8, ep=8, micro_batch_size=1, global_batch_size=8))
    lost, host = ("ffn", 0.25, -1, False), [("host", 0.75, -1, False)]
    assert named(programs.of("F", 1, 1)) == [
        [
            ("mixer", 1.0, -1, False), ("ffn", 4.0, -1, False), ("tp", 0.5, -1, False),
            ("mixer", 2.0, 1, False), ("ep", 14.0, 1, False), ("experts", 8.0, 1, False), ("tp", 0.5, 1, False),
            ("ep", 16.0, 1, False), lost,
        ],
        host,
    ]  # fmt: skip
    back = [
        ("ep", 22.0, 1, True), ("ep", 18.0, 1, True), ("experts", 10.0, 1, True), ("ep", 20.0, 1, True),
        ("mixer", 4.0, 1, True), ("ffn", 5.0, -1, True), ("mixer", 2.0, -1, True), ("ffn", 0.5, -1, True),
    ]  # fmt: skip
    weights = [
        ("experts", 12.0, 1, True), ("mixer", 6.0, 1, True), ("ffn", 6.0, -1, True), ("mixer", 3.0, -1, True),
        ("ffn", 0.125, -1, True),
    ]  # fmt: skip
    assert named(programs.of("I", 1, 1)) == [back, host]
    assert named(programs.of("W", 1, 1)) == [weights, host]
    assert named(programs.of("B", 1, 1)) == [back, host, weights, host]
    assert [row[0] for row in named(programs.of("F", 0, 0))] == [("mixer", 1.0, 0, False)]
    assert named(programs.of("FB", 0, 1)) == named(programs.of("F", 0, 0)) + named(programs.of("B", 1, 1))
    hiding = Programs(times, replace(programs.plan, overlap=Overlap(shared_experts=True)))
    # 3 of 15 s hide behind the shared expert, in proportion.
    exposed = [op[1] for op in named(hiding.of("F", 0, 0))[0] if op[0] == "ep"]
    assert exposed == pytest.approx([7 * 12 / 15, 8 * 12 / 15])


@pytest.mark.parametrize("put_off", [True, False])
def test_the_order_of_an_overlapped_pair(put_off: bool) -> None:
    """The forward's mixer beside the backward's way out; experts of both beside the other two ways; the backward's
    mixer beside the forward's way home; then hand-overs and what runs again. A layer without a partner runs alone."""
    ahead, back = layer_of(1.0), layer_of(2.0)
    beside = Beside(weights_put_off=put_off)
    times = SlotTimes((stage_of(ahead), stage_of(layer_of(3.0, experts=False), back)), beside, 0.0)
    found = Programs(times, Plan(dp=8, ep=8, micro_batch_size=1, global_batch_size=8)).of("FB", 0, 1)
    mains, besides = (
        named(found),
        [[(op.kernel, op.seconds, op.layer, op.backward) for op in each.beside] for each in found],
    )
    experts_back, experts_ahead = [("experts", 22.0, 1, True)], [("experts", 4.0, 0, False), ("tp", 0.5, 0, False)]
    out, home = ("ep", 7.0, 0, False), ("ep", 20.0, 1, True)
    joint = [experts_back + experts_ahead] if put_off else [experts_back, experts_ahead]
    lone = [("ffn", 15.0, -1, True), ("mixer", 6.0, -1, True), ("ffn", 18.0, -1, True), ("mixer", 9.0, -1, True)]
    assert mains[:-2] == [[("mixer", 1.0, 0, False)], *joint, [("mixer", 10.0, 1, True)]]
    assert mains[-1] == lone
    joint_beside = [[out, home]] if put_off else [[out], [home]]
    assert besides == [[("ep", 18.0, 1, True)], *joint_beside, [("ep", 8.0, 0, False)], [], []]
    ((kernel, seconds, layer, backward),) = mains[-2]
    # 37.5 s of computing, shorter than 15 + 38 s of traffic.
    assert (kernel, layer, backward) == ("ep", 1, True)
    assert seconds == pytest.approx(22 + HANDOVER_FRACTION * 37.5)


def test_the_grid_of_a_plan() -> None:
    plan = Plan(dp=4, tp=2, cp=3, pp=5, ep=6, etp=2, micro_batch_size=1, global_batch_size=8)
    assert grid_of(plan, 7) == Grid(5, dp=4, tp=2, cp=3, ep=6, etp=2, gpus_per_node=7)
