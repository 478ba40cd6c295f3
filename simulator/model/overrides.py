"""A model of the catalogue with some of its properties written anew: depth, prediction modules, vocabulary, fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar, get_type_hints

from hardware.problems import InputError, Place, known_name, one_of
from simulator.model.catalogue import load, names
from simulator.model.config import MOST_LAYERS
from simulator.model.inline import check, check_blocks, field_value, stack
from simulator.model.keys import Keys
from simulator.model.spec import FFN, FFNS, MIXERS, Layer, Mixer, Model

MOST_DEPTHS = 64
Part = TypeVar("Part", Mixer, FFN)
# Fields of Model that a scenario may write as they are; layers, mtp, mixer and ffn have forms of their own.
PLAIN_FIELDS = tuple(item.name for item in fields(Model) if item.name not in ("name", "layers", "mtp", "source"))


def from_base(mapping: Mapping[str, Any], place: Place) -> Model:
    """The catalogue's model `base` with the other keys of `mapping` in place of its own.

    `layers` and `mtp` are numbers (the stack is cut, or its pattern goes on; prediction modules are repeated) or
    written out as in the inline form; `mixer` and `ffn` change fields of every mixer or ffn that has them all (`kind`
    says of which kind, where several have); the other keys are fields of simulator.model.spec.Model. Raises InputError
    listing every problem.
    """
    keys = Keys(mapping, place)
    _, base = keys.find(["base"])
    base = known_name(base, names()) if isinstance(base, str) else base
    if not isinstance(base, str) or base not in names():
        raise InputError([place.under("base").problem(one_of(base, names()))])
    model = with_fields(load(base), keys)
    plain = read_layers(keys, model)
    layers = with_changes(plain, plain, keys)
    model = replace(model, layers=layers, mtp=with_changes(read_mtp(keys, model, layers), plain, keys))
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


def with_changes(layers: tuple[Layer, ...], decoder: tuple[Layer, ...], keys: Keys) -> tuple[Layer, ...]:
    """The layers with the fields of `mixer` and `ffn` written anew wherever a mixer or ffn has all of them.

    Those of all `decoder` layers decide whether the changes make sense.
    """
    both = (*decoder, *layers)
    mixers: list[Mixer | None] = [layer.mixer for layer in both]
    ffns: list[FFN | None] = [layer.ffn for layer in both]
    new_mixers: dict[Mixer | None, Mixer] = changed_parts(mixers, "mixer", MIXERS, keys)
    new_ffns: dict[FFN | None, FFN] = changed_parts(ffns, "ffn", FFNS, keys)
    return tuple(
        Layer(new_mixers.get(layer.mixer, layer.mixer), new_ffns.get(layer.ffn, layer.ffn)) for layer in layers
    )


def changed_parts(
    parts: Sequence[Part | None], name: str, kinds: Mapping[str, type], keys: Keys
) -> dict[Part | None, Part]:
    """The changed mixer (or ffn) of each one that has all the fields written under `name`.

    Where parts of several `kinds` have them, `kind` says which of them change.
    """
    if not parts or not keys.has(name):
        return {}
    inner = keys.inner(name)
    inner.asked.update(inner.values)
    present = [part for part in dict.fromkeys(parts) if part is not None]
    changes = dict(inner.values)
    if changes.get("kind") in kinds:
        kind = kinds[changes.pop("kind")]
        present = [part for part in present if type(part) is kind]
    fitting = [part for part in present if set(changes) <= {item.name for item in fields(part)}]
    if not fitting:
        keys.problem(name, _why_none_fits(changes, present, name))
    if len({type(part) for part in fitting}) > 1:
        keys.problem(name, _which_kind(changes, fitting, name, kinds))
    written = Keys(changes, inner.place, inner.problems)
    return {part: changed_part(part, written) for part in fitting}


def _why_none_fits(changes: Mapping[str, Any], present: Sequence[Mixer | FFN], name: str) -> str:
    """Which written field no part has, or that no part has all of them."""
    known = sorted({item.name for part in present for item in fields(part)})
    unknown = [field for field in changes if field not in known]
    if unknown and known:
        return one_of(unknown[0], known)
    return f"no {name} of the base has all these fields; theirs are {', '.join(known) or 'none'}"


def _which_kind(
    changes: Mapping[str, Any], fitting: Sequence[Mixer | FFN], name: str, kinds: Mapping[str, type]
) -> str:
    """That the change would fall on parts of several kinds."""
    words = [word for word, kind in kinds.items() if any(type(part) is kind for part in fitting)]
    written = ", ".join(changes)
    return f"{written} would change the base's {' and '.join(words)} {name}s; add kind: {' or kind: '.join(words)}"


def changed_part(part: Part, keys: Keys) -> Part:
    hints = get_type_hints(type(part))
    written = [item for item in fields(part) if item.name in keys.values]
    changed = replace(part, **{item.name: field_value(item, hints[item.name], keys) for item in written})
    check(changed, keys)
    return changed
