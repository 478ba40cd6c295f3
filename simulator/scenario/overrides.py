"""Applies `--set a.b=value` to a read document; the value follows the same YAML rules as the file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from hardware.documents import parse_document
from hardware.problems import InputError, Problem

# Sections that may be the name of an entry; a key set below one changes that entry.
NAMED_ENTRIES = (["model"], ["cluster", "node"], ["cluster", "fabric"], ["plan", "stack"], ["plan", "precision"])


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> None:
    """Writes each `key=value` into `data`, in order.

    Unknown keys are found later, with the file's own, when the sections are read. Raises InputError with every
    override that has no `=`, no value that can be read, or that reaches into something that is not a mapping.
    """
    problems: list[Problem] = []
    for override in overrides:
        try:
            _apply(data, override)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def laid_at(problems: Iterable[Problem], options: Mapping[str, str]) -> tuple[Problem, ...]:
    """Problems with overrides laid at the options that brought them in (by override), not at --set."""
    origins = {f"--set {override}": option for override, option in options.items()}
    return tuple(replace(each, file=origins.get(each.file, each.file)) for each in problems)


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key, file = key.strip(), f"--set {override}"
    if not equals or not all(key.split(".")):
        raise InputError([Problem(file, None, key, "needs the form section.key=value, as in plan.tp=2", True)])
    write_key(data, key, _value(text, file, key), file)


def write_key(data: dict[str, Any], key: str, value: Any, file: str = "scenario") -> None:
    """Writes a value under a dotted key into `data`, sections made as needed.

    A key below a named entry (`plan.stack.dropout` where `plan.stack` is a name) changes that entry. Raises InputError
    where the key reaches into something that is not a mapping; `file` names its origin.
    """
    names = key.split(".")
    target: Any = data
    for depth, name in enumerate(names[:-1], start=1):
        if target.get(name) is None:
            target[name] = {}
        elif names[:depth] in NAMED_ENTRIES and isinstance(target[name], str):
            target[name] = {"base": target[name]}
        target = target[name]
        if not isinstance(target, dict):
            message = f"is {target!r}, a single value with nothing below it to set"
            raise InputError([Problem(file, None, ".".join(names[:depth]), message)])
    target[names[-1]] = value


def _value(text: str, file: str, key: str) -> Any:
    if not text.strip():
        return None
    try:
        return parse_document(text, file).data
    except InputError as error:
        raise InputError([Problem(file, None, key, problem.message, True) for problem in error.problems]) from None
