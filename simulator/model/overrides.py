"""A model of the catalogue with some of its properties written anew: depth, prediction modules, vocabulary, fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from hardware.problems import InputError, Place, one_of
from simulator.model.catalogue import load, names
from simulator.model.config import MOST_LAYERS
from simulator.model.inline import check, check_blocks, field_value, stack
from simulator.model.keys import Keys
from simulator.model.spec import FFN, FFNS, MIXERS, Layer, Mixer, Model

MOST_DEPTHS = 64
# Fields of Model that a scenario may write as they are; layers, mtp, mixer and ffn have forms of their own.
PLAIN_FIELDS = tuple(item.name for item in fields(Model) if item.name not in ("name", "layers", "mtp", "source"))


def from_base(mapping: Mapping[str, Any], place: Place) -> Model:
    """The catalogue's model `base` with the other keys of `mapping` in place of its own.

    `layers` and `mtp` are numbers (the stack is cut, or its pattern goes on; prediction modules are repeated) or
    written out as in the inline form; `mixer` and `ffn` change fields of every mixer or ffn that has them all; the
    other keys are fields of simulator.model.spec.Model. Raises InputError listing every problem.
    """
    keys = Keys(mapping, place)
    _, base = keys.find(["base"])
    if not isinstance(base, str) or base not in names():
        raise InputError([place.under("base").problem(f"model {one_of(base, names())}")])
    model = with_fields(load(base), keys)
    layers = with_changes(read_layers(keys, model), keys)
    model = replace(model, layers=layers, mtp=with_changes(read_mtp(keys, model, layers), keys))
    model = replace(model, name=str(keys.find(["name"])[1] or f"{base}, changed"))
    check_blocks(model, keys)
    keys.finish()
    return model


def with_fields(model: Model, keys: Keys) -> Model:
    """The model with every plain field that is written."""
    hints = get_type_hints(Model)
    items = {item.name: item for item in fields(Model)}
    written = [name for name in PLAIN_FIELDS if keys.has(name)]
    return replace(model, **{name: field_value(items[name], hints[name], keys) for name in written})


def read_layers(keys: Keys, model: Model) -> tuple[Layer, ...]:
    """The stack: as it is, resized to a number of layers, or written out."""
    if not keys.has("layers"):
        return model.layers
    if isinstance(keys.values["layers"], Mapping | list):
        return stack(keys, "layers", model.hidden) or model.layers
    return resized(model.layers, keys.whole("layers", most=MOST_LAYERS))


def read_mtp(keys: Keys, model: Model, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Prediction modules: as they are, so many like the base's last (or the last layer), or written out."""
    if not keys.has("mtp"):
        return model.mtp
    if isinstance(keys.values["mtp"], Mapping | list):
        return stack(keys, "mtp", model.hidden)
    depth = keys.whole("mtp", least=0, most=MOST_DEPTHS)
    modules = model.mtp or layers[-1:]
    return tuple(modules[min(index, len(modules) - 1)] for index in range(depth))


def resized(layers: tuple[Layer, ...], count: int) -> tuple[Layer, ...]:
    """The first `count` layers; beyond the last, the shortest pattern that ends the stack goes on."""
    if count <= len(layers):
        return layers[:count]
    period = ending_period(layers)
    longer = list(layers)
    while len(longer) < count:
        longer.append(longer[-period])
    return tuple(longer)


def ending_period(layers: tuple[Layer, ...]) -> int:
    """The shortest period that the last half of the stack repeats, at least twice; the whole stack where none does."""
    for period in range(1, len(layers) // 2 + 1):
        tail = layers[-max(2 * period, len(layers) // 2) :]
        if all(layer == tail[index - period] for index, layer in enumerate(tail) if index >= period):
            return period
    return len(layers)


def with_changes(layers: tuple[Layer, ...], keys: Keys) -> tuple[Layer, ...]:
    """The layers with the fields of `mixer` and `ffn` written anew wherever a mixer or ffn has all of them."""
    for place, kinds in (("mixer", MIXERS), ("ffn", FFNS)):
        if not layers or not keys.has(place):
            continue
        inner = keys.inner(place)
        distinct = dict.fromkeys(getattr(layer, place) for layer in layers)
        fitting = [part for part in distinct if part is not None and has_fields(part, inner)]
        if not fitting:
            names = ", ".join(sorted({item.name for kind in kinds.values() for item in fields(kind)}))
            keys.problem(place, f"no {place} of the base has all these fields; fields are {names}")
        changed = {part: changed_part(part, inner) for part in fitting}
        layers = tuple(replace(layer, **{place: changed.get(getattr(layer, place), getattr(layer, place))})
                       for layer in layers)  # fmt: skip
    return layers


def has_fields(part: Mixer | FFN, keys: Keys) -> bool:
    keys.asked.update(keys.values)
    return set(keys.values) <= {item.name for item in fields(part)}


def changed_part(part: Mixer | FFN, keys: Keys) -> Mixer | FFN:
    hints = get_type_hints(type(part))
    written = [item for item in fields(part) if item.name in keys.values]
    changed = replace(part, **{item.name: field_value(item, hints[item.name], keys) for item in written})
    check(changed, keys)
    return changed
