"""What a Hugging Face config leaves unsaid, read from data/families: conventions of each model_type, names of keys."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

FAMILY_FILES = Path(__file__).parent / "data" / "families"
KEYS_FILE = Path(__file__).parent / "data" / "huggingface_keys.toml"


@dataclass(frozen=True, slots=True)
class Family:
    """Conventions of one model_type where the config is silent; data/families/README.md explains each.

    `aliases` names the config's own keys of a quantity, `defaults` what an absent key means, `kinds` the mixer behind
    each word of layer_types, `pattern` which layer has which word where no list says so, `arrangement` layers that
    hold more than one mixer. The other fields are facts that no config states.
    """

    source: str = ""
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    pattern: Mapping[str, Any] = field(default_factory=dict)
    flatten: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()
    refused_keys: Mapping[str, str] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    per_layer: Mapping[str, str] = field(default_factory=dict)
    arrangement: Literal["plain", "blocks", "attention beside mamba2", "experts across two layers"] = "plain"
    sparse: bool = False
    gated: bool = True
    norm: Literal["rms", "layer", "none"] = "rms"
    block_norms: Literal["single", "sandwich", "shared"] = "single"
    qk_norm: Literal["head", "layer"] | None = None
    qk_norm_gains: bool = True
    out_bias: bool = True
    learned_positions: bool = False
    extra_positions: int = 0
    causal: bool = True
    window_needs_switch: bool = False
    shared_gate: bool = False
    output_gate: bool = False
    head_gate: bool = False
    latent_head_gate: bool = False
    expert_bias: bool = False
    sinks: bool = False
    window_sinks: bool = False
    scaled_rope: bool = False
    clamped: bool = False
    parallel_blocks: bool = False
    full_rank_decay: bool = False
    inner_norms: bool = False
    mamba_width_from_heads: bool = False
    has_ffn: bool = True

    @property
    def layers_per_layer(self) -> int:
        """Layers of (mixer, ffn) that one layer of the config becomes."""
        return 1 if self.arrangement in ("plain", "blocks") else 2


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What configs of all families share: names of keys, keys that decide no size (with the reason), mixers by word."""

    aliases: Mapping[str, tuple[str, ...]]
    harmless: Mapping[str, str]
    kinds: Mapping[str, str]
    mixers: Mapping[str, Mapping[str, Any]]
    refused_types: Mapping[str, str]
    refused_keys: Mapping[str, str]
    neutral: Mapping[str, tuple[Any, ...]]
    activations: frozenset[str]
    conditional: frozenset[str]


def words(text: str | list[str]) -> tuple[str, ...]:
    """A list written as one string of words, or as a list."""
    return tuple(text.split()) if isinstance(text, str) else tuple(text)


@cache
def vocabulary() -> Vocabulary:
    data = tomllib.loads(KEYS_FILE.read_text(encoding="utf-8"))
    return Vocabulary(
        aliases={key: words(names) for key, names in data["aliases"].items()},
        harmless={word: reason for reason, text in data["harmless"].items() for word in words(text)},
        kinds=data["kinds"],
        mixers=data["mixers"],
        refused_types=data["refused_types"],
        refused_keys=data["refused_keys"],
        neutral=data["neutral"],
        conditional=frozenset(words(data["conditional"])),
        activations=frozenset(words(data["activations"])),
    )


@cache
def families() -> Mapping[str, Family]:
    """Every model_type that is read, by name."""
    entries: dict[str, dict[str, Any]] = {}
    for file in sorted(FAMILY_FILES.glob("*.toml")):
        entries |= tomllib.loads(file.read_text(encoding="utf-8"))
    return {name: family_of(name, entries) for name in entries}


def family_of(name: str, entries: Mapping[str, Mapping[str, Any]]) -> Family:
    """One entry on top of the one that it is `like`, whose tables it extends; defaults are each one's own."""
    entry = dict(entries[name])
    base = family_of(entry.pop("like"), entries) if "like" in entry else Family()
    unknown = sorted(set(entry) - {item.name for item in fields(Family)})
    if unknown:
        raise ValueError(f"data/families: {name}: {unknown[0]} is no field of a family")
    if "aliases" in entry:
        entry["aliases"] = {key: words(names) for key, names in entry["aliases"].items()}
    entry.setdefault("defaults", {})
    for key in ("aliases", "kinds", "refused_keys", "neutral"):
        entry[key] = {**getattr(base, key), **entry.get(key, {})}
    for key in ("flatten", "harmless"):
        entry[key] = (*getattr(base, key), *words(entry.get(key, "")))
    return replace(base, **entry)
