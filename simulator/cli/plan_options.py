"""Reads what the options of `traincast plan` say of the plan's keys and its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from simulator.planner.candidates import KEYS, own_value
from simulator.planner.options import SearchOptions
from simulator.planner.variants import split_values
from simulator.plans.spec import Plan
from simulator.scenario.overrides import laid_at
from simulator.scenario.schema import load_scenario
from simulator.scenario.spec import Scenario

# The plan with overrides on top, which an option brought in.
PlanWith = Callable[[list[str], str], Plan]


@dataclass(frozen=True, slots=True)
class Start:
    """The scenario that a search starts from, with the keys that it keeps and frees."""

    scenario: Scenario
    options: SearchOptions


def asked_of(path: Path, overrides: Sequence[str], keep: Sequence[str], free: Sequence[str]) -> Start:
    """The scenario with its overrides and the values of kept keys. Raises InputError, each problem at its option."""
    kept, values = read_keep(keep)
    own = [*overrides, *values]
    origins = {value: f"--keep {value}" for value in values}

    def plan_with(changes: list[str], option: str) -> Plan:
        return load_start(path, [*own, *changes], origins | dict.fromkeys(changes, option)).plan

    scenario = load_start(path, own, origins)
    return Start(scenario, SearchOptions(kept, read_free(free, plan_with)))


def load_start(path: Path, overrides: list[str], options: Mapping[str, str]) -> Scenario:
    """The scenario that a search starts from; its own plan may be left out or break rules.

    `options`: those that brought overrides in, by override, where that is not --set. Raises InputError.
    """
    try:
        return load_scenario(path, overrides, starts_search=True)
    except InputError as error:
        raise InputError(laid_at(error.problems, options)) from None


def read_keep(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """The keys that are kept, and the values that are set first."""
    keys = [plan_key("--keep", option) for option in options]
    return keys, [option for option in options if "=" in option]


def read_free(options: Sequence[str], plan_with: PlanWith) -> dict[str, list[Any] | None]:
    """The keys that are freed, each with the values to try (None: the usual ones).

    A value is read as the scenario's own would be: `plan_with` gives the plan with settings changed by an option, and
    raises InputError where that cannot be read. Of a section the parts can be freed: the others stay as they are.
    """
    found: dict[str, list[Any] | None] = {}
    parts = parts_by_key(options)
    for option in options:
        key, (_, equals, text) = plan_key("--free", option), option.partition("=")
        if key in parts:
            continue
        if not equals or key not in KEYS:
            found[key] = None
            continue
        changed = [plan_with([f"plan.{key}={word}"], f"--free {option}") for word in split_values(text)]
        found[key] = [own_value(each, key) for each in changed]
    return found | {key: section_values(key, part, plan_with) for key, part in parts.items()}


def parts_by_key(options: Sequence[str]) -> dict[str, list[str]]:
    """The options that free a part of a section, as plan.optimizer.moments=fp32,bf16, by the section's key. Raises
    InputError for a part without values, and beside the whole section."""
    parts: dict[str, list[str]] = {}
    problems = []
    for option in options:
        name, equals, _ = option.partition("=")
        key = plan_key("--free", option)
        if name.strip() == f"plan.{key}" or key not in KEYS:
            continue
        parts.setdefault(key, []).append(option)
        if not equals:
            message = f"is a part of plan.{key}; give its values, as {name}=A,B, or free plan.{key}"
            problems.append(Problem(f"--free {option}", None, "", message))
    for option in options:
        key = plan_key("--free", option)
        if key in parts and option not in parts[key]:
            message = f"frees the whole of what {parts[key][0]} frees a part of; leave one of the two out"
            problems.append(Problem(f"--free {option}", None, "", message))
    if problems:
        raise InputError(problems)
    return parts


def section_values(key: str, options: Sequence[str], plan_with: PlanWith) -> list[Any]:
    """Every combination of the values of a section's parts. Raises InputError for parts that the search cannot vary."""
    told = f"--free {' --free '.join(options)}"
    names = [option.partition("=")[0].strip() for option in options]
    words = [split_values(option.partition("=")[2]) for option in options]
    rows = list(product(*words))
    plans = [plan_with([f"{name}={word}" for name, word in zip(names, row, strict=True)], told) for row in rows]
    values = [own_value(plan, key) for plan in plans]
    if any(replace(plans[0], **{key: value}) != plan for plan, value in zip(plans, values, strict=True)):
        message = f"changes more than plan.{key}, which a search cannot vary; compare plans instead (--over)"
        raise InputError([Problem(told, None, "", message)])
    return values


def plan_key(option: str, text: str) -> str:
    """The key of the plan that an option names. Raises InputError where it names no such key."""
    key = text.partition("=")[0].strip()
    if not key.startswith("plan."):
        message = "must name a key of the plan, as plan.tp"
        raise InputError([Problem(f"{option} {text}", None, "", message)])
    own = key.removeprefix("plan.")
    return own if own.startswith("overlap.") else own.partition(".")[0]  # recomputation, for one, is kept as a whole


def read_headroom(text: str) -> float:
    """A share of the memory, as 6% or 0.06. Raises InputError for anything else."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise InputError([Problem("--headroom", None, "", f"is {text!r}; write a share of the memory, as 6%")])
    return number
