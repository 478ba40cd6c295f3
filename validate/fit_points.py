"""Measured steps linearised around the constants in force: what was measured, predicted, and how constants move it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simulator.cost.constants import Constants, combined, holds_for
from simulator.plans.allocation import allocated
from simulator.predict import confidence, residuals
from simulator.predict.simulate import simulate_step
from simulator.scenario.schema import Scenario
from validate.row import Row, Unsupported
from validate.row_scenarios import scenario_of

Floats = NDArray[np.float64]
# The entries of the constants' data file, in its order.
Entries = Sequence[Mapping[str, Any]]
NUDGE = 0.05  # by which rates and host costs are moved for a derivative


@dataclass(frozen=True, slots=True)
class Observation:
    """A scenario whose step time was measured, and the source that says so.

    `model_family` names what the model is a change of (empty: the model itself).
    """

    id: str
    source: str
    scenario: Scenario
    measured_s: float
    model_family: str = ""

    @property
    def family(self) -> str:
        """Source and model: what is left out together, since its errors are alike."""
        return f"{self.source} {self.model_family or self.scenario.model.name}"


@dataclass(frozen=True, slots=True)
class Point:
    """One observation at the constants in force: measured and predicted seconds, and how the logarithm of the
    prediction answers to each constant (per unit of log for rates, per unit otherwise)."""

    id: str
    family: str
    measured_s: float
    predicted_s: float
    slopes: Mapping[str, float]
    entries: tuple[int, ...]
    case: residuals.Case

    @property
    def source(self) -> str:
        return self.family.split(" ")[0]


def is_rate(constant: str) -> bool:
    """Whether a constant multiplies a speed; such constants are fitted on a logarithmic axis."""
    return constant.endswith("_rate")


def observation_of(row: Row) -> Observation | None:
    """A row as an observation; None where it is unsupported or measured no step time."""
    try:
        scenario, _ = scenario_of(row)
    except Unsupported:
        return None
    measured = row.measurement("step_time_s")
    if measured is None:
        return None
    return Observation(row.id, row.origin, scenario, measured.value, row.family)


def predicted_s(scenario: Scenario, constants: Constants) -> float:
    return simulate_step(scenario, constants=constants).step_time_s


def linearised(observation: Observation, entries: Entries) -> Point:
    """An observation at the entries' values, with the slope of every constant that an entry holds for."""
    scenario = observation.scenario
    scenario = replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))
    accelerator, plan = scenario.cluster.accelerator, scenario.plan
    holding = tuple(index for index, entry in enumerate(entries) if holds_for(entry, accelerator, plan))
    here = combined(entries, accelerator, plan)
    base_s = predicted_s(scenario, here)
    slopes = {}
    for name in sorted({entries[index]["constant"] for index in holding}):
        value = getattr(here, name)
        nudged_s = predicted_s(scenario, replace(here, **{name: value * (1 + NUDGE)}))
        distance = float(np.log1p(NUDGE)) if is_rate(name) else value * NUDGE
        slopes[name] = float(np.log(nudged_s / base_s)) / distance
    case = confidence.case_of(scenario)
    return Point(observation.id, observation.family, observation.measured_s, base_s, slopes, holding, case)


def _point_of(row: Row, entries: Entries) -> Point | None:
    observation = observation_of(row)
    return None if observation is None else linearised(observation, entries)


def points_of(rows: Sequence[Row], entries: Entries, processes: int) -> list[Point]:
    """The points of all rows that are supported and measured a step time, in their order."""
    with ProcessPoolExecutor(processes) as pool:
        points = pool.map(partial(_point_of, entries=entries), rows, chunksize=4)
        return [point for point in points if point is not None]


def design(points: Sequence[Point], entries: Entries) -> Floats:
    """Slopes [point, entry]; of constants that are no rates only the last entry that holds moves."""
    matrix = np.zeros((len(points), len(entries)))
    for row, point in enumerate(points):
        last = {entries[index]["constant"]: index for index in point.entries}
        for index in point.entries:
            name = entries[index]["constant"]
            if is_rate(name) or last[name] == index:
                matrix[row, index] = point.slopes[name]
    return matrix
