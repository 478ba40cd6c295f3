"""The table of defaults and words (defaults.toml) that turns what a row says, or leaves unsaid, into settings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from validate.rows import Row

DEFAULTS = Path(__file__).parent / "defaults.toml"
RECIPES = Path(__file__).parent / "recipes.toml"
Entry = Mapping[str, Any]
DEGREES = {"tp": "tp", "pp": "pp", "vp": "vp", "ep": "ep", "mbs": "micro_batch"}


@cache
def tables() -> Mapping[str, Any]:
    return tomllib.loads(DEFAULTS.read_text(encoding="utf-8"))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


def first_match(entries: Sequence[Entry], text: str, key: str = "match") -> Entry | None:
    """The first entry whose pattern is found in the text."""
    return next((entry for entry in entries if _pattern(entry[key]).search(text)), None)


def stack_of(row: Row) -> Entry:
    """The software stack that a row ran on, by its source, or by its sharding where the source is not known."""
    words = f"{row.text('zero_stage_or_distopt')} {row.text('source')}"
    possible = [entry for entry in tables()["stacks"] if may_be(entry, row.id)]
    found = first_match(possible, words)
    assert found is not None, "the last stack of defaults.toml matches everything"
    return found


def may_be(stack: Entry, row_id: str) -> bool:
    """Whether a stack of several in one source may have run a row: `only_id` and `unless_id` tell them apart."""
    only = "only_id" not in stack or _pattern(stack["only_id"]).search(row_id)
    return bool(only) and not ("unless_id" in stack and _pattern(stack["unless_id"]).search(row_id))


@cache
def recipes() -> Sequence[Entry]:
    found: Sequence[Entry] = tomllib.loads(RECIPES.read_text(encoding="utf-8"))["recipes"]
    return found


def recipes_of(row: Row) -> list[Entry]:
    """The vendor's recipes for a row's model, accelerator, precision, container and degrees, the weaker first."""
    texts = {
        "model": row.text("model_name"),
        "gpu": row.text("gpu_type"),
        "precision": row.text("precision"),
        "container": f"{row.id} {row.text('source')}",
        "degrees": " ".join(f"{word}{row.text(name)}" for word, name in DEGREES.items()),
    }
    return [
        entry for entry in recipes() if all(_pattern(entry.get(key, "")).search(text) for key, text in texts.items())
    ]


def node_of(row: Row) -> Entry | None:
    """The entry of the nodes table for a row's accelerator and network; None where the accelerator is not known."""
    gpu, network = row.text("gpu_type"), row.text("internode_network")
    for entry in tables()["nodes"]:
        if _pattern(entry["gpu"]).search(gpu) and _pattern(entry.get("network", "")).search(network):
            return entry
    return None


def words_of(row: Row, column: str) -> Entry | None:
    """The entry that reads one column of words; None where no pattern is found."""
    entries = [entry for entry in tables()["words"] if entry["column"] == column]
    return first_match(entries, row.text(column)) if row.text(column) else None


def flags_of(text: str) -> tuple[list[Entry], list[str]]:
    """The entries of a list of flags separated by commas or semicolons, and the flags that no entry knows."""
    found, unknown = [], []
    for token in filter(None, (part.strip() for part in re.split(r"[;,](?![^\[]*\])", text))):
        entry = first_match(tables()["flags"], token)
        if entry is None:
            unknown.append(token)
        else:
            found.append(entry)
    return found, unknown


def recipe_flags(notes: str) -> str:
    """The `"key": "value"` pairs of a recipe quoted in the notes as flags `key=value`."""
    plain = notes.replace('\\"', "")
    pairs = re.findall(r'"(\w+)": "([^"]*)"', plain)
    return "; ".join(f"{key}={value}" for key, value in pairs)


def notes_of(row: Row) -> list[Entry]:
    """Every entry of the notes table found in a row's notes."""
    return [entry for entry in tables()["notes"] if _pattern(entry["match"]).search(row.text("notes"))]
