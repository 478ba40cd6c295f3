"""`layout: auto`: the split is the best of all splits, keeps memory, and stands in where layers do not divide."""

from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.problems import InputError
from simulator.plans.layout import format_layout, parse_layout, stages_of_ranks
from simulator.plans.layout_auto import Items, Stages, split
from simulator.plans.spec import Plan
from simulator.predict.simulate import simulate
from simulator.scenario.schema import load_scenario
from tests.command import traincast

SCENARIOS = Path(__file__).parents[2] / "scenarios"
KIMI, TINY = SCENARIOS / "kimi-k2-10240xh100.yaml", SCENARIOS / "tiny.yaml"
NO_LIMIT = float("inf")


def items_of(seconds: list[float], live_bytes: float = 1.0) -> Items:
    count = len(seconds)
    symbols = ("E", *("t" for _ in range(count - 2)), "L")
    return Items(symbols, np.array(seconds), np.zeros(count), np.full(count, live_bytes))


def stages_of(pp: int, live: list[float] | None = None, budget: float = NO_LIMIT) -> Stages:
    return Stages(tuple((rank,) for rank in range(pp)), np.array(live or [1.0] * pp), np.full(pp, budget))


def longest_s(seconds: list[float], symbols: tuple[str, ...]) -> float:
    ends = np.cumsum([0, *map(len, symbols)])
    return max(sum(seconds[first:end]) for first, end in pairwise(ends))


@settings(max_examples=60)
@given(st.lists(st.floats(0.1, 10.0), min_size=4, max_size=9), st.integers(2, 4))
def test_the_longest_stage_is_the_shortest_of_all_splits(seconds: list[float], pp: int) -> None:
    found = split(items_of(seconds), stages_of(pp))
    assert found is not None
    cuts = combinations(range(1, len(seconds)), pp - 1)
    bounds = ([0, *cut, len(seconds)] for cut in cuts)
    best = min(max(sum(seconds[a:b]) for a, b in pairwise(each)) for each in bounds)
    assert longest_s(seconds, found) == pytest.approx(best)


def test_a_heavy_head_gets_a_stage_with_fewer_layers() -> None:
    """Head 3, embedding 0, nine layers of 1: twelve seconds on four ranks, three on each."""
    assert split(items_of([0.0, *[1.0] * 9, 3.0]), stages_of(4)) == ("Ettt", "ttt", "ttt", "L")


def test_a_rank_with_more_micro_batches_gets_fewer_layers() -> None:
    """Four micro-batches live on the first stage and one on the last; 8 bytes hold two items there, eight here."""
    found = split(items_of([1.0] * 8), stages_of(2, live=[4.0, 1.0], budget=8.0))
    assert found == ("Et", "tttttL")
    assert split(items_of([1.0] * 8), stages_of(2, live=[4.0, 1.0], budget=5.0)) is None


def test_virtual_stages_even_out_their_ranks() -> None:
    """Twelve items on two ranks of four chunks: six on each rank, whichever stages hold two."""
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=64, pp=2, vpp=4, schedule="interleaved")
    of_ranks = stages_of_ranks(plan)
    found = split(items_of([1.0] * 12), Stages(of_ranks, np.ones(8), np.full(8, NO_LIMIT)))
    assert found is not None
    assert max(map(len, found)) == 2
    assert [sum(len(found[stage]) for stage in held) for held in of_ranks] == [6, 6]


def test_the_split_by_cost_beats_the_one_by_hand() -> None:
    by_hand = simulate(load_scenario(KIMI))
    by_cost = simulate(load_scenario(KIMI, ["plan.layout=auto"]))
    assert by_cost.step.step_time_s < by_hand.step.step_time_s
    capacity = by_hand.scenario.cluster.accelerator.memory_capacity_bytes
    assert max(rank.device_bytes for rank in by_cost.memory) <= capacity


def test_memory_decides_where_the_fastest_split_does_not_fit() -> None:
    """A GPU with 1 GiB less than the fastest split's fullest rank holds."""
    deepseek = SCENARIOS / "deepseek-v3-256xgb200.yaml"
    roomy = load_scenario(deepseek, ["plan.layout=auto"])
    fullest = max(rank.device_bytes for rank in simulate(roomy).memory)
    part = {"base": "gb200-nvl72", "memory_capacity": f"{fullest - 2**30:.0f} B"}
    node = f"cluster.node={{base: gb200-nvl72, accelerator: {part}}}".replace("'", "")
    tight = load_scenario(deepseek, ["plan.layout=auto", node])
    capacity = tight.cluster.accelerator.memory_capacity_bytes
    assert max(rank.device_bytes for rank in simulate(tight).memory) <= capacity < fullest


def test_61_layers_on_8_ranks_just_work_with_a_remark() -> None:
    overrides = ["plan.layout=", "plan.vpp=1", "plan.overlap={}"]
    scenario = load_scenario(KIMI, overrides)
    layout = scenario.plan.layout
    assert layout is not None
    stages = parse_layout(layout)
    assert (len(stages), "".join(stages)) == (8, "E" + "t" * 61 + "L")
    assert format_layout(stages) == layout
    assert f"61 layers do not divide into pp x vpp = 8 stages, so they are spread by their cost: {layout}" in str(
        scenario.warnings
    )


def test_the_remark_says_where_memory_decided() -> None:
    """The fullest rank of the split by cost does not fit a GPU with 1 GiB less."""
    overrides = ["plan.layout=", "plan.vpp=1", "plan.overlap={}"]
    roomy = load_scenario(KIMI, overrides)
    fullest = max(rank.device_bytes for rank in simulate(roomy).memory)
    part = f"{{base: hgx-h100, accelerator: {{base: h100, memory_capacity: {fullest - 2**30:.0f} B}}}}"
    tight = load_scenario(KIMI, [*overrides, f"cluster.node={part}"])
    assert tight.plan.layout != roomy.plan.layout
    said = f"cost and memory: {tight.plan.layout}. By cost alone it would be {roomy.plan.layout}, which does not fit"
    assert said in str(tight.warnings)
    assert "and memory" not in str(roomy.warnings)


def test_the_layout_is_printed_and_written_out(tmp_path: Path) -> None:
    shown = traincast("evaluate", str(TINY), "--set", "plan.layout=auto", "--out", str(tmp_path / "out"))
    assert shown.returncode == 0
    layout = load_scenario(TINY, ["plan.layout=auto"]).plan.layout
    assert f"layout {layout}" in shown.stdout
    assert load_scenario(tmp_path / "out" / "scenario.yaml").plan.layout == layout


def test_a_phase_with_a_depth_of_its_own_gets_a_layout_of_its_own() -> None:
    phases = "run.phases=[{name: main}, {name: deep, tokens: 100M, plan: {pp: 4, vpp: 1, ep: 2, layout: auto}}]"
    scenario = load_scenario(TINY, [phases])
    assert scenario.plan.layout is None
    layout = scenario.phase_plans[1].layout
    assert layout is not None
    assert len(parse_layout(layout)) == 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["plan.layout=auto", "plan.first_stage_layers=3"], "says the split already"),
        (["plan.layout=auto", "plan.pp=8", "plan.vpp=2", "plan.ep=1"], "the model has 10 parts"),
        (["plan.layout=auto", "plan.tp=3"], "plan.tp"),
    ],
)
def test_what_cannot_be_split_is_told(overrides: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_scenario(TINY, overrides)
