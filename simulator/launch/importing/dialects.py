"""Whose words a file uses: how its names become those of a launch target's table, and what its silence means."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from simulator.launch.importing.statements import Statement, typed

DATA = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of launch file.

    `table`: the launch target whose names it uses, or whose names its own become by `names`; a name that begins with
    "not " takes the opposite of the value; `values` are other words for the values of a table's name. `silent`: what is
    not written has the target's default; otherwise a recipe that is not at hand decides, and the scenario's own default
    is taken. `stack` (else the table's) runs it. `recipes` are the dialect's words for precisions.
    `implies`: "name value" brings the switch that it stands for beside itself. `only_with`: a name does nothing where
    the one that it goes with is stated and off (or, "name value", has another value), as in a list of all arguments.
    `decided_by`: a name says nothing more where another ("name value value ...") has one of these values.
    """

    title: str
    table: str
    silent: bool
    names: Mapping[str, str]
    values: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    stack: str = ""
    recipes: Mapping[str, str] = field(default_factory=dict)
    implies: Mapping[str, str] = field(default_factory=dict)
    only_with: Mapping[str, str] = field(default_factory=dict)
    decided_by: Mapping[str, str] = field(default_factory=dict)


@cache
def dialects() -> Mapping[str, Dialect]:
    """Every dialect, by name."""
    found = {}
    for path in sorted(DATA.glob("*.toml")):
        written = tomllib.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Dialect(
            title=written["title"],
            table=written["table"],
            silent=written["silent"],
            names=written.get("names", {}),
            values=written.get("values", {}),
            stack=written.get("stack", ""),
            recipes=written.get("recipes", {}),
            implies=written.get("implies", {}),
            only_with=written.get("only_with", {}),
            decided_by=written.get("decided_by", {}),
        )
    return found


def in_table_words(statements: Iterable[Statement], dialect: Dialect) -> list[Statement]:
    """Statements under the names of the dialect's table, with what they imply; the others keep theirs.

    What does nothing beside the others is left out.
    """
    translated = [_with_word(_renamed(each, dialect), dialect) for each in statements]
    last = {each.name: each.value for each in translated}
    acting = [each for each in translated if _acts(each.name, last, dialect)]
    values = {each.name: each.value for each in acting}
    said = [each for each in acting if not _is_decided(each.name, values, dialect)]
    return [*said, *_implied(said, dialect)]


def _acts(name: str, stated: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether what a setting goes with is on, as far as it is stated."""
    other, _, wanted = dialect.only_with.get(name, "").partition(" ")
    if other not in stated:
        return True
    value = typed(stated[other])
    return str(value) == wanted if wanted else value not in (None, False)


def _is_decided(name: str, stated: Mapping[str, Any], dialect: Dialect) -> bool:
    """Whether another setting, as far as it is stated, says all that this one would."""
    other, *values = dialect.decided_by.get(name, "").split() or [""]
    return str(stated.get(other)).strip("'\"").lower() in values


def _implied(statements: Iterable[Statement], dialect: Dialect) -> Iterator[Statement]:
    for statement in statements:
        value = statement.value[0] if isinstance(statement.value, list) and statement.value else statement.value
        switch = dialect.implies.get(f"{statement.name} {value}")
        if switch is not None:
            yield Statement(switch, True, statement.origin)


def _with_word(statement: Statement, dialect: Dialect) -> Statement:
    """The statement with the table's word for its value, where the dialect has another."""
    words = dialect.values.get(statement.name)
    if words is None:
        return statement
    given = statement.value[0] if isinstance(statement.value, list) and statement.value else statement.value
    return replace(statement, value=words.get(str(given).lower(), given))


def _renamed(statement: Statement, dialect: Dialect) -> Statement:
    name = dialect.names.get(statement.name)
    if name is None:
        return statement
    if not name.startswith("not "):
        return replace(statement, name=name)
    return replace(statement, name=name.removeprefix("not "), value=_opposite(statement.value))


def _opposite(value: Any) -> Any:
    truth = typed(value)
    return not truth if isinstance(truth, bool) else value
