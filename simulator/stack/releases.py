"""The named releases: one TOML file each, read into behaviours and plan settings with the source of every one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

from simulator.stack.spec import NEWEST_FLASH, Framework, Stack

DATA = Path(__file__).parent / "data"
# What a plan that names no stack runs on: the newest release of Megatron-Core (a test holds it against the dates).
DEFAULT = "megatron-core-0.19"
_TABLES = ("behaviours", "plan", "plan_with_pipeline")
# What a release may say that it cannot do: degrees, precisions, and shardings.
LIMITS = ("tp", "pp", "low_precision", "sharded_gradients", "sharded_gradients_with_pp")
# A gradient format of the plan that follows the weights' own.
LIKE_WEIGHTS = "weights"
_WORDS = ("title", "date", "like", "framework", "plain_fp8", "source")
# Behaviours that say which stack it is are not settings of a release's tables.
_NOT_SET_BY_TABLES = ("name", "framework")


@dataclass(frozen=True, slots=True)
class SourcedValue:
    """A value of a release and where it is known from."""

    value: Any
    source: str


@dataclass(frozen=True, slots=True)
class Release:
    """One release of training software.

    `stack` is what it does by itself; `sources` says where each behaviour is known from (a behaviour without a source
    is what software does that says nothing else). `plan` holds plan keys, dotted, that its users run with unless they
    write others; `plan_with_pipeline` the same where pp is above 1. `plain_fp8` is the precision that "fp8" alone
    means. `cannot` says what it is not able to do (a name of `LIMITS`), each with the source. `like` names the release
    that it differs from, None for the first of its line.
    """

    name: str
    title: str
    date: str
    like: str | None
    source: str
    plain_fp8: str
    stack: Stack
    sources: Mapping[str, str]
    plan: Mapping[str, SourcedValue]
    plan_with_pipeline: Mapping[str, SourcedValue]
    cannot: Mapping[str, str]


@cache
def names() -> tuple[str, ...]:
    """Every release, by name."""
    return tuple(sorted(path.stem for path in DATA.glob("*.toml")))


@cache
def release(name: str) -> Release:
    """The release of a name, what it is `like` included. Raises KeyError for a name that is not known."""
    path = DATA / f"{name}.toml"
    if not path.is_file():
        raise KeyError(name)
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    _check_keys(name, written)
    base = release(written["like"]) if "like" in written else None
    settings = {table: _settings(written.get(table, {})) for table in _TABLES}
    behaviours = settings["behaviours"]
    inherited = {} if base is None else {spec.name: getattr(base.stack, spec.name) for spec in fields(Stack)}
    chosen = {key: setting.value for key, setting in behaviours.items()}
    framework = {"framework": written["framework"]} if "framework" in written else {}
    stack = Stack(**{**inherited, **chosen, **framework, "name": name})
    _check_values(stack)
    return Release(
        name=name,
        title=written["title"],
        date=written["date"],
        like=written.get("like"),
        source=written.get("source", base.source if base else ""),
        plain_fp8=written.get("plain_fp8", base.plain_fp8 if base else ""),
        stack=stack,
        sources={**(base.sources if base else {}), **{key: setting.source for key, setting in behaviours.items()}},
        plan={**(base.plan if base else {}), **settings["plan"]},
        plan_with_pipeline={**(base.plan_with_pipeline if base else {}), **settings["plan_with_pipeline"]},
        cannot=_limits(base.cannot if base else {}, written.get("cannot", {})),
    )


@cache
def newest(framework: Framework) -> Release:
    """The latest release of a framework; of two of one date the one that others are like, not recipes over it."""
    candidates = [release(name) for name in names() if release(name).stack.framework == framework]
    return max(candidates, key=lambda candidate: (candidate.date, candidate.like is None))


def default_stack() -> Stack:
    """The stack of a plan that names none."""
    return release(DEFAULT).stack


def _settings(table: Mapping[str, Any]) -> dict[str, SourcedValue]:
    return {key: SourcedValue(value, source) for key, (value, source) in table.items()}


def _limits(inherited: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """What a release cannot do; an empty source lifts a limit of the release that it is like."""
    return {name: source for name, source in {**inherited, **own}.items() if source}


def _check_keys(name: str, written: Mapping[str, Any]) -> None:
    behaviours = {spec.name for spec in fields(Stack)} - set(_NOT_SET_BY_TABLES)
    unknown = [key for key in written if key not in (*_TABLES, *_WORDS, "cannot")]
    unknown += [key for key in written.get("behaviours", {}) if key not in behaviours]
    unknown += [key for key in written.get("cannot", {}) if key not in LIMITS]
    if unknown:
        raise ValueError(f"{name}.toml: {', '.join(unknown)} not known; behaviours are {', '.join(sorted(behaviours))}")


def _check_values(stack: Stack) -> None:
    hints = get_type_hints(Stack)
    for spec in fields(Stack):
        value, hint = getattr(stack, spec.name), hints[spec.name]
        allowed = get_args(hint)
        if (allowed and value not in allowed) or (not allowed and type(value) is not hint):
            raise ValueError(f"{stack.name}.toml: {spec.name} = {value!r} is not {allowed or hint.__name__}")
    if not 1 <= stack.flash_version <= NEWEST_FLASH:
        raise ValueError(f"{stack.name}.toml: flash_version = {stack.flash_version} is not 1 to {NEWEST_FLASH}")
