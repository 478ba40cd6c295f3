"""Recognises other tools' words in a scenario file, and says exactly what to write for each.

`data/words.toml` is the table: the words of Megatron, torchtitan, DeepSpeed, Slurm and others, and the scenario's key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Place, Problem
from simulator.scenario.overrides import write_key

TABLE = Path(__file__).parent / "data" / "words.toml"
# Sections in which words are looked for, and those of their mappings that are not the scenario's own keys.
SECTIONS = ("cluster", "plan", "run")
# Where other tools write the value one level below: DeepSpeed's zero_optimization, torchtitan's activation_checkpoint.
NESTED = ("stage", "mode")
OTHERS_KEYS = ("node", "fabric", "stack")


@dataclass(frozen=True, slots=True)
class Word:
    """What one word stands for: a dotted key with the values that change (None: none do), or only advice."""

    key: str | None = None
    values: Mapping[str, Any] | None = None
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Translated:
    """A scenario's data with foreign words replaced, and a problem for each of them."""

    data: dict[str, Any]
    problems: list[Problem] = field(default_factory=list)


@cache
def words() -> Mapping[str, Word]:
    """The table, by word."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    known = {word: Word(key) for key, names in table["same"].items() for word in names}
    for key, by_word in table["values"].items():
        known |= {word: Word(key, values) for word, values in by_word.items()}
    return known | {word: Word(advice=advice) for word, advice in table["advice"].items()}


def plain(word: object) -> str:
    """A word as the table spells it: small letters, underscores, no leading dashes."""
    return str(word).strip().lstrip("-").lower().replace("-", "_")


def value_here(word: Word, value: Any) -> Any:
    """What a word's value is here; None where the table does not know the value."""
    if word.values is None:
        return value
    if isinstance(value, Mapping):
        value = next((value[name] for name in NESTED if name in value), value)
    return word.values.get(plain(value))


def translated(data: Mapping[str, Any], place: Place, own: Mapping[str, Collection[str]]) -> Translated:
    """The data with every foreign word and misplaced key replaced by what it stands for.

    `own`: the keys of each section, "" for the top; none of them is a foreign word there. The replacement lets the
    rest be checked; each problem still keeps the scenario from being used.
    """
    result = Translated(_copied(data))
    for path, mapping in _mappings(data):
        section = path.partition(".")[0]
        known = own.get(path, ()) if "." in path else own[section]
        for key in mapping:
            if key in known or ("." in path and plain(key) not in words()):
                continue
            _translate(str(key), mapping[key], path, own, place, result)
    _translate_model(data.get("model"), place, result)
    return result


@cache
def model_words() -> Mapping[str, str]:
    """The scenario's key of every word for a size of a model."""
    table = tomllib.loads(TABLE.read_text(encoding="utf-8"))["model"]
    return {word: key for key, names in table.items() for word in names}


def _translate_model(model: Any, place: Place, result: Translated) -> None:
    """Words for sizes in a catalogue model with changes; a model written out is read by its own rules."""
    if not isinstance(model, Mapping) or "base" not in model:
        return
    for path, mapping in (("model", model), ("model.ffn", model.get("ffn")), ("model.mixer", model.get("mixer"))):
        for key, value in mapping.items() if isinstance(mapping, Mapping) else ():
            target = model_words().get(plain(key))
            if target is not None and target != f"{path}.{key}":
                problem = place.under(f"{path}.{key}").problem(f"is another word here; write {_shown(target, value)}")
                _replace(target, value, str(key), path, result, problem)


def _copied(data: Any) -> Any:
    return {key: _copied(value) for key, value in data.items()} if isinstance(data, Mapping) else data


