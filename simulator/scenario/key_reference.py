"""Every key of a scenario with its form, default, example and meaning, as Markdown; all from the schema's one table."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from simulator.scenario.schema import scenario_schema

HEAD = """# Keys of a scenario

Made by `traincast schema keys` from the table that reads and checks scenarios; not to be edited. `[]` stands for each
item of a list, `*` for a name of your own. A quantity carries its unit, as the examples do. What a key moves was found
by changing it in a scenario where it acts, and is checked by the tests: the step's time, the memory of a GPU, the run's
time, cost, energy, water, carbon. No word: it names something, or acts with others that are told.

| key | form | default | example | meaning | moves |
|---|---|---|---|---|---|
"""
MOVES = Path(__file__).parent / "data" / "moves.toml"
KINDS = {
    "integer": "whole number",
    "boolean": "true or false",
    "string": "text",
    "object": "mapping",
    "array": "list",
}
LONGEST = 90  # characters of a cell that lists words or an example


def key_reference() -> str:
    """The whole reference, a row for every key."""
    rows, found = dict(_rows(scenario_schema(), "")), moves()
    return HEAD + "".join(
        f"| `{key}` | {' | '.join(cells)} | {', '.join(found.get(key, ()))} |\n" for key, cells in rows.items()
    )


@cache
def moves() -> Mapping[str, tuple[str, ...]]:
    """What a change of each key moves, by dotted key; keys without an entry name something or act with others."""
    return {key: tuple(words) for key, words in tomllib.loads(MOVES.read_text(encoding="utf-8")).items()}


def _rows(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(dotted key, cells) of all keys below; the keys of a phase's plan are those of the plan."""
    for key, inner in schema.get("properties", {}).items():
        dotted = f"{prefix}{key}"
        yield dotted, _cells(inner)
        if dotted != "run.phases[].plan":
            yield from _rows(inner, f"{dotted}.")
    for branch in schema.get("anyOf", ()):
        yield from _rows(branch, prefix)
    if isinstance(schema.get("items"), Mapping):
        yield from _rows(schema["items"], f"{prefix.removesuffix('.')}[].")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from _rows(schema["additionalProperties"], f"{prefix}*.")


def _cells(schema: Mapping[str, Any]) -> tuple[str, ...]:
    default = schema.get("default")
    example = schema.get("examples", [None])[0]
    meaning = str(schema.get("description", "")).replace("|", "\\|")
    return _form(schema), _written(default), _written(example), meaning


def _form(schema: Mapping[str, Any]) -> str:
    """What may stand there, in words."""
    if "enum" in schema:
        words = ", ".join(_written(word) for word in schema["enum"])
        return words if len(words) <= LONGEST else f"{words[:LONGEST].rsplit(',', 1)[0]} ..."
    if "anyOf" in schema:
        forms = dict.fromkeys(_form(branch) for branch in schema["anyOf"] if branch.get("type") != "null")
        return " or ".join(form for form in forms if form)
    kind = schema.get("type", "")
    return "quantity" if isinstance(kind, list) else KINDS.get(kind, kind)


def _written(value: Any) -> str:
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return f"`{text}`".replace("|", "\\|")
