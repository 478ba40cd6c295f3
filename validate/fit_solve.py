"""Robust least squares for the global constants under their priors, and what each family and constant decides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.cost.constants import NEUTRAL
from validate.fit_points import Entries, Floats, Point, is_rate

# Sources (the first part of a row's id) that the fit never sees: their rows test the constants.
UNTOUCHED = ("DSV3", "KORTH")
# Rates of bandwidth: nothing moves bytes faster beside training than alone.
BANDWIDTHS = ("streaming_rate", "tp_rate", "ep_rate", "dp_rate")
ROBUST_ERROR = 0.05  # residuals beyond this count linearly: what half of the fitted rows stay below
HALF_WIDTH = 1.2816  # standard deviations to either side of an 80 % interval of a normal distribution


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted coordinates [entry] and their covariance."""

    at: Floats
    covariance: Floats


@dataclass(frozen=True, slots=True)
class Fitted:
    """An entry's value and its 80 % interval."""

    value: float
    low: float
    high: float


def coordinate(entry: Mapping[str, Any], key: str) -> float:
    """Where an entry's value (`key`: value or prior) lies on the axis that is fitted."""
    return float(np.log(entry[key])) if is_rate(entry["constant"]) else float(entry[key])


def coordinates(entries: Entries, key: str) -> Floats:
    return np.array([coordinate(entry, key) for entry in entries])


def value_at(entry: Mapping[str, Any], at: float) -> float:
    """The value at a coordinate; no constant is negative."""
    return float(np.exp(at)) if is_rate(entry["constant"]) else max(0.0, at)


def log_errors(points: Sequence[Point]) -> Floats:
    """log(predicted / measured) [point] at the constants in force."""
    return np.array([np.log(point.predicted_s / point.measured_s) for point in points])


def weights(points: Sequence[Point]) -> Floats:
    """How much the residual of every point counts.

    Large families count less than their number of rows and more than one: the sum of their squared weights is the
    square root of their size. Points of the sources kept apart count nothing.
    """
    sizes = Counter(point.family for point in points)
    return np.array([0.0 if point.source in UNTOUCHED else sizes[point.family] ** -0.25 for point in points])


def softened(missed: Floats) -> Floats:
    """Residuals whose squares grow as those of `missed` / ROBUST_ERROR where small, linearly where large."""
    computed: Floats = np.sign(missed) * np.sqrt(2 * (np.sqrt(1 + (missed / ROBUST_ERROR) ** 2) - 1))
    return computed


def solve(points: Sequence[Point], matrix: Floats, entries: Entries) -> Fit:
    """Robust least squares on log(predicted / measured), with the prior as further residuals.

    `matrix` holds the slopes [point, entry] at the entries' values.
    """
    from scipy.optimize import least_squares

    now = coordinates(entries, "value")
    prior = coordinates(entries, "prior")
    spread = np.array([float(entry["spread"]) for entry in entries])
    error = log_errors(points)
    weight = weights(points)
    least = np.array([-np.inf if is_rate(entry["constant"]) else 0.0 for entry in entries])

    def residuals(at: Floats) -> Floats:
        missed = error + matrix @ (at - now)
        return np.concatenate([weight * softened(missed), (at - prior) / spread])

    most = np.array([0.0 if entry["constant"] in BANDWIDTHS else np.inf for entry in entries])
    start = np.clip(now, least + 1e-9, most - 1e-9)
    result = least_squares(residuals, start, bounds=(least, most), x_scale=spread)
    hessian = result.jac.T @ result.jac
    return Fit(result.x, np.linalg.inv(hessian))


def errors_at(fit: Fit, points: Sequence[Point], matrix: Floats, entries: Entries) -> Floats:
    """log(predicted / measured) [point] at the fitted constants, as the linear model has it."""
    return log_errors(points) + matrix @ (fit.at - coordinates(entries, "value"))


# What rows are left out together with: name -> label of a point.
LEFT_OUT: Mapping[str, Callable[[Point], str]] = {
    "family": lambda point: point.family,
    "source": lambda point: point.source,
    "generation": lambda point: point.case.generation,
}


def left_out_errors(
    points: Sequence[Point], matrix: Floats, entries: Entries, together: str = "family"
) -> dict[str, float]:
    """log(predicted / measured) of every row, by constants fitted without all rows of its family, source or accelerator
    generation (`together`: a key of LEFT_OUT)."""
    labels = [LEFT_OUT[together](point) for point in points]
    errors: dict[str, float] = {}
    for label in sorted(set(labels)):
        inside = np.array([each == label for each in labels])
        others = [point for point, each in zip(points, labels, strict=True) if each != label]
        fit = solve(others, matrix[~inside], entries)
        members = [point for point, each in zip(points, labels, strict=True) if each == label]
        missed = errors_at(fit, members, matrix[inside], entries)
        errors |= {point.id: float(error) for point, error in zip(members, missed, strict=True)}
    return errors


def fitted_values(fit: Fit, entries: Entries) -> list[Fitted]:
    """Value and 80 % interval of every entry."""
    half = HALF_WIDTH * np.sqrt(np.diag(fit.covariance))
    return [
        Fitted(value_at(entry, at), value_at(entry, at - width), value_at(entry, at + width))
        for entry, at, width in zip(entries, fit.at, half, strict=True)
    ]


def errors_without(fit: Fit, points: Sequence[Point], matrix: Floats, entries: Entries) -> Floats:
    """Mean size of the error of all rows [entry] with one constant at its neutral value, the others as fitted."""
    error = errors_at(fit, points, matrix, entries)
    means = []
    for index, entry in enumerate(entries):
        neutral = coordinate({**entry, "value": getattr(NEUTRAL, entry["constant"])}, "value")
        without = error + matrix[:, index] * (neutral - fit.at[index])
        means.append(np.abs(np.expm1(without)).mean())
    return np.array(means)
