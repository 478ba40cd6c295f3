"""JSON, YAML and TOML as statements: nested keys become dotted names, each with its line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from hardware.documents import Document
from hardware.problems import InputError, Place, Problem
from simulator.launch.importing.statements import Origin, Reading, Statement


def structured_reading(name: str, document: Document) -> Reading:
    """A JSON or YAML file: DeepSpeed, torchtitan, Megatron-Bridge, Primus or Megatron-LM, by the keys it has."""
    data = document.data
    if not isinstance(data, Mapping):
        raise InputError([document.place.problem("holds no mapping of settings")])
    if isinstance(data.get("modules"), Mapping):
        return _primus(name, data, document.place)
    statements = tuple(_flat(data, "", document.place, name))
    return _by_keys(name, data, statements)


def _by_keys(name: str, data: Mapping[str, Any], statements: tuple[Statement, ...]) -> Reading:
    keys = set(data)
    if keys & {"train_batch_size", "train_micro_batch_size_per_gpu", "zero_optimization"}:
        return Reading(name, "deepspeed", statements)
    if isinstance(data.get("parallelism"), Mapping) or ("training" in keys and "optimizer" in keys and "model" in keys):
        return Reading(name, "torchtitan", statements)
    if isinstance(data.get("model"), Mapping) and keys & {"train", "ddp", "checkpoint", "dist"}:
        return Reading(name, "bridge", statements)
    # Megatron-LM's YAML nests by group; Primus and others write the arguments flat.
    leaves = tuple(Statement(_as_flag(each.name), each.value, each.origin) for each in statements)
    return Reading(name, "megatron", leaves)


def _as_flag(dotted: str) -> str:
    return "--" + dotted.rpartition(".")[2].replace("_", "-")


def _flat(data: Mapping[str, Any], above: str, place: Place, file: str) -> Iterator[Statement]:
    for key, value in data.items():
        dotted = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping):
            yield from _flat(value, dotted, place.under(key), file)
        elif value is not None:
            yield Statement(dotted, _leaf(value), Origin(file, place.under(key).line or 0))


def _leaf(value: Any) -> Any:
    """Plain values; of lists those of plain values, and lists of them. A mapping inside a list says nothing here."""
    if isinstance(value, list):
        return [item if isinstance(item, list) else str(item) for item in value if not isinstance(item, Mapping)]
    return value


def _primus(name: str, data: Mapping[str, Any], place: Place) -> Reading:
    """An experiment of Primus: the overrides of its trainer, and the names of model and framework."""
    statements: list[Statement] = []
    words: list[str] = []
    dialect = "primus"
    for module, about in data["modules"].items():
        if not isinstance(about, Mapping):
            continue
        at = place.under("modules").under(module)
        if str(about.get("framework", "megatron")) == "torchtitan":
            dialect = "torchtitan"
        if isinstance(about.get("model"), str):
            words.append(about["model"].rpartition(".")[0].lower())
        overrides = about.get("overrides")
        if isinstance(overrides, Mapping):
            statements += _flat(overrides, "", at.under("overrides"), name)
    models = data.get("models")
    for role, about in models.items() if isinstance(models, Mapping) else ():
        overrides = about.get("overrides") if isinstance(about, Mapping) else None
        if isinstance(overrides, Mapping):
            statements += _flat(overrides, "", place.under("models").under(role).under("overrides"), name)
    if dialect == "primus":
        statements = [Statement(_as_flag(each.name), each.value, each.origin) for each in statements]
    return Reading(name, dialect, tuple(statements), names=tuple(words))


def toml_reading(name: str, text: str) -> Reading:
    """torchtitan's TOML of 2024 and 2025."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError([Problem(name, None, "", f"is not valid TOML: {error}")]) from None
    place = Place(name, "", _toml_lines(text))
    statements = tuple(_flat(data, "", place, name))
    return Reading(name, "torchtitan", statements)


def _toml_lines(text: str) -> dict[str, int]:
    """The line of every key of a TOML file, by its dotted name."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([\w.\"-]+)\s*\]+", line)
        key = re.match(r"\s*([\w.\"-]+)\s*=", line)
        if header:
            section = header[1]
        elif key:
            lines[f"{section}.{key[1]}" if section else key[1]] = number
    return lines
