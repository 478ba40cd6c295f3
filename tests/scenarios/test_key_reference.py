"""The key reference is what the schema says today, and the schema says something of every key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from simulator.scenario.key_reference import key_reference
from simulator.scenario.schema import scenario_schema

REFERENCE = Path(__file__).parents[2] / "scenarios" / "KEYS.md"


def schemas(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every schema below, with the dotted key that it describes."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from schemas(inner, f"{path}.{key}")
    for branch in schema.get("anyOf", ()):
        yield from schemas({"properties": schema.get("properties", {}), **branch}, path)
    yield from schemas(schema.get("items"), f"{path}[]")
    yield from schemas(schema.get("additionalProperties"), f"{path}.*")


def test_the_reference_is_up_to_date() -> None:
    """Renew it by `traincast schema keys > scenarios/KEYS.md`."""
    assert REFERENCE.read_text(encoding="utf-8") == key_reference()


def test_every_key_has_a_description() -> None:
    keys = {
        f"{path}.{key}": inner
        for path, schema in schemas(scenario_schema(), "")
        for key, inner in schema.get("properties", {}).items()
    }
    assert len(keys) > 250
    assert [key for key, inner in keys.items() if len(inner.get("description", "").split()) < 2] == []


def test_no_mapping_is_without_its_keys() -> None:
    """A mapping names its keys, or says what each key of the user's own holds."""
    mappings = [(path, schema) for path, schema in schemas(scenario_schema(), "") if schema.get("type") == "object"]
    bare = [path for path, schema in mappings if not schema.get("properties") and "additionalProperties" not in schema]
    assert bare == []


def test_rows_hold_form_default_example_and_meaning() -> None:
    rows = {line.split("`")[1]: line for line in key_reference().splitlines() if line.startswith("| `")}
    meaning = "How long training pauses for one evaluation. Excludes tokens."
    assert (
        rows["run.evaluation.lasts"]
        == f"| `run.evaluation.lasts` | quantity |  | `2 min` | {meaning} | run, cost, energy, water |"
    )
    assert rows["cluster.failed.rails"].split(" | ")[1:4] == ["whole number", "`0`", "`1`"]
    assert {"plan.tp", "run.jobs[].after", "run.failures.classes.*.scope", "distillation.teacher"} <= set(rows)
