"""Reads a mapping into a frozen dataclass by the dataclass's own annotations, and writes its JSON Schema for editors.

The dataclass is the only list of fields. A field whose metadata holds `choices` takes one of these words. A number's
key leaves out the unit that the field's name ends in, and its value carries it: `step_time: 19.9 s` fills
`step_time_s`. `setting` adds to a field what its name and type do not say: a description, an example, a range, a key or
a form of its own.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hardware.problems import one_of
from hardware.sections import Section
from hardware.units import EXAMPLES, UNITS, format_rate, format_seconds, parse

T = TypeVar("T")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
METADATA = "setting"
CHOICES = "choices"


@dataclass(frozen=True, slots=True)
class Form:
    """How a value is written that is no plain number, word or flag: its reader, and the JSON Schema of it."""

    read: Callable[[Section, str], Any]
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field's name and type do not say about its key in a file.

    `example` is what a file may hold. `key` and `dimension` (of hardware.units) stand where they do not follow from
    the field's name. Numbers lie from `least` (of a quantity None: above zero) to `most`, or `below` a bound. `auto` is
    the word that leaves the choice to the program: it gives None, and so does a missing key. `form` reads what is
    written in a form of its own. `required` keys must stand in the file though the field has a default. Values outside
    `believed`, least and most as a file writes them, are slips of the pen that nothing real has.
    """

    description: str
    example: Any = None
    key: str | None = None
    dimension: str | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    auto: str | None = None
    form: Form | None = None
    required: bool = False
    believed: tuple[str, str] | None = None


def setting(default: Any, setting: Setting) -> Any:
    """A dataclass field with a default (MISSING: none) and a `Setting`."""
    return field(default=default, metadata={METADATA: setting})


def setting_of(spec: Field[Any]) -> Setting | None:
    return cast("Setting | None", spec.metadata.get(METADATA))


# -- reading ------------------------------------------------------------------------------------------------------


def read_fields(cls: type[T], section: Section, known: Mapping[str, Any] = NOTHING) -> T:
    """`cls` filled from the section, every problem added to the section's; a stand-in where there was one.

    `known` gives fields that the caller has read, or that no file may set."""
    left = [spec.name for spec in fields(cast("Any", cls)) if spec.name not in known]
    values = read_values(cls, section, left)
    section.done()
    return cls(**values, **known)


def read_values(cls: type, section: Section, names: Collection[str] | None = None) -> dict[str, Any]:
    """The values of the named fields of `cls` (None: all) from a section, which stays open for other keys."""
    known = hints(cls)
    return {spec.name: _read_field(spec, known[spec.name], section) for spec in _chosen(cls, names)}


def _chosen(cls: type, names: Collection[str] | None) -> list[Field[Any]]:
    return [spec for spec in fields(cls) if names is None or spec.name in names]


def _read_field(spec: Field[Any], hint: Any, section: Section) -> Any:
    key, given = key_of_field(spec, hint), setting_of(spec)
    if given is not None and given.auto is not None and section.data.get(key, given.auto) == given.auto:
        section.seen.add(key)
        return None
    if key not in section.data and not is_required(spec):
        section.seen.add(key)
        return default_of(spec)
    if is_optional(hint):
        if section.data.get(key) is None:
            section.seen.add(key)
            return None
        hint = strip_none(hint)
    if given is not None and given.form is not None:
        return given.form.read(section, key)
    value = _read_value(spec, hint, section, key)
    if given is None:
        return value
    return _within_range(_as_believed(value, spec, given, section, key), given, section, key)


def _read_value(spec: Field[Any], hint: Any, section: Section, key: str) -> Any:
    if CHOICES in spec.metadata:
        return section.choice(key, spec.metadata[CHOICES])
    if is_dataclass(hint):
        return read_fields(cast("type[Any]", hint), section.section(key))
    if get_origin(hint) is tuple:
        return _read_words(section, key)
    if get_origin(hint) is Literal:
        return section.choice(key, get_args(hint))
    if get_origin(hint) is Mapping:
        return _read_numbers(section, key, get_args(hint)[0], setting_of(spec))
    if hint is float:
        return section.quantity(key, dimension_of_field(spec), zero=_allows_zero(spec))
    if hint is int and _allows_zero(spec):
        return read_whole(section, key)
    return TAKERS[hint](section, key)


def _read_words(section: Section, key: str) -> tuple[str, ...]:
    items = section.take(key)
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return tuple(items)
    section.report_unreadable(key, f"must be a list of words, as [layernorm, moe_act], not {items!r}")
    return ()


def _read_numbers(section: Section, key: str, index: type, given: Setting | None) -> dict[Any, float]:
    """A number by name, or by number of what it belongs to."""
    below = section.section(key)
    found = {}
    for name in below.data:
        if index is int and not str(name).isdecimal():
            below.report_unreadable(str(name), f"must be a whole number that counts from 0, not {name!r}")
        else:
            value = below.quantity(name, "count")
            found[index(name)] = value if given is None else _within_range(value, given, below, str(name))
    return found


