"""A Hugging Face config seen through its family: keys found under their other names, silent ones by their defaults."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from reprlib import repr
from typing import Any, NoReturn

from hardware.problems import InputError, Place
from simulator.model.families import Family, vocabulary
from simulator.model.keys import REQUIRED, Keys, Required

MOST_LAYERS = 10_000
# Keys that may hold one value per layer instead of one for all.
PER_LAYER = (
    "head_dim", "intermediate_size", "moe_intermediate_size", "num_attention_heads", "num_experts_per_tok",
    "num_key_value_heads", "n_routed_experts", "n_shared_experts",
)  # fmt: skip


class Config:
    """Typed look-ups of one config.

    A key is asked for by its usual name and found under any of its names. An absent key has the family's default; a
    null one, or one without a default there, has the default of the question.
    """

    def __init__(self, keys: Keys, family: Family):
        self.keys = keys
        self.family = family

    def names(self, key: str) -> tuple[str, ...]:
        """The names under which this family writes a key: its own, or those that all families share."""
        if key in self.family.aliases:
            return self.family.aliases[key]
        return (key, *vocabulary().aliases.get(key, ()))

    def problem(self, key: str, message: str) -> None:
        self.keys.problem(self.written(key), message)

    def stop(self, key: str, message: str) -> NoReturn:
        """Raises every problem found so far and this one: nothing that follows it can be read."""
        self.problem(key, message)
        raise InputError(self.keys.problems)

    def written(self, key: str) -> str:
        """The name under which the config holds the key, for messages."""
        names = self.names(key)
        return next((name for name in names if self.keys.values.get(name) is not None), names[0] if names else key)

    def silent(self, key: str) -> bool:
        """Whether the config holds the key under none of its names, not even as null, and the family has a default."""
        names = self.names(key)
        self.keys.asked.update(names)
        return key in self.family.defaults and not any(name in self.keys.values for name in names)

    def value(self, key: str) -> Any:
        """The value as it is written, or the family's default; None where there is neither."""
        if self.silent(key):
            return self.family.defaults[key]
        names = self.names(key)
        return self.keys.find(names)[1] if names else None

    def has(self, key: str) -> bool:
        return self.value(key) is not None

    def whole(self, key: str, default: int | Required = REQUIRED, least: int = 1, **bounds: int) -> int:
        if self.silent(key):
            return int(self.family.defaults[key])
        return self.keys.whole(*(self.names(key) or (key,)), default=default, least=least, **bounds)

    def maybe_whole(self, key: str) -> int | None:
        """A whole number, or None where the key is null or absent."""
        return self.whole(key) if self.has(key) else None

    def flag(self, key: str, default: bool = False) -> bool:
        if self.silent(key):
            return bool(self.family.defaults[key])
        return self.keys.flag(*self.names(key), default=default)

    def word(self, key: str, allowed: Collection[str], default: str | Required = REQUIRED) -> str:
        if self.silent(key):
            return str(self.family.defaults[key])
        return self.keys.word(*self.names(key), allowed=allowed, default=default)

    def each(self, key: str, length: int, allowed: Collection[Any] | None = None) -> list[Any]:
        return self.keys.each(self.written(key), length, allowed) if self.has(key) else []

    def wholes(self, key: str) -> list[int]:
        """A list of whole numbers of any length; empty where the key is absent."""
        if self.silent(key):
            return list(self.family.defaults[key])
        return self.keys.wholes(self.written(key)) if self.has(key) else []

    def changed(self, changes: Mapping[str, Any]) -> Config:
        """The same config with some values replaced; questions and problems are noted in the same place."""
        if not changes:
            return self
        keys = Keys({**self.keys.values, **changes}, self.keys.place, self.keys.problems)
        keys.asked, keys.children = self.keys.asked, self.keys.children
        return Config(keys, self.family)

    def layer_changes(self, count: int) -> list[dict[str, Any]]:
        """What each layer has of its own: entries of lists by layer, and of per_layer_config."""
        changes: list[dict[str, Any]] = [{} for _ in range(count)]
        for listed, name in self.listed_by_layer().items():
            for layer, item in enumerate(self.keys.each(listed, count)):
                changes[layer][name] = item
        self.keys.asked.add("per_layer_config")
        own = self.keys.values.get("per_layer_config")
        if not isinstance(own, Mapping):
            return changes
        for layer, item in own.items():
            if not str(layer).isdecimal() or int(layer) >= count or not isinstance(item, Mapping):
                self.keys.problem("per_layer_config", f"must map layers from 0 to {count - 1} to mappings of keys")
                continue
            changes[int(layer)] |= item
        return changes

    def listed_by_layer(self) -> dict[str, str]:
        """Keys of this config that hold a list by layer, and the key that each entry stands for."""
        listed = {self.written(key): self.written(key) for key in PER_LAYER}
        for key, own in self.family.per_layer.items():
            listed[own] = self.written(key)
        return {key: name for key, name in listed.items() if isinstance(self.keys.values.get(key), list)}

    def finish(self) -> None:
        """Raise one InputError with every problem: keys that are not understood, or switch on what is not modelled."""
        shared, family = vocabulary(), self.family
        neutral = {**shared.neutral, **family.neutral}
        refused = {**shared.refused_keys, **family.refused_keys}
        for key, value in self.keys.values.items():
            if key in neutral and value is not None and not is_one_of(value, neutral[key]):
                allowed = " or ".join(map(repr, neutral[key]))
                self.keys.problem(key, f"{repr(value)} is not modelled; only {allowed}")
            if key in refused and value:
                self.keys.problem(key, f"is not modelled: {refused[key]}")
        passed = {*shared.harmless, *family.harmless, *neutral, *refused, *self.conditional_names()}
        in_sections = {name for name in self.keys.values if name.rpartition(".")[2] in passed}
        self.keys.finish(passed | in_sections)

    def conditional_names(self) -> set[str]:
        """Keys that are known, and read only where the layers need them."""
        names = {name for name in self.family.pattern.values() if isinstance(name, str)}
        for key in (*vocabulary().conditional, *self.family.defaults):
            names.update(self.names(key))
        return names


def is_one_of(value: object, allowed: Collection[Any]) -> bool:
    """Whether a value is one of these, true and 1 told apart."""
    return any(value == item and isinstance(value, bool) == isinstance(item, bool) for item in allowed)


def text_keys(config: Mapping[str, Any], place: Place) -> Keys:
    """The text model's keys: a multimodal config nests them, and may tie the embeddings outside."""
    nested = [key for key in ("text_config", "llm_config", "language_config") if isinstance(config.get(key), Mapping)]
    if not nested:
        apart = ("vision_config", "audio_config")
        return Keys({key: value for key, value in config.items() if key not in apart}, place)
    text: Mapping[str, Any] = config[nested[0]]
    values = dict(text)
    if "tie_word_embeddings" in config and text.get("tie_word_embeddings") is None:
        values["tie_word_embeddings"] = config["tie_word_embeddings"]
    return Keys(values, place.under(nested[0]))


def flattened(keys: Keys, sections: Collection[str]) -> Keys:
    """The config with the keys of these nested mappings among its own, as "section.key"."""
    values = dict(keys.values)
    for section in sections:
        inner = values.pop(section, None)
        if isinstance(inner, Mapping):
            values |= {f"{section}.{key}": value for key, value in inner.items()}
        elif inner is not None:
            keys.problem(section, "must be a mapping")
    return Keys(values, keys.place, keys.problems)
