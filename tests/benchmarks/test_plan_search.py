"""The search at full size: what is counted, not how long it takes (see plan_speed.py)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from simulator.planner.search import Asked, chunks_of, search_chunk
from simulator.planner.shapes import Setting, shapes_of, with_surroundings
from simulator.planner.space import chunks, plans_of, space_of, tables
from simulator.planner.tally import Tally
from simulator.scenario.schema import load_scenario

pytestmark = pytest.mark.slow
KIMI = Path(__file__).parents[2] / "scenarios" / "kimi-k2-10240xh100.yaml"


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