def read_whole(section: Section, key: str) -> int:
    """A whole number, zero included."""
    value = section.quantity(key, "count", zero=True)
    if value is None or not math.isfinite(value):
        return 0
    if value != int(value):
        section.report_unreadable(key, f"must be a whole number, not {value:g}")
    return int(value)


def _within_range(value: Any, given: Setting, section: Section, key: str) -> Any:
    """The value, or what comes nearest to it where it is out of range, which is reported."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return value
    problem = _out_of_range(value, given)
    if problem is None:
        return value
    section.report(key, problem)
    bounds = [bound for bound in (given.least, given.most, given.below) if bound is not None]
    return type(value)(min(bounds, key=lambda bound: abs(value - bound)))


def _as_believed(value: Any, spec: Field[Any], given: Setting, section: Section, key: str) -> Any:
    """The value, or the nearest that is believed, where that is another, which is reported."""
    if given.believed is None or not isinstance(value, int | float) or math.isnan(value):
        return value
    dimension = dimension_of_field(spec)
    least, most = (parse(bound, dimension, bare=False) for bound in given.believed)
    if least <= value <= most:
        return value
    section.report(key, f"{section.data[key]!s} is not believed; {' to '.join(given.believed)} is. Write such a value")
    return min(max(value, least), most)


def _out_of_range(value: float, given: Setting) -> str | None:
    """What is wrong with a number outside its range; None where nothing is."""
    if given.least is not None and value < given.least:
        return f"must be at least {_shown(given.least)}, not {value:g}"
    if given.most is not None and value > given.most:
        return f"must be at most {_shown(given.most)}, not {value:g}"
    if given.below is not None and value >= given.below:
        return f"must be below {_shown(given.below)}, not {value:g}"
    return None


def _shown(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


TAKERS: dict[Any, Callable[[Section, str], Any]] = {int: Section.count, bool: Section.flag, str: Section.text}


def as_written(value: Any) -> Any:
    """A dataclass as a file writes it: keys without units, lists for tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        known = hints(type(value))
        return {key_of_field(s, known[s.name]): as_written(getattr(value, s.name)) for s in fields(value)}
    return [as_written(item) for item in value] if isinstance(value, tuple) else value


# -- checking -----------------------------------------------------------------------------------------------------


def wrong_values(value: Any, key: str) -> list[tuple[str, str]]:
    """What a file could not have given to a dataclass: fields of another type, choice or range, as (key, message).

    `key` is that of the dataclass's own section.
    """
    found = []
    known = hints(cast("Any", type(value)))
    for spec in fields(value):
        held, hint = getattr(value, spec.name), known[spec.name]
        at = f"{key}.{key_of_field(spec, hint)}"
        if held is None and is_optional(hint):
            continue
        wanted = strip_none(hint) if is_optional(hint) else hint
        if is_dataclass(wanted) and isinstance(held, cast("type", wanted)):
            found += wrong_values(held, at)
        else:
            found += [(at, why) for why in _wrong_value(spec, wanted, held)]
    return found


def _wrong_value(spec: Field[Any], hint: Any, held: Any) -> list[str]:
    choices = spec.metadata.get(CHOICES) or (get_args(hint) if get_origin(hint) is Literal else None)
    if choices is not None:
        return [] if held in choices else [one_of(held, choices)]
    if hint is float and (isinstance(held, bool) or not isinstance(held, int | float) or not math.isfinite(held)):
        return [f"must be a finite number, not {held!r}"]
    if hint in (int, bool, str) and type(held) is not hint:
        return [f"must be {WORDS[hint]}, not {held!r}"]
    if is_dataclass(hint):
        return [f"must be a {cast('type', hint).__name__}, not {held!r}"]
    given = setting_of(spec)
    if given is None or hint not in (int, float):
        return []
    problem = _out_of_range(held, given)
    return [problem] if problem else []


WORDS = {int: "a whole number", bool: "true or false", str: "text"}

# -- what a field is ----------------------------------------------------------------------------------------------


def has_default(spec: Field[Any]) -> bool:
    return spec.default is not MISSING or spec.default_factory is not MISSING


def is_required(spec: Field[Any]) -> bool:
    """Whether a file must hold the key."""
    given = setting_of(spec)
    return not has_default(spec) or (given is not None and given.required)


def default_of(spec: Field[Any]) -> Any:
    return spec.default if spec.default is not MISSING else cast("Callable[[], Any]", spec.default_factory)()


def _allows_zero(spec: Field[Any]) -> bool:
    given = setting_of(spec)
    if given is not None and given.least is not None:
        return given.least == 0
    return bool(spec.default == 0)


def dimension_of(name: str) -> str:
    """The dimension that a field's unit suffix stands for, the longest that matches: `step_time_s` -> `s`."""
    endings = [dimension for dimension in UNITS if name == dimension or name.endswith(f"_{dimension}")]
    return max(endings, key=len, default="count")


def dimension_of_field(spec: Field[Any]) -> str:
    given = setting_of(spec)
    return dimension_of(spec.name) if given is None or given.dimension is None else given.dimension


def key_of(name: str, hint: Any) -> str:
    """The key in the file: the field's name without the unit, which the value carries."""
    is_number = hint is float or (is_optional(hint) and strip_none(hint) is float)
    return name.removesuffix(f"_{dimension_of(name)}") if is_number else name


