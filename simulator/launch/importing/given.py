"""What the user sets beside the files of an import: checked against a scenario's keys, and written over its lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hardware.documents import parse_document
from hardware.problems import InputError, Problem, one_of
from simulator.launch.importing.statements import GIVEN
from simulator.launch.importing.written import Entry
from simulator.run.budget import AMOUNTS
from simulator.scenario.overrides import NAMED_ENTRIES
from simulator.scenario.schema import scenario_schema

# Keys of which a scenario has one: the one that is given replaces what the launch tells.
ALTERNATIVES = (
    frozenset(f"run.{amount}" for amount in AMOUNTS),
    frozenset(("run.evaluation.tokens", "run.evaluation.lasts")),
)


@dataclass(frozen=True, slots=True)
class Given:
    """One `key=value` of the command line."""

    key: str
    value: Any


def read_given(texts: Sequence[str]) -> tuple[Given, ...]:
    """The keys that are set. Raises InputError with every one that no scenario has, or whose value cannot be read."""
    given: list[Given] = []
    problems: list[Problem] = []
    for text in texts:
        try:
            given.append(_read(text))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return tuple(given)


def _read(text: str) -> Given:
    key, equals, value = (part.strip() for part in text.partition("="))
    where = f"--set {text}"
    if not equals or not all(key.split(".")):
        message = "needs the form section.key=value, as in cluster.fabric=ndr-rail-2tier"
        raise InputError([Problem(where, None, key, message)])
    wrong = _why_unknown(key)
    if wrong:
        raise InputError([Problem(where, None, key, wrong)])
    return Given(key, parse_document(value, where).data if value else None)


def _why_unknown(key: str) -> str:
    """Why a scenario has no such key; empty where it has, and below what is written freely (a model, a node)."""
    node: Mapping[str, Any] = scenario_schema()
    for name in key.split("."):
        forms = list(_forms(node))
        known = {each: below for form in forms for each, below in form.get("properties", {}).items()}
        if name in known:
            node = known[name]
            continue
        if known and any(form.get("additionalProperties") is False for form in forms):
            return one_of(name, known)
        is_free = any(form.get("type") == "object" for form in forms)
        return "" if is_free else f"{name!r} is not known: no key stands below a single value"
    return ""


def _forms(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A schema's node and the forms that its value may take."""
    yield node
    for option in node.get("anyOf", ()):
        yield from _forms(option)


def with_given(entries: Sequence[Entry], given: Sequence[Given]) -> list[Entry]:
    """The lines of a scenario with what is given in the place of what the launch tells.

    Raises InputError for a key below a line that holds a single value.
    """
    lines = list(entries)
    for each in given:
        lines = _written_over(lines, each)
    return lines


def _written_over(lines: list[Entry], given: Given) -> list[Entry]:
    """The lines with one key set; the line stands where that of its key stood, else at the end of its section."""
    new = Entry(given.key, given.value, GIVEN)
    if any(line.key == given.key and line.value == given.value and not line.missing for line in lines):
        return lines  # the launch tells as much; what else stands beside the line stays
    opened = [below for line in lines for below in _opened(line, given.key)]
    replaced = [index for index, line in enumerate(opened) if _gives_way(line.key, given.key)]
    place = replaced[0] if replaced else len(opened)
    after = [line for line in opened[place:] if not _gives_way(line.key, given.key)]
    return [*opened[:place], new, *after]


def _gives_way(key: str, given: str) -> bool:
    """Whether a line is replaced by what is given: its own key, one below it, or one that excludes it."""
    return key == given or key.startswith(f"{given}.") or any({key, given} <= each for each in ALTERNATIVES)


def _opened(line: Entry, key: str) -> Iterator[Entry]:
    """The line; where `key` is one below it, the lines of what it holds."""
    if not key.startswith(f"{line.key}."):
        yield line
        return
    if line.missing or line.value is None:
        return  # what is to be filled in is filled in below
    if isinstance(line.value, Mapping):
        for name, value in line.value.items():
            yield from _opened(replace(line, key=f"{line.key}.{name}", value=value), key)
    elif line.key.split(".") in NAMED_ENTRIES:
        yield replace(line, key=f"{line.key}.base")
    else:
        message = f"is {line.value!r}, a single value with nothing below it to set ({line.about})"
        raise InputError([Problem(f"--set {key}", None, line.key, message)])