def _mappings(data: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping in which words are looked for, with its dotted path."""
    yield "", data
    for section in SECTIONS:
        inner = data.get(section)
        if not isinstance(inner, Mapping):
            continue
        yield section, inner
        for key, value in inner.items():
            if isinstance(value, Mapping) and key not in OTHERS_KEYS:
                yield f"{section}.{key}", value


def _translate(
    key: str, value: Any, path: str, own: Mapping[str, Collection[str]], place: Place, result: Translated
) -> None:
    """Deals with one key that its section does not know, if it can be told what it stands for."""
    at = place.under(f"{path}.{key}" if path else key)
    homes = [section for section in SECTIONS if section != path and key in own[section]]
    home = homes[0] if homes and key not in own[""] else None
    if home is not None and "." not in path:
        message = f"belongs to {home}; write {_shown(f'{home}.{key}', value)}"
        _replace(f"{home}.{key}", value, key, path, result, at.problem(message))
        return
    word = words().get(plain(key))
    if word is None:
        return
    if word.key is None:
        counted = COUNTED.get(plain(key))
        target = counted(value, result.data) if counted else None
        message = f"{word.advice}: {_shown(*target)}" if target else word.advice
        _replace(target[0] if target else None, target[1] if target else None, key, path, result, at.problem(message))
        return
    here = value_here(word, value)
    if here is None:
        choices = ", ".join(f"{mine} for {theirs}" for theirs, mine in (word.values or {}).items())
        name = word.key.rpartition(".")[2]
        message = f"{value!r} is not known here; write {name} under {word.key.rpartition('.')[0]}: {choices}"
        _replace(None, None, key, path, result, at.problem(message))
        return
    message = f"is another tool's word; write {_shown(word.key, here)}"
    _replace(word.key, here, key, path, result, at.problem(message))


def _replace(target: str | None, value: Any, key: str, path: str, result: Translated, problem: Problem) -> None:
    """Takes the key out, writes what it stands for unless that is written already, and keeps the problem."""
    result.problems.append(problem)
    inner: Any = result.data
    for name in path.split(".") if path else []:
        inner = inner[name]
    del inner[key]
    if target is None or _value_at(result.data, target) is not None:
        return
    try:
        write_key(result.data, target, value)
    except InputError:
        return  # whoever reads the section reports what stands in the way


def _value_at(data: Any, key: str) -> Any:
    for name in key.split("."):
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def _shown(key: str, value: Any) -> str:
    """`tp: 8 under plan`, or `recompute: {granularity: full} under plan`."""
    section, *names = key.split(".")
    text = scalar(value)
    for name in reversed(names[1:]):
        text = f"{{{name}: {text}}}"
    return f"{names[0]}: {text} under {section}"


def scalar(value: Any) -> str:
    """A plain value as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(scalar(item) for item in value)}]"
    return "null" if value is None else str(value)


# -- words that take a little arithmetic ----------------------------------------------------------------------------


def _gpus_of_nodes(nodes: Any, data: Mapping[str, Any]) -> tuple[str, int] | None:
    """GPUs of so many nodes, where the node can be read."""
    node = _value_at(data, "cluster.node")
    if not _is_count(nodes) or node is None:
        return None
    try:
        return "cluster.gpus", nodes * catalogue.node(node).gpus
    except InputError:
        return None


def _batch_of_steps(steps: Any, data: Mapping[str, Any]) -> tuple[str, int] | None:
    """The global batch of so many micro-batches in a row, where the degrees can be read."""
    plan = data.get("plan")
    gpus = _value_at(data, "cluster.gpus")
    if not isinstance(plan, Mapping) or not _is_count(steps) or not _is_count(gpus):
        return None
    degrees = [plan.get(name, 1) for name in ("tp", "cp", "pp")]
    size = plan.get("micro_batch_size")
    if not all(map(_is_count, [*degrees, size])):
        return None
    dp = gpus // (degrees[0] * degrees[1] * degrees[2])
    return ("plan.global_batch_size", size * dp * steps) if dp else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


Counted = Callable[[Any, Mapping[str, Any]], tuple[str, int] | None]
COUNTED: Mapping[str, Counted] = {
    "nodes": _gpus_of_nodes,
    "nnodes": _gpus_of_nodes,
    "num_nodes": _gpus_of_nodes,
    "gradient_accumulation_steps": _batch_of_steps,
}
