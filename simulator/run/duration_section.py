"""Durations as files write them: a time, a mean, a median and a mean, quantiles, or none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from hardware import units
from hardware.sections import Section
from simulator.fields import Form
from simulator.run.durations import Duration, exponential, fixed, lognormal

QUANTITY: dict[str, Any] = {"type": ["number", "string"]}
DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [
        QUANTITY,
        {
            "type": "object",
            "properties": {
                "mean": {
                    **QUANTITY,
                    "description": "Mean of an exponential time; beside median, of a lognormal.",
                    "examples": ["5 d"],
                },
                "median": {**QUANTITY, "description": "Median of a lognormal time.", "examples": ["20 h"]},
                "quantiles": {
                    "type": "object",
                    "description": "Times by probability from 0 to 1, straight in between.",
                    "additionalProperties": QUANTITY,
                    "examples": [{"0": "1 min", "0.5": "1 h", "1": "2 d"}],
                },
            },
            "additionalProperties": False,
        },
    ]
}


def read_duration(section: Section, key: str) -> Duration | None:
    """A time: "30 s", {mean: 30 s} (exponential), {median: 1 h, mean: 2 h} (lognormal), {quantiles: {0: ..., 1: ...}},
    or "none"; None also where it could not be read, which is reported."""
    value = section.take(key, None)
    if value is None or value == "none":
        return None
    if not isinstance(value, Mapping):
        return fixed(_read_seconds(section, key, value))
    names = set(value)
    if names == {"mean"}:
        return exponential(_read_seconds(section, key, value["mean"]))
    if names == {"median", "mean"}:
        return _read_lognormal(section, key, value)
    if names == {"quantiles"} and isinstance(value["quantiles"], Mapping):
        return _read_quantiles(section, key, value["quantiles"])
    section.report(key, "must be a time, {mean}, {median, mean}, {quantiles} or none")
    return None


def _read_lognormal(section: Section, key: str, value: Mapping[str, Any]) -> Duration | None:
    median_s = _read_seconds(section, key, value["median"])
    mean_s = _read_seconds(section, key, value["mean"])
    if not 0 < median_s <= mean_s:
        section.report(key, "a lognormal time has a median above zero and a mean no smaller")
        return None
    return lognormal(median_s, mean_s)


def _read_quantiles(section: Section, key: str, given: Mapping[Any, Any]) -> Duration | None:
    try:
        points = tuple((float(probability), _read_seconds(section, key, time)) for probability, time in given.items())
    except (TypeError, ValueError, OverflowError):
        points = ()
    rising = all(earlier[0] < later[0] and earlier[1] <= later[1] for earlier, later in pairwise(points))
    if len(points) < 2 or not rising or points[0][0] != 0 or points[-1][0] != 1:
        section.report(key, "quantiles must rise from probability 0 to 1, e.g. {0: 1 min, 0.5: 1 h, 1: 2 d}")
        return None
    return Duration("quantiles", points=points)


def _read_seconds(section: Section, key: str, value: object) -> float:
    try:
        seconds = units.parse(value, "s", bare=False)
    except units.QuantityError as error:
        section.report(key, str(error))
        return 1.0
    beyond = units.unreal(seconds, "s")
    if beyond is not None:
        section.report(key, beyond)
    return seconds


DURATION = Form(read_duration, DURATION_SCHEMA)
