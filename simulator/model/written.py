"""Writes a model in the compact form that `simulator.model.inline` reads."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from itertools import groupby
from typing import Any

from simulator.model.spec import FFN, FFNS, MIXERS, Layer, LinearAttention, Mixer, Model

_KINDS = {cls: kind for kind, cls in {**MIXERS, **FFNS}.items()}


def to_mapping(model: Model) -> dict[str, Any]:
    """The mapping that `from_mapping` reads back as an equal model; keys at their defaults are left out."""
    mapping = _not_default(model)
    mapping["layers"] = _stack(model.layers)
    if model.mtp:
        mapping["mtp"] = _stack(model.mtp)
    return mapping


def _stack(layers: tuple[Layer, ...]) -> list[dict[str, Any]]:
    """Layers in order, equal neighbours as one entry with `repeat`."""
    entries = []
    for layer, equal in groupby(layers):
        parts = {"mixer": layer.mixer, "ffn": layer.ffn}
        written = {name: _component(part) for name, part in parts.items() if part is not None}
        entries.append({"repeat": len(list(equal)), **written})
    return entries


def _component(part: Mixer | FFN) -> dict[str, Any]:
    written = _not_default(part)
    if isinstance(part, LinearAttention):
        written["variant"] = written.pop("kind")
    return {"kind": _KINDS[type(part)], **written}


def _not_default(spec: Any) -> dict[str, Any]:
    """The fields of a dataclass that are required or differ from their default."""
    written = {}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if field.default is not MISSING and value == field.default:
            continue
        if value is None:
            continue
        written[field.name] = _not_default(value) if is_dataclass(value) else value
    return written
