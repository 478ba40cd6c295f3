"""Objectives other than time: the floor that plans are not below, held against evaluating all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hardware.problems import InputError
from simulator import Scenario, load_scenario
from simulator.planner import floors
from simulator.planner.floors import least_value
from simulator.planner.options import LOOKED_AT, SearchOptions
from simulator.planner.outcome import evaluated
from simulator.planner.planning import plan as search
from simulator.planner.result import RankedPlan, value_of
from simulator.planner.space import chunks, plan_of, plans_of, space_of, tables
from simulator.predict.simulate import simulate

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
KEEP = ("tp", "cp", "sequence_parallel", "dispatcher", "recompute", "overlap.shared_experts", "overlap.delay_wgrad",
        "overlap.moe_ep", "schedule", "vpp")  # fmt: skip
# On one worker of pytest-xdist, so that every plan is evaluated once.
pytestmark = [pytest.mark.xdist_group("every plan"), pytest.mark.untraced]
OBJECTIVES = ("cost", "energy", "finish")


@pytest.fixture(scope="module")
def base() -> Scenario:
    return load_scenario(TINY, ["plan.global_batch_size=16", "run.tokens=1T", "run.simulation={runs: 20}"])


@pytest.fixture(scope="module")
def every(base: Scenario) -> list[RankedPlan]:
    """Every legal plan of the space, evaluated."""
    space = space_of(base, KEEP)
    judge = space.judge()
    found = tables(space, judge)
    parts = [plans_of(judge, found, rows) for rows in chunks(found)]
    plans = [plan_of(base.plan, part.row(row)) for part in parts for row in range(len(part))]
    assert 40 < len(plans) < 200
    return [evaluated(base, plan) for plan in plans]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_plan_is_below_the_floor_of_its_own_step(base: Scenario, every: list[RankedPlan], objective: str) -> None:
    done = simulate(base)
    for each in every:
        least = least_value(objective, done, each.step_time_s)
        assert least is not None
        assert least <= value_of(each, objective)
        assert least > 0.3 * value_of(each, objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_floor_grows_with_the_step(base: Scenario, objective: str) -> None:
    done = simulate(base)
    values = [least_value(objective, done, seconds) or 0.0 for seconds in np.linspace(1e-4, 1.0, 50)]
    assert all(before < after for before, after in pairwise(values))


def test_without_error_finish_and_cost_at_the_floor_are_steps_times_price(
    base: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e12 tokens in steps of 16 x 2,048: 30,517,579 steps, of a tenth of a second each, on 8 GPUs."""
    monkeypatch.setattr(floors, "step_time_interval_s", lambda scenario, step_s, assumed: (step_s, step_s))
    done = simulate(base)
    finish_s = least_value("finish", done, 0.1)
    assert finish_s == pytest.approx(30_517_579 * 0.1)
    price = base.cluster.accelerator.price_usd_per_hour
    assert price is not None
    assert least_value("cost", done, 0.1) == pytest.approx(finish_s / 3600 * 8 * price)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_best_by_an_objective_is_that_of_evaluating_all(
    base: Scenario, every: list[RankedPlan], objective: str
) -> None:
    """With few plans shown others are left, and what is said of them holds; with many shown, all are evaluated."""
    values = {each.plan: value_of(each, objective) for each in every}
    found = search(base, SearchOptions(keep=KEEP, top=3, objective=objective))
    assert found.others_least is not None
    fastest = sorted(every, key=lambda each: each.step_time_s)[: LOOKED_AT * 3]
    others = [each for each in every if each.step_time_s > fastest[-1].step_time_s * (1 + 1e-9)]
    assert others
    assert all(values[each.plan] >= found.others_least for each in others)
    best = value_of(found.plans[0], objective)
    assert best == pytest.approx(min(value_of(each, objective) for each in fastest), rel=1e-9)
    if found.is_proven_best:
        assert best == pytest.approx(min(values.values()), rel=1e-9)
    whole = search(base, SearchOptions(keep=KEEP, top=len(every), objective=objective))
    assert whole.others_least is None
    assert whole.is_proven_best
    assert value_of(whole.plans[0], objective) == pytest.approx(min(values.values()), rel=1e-9)


def test_by_time_the_first_is_always_proven(base: Scenario) -> None:
    found = search(base, SearchOptions(keep=KEEP, top=1))
    assert (found.is_proven_best, found.others_least) == (True, None)
    assert not replace(found, complete=False).is_proven_best


def test_an_unknown_objective_is_told() -> None:
    with pytest.raises(InputError, match="is 'speed'; choose from time, cost, energy, finish"):
        SearchOptions(objective="speed")
