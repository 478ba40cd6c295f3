"""The scenarios that a comparison names: several files, or one file with other values of its keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from hardware.documents import read_document
from hardware.problems import InputError, Problem
from simulator.planner.compare import Entry
from simulator.scenario.overrides import apply_overrides, laid_at
from simulator.scenario.schema import load_scenario

MOST_COLUMNS = 64
# A comma that begins another override, as in plan.pp=8,plan.ep=32.
_NEXT_OVERRIDE = re.compile(r",(?=\s*[a-z_]+(?:\.[a-z_0-9]+)+=)")
_OPENING, _CLOSING = "[{(", "]})"


def entries(
    files: Sequence[Path], common: Sequence[str] = (), others: Sequence[str] = (), over: Sequence[str] = ()
) -> list[Entry]:
    """An entry for every column, refused ones with their problems.

    Several `files`, each with the `common` overrides; or one file: with the common overrides alone and with each of
    `others` on top ("plan.pp=8" or "plan.pp=8,plan.ep=32"), or with every combination of the values that `over` lists
    ("plan.pp=4,8,16"). Raises InputError where these do not go together, where `others` or `over` hold a key or value
    that is none at all, and where no entry can be read.
    """
    if len(files) > 1 and (others or over):
        raise InputError([Problem("compare", None, "", "--with and --over change one scenario; name one file")])
    if len(files) == 1 and not others and not over:
        raise InputError([Problem("compare", None, "", "needs two scenarios, or one with --with or --over")])
    if over:
        rows = [(_short(chosen), chosen) for chosen in _combinations(over)]
        rows += [(_short(changes), changes) for changes in map(_overrides_of, others)]
    elif others:
        changes = [_overrides_of(text) for text in others]
        rows = [(_short(common) or "as written", [])] + [(_short(each), each) for each in changes]
    else:
        rows = []
    made = [_entry(file, file.stem, common) for file in files] if not rows else []
    option = "--over" if over else "--with"
    made += [_told_by(option, changes, _entry(files[0], name, [*common, *changes])) for name, changes in rows]
    found = [problem for entry in made for problem in entry.problems]
    if all(entry.scenario is None for entry in made):
        raise InputError(dict.fromkeys(found))
    unreadable = [problem for problem in found if problem.is_unreadable]
    if rows and unreadable:
        raise InputError(dict.fromkeys(unreadable))
    return made


def _told_by(option: str, changes: Sequence[str], entry: Entry) -> Entry:
    """The entry with its problems laid at the option that brought the overrides in, not at --set."""
    options = {change: f"{option} {change}" for change in changes}
    return replace(entry, problems=laid_at(entry.problems, options))


def _entry(file: Path, name: str, overrides: Sequence[str]) -> Entry:
    """The scenario, or why it is refused."""
    try:
        scenario = load_scenario(file, overrides)
    except InputError as error:
        return Entry(name, None, error.problems, _written(file, overrides))
    return Entry(name if overrides else scenario.name, scenario)


def _written(file: Path, overrides: Sequence[str]) -> dict[str, object]:
    """What a refused scenario writes, as far as it can be read."""
    try:
        data = read_document(file).data
        if not isinstance(data, dict):
            return {}
        apply_overrides(data, overrides)
    except InputError:
        return {}
    return data


def _overrides_of(text: str) -> list[str]:
    return [part.strip() for part in _NEXT_OVERRIDE.split(text)]


def _combinations(over: Sequence[str]) -> list[list[str]]:
    """Every combination of the listed values, the last key's changing fastest. Raises InputError for too many."""
    choices = []
    for text in over:
        key, equals, values = text.partition("=")
        if not equals:
            raise InputError([Problem(f"--over {text}", None, key, "needs the form plan.pp=4,8,16")])
        choices.append([f"{key}={value}" for value in split_values(values)])
    rows = [list(row) for row in product(*choices)]
    if len(rows) > MOST_COLUMNS:
        raise InputError([Problem("--over", None, "", f"makes {len(rows)} columns; at most {MOST_COLUMNS} are shown")])
    return rows


def split_values(text: str) -> list[str]:
    """Values between commas, those within brackets left whole: "{a: 1, b: 2},none" are two."""
    values, depth, current = [], 0, ""
    for letter in text:
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth == 0:
            values.append(current.strip())
            current = ""
        else:
            current += letter
    return [*values, current.strip()]


def _short(overrides: Sequence[str]) -> str:
    """Overrides as a column's name: "pp=8 ep=32"."""
    return " ".join(override.removeprefix("plan.").removeprefix("run.") for override in overrides)
