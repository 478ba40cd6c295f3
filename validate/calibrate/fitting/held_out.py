"""What every fit has: a fewest number of points, held-out errors, and 95 % intervals of its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from validate.kernels.common import significant
from validate.kernels.heldout import error_summary, held_out

T_95 = 2.776  # Student's t for 95 % with the four degrees of freedom of five folds
COEFFICIENTS = ("fixed_s", "step_s", "efficiency", "copies", "sharpness")  # of a collective's curve
Fitted = tuple[Any, Mapping[str, float]]  # a curve and the rate of each role over it


class TooFew(Exception):
    """Not enough points for a curve; the message says of what and how many there are."""


def with_intervals(
    rows: pd.DataFrame, groups: np.ndarray, fit: Callable[..., Any], predict: Callable[..., Any]
) -> tuple[Any, dict[str, Any]]:
    """The fit to all rows, with its held-out errors and 95 % intervals of its numbers.

    Each of five refits leaves a fifth of the groups out: their errors are the held-out errors, and the scatter of
    their numbers gives the intervals (delete-a-group jackknife, t with four degrees of freedom).
    """
    refits: list[Any] = []

    def recorded(fold: pd.DataFrame) -> Any:
        refits.append(fit(fold))
        return refits[-1]

    errors = held_out(rows, groups, recorded, predict)
    whole = fit(rows)
    return whole, {"held_out": {"fit": error_summary(errors)}, "interval": intervals(whole, refits)}


def intervals(whole: Any, refits: list[Any]) -> dict[str, list[Any]]:
    """Name -> [low, high] of every number that the fit moved."""
    bounds: dict[str, list[Any]] = {}
    tables = [numbers(refit) for refit in refits]
    for name, value in numbers(whole).items():
        if not all(name in table for table in tables):
            continue  # a head size that one of the refits never saw
        values = np.array([table[name] for table in tables])
        count = len(values)
        variance = (count - 1) / count * np.sum((values - values.mean()) ** 2)
        half = T_95 * np.sqrt(variance)
        if half > 0:
            bounds[name] = [significant(max(value - half, 0.0)), significant(value + half)]
    return bounds


def numbers(fitted: Fitted | list[float]) -> dict[str, float]:
    """The numbers of a curve and its role rates, lists spelled out; or a collective's five coefficients."""
    if isinstance(fitted, list):
        return dict(zip(COEFFICIENTS, fitted, strict=True))
    curve, rates = fitted
    named: dict[str, float] = {}
    for name, value in asdict(curve).items():
        if isinstance(value, list | tuple) and len(value) != 1:
            named |= {f"{name}.{index}": float(part) for index, part in enumerate(value)}
        else:
            named[name] = float(value[0] if isinstance(value, list | tuple) else value)
    return named | {f"rate.{role}": rate for role, rate in rates.items()}
