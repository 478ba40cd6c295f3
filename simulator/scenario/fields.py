"""Reads a mapping into a frozen dataclass by the dataclass's own annotations, and writes its JSON Schema for editors.

The dataclass is the only list of fields. A field whose metadata holds `choices` takes one of these words.
A number's key leaves out the unit that the field's name ends in, and its value carries it: `step_time: 19.9 s` fills
`step_time_s`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hardware.sections import Section
from hardware.units import EXAMPLES, UNITS

T = TypeVar("T")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


def read_fields(cls: type[T], section: Section, known: Mapping[str, Any] = NOTHING) -> T:
    """`cls` filled from the section, every problem added to the section's; a stand-in where there was one.

    `known` gives fields that the caller has read, or that no file may set."""
    left = [spec for spec in fields(cast("Any", cls)) if spec.name not in known]
    values = {spec.name: _read_field(spec, hints(cast("type", cls))[spec.name], section) for spec in left}
    section.done()
    return cls(**values, **known)


def _read_field(spec: Field[Any], hint: Any, section: Section) -> Any:
    key = key_of(spec.name, hint)
    if key not in section.data and has_default(spec):
        section.seen.add(key)
        return spec.default if spec.default is not MISSING else cast("Callable[[], Any]", spec.default_factory)()
    if is_optional(hint):
        if section.data.get(key) is None:
            section.seen.add(key)
            return None
        hint = strip_none(hint)
    if "choices" in spec.metadata:
        return section.choice(key, spec.metadata["choices"])
    if is_dataclass(hint):
        return read_fields(cast("type[Any]", hint), section.section(key))
    if get_origin(hint) is tuple:
        return _read_words(section, key)
    if get_origin(hint) is Literal:
        return section.choice(key, get_args(hint))
    if get_origin(hint) is Mapping:
        return _read_numbers(section, key, get_args(hint)[0])
    if hint is float:
        return section.quantity(key, dimension_of(spec.name), zero=spec.default == 0)
    return TAKERS[hint](section, key)


def _read_words(section: Section, key: str) -> tuple[str, ...]:
    items = section.take(key)
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return tuple(items)
    section.report(key, f"must be a list of words, as [layernorm, moe_act], not {items!r}")
    return ()


def _read_numbers(section: Section, key: str, index: type) -> dict[Any, float]:
    """A number by name, or by number of what it belongs to."""
    below = section.section(key)
    found = {}
    for name in below.data:
        if index is int and not str(name).isdecimal():
            below.report(str(name), f"must be a whole number that counts from 0, not {name!r}")
        else:
            found[index(name)] = below.quantity(name, "count")
    return found


TAKERS: dict[Any, Callable[[Section, str], Any]] = {int: Section.count, bool: Section.flag, str: Section.text}


def as_written(value: Any) -> Any:
    """A dataclass as a file writes it: keys without units, lists for tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        known = hints(type(value))
        return {key_of(s.name, known[s.name]): as_written(getattr(value, s.name)) for s in fields(value)}
    return [as_written(item) for item in value] if isinstance(value, tuple) else value


def has_default(spec: Field[Any]) -> bool:
    return spec.default is not MISSING or spec.default_factory is not MISSING


def dimension_of(name: str) -> str:
    """The dimension that a field's unit suffix stands for, the longest that matches: `step_time_s` -> `s`."""
    endings = [dimension for dimension in UNITS if name == dimension or name.endswith(f"_{dimension}")]
    return max(endings, key=len, default="count")


def key_of(name: str, hint: Any) -> str:
    """The key in the file: the field's name without the unit, which the value carries."""
    is_number = hint is float or (is_optional(hint) and strip_none(hint) is float)
    return name.removesuffix(f"_{dimension_of(name)}") if is_number else name


def is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def strip_none(hint: Any) -> Any:
    """The one type of `X | None`."""
    (kept,) = (each for each in get_args(hint) if each is not type(None))
    return kept


@cache
def hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def json_schema(hint: Any, name: str = "") -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `read_fields` takes for a type, under the field `name`."""
    if is_optional(hint):
        return {"anyOf": [json_schema(strip_none(hint), name), {"type": "null"}]}
    if is_dataclass(hint):
        known = hints(cast("type", hint))
        return {
            "type": "object",
            "description": " ".join((hint.__doc__ or "").split("\n\n")[0].split()),
            "properties": {
                key_of(each.name, known[each.name]): _property(known[each.name], each) for each in fields(hint)
            },
            "required": [key_of(each.name, known[each.name]) for each in fields(hint) if not has_default(each)],
            "additionalProperties": False,
        }
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": "string"}}
    if get_origin(hint) is Mapping:
        return {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    if hint is float and dimension_of(name) != "count":
        return {"type": ["number", "string"], "description": f"A quantity: {EXAMPLES[dimension_of(name)]}."}
    plain: dict[Any, dict[str, Any]] = {
        int: {"type": "integer", "minimum": 1},
        float: {"type": "number", "exclusiveMinimum": 0},
        bool: {"type": "boolean"},
        str: {"type": "string"},
    }
    return dict(plain[hint])


def _choices_schema(hint: Any, spec: Field[Any]) -> dict[str, Any]:
    words: dict[str, Any] = {"enum": list(spec.metadata["choices"])}
    return {"anyOf": [words, {"type": "null"}]} if is_optional(hint) else words


def _property(hint: Any, spec: Field[Any]) -> dict[str, Any]:
    made = _choices_schema(hint, spec) if "choices" in spec.metadata else json_schema(hint, spec.name)
    if isinstance(spec.default, str | int | float | bool):
        made["default"] = spec.default
    if "exclusiveMinimum" in made and spec.default == 0:
        made["minimum"] = made.pop("exclusiveMinimum")
    return made
