"""Predictions that several tests ask for, made once on each worker of pytest-xdist.

Tests that use them share a worker, by `xdist_group`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import load_scenario
from tests.untraced import untraced
from validate.rows import read_rows
from validate.runs import Compared, compare_all

SCENARIOS = Path(__file__).parents[1] / "scenarios"


@cache
def shipped(name: str) -> Prediction:
    """A shipped scenario, evaluated."""
    with untraced():
        return evaluate(load_scenario(SCENARIOS / f"{name}.yaml"))


@cache
def published() -> tuple[Compared, ...]:
    """Every published row beside its prediction."""
    with untraced():
        return tuple(compare_all(read_rows(), processes=2))