def key_of_field(spec: Field[Any], hint: Any) -> str:
    """`key_of`, or the key that the field's setting names."""
    given = setting_of(spec)
    return key_of(spec.name, hint) if given is None or given.key is None else given.key


def is_optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def strip_none(hint: Any) -> Any:
    """The one type of `X | None`."""
    (kept,) = (each for each in get_args(hint) if each is not type(None))
    return kept


@cache
def hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


# -- JSON Schema ----------------------------------------------------------------------------------------------------


def json_schema(hint: Any, name: str = "", dimension: str | None = None) -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `read_fields` takes for a type, under the field `name`."""
    dimension = dimension or dimension_of(name)
    if is_optional(hint):
        return {"anyOf": [json_schema(strip_none(hint), name, dimension), {"type": "null"}]}
    if is_dataclass(hint):
        return object_schema(cast("type", hint))
    if get_origin(hint) is Literal:
        return {"enum": list(get_args(hint))}
    if get_origin(hint) is tuple:
        return {"type": "array", "items": {"type": "string"}}
    if get_origin(hint) is Mapping:
        return {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}}
    if hint is float and dimension != "count":
        return {"type": ["number", "string"], "description": f"A quantity: {EXAMPLES[dimension]}."}
    plain: dict[Any, dict[str, Any]] = {
        int: {"type": "integer", "minimum": 1},
        float: {"type": "number", "exclusiveMinimum": 0},
        bool: {"type": "boolean"},
        str: {"type": "string"},
    }
    return dict(plain[hint])


def object_schema(cls: type, names: Collection[str] | None = None, description: str | None = None) -> dict[str, Any]:
    """The JSON Schema of the section that holds the named fields of `cls` (None: all of them)."""
    known = hints(cls)
    chosen = _chosen(cls, names)
    keys = {spec.name: key_of_field(spec, known[spec.name]) for spec in chosen}
    return {
        "type": "object",
        "description": description or " ".join((cls.__doc__ or "").split("\n\n")[0].split()),
        "properties": {keys[spec.name]: _property(known[spec.name], spec) for spec in chosen},
        "required": [keys[spec.name] for spec in chosen if is_required(spec)],
        "additionalProperties": False,
    }


def _choices_schema(hint: Any, spec: Field[Any]) -> dict[str, Any]:
    words: dict[str, Any] = {"enum": list(spec.metadata[CHOICES])}
    return {"anyOf": [words, {"type": "null"}]} if is_optional(hint) else words


def _property(hint: Any, spec: Field[Any]) -> dict[str, Any]:
    given = setting_of(spec)
    if given is not None:
        return _described_property(hint, spec, given)
    made = _choices_schema(hint, spec) if CHOICES in spec.metadata else json_schema(hint, spec.name)
    if isinstance(spec.default, str | int | float | bool):
        made["default"] = spec.default
    if "exclusiveMinimum" in made and spec.default == 0:
        made["minimum"] = made.pop("exclusiveMinimum")
    return made


def _described_property(hint: Any, spec: Field[Any], given: Setting) -> dict[str, Any]:
    """The schema of a field with a setting: its form and range, description, default and example."""
    dimension = dimension_of_field(spec)
    if CHOICES in spec.metadata:
        made = _choices_schema(hint, spec)
    else:
        made = dict(given.form.schema) if given.form is not None else json_schema(hint, spec.name, dimension)
    typed = made["anyOf"][0] if is_optional(hint) and given.form is None else made
    if given.auto is not None and "integer" in typed.values():
        made = {"anyOf": [typed, {"const": given.auto}]}
    _bound(typed, spec, given)
    typed.pop("description", None)  # the setting's own says more
    default = given.auto or _written_default(spec, dimension)
    if default is not None and not is_required(spec):
        made["default"] = default
    believed = f" Believed: {' to '.join(given.believed)}." if given.believed else ""
    made["description"] = given.description + believed
    if given.example is not None:
        made["examples"] = [given.example]
    return made


def _bound(typed: dict[str, Any], spec: Field[Any], given: Setting) -> None:
    """Adds the range of a plain number; a quantity is a text, whose range only reading can check."""
    if typed.get("type") not in ("integer", "number"):
        return
    if _allows_zero(spec):
        typed.pop("exclusiveMinimum", None)
        typed["minimum"] = 0
    elif given.least is not None:
        typed["minimum"] = given.least
    if given.most is not None:
        typed["maximum"] = given.most
    if given.below is not None:
        typed["exclusiveMaximum"] = given.below


def _written_default(spec: Field[Any], dimension: str) -> Any:
    """The default as a file would write it; None where the key has none."""
    default = spec.default
    if isinstance(default, str | bool | int):
        return default
    if not isinstance(default, float):
        return None
    formats: dict[str, Callable[[float], str]] = {"s": format_seconds, "bytes_per_s": format_rate}
    if dimension in formats:
        return formats[dimension](default)
    unit = next(unit for unit, factor in UNITS[dimension].items() if factor == 1.0)
    return f"{default:g} {unit}" if unit else default
