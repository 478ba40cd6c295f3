"""Reads a launch target's table backwards: which values of a scenario's keys its settings stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulator.launch.importing.statements import Found, Keys, Statement, typed
from simulator.launch.tables import MISSING, Row, Table, as_text, holds

# A switch that is absent speaks against a value that would have set it; other settings less.
ABSENT_SWITCH, ABSENT_SETTING = 1.0, 0.5


def read_back(table: Table, statements: Iterable[Statement], keys: Keys) -> frozenset[str]:
    """Adds to `keys` what the statements say; gives the names that the table knows.

    Of a setting that is stated several times the last counts, as software has it.
    """
    rows = _rows_by_name(table)
    stated: dict[str, Statement] = {}
    for statement in statements:
        if statement.name in rows and not _is_unset(statement.value):
            stated[statement.name] = statement
    by_key: dict[str, list[Row]] = {}
    for row in table.rows:
        # A row with a reason of its own goes with its key, and does not say it.
        if row.value is MISSING and not row.why:
            by_key.setdefault(row.key, []).append(row)
    for key, of_key in by_key.items():
        _read_key(key, of_key, stated, keys)
    return frozenset(rows)


def _is_unset(value: Any) -> bool:
    """Whether a value is written that says that there is none."""
    return value == [] or (isinstance(value, str) and typed(value) is None)


def _rows_by_name(table: Table) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in table.rows:
        for name in (row.name, *row.also):
            rows.setdefault(name, []).append(row)
    return rows


def _statement(row: Row, stated: Mapping[str, Statement]) -> Statement | None:
    return next((stated[name] for name in (row.name, *row.also) if name in stated), None)


def _read_key(key: str, rows: Sequence[Row], stated: Mapping[str, Statement], keys: Keys) -> None:
    said = [(row, statement) for row in rows if (statement := _statement(row, stated)) is not None]
    if not said:
        return
    unknown = [statement for _, statement in said if statement.value is None]
    known = [(row, statement) for row, statement in said if statement.value is not None]
    if not known:
        names = ", ".join(statement.name for statement in unknown)
        keys.notes.append(f"{unknown[0].origin}: the value of {names} is not told by the file; {key} is left out")
        return
    for row, statement in known:
        if row.words is None and row.switch is None:
            _add(key, _plain(row, statement.value), [statement], keys)
            return
    found = _best(rows, stated)
    if found is MISSING:
        passed = [statement for row, statement in known if row.words is not None and row.words.get("*") == "*"]
        found = typed(passed[0].value) if passed else MISSING
    if found is MISSING:
        statement = known[0][1]
        keys.notes.append(
            f"{statement.origin}: {statement.name} {_shown(statement.value)} says nothing that {key} knows"
        )
        return
    _add(key, found, [statement for _, statement in known], keys)


def _add(key: str, value: Any, statements: Sequence[Statement], keys: Keys) -> None:
    names = " ".join(dict.fromkeys(statement.name for statement in statements))
    keys.found[key] = Found(value, tuple(statement.origin for statement in statements), names)


def _plain(row: Row, value: Any) -> Any:
    if row.list:
        words = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
        return [str(word) for word in words]
    if isinstance(value, list | tuple) and len(value) == 1:
        return typed(value[0])
    return typed(value)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# -- settings with words --------------------------------------------------------------------------------------------


def _best(rows: Sequence[Row], stated: Mapping[str, Statement]) -> Any:
    """The value of the key that the stated rows agree on best; the first of several, MISSING where none agrees."""
    candidates: dict[str, float] = {}
    for row in rows:
        for text in _values(row):
            candidates.setdefault(text, 0.0)
    contradicted: dict[str, int] = {}
    for text in candidates:
        contradicted[text] = sum(not agrees for row in rows if (agrees := _agrees(row, text, stated)) is not None)
        candidates[text] = sum(_penalty(row, text, stated) for row in rows)
    least = min(contradicted.values(), default=0)
    if not candidates or least >= sum(_statement(row, stated) is not None for row in rows):
        return MISSING
    best = min((text for text in candidates if contradicted[text] == least), key=lambda text: candidates[text])
    return 1.0 if best == "*" else _scenario_value(best)


def _scenario_value(text: str) -> Any:
    """A value as tables spell it: `true`, `false` and `null` are no texts, `none` is one."""
    return text if text == "none" else typed(text)


def _values(row: Row) -> list[str]:
    """The key's values that a row tells apart."""
    if row.words is not None:
        return [*row.words, *(as_text(value) for value in row.also_words.values())]
    return ["true", "false"]


def _word(row: Row, text: str) -> Any:
    """What the row writes for a value of the key; MISSING where it has no word."""
    if row.words is None:
        return text == "true"
    return row.words.get(text, MISSING)


def _agrees(row: Row, text: str, stated: Mapping[str, Statement]) -> bool | None:
    """Whether a stated row says this value; None for a row that is not stated."""
    statement = _statement(row, stated)
    if statement is None or statement.value is None:
        return None
    word = _word(row, text)
    if row.switch is not None:
        truth = typed(statement.value)
        given = row.switch if truth is not False else not row.switch
        return word is not MISSING and word == given
    value = _compared(statement.value)
    if any(_compared(theirs) == value and as_text(mine) == text for theirs, mine in row.also_words.items()):
        return True
    return word not in (MISSING, "") and _compared(word) == value


def _compared(value: Any) -> str:
    """A value as it is compared: case and order of lists do not matter."""
    words = value if isinstance(value, list | tuple) else str(value).replace(",", " ").split()
    return " ".join(sorted(str(word).strip("'\"").lower() for word in words))


def _penalty(row: Row, text: str, stated: Mapping[str, Statement]) -> float:
    """How much a row that is not stated speaks against a value."""
    if _statement(row, stated) is not None:
        return 0.0
    word = _word(row, text)
    if row.switch is not None:
        return ABSENT_SWITCH if word is not MISSING and word == row.switch else 0.0
    return 0.0 if word in (MISSING, "", None) or row.import_only else ABSENT_SETTING


# -- what is not written --------------------------------------------------------------------------------------------


def add_defaults(table: Table, keys: Keys, written: Mapping[str, Any], title: str) -> None:
    """Adds the target's defaults of plan keys that nothing states, where they are not the scenario's own.

    `written`: the scenario's own values of plan keys, flat. A row's conditions must hold for what was found.
    """
    facts = {**written, **{key: found.value for key, found in keys.found.items()}}
    facts.setdefault("model.moe.experts", None)
    for row in table.rows:
        if row.key in keys.found or row.default is MISSING or row.key not in written or row.import_only:
            continue
        if not holds(row.when, facts) or as_text(written[row.key]) == as_text(row.default):
            continue
        keys.found[row.key] = Found(row.default, (), f"not given: {title}'s default")
