"""Entries of the hardware catalogue as raw data: names, files and mappings, with their bases merged.

Everything takes the same three forms: a catalogue name ("h100"), a YAML file ("my/gpu.yaml"), or a mapping, which may
change an entry: {base: hgx-h100, nic: {bandwidth: 50 GB/s}}. Values carry their unit; a source may stand beside each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from hardware.documents import Document, read_document
from hardware.own_parts import peaks_of_multiprocessors
from hardware.problems import InputError, Place, known_name, one_of
from hardware.sections import Section

Kind = Literal["accelerators", "nodes", "fabrics"]
DATA = Path(__file__).parent / "data"
INLINE = Place("inline")
# Where merged data name the shipped entry that they go back to; files that write it are refused.
ROOT = "derived from"
OWN_KEYS = "written keys"  # likewise, what is written on top of it, dotted
CHANGED = " (changed)"  # ends the name of an entry that a scenario changes
# Figures that a prediction names as assumed unless the user gives them, and how the sources of given ones begin.
PREMISES = frozenset({"price", "overhead_power", "power_per_endpoint"})
GIVEN = "given"


def names(kind: Kind) -> list[str]:
    """The catalogue's names of one kind, sorted."""
    return sorted(path.stem for path in (DATA / kind).glob("*.yaml"))


def aliases(kind: Kind) -> dict[str, str]:
    """Other names by which entries of one kind are known, each with the catalogue name."""
    return dict(_aliases()[kind])


def catalogue_name(kind: Kind, text: str) -> str:
    """The name of the shipped entry that the text spells or is another name of; else the text itself."""
    name = known_name(text, [*names(kind), *_aliases()[kind]])
    return _aliases()[kind].get(name, name) if name not in names(kind) else name


def entry(kind: Kind, what: object, at: Place) -> Section:
    """The raw mapping that a name, file or mapping stands for, bases merged, ready to be read."""
    if isinstance(what, str):
        document = _named(kind, what, at)
    elif isinstance(what, Mapping):
        document = Document(what, at)
    else:
        raise InputError([at.problem(f"must be a catalogue name, a file or a mapping, not {what!r}")])
    written = _cited(document.data)
    if not _is_shipped(kind, document.place):
        written = _with_givers(written)
    section = Section(written, document.place, of_machine=True)
    for marker in (ROOT, OWN_KEYS):
        if marker in section.data:
            raise InputError([section.place.under(marker).problem("is not known; write base: and a catalogue name")])
    base = section.data.get("base")
    if base is None:
        return section
    if not isinstance(base, str):
        raise InputError([section.place.under("base").problem(f"must be a catalogue name, not {base!r}")])
    below = entry(kind, base, section.place.under("base"))
    changes = {key: value for key, value in section.data.items() if key != "base"}
    changes.setdefault("name", f"{below.data['name']}{CHANGED}")
    if kind == "accelerators":
        changes[OWN_KEYS] = [*below.data.get(OWN_KEYS, ()), *_dotted(section.data)]
        changes |= peaks_of_multiprocessors(below.data, changes)
        if ROOT not in below.data and _is_shipped(kind, below.place):
            changes[ROOT] = Path(below.place.file).stem
    return Section(_merge(below.data, changes), section.place, of_machine=True)


def read_name(section: Section) -> str:
    """Reads what every entry has, and returns its name."""
    section.text("about", None)
    return cast(str, section.text("name"))


def _named(kind: Kind, name: str, at: Place) -> Document:
    if name.endswith((".yaml", ".yml", ".json")):
        return read_document(Path(at.file).parent / name)
    stem = catalogue_name(kind, name)
    if stem not in names(kind):
        raise InputError([at.problem(f"{kind[:-1]} {one_of(name, [*names(kind), *_aliases()[kind]])}")])
    return _shipped(kind, stem)


@cache
def _shipped(kind: Kind, stem: str) -> Document:
    return read_document(DATA / kind / f"{stem}.yaml")


@cache
def _aliases() -> dict[str, dict[str, str]]:
    return cast("dict[str, dict[str, str]]", read_document(DATA / "aliases.yaml").data)


def _is_shipped(kind: Kind, place: Place) -> bool:
    return Path(place.file).parent == DATA / kind


def _with_givers(data: Any) -> Any:
    """A user's own entry whose figures of money and power say that they are given, beside any source they have."""
    if not isinstance(data, Mapping):
        return data
    marked = dict(data)
    for key in PREMISES & data.keys():
        value = data[key]
        if isinstance(value, Mapping) and "value" in value:
            marked[key] = {**value, "source": f"{GIVEN}: {value.get('source') or key}"}
        elif value is not None:
            marked[key] = {"value": value, "source": f"{GIVEN}: {key}"}
    return marked


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base with the changes on top: mappings go key by key, anything else (a value with its source too) whole."""
    merged = dict(base)
    for key, new in changes.items():
        old = merged.get(key)
        if isinstance(new, Mapping) and "value" not in new and isinstance(old, Mapping) and "value" not in old:
            merged[key] = _merge(old, new)
        elif isinstance(new, Mapping) and isinstance(old, str) and "base" not in new:
            merged[key] = {"base": old, **new}
        else:
            merged[key] = new
    return merged


def _dotted(data: Mapping[str, Any]) -> list[str]:
    """The keys of a mapping whose values are figures, those of mappings in it under their own."""
    keys: list[str] = []
    for key, value in data.items():
        nested = isinstance(value, Mapping) and "value" not in value
        keys += [f"{key}.{inner}" for inner in _dotted(value)] if nested else [str(key)]
    return keys


def _cited(data: Any, references: Mapping[str, Any] | None = None) -> Any:
    """The data with each source that names one of the entry's references written out, and the references gone."""
    if isinstance(data, list):
        return [_cited(item, references) for item in data]
    if not isinstance(data, Mapping):
        return data
    if references is None:
        found = data.get("references")
        if not isinstance(found, Mapping):
            return data
        references, data = found, {key: value for key, value in data.items() if key != "references"}
    cited = {key: _cited(value, references) for key, value in data.items()}
    if "value" in cited and "source" in cited:
        cited["source"] = references.get(str(cited["source"]), cited["source"])
    return cited
