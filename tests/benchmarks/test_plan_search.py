"""The search at full size: what is counted, not how long it takes (see plan_speed.py)."""

from __future__ import annotations

from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from simulator.planner.executors import Processes
from simulator.planner.options import SearchOptions
from simulator.planner.planning import plan as search
from simulator.planner.search import Asked, chunks_of, search_chunk
from simulator.planner.shapes import Setting, shapes_of, with_surroundings
from simulator.planner.space import chunks, plans_of, space_of, tables
from simulator.planner.tally import Tally
from simulator.scenario.schema import load_scenario

pytestmark = pytest.mark.slow
SCENARIOS = Path(__file__).parents[2] / "scenarios"
KIMI, DEEPSEEK = SCENARIOS / "kimi-k2-10240xh100.yaml", SCENARIOS / "deepseek-v3-2048xh800.yaml"


def test_a_million_legal_plans_share_few_shapes() -> None:
    """What is priced does not grow with what only combines prices: stages, schedules, sharding."""
    space = space_of(load_scenario(KIMI))
    judge = space.judge()
    found = tables(space, judge)
    parts = [plans_of(judge, found, rows) for rows in chunks(found)]
    assert sum(map(len, parts)) > 1_000_000
    smallest = min(parts, key=len)
    setting = Setting(space.scenario)
    shapes = shapes_of(setting, with_surroundings(setting, smallest))
    assert len(smallest) > 10 * len(shapes.columns)


def test_bounds_leave_one_plan_in_fifty_to_be_played() -> None:
    space = space_of(load_scenario(KIMI))
    few, many = chunks_of(space, space.judge(), Asked())[:2]
    near = search_chunk(few)
    tally = Tally()
    tally.add(near)
    limits = tally.limits(Asked(), Asked().contests(space))
    most = search_chunk(replace(many, limits=limits))
    assert most.legal > 50_000
    assert (near.played + most.played) * 50 < near.legal + most.legal


def counted(gpus: int, keep: list[str]) -> tuple[int, int, int]:
    """Legal plans, shapes that are priced and plans that are played, of a search on so many GPUs."""
    space = space_of(load_scenario(KIMI, [f"cluster.gpus={gpus}"], starts_search=True), keep)
    asked, tally, shapes = Asked(), Tally(), 0
    setting, judge = Setting(space.scenario), space.judge()
    for chunk in chunks_of(space, judge, asked):
        plans = plans_of(judge, chunk.tables, np.arange(len(chunk.tables.degrees)))
        if len(plans):
            shapes += len(shapes_of(setting, with_surroundings(setting, plans)).columns)
        tally.add(search_chunk(replace(chunk, limits=tally.limits(asked, asked.contests(space)))))
    return tally.legal, shapes, tally.played


def exponent(before: float, after: float, size_before: float, size_after: float) -> float:
    """With which power of a size something grows."""
    return log(after / before) / log(size_after / size_before)


def test_work_grows_more_slowly_than_plans_and_than_gpus() -> None:
    few = ["recompute", "cp", "dispatcher", "micro_batch_size"]
    plans, shapes, played = counted(10_240, few)
    fewer_plans, fewer_shapes, fewer_played = counted(10_240, [*few, "pp", "sharding"])
    assert plans > 4 * fewer_plans
    assert exponent(fewer_shapes, shapes, fewer_plans, plans) < 0.3
    assert exponent(fewer_played, played, fewer_plans, plans) < 0.9
    small_plans, small_shapes, small_played = counted(2_560, few)
    assert exponent(small_shapes / small_plans, shapes / plans, 2_560, 10_240) < 0.25
    assert exponent(small_played / small_plans, played / plans, 2_560, 10_240) < 0.75


def test_deepseeks_own_plan_is_close_to_the_best_of_15_million() -> None:
    """Every schedule is legal on its own stack: the largest space of the shipped scenarios. Takes minutes."""
    found = search(
        load_scenario(DEEPSEEK), SearchOptions(top=1, headroom_fraction=0.0, only_best=True), executor=Processes(2)
    )
    assert found.legal > 15_000_000
    assert found.start is not None
    assert found.start.step_time_s <= 1.05 * found.plans[0].step_time_s
