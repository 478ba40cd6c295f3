"""A scenario's facts put into the words of a target: settings, and what it cannot be told, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hardware.precisions import PRECISIONS
from simulator.launch.tables import MISSING, STATED_BY, Fixed, Row, Table, as_text, holds, stated_key


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it will be written. `value` True with `bare`: a flag that stands alone; a tuple: several values.

    `key` is the scenario's key that it says, `stated` the scenario's value (`worked_out`: what follows from it). `why`:
    the reason of a setting that says no key by itself.
    """

    name: str
    value: Any
    key: str
    stated: Any
    bare: bool = False
    worked_out: bool = False
    note: str = ""
    why: str = ""

    @property
    def origin(self) -> str:
        """Whence it comes, for a comment beside it."""
        if self.why:
            return self.why
        return f"from {self.key}" if self.worked_out else f"{self.key} = {as_text(self.stated)}"


@dataclass(frozen=True, slots=True)
class Inexpressible:
    """What a target cannot be told: the key, the scenario's value, why, and the nearest value (MISSING: none known)."""

    key: str
    value: Any
    why: str
    nearest: Any = MISSING

    @property
    def text(self) -> str:
        return f"{self.key} = {as_text(self.value)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Expressed:
    """What a target is told and what it cannot be."""

    settings: tuple[Setting, ...]
    inexpressible: tuple[Inexpressible, ...]


def express(table: Table, facts: Mapping[str, Any]) -> Expressed:
    """Every setting of the table that the facts call for, in the table's order, and what has no words there."""
    settings: list[Setting] = []
    inexpressible = {refused.key: refused for refused in _refused(table, facts)}
    for row in table.rows:
        if row.import_only or row.key not in facts or row.key in inexpressible or not holds(row.when, facts):
            continue
        said = _say(row, facts[row.key])
        if isinstance(said, Setting):
            settings.append(said)
        elif isinstance(said, Inexpressible):
            inexpressible.setdefault(row.key, said)
    return Expressed(tuple(settings), tuple(inexpressible.values()))


def _say(row: Row, fact: Any) -> Setting | Inexpressible | None:
    """The row's setting for a fact; None where nothing is to be written."""
    if row.value is not MISSING:
        return None if not fact else _setting(row, row.value, fact)
    if fact is None and not row.always and (row.words is None or "null" not in row.words):
        return None
    if not row.always and row.default is not MISSING and as_text(fact) == as_text(row.default):
        return None
    if row.words is None:
        return _setting(row, fact, fact)
    word = row.words.get(as_text(fact), row.words.get("*", MISSING))
    if word is MISSING:
        return Inexpressible(row.key, fact, f"{row.name} has no such value", _nearest_word(row, fact))
    if word == "":
        return None
    return _setting(row, _translated(word, fact), fact)


def _translated(word: Any, fact: Any) -> Any:
    special = {"*": fact, "null": None}
    return special.get(word, word) if isinstance(word, str) else word


def _nearest_word(row: Row, fact: Any) -> Any:
    """The first value that the setting has a word for, of precisions the first that computes in the same format."""
    words = list(row.words or {})
    if fact in PRECISIONS:
        words.sort(key=lambda word: word not in PRECISIONS or PRECISIONS[word].format != PRECISIONS[fact].format)
    first = words[0] if words else MISSING
    return {"true": True, "false": False, "null": None}.get(first, first) if isinstance(first, str) else first


def _setting(row: Row, value: Any, fact: Any) -> Setting | None:
    worked_out = row.key in STATED_BY
    said = Setting(row.name, value, stated_key(row.key), fact, worked_out=worked_out, note=row.note, why=row.why)
    if row.switch is not None:
        return replace(said, value=True, bare=True) if value is row.switch else None
    if row.list and isinstance(value, str):
        value = tuple(value.split())
    if row.list and not value:
        return None
    return replace(said, value=value)


def _refused(table: Table, facts: Mapping[str, Any]) -> Iterator[Inexpressible]:
    for fixed in table.fixed.values():
        if fixed.key in facts and holds(fixed.when, facts) and not _runs(fixed, facts[fixed.key]):
            yield Inexpressible(fixed.key, facts[fixed.key], fixed.why, fixed.nearest_value)


def _runs(fixed: Fixed, fact: Any) -> bool:
    if fixed.never:
        return set(fixed.never).isdisjoint(as_text(fact).split())
    return fixed.free or as_text(fact) in [as_text(value) for value in fixed.values]
