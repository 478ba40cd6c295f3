"""Short ways to write a scenario's keys: `recompute: full`, `optimizer: muon`, `spares: 8`, `sharding: zero1`.

`data/short_forms.toml` lists them; here they are written out, and added to the JSON Schema.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

MOST_EXACT = 2**53  # beyond, not every whole number is a float
TABLE = Path(__file__).parent / "data" / "short_forms.toml"


@cache
def forms() -> Mapping[str, Any]:
    """The table as the file has it."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def written_out(data: Any) -> Any:
    """A scenario's data with every short form written out; anything else as it is."""
    if not isinstance(data, Mapping):
        return data
    whole = dict(data)
    for dotted in sorted({*forms()["words"], *forms()["mapping"]}):
        section, name = dotted.split(".")
        inner = whole.get(section)
        if isinstance(inner, Mapping) and inner.get(name) is not None:
            whole[section] = {**inner, name: _written_out(dotted, inner[name])}
    return whole


def with_whole_numbers(data: Any) -> Any:
    """The data with whole numbers in place of floats that have no fraction, as `tp: 2.0`."""
    if isinstance(data, Mapping):
        return {key: with_whole_numbers(value) for key, value in data.items()}
    if isinstance(data, list):
        return [with_whole_numbers(item) for item in data]
    is_whole = isinstance(data, float) and data.is_integer() and abs(data) < MOST_EXACT
    return int(data) if is_whole else data


def _written_out(dotted: str, value: Any) -> Any:
    """One value: another word for it replaced, then a single value put into its mapping."""
    if isinstance(value, str):
        value = forms()["words"].get(dotted, {}).get(value.lower(), value)
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        form = forms()["list"].get(dotted)
        return {**form["also"], form["key"]: value} if form else value
    form = forms()["mapping"].get(dotted)
    return {form["key"]: value} if form else value


def with_short_forms(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON Schema of a scenario (its properties), which takes the short forms too."""
    for dotted, words in forms()["words"].items():
        if dotted not in forms()["mapping"]:
            _property(schema, dotted)["enum"] += list(words)
    for dotted, form in forms()["mapping"].items():
        whole = _property(schema, dotted)
        single = dict(_mapping_of(whole)["properties"][form["key"]])
        words = forms()["words"].get(dotted)
        offered = [single, {"enum": list(words)}] if words else [single]
        if dotted in forms()["list"]:
            offered.append({"type": "array", "items": {"type": "string"}})
        _widen(schema, dotted, *offered)
    return schema


def _property(schema: Mapping[str, Any], dotted: str) -> dict[str, Any]:
    section, name = dotted.split(".")
    found: dict[str, Any] = schema[section]["properties"][name]
    return found


def _mapping_of(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The branch of a property's schema that describes a mapping."""
    return next(branch for branch in (schema, *schema.get("anyOf", ())) if "properties" in branch)


def _widen(schema: dict[str, Any], dotted: str, *offered: dict[str, Any]) -> None:
    """Adds forms to a property; what it says of a mapping's keys stays, and holds for mappings alone."""
    whole = _property(schema, dotted)
    if "anyOf" in whole:
        whole["anyOf"] += offered
    else:
        whole["anyOf"] = [{"type": whole.pop("type")}, *offered]
