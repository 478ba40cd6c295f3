"""The tables of launch targets: which setting of a release says which key of a scenario (data/README.md).

Writing a launch reads a table forwards, importing one reads it backwards.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

DATA = Path(__file__).parent / "data"
Syntax = Literal["arguments", "overrides", "python", "json"]
_TOP = ("title", "release", "syntax", "stack", "source", "like", "without")
_SECTIONS = ("settings", "fixed", "not_settings", "fill_in", "models")


# Keys of the tables whose value follows from the scenario's own: the key of the scenario that decides each.
STATED_BY = {
    "plan.precision_aware_optimizer": "plan.optimizer.moments",
    "plan.optimizer_instances": "plan.shard_group",
    "plan.bf16_ends": "plan.quantized",
    "plan.filter_fqns": "plan.quantized",
    "plan.microbatches": "plan.global_batch_size",
    "plan.local_batch_size": "plan.global_batch_size",
    "plan.shards": "plan.sharding",
    "plan.replicas": "plan.sharding",
    "plan.stage_modules": "plan.layout",
    "plan.compile.enable": "plan.stack.fused_kernels",
    "plan.compile.components": "plan.stack.fused_kernels",
    "run.steps": "run.tokens",
    "run.checkpoint.every_steps": "run.checkpoint.every",
    "run.checkpoint.fast_every_steps": "run.checkpoint.fast_every",
    "run.checkpoint.replication_jump": "run.checkpoint.peer_distance",
    "run.evaluation.batches": "run.evaluation.tokens",
    "run.restarts": "run.spares.hot",
    "model.position_limit": "run.seq_length",
    "model.learned_positions": "model.positions",
    "model.moe_layers": "model.layers",
    "model.hybrid": "model.layers",
    "model.gated": "model.ffn.gated",
    "model.bias": "model.ffn.bias",
    "model.mixer.grouped": "model.mixer.kv_heads",
    "model.mixer.window_pair": "model.mixer.window",
    "model.mixer.window_pattern": "model.layers",
}
# Mamba layers beside attention, each of which a scenario has as model.mixer.
_MAMBA = "model.mamba."
# Feed-forwards by kind, which a scenario has as model.ffn.
_FFNS = ("model.dense.", "model.moe.")


def stated_key(key: str) -> str:
    """The key of the scenario that decides a table's key."""
    if key.startswith(_MAMBA):
        return "model.mixer." + key.removeprefix(_MAMBA)
    for prefix in _FFNS:
        if key.startswith(prefix):
            return "model.ffn." + key.removeprefix(prefix)
    return STATED_BY.get(key, key)


class Missing:
    """Stands where a row has no default or constant; None is a value."""

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class Row:
    """One setting of a target and the scenario's key that it says; columns as in data/README.md."""

    name: str
    key: str
    default: Any = MISSING
    always: bool = False
    words: Mapping[str, Any] | None = None
    also_words: Mapping[str, Any] = field(default_factory=dict)
    switch: bool | None = None
    list: bool = False
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    value: Any = MISSING
    also: tuple[str, ...] = ()
    import_only: bool = False
    note: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A key that the target has no setting for: the values that it runs with anyway (`free`: any), and why; or those
    that it never has (`never`), alone or in a list, of a key that it has a setting for.

    `when`: only where these conditions hold does the key matter.
    """

    key: str
    values: tuple[Any, ...]
    why: str
    free: bool = False
    nearest: Any = MISSING
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    never: tuple[str, ...] = ()

    @property
    def nearest_value(self) -> Any:
        """What a plan takes that is to run there."""
        if self.nearest is not MISSING:
            return self.nearest
        return self.values[0] if self.values else MISSING


@dataclass(frozen=True, slots=True)
class Table:
    """One target and release."""

    name: str
    title: str
    release: str
    syntax: Syntax
    stack: str
    source: str
    rows: tuple[Row, ...]
    fixed: Mapping[str, Fixed]
    not_settings: Mapping[str, str]
    fill_in: Mapping[str, str]
    models: Mapping[str, Mapping[str, str]]

    @property
    def keys(self) -> frozenset[str]:
        """Every key of a scenario that the table speaks of."""
        spoken_of = [*(row.key for row in self.rows), *(fixed.key for fixed in self.fixed.values())]
        return frozenset(spoken_of) | self.not_settings.keys()


@cache
def table_names() -> tuple[str, ...]:
    """Every table, by name."""
    return tuple(sorted(path.stem for path in DATA.glob("*.toml")))


@cache
def table(name: str) -> Table:
    """The table of a name, what it is `like` included. Raises KeyError for a name that is not known."""
    if name not in table_names():
        raise KeyError(name)
    written = _written(name)
    return Table(
        name=name,
        title=written["title"],
        release=written["release"],
        syntax=written["syntax"],
        stack=written["stack"],
        source=written["source"],
        rows=tuple(_row(row_name, columns) for row_name, columns in written["settings"].items()),
        fixed={row_name: _fixed(row_name, columns) for row_name, columns in written["fixed"].items()},
        not_settings=written["not_settings"],
        fill_in=written["fill_in"],
        models=written["models"],
    )


def _written(name: str) -> dict[str, Any]:
    """The file's data, laid over that of the table that it is like."""
    data = tomllib.loads((DATA / f"{name}.toml").read_text(encoding="utf-8"))
    unknown = set(data) - set(_TOP) - set(_SECTIONS)
    if unknown:
        raise ValueError(f"{name}.toml: {', '.join(sorted(unknown))} not known; see data/README.md")
    base = _written(data["like"]) if "like" in data else {section: {} for section in _SECTIONS}
    absent = data.get("without", [])
    merged = {**base, **data}
    for section in _SECTIONS:
        merged[section] = {**base[section], **data.get(section, {})}
    merged["settings"] = {key: row for key, row in merged["settings"].items() if key not in absent}
    return merged


def _row(name: str, columns: Mapping[str, Any]) -> Row:
    given = dict(columns)
    given["when"] = _conditions(given)
    given["also"] = tuple(given.get("also", ()))
    return Row(**{"name": name, **given})


def _fixed(name: str, columns: Mapping[str, Any]) -> Fixed:
    given = {"key": name, **columns}
    given["values"] = tuple(given.pop("is", ()))
    given["never"] = tuple(given.pop("never", ()))
    given["when"] = _conditions(given)
    return Fixed(**given)


def _conditions(columns: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(values) for key, values in columns.get("when", {}).items()}


def as_text(value: Any) -> str:
    """A value as the tables spell it: `true`, `null`, `1.0`, `a b`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return " ".join(as_text(item) for item in value)
    return str(value)


def holds(conditions: Mapping[str, tuple[str, ...]], facts: Mapping[str, Any]) -> bool:
    """Whether every key named has one of its values: a word, `given`, `absent` or `above N`."""
    return all(any(_is(facts.get(key), word) for word in words) for key, words in conditions.items())


def _is(value: Any, word: str) -> bool:
    if word == "given":
        return bool(value)
    if word == "absent":
        return not value
    if word.startswith("above "):
        return value is not None and float(value) > float(word.removeprefix("above "))
    return as_text(value) == word
