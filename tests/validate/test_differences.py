"""The interval of a difference of plans against published sweeps: it holds as many measured ratios as it says."""

from __future__ import annotations

import csv
import math
import tomllib
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import pytest

from simulator.planner.shared_error import ErrorShares, difference_sigma_s, error_shares
from simulator.predict.confidence import STANDARD_DEVIATIONS, case_of, log_interval
from simulator.predict.residuals import DATA, residuals, source_of
from simulator.predict.simulate import simulate
from simulator.scenario.schema import Scenario
from validate.ranking import SWEEPS
from validate.row import Row
from validate.row_scenarios import scenario_of
from validate.rows import read_rows


def in_sweep(row: Row, sweep: dict[str, Any]) -> bool:
    def named(key: str) -> bool:
        return any(fnmatchcase(row.id, pattern) for pattern in sweep.get(key, ()))

    return named("ids") and not named("without")


def log_sigma(scenario: Scenario, family: str) -> float:
    """The spread of the step time's error by runs of other sources alone, as the sweep's own are what is tested."""
    low, high = log_interval(case_of(scenario), residuals(), source_of(family))
    return (high - low) / 2 / STANDARD_DEVIATIONS


def test_four_of_five_measured_ratios_lie_inside() -> None:
    with DATA.open(encoding="utf-8", newline="") as file:
        families = {row["id"]: row["family"] for row in csv.DictReader(file)}
    known = [row for row in read_rows() if row.id in families]
    shares: dict[str, ErrorShares] = {}
    errors: dict[str, float] = {}
    misses: list[float] = []
    independent: list[float] = []
    for sweep in tomllib.loads(SWEEPS.read_text(encoding="utf-8"))["sweeps"]:
        rows = [row for row in known if in_sweep(row, sweep)]
        for row in rows:
            if row.id not in shares:
                done = simulate(scenario_of(row)[0])
                measured = next(each.value for each in row.measured if each.quantity == "step_time_s")
                batch = done.scenario.plan.global_batch_size
                sigma = log_sigma(done.scenario, families[row.id])
                shares[row.id] = ErrorShares(error_shares(done).seconds, sigma) * (1 / batch)
                errors[row.id] = math.log(measured / done.step.step_time_s)
        for first, second in combinations([row.id for row in rows], 2):
            one, other = shares[first], shares[second]
            sigma = difference_sigma_s(one, other) * 2 / (one.total_s + other.total_s)
            misses.append(abs(errors[second] - errors[first]) / sigma / STANDARD_DEVIATIONS)
            independent.append(math.hypot(one.log_sigma, other.log_sigma) / sigma)
    assert len(misses) == 82
    assert sum(miss <= 1 for miss in misses) / len(misses) == pytest.approx(0.8, abs=0.05)
    # Errors that both share cancel: independent ones would make the interval nearly twice as wide.
    assert sum(independent) / len(independent) > 1.5
