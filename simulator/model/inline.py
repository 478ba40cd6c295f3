"""Reads a model written in our own compact form: a width, a vocabulary, and layers of (mixer, ffn)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from hardware.problems import Place
from simulator.model.config import MOST_LAYERS
from simulator.model.keys import Keys, is_read
from simulator.model.recurrent import uneven_part
from simulator.model.spec import (
    FFNS,
    MIXERS,
    Attention,
    CompressedAttention,
    DenseFFN,
    Indexer,
    Layer,
    Model,
    MoE,
)

BLOCK_NORMS = ("single", "sandwich", "shared")
MAY_BE_ZERO = frozenset({"shared_width", "compress_ratio", "positions", "identity_experts"})


def from_mapping(mapping: Mapping[str, Any], name: str = "model", place: Place | None = None) -> Model:
    """A model from `hidden`, `vocab`, `layers` and the optional keys of Model.

    `layers` is a list of {repeat, mixer: {kind, ...}, ffn: {kind, ...}}, or one such mapping for a uniform stack;
    `mtp` the same. kind is one of MIXERS (a linear one's `variant` is gdn or kda) and of FFNS in simulator.model.spec;
    the other keys are the fields of their records. An attention's kv_heads, head_dim and
    v_head_dim may be left out: as many as heads, hidden / heads, and head_dim.
    `place` says where it was read, for messages (None: `name`). Raises InputError listing every problem.
    """
    keys = Keys(mapping, place or Place(name))
    hidden = keys.whole("hidden")
    layers = stack(keys, "layers", hidden)
    if not layers:
        keys.problem("layers", "missing; give a list of {repeat, mixer, ffn}")
    model = Model(
        name=str(keys.find(["name"])[1] or name),
        hidden=hidden,
        vocab=keys.whole("vocab"),
        layers=layers,
        mtp=stack(keys, "mtp", hidden),
        mtp_shared=keys.flag("mtp_shared"),
        tied_embeddings=keys.flag("tied_embeddings"),
        norm=keys.word("norm", allowed={"rms", "layer", "none"}, default="rms"),  # type: ignore[arg-type]
        positions=keys.whole("positions", default=0, least=0),
        causal=keys.flag("causal", default=True),
        hyper_connections=keys.whole("hyper_connections", default=1),
        parallel_blocks=keys.flag("parallel_blocks"),
        source=str(keys.find(["source"])[1] or ""),
        block_norms=keys.word("block_norms", allowed=BLOCK_NORMS, default="single"),  # type: ignore[arg-type]
        layer_embedding=keys.whole("layer_embedding", default=0, least=0),
        layer_vocab=keys.whole("layer_vocab", default=0, least=0),
    )
    check_blocks(model, keys)
    keys.finish()
    return model


def check_blocks(model: Model, keys: Keys) -> None:
    """What the fields of a model must satisfy together."""
    if model.parallel_blocks and not all(layer.mixer and isinstance(layer.ffn, DenseFFN) for layer in model.layers):
        keys.problem("parallel_blocks", "is modelled for layers of a mixer and a dense ffn only")
    if model.layer_embedding and not model.layer_vocab:
        keys.problem("layer_vocab", "missing; an embedding of each layer needs the rows of its table")


def stack(keys: Keys, name: str, hidden: int) -> tuple[Layer, ...]:
    """Layers in order, each entry `repeat` times."""
    _, value = keys.find([name])
    if value is None:
        return ()
    entries = [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        keys.problem(name, "must be a mapping or a list of mappings {repeat, mixer, ffn}")
        return ()
    layers: list[Layer] = []
    for number, entry in enumerate(entries):
        inner = Keys(entry, keys.place.under(name).under(number), keys.problems)
        repeat = inner.whole("repeat", default=1, most=MOST_LAYERS)
        layer = Layer(component(inner, "mixer", MIXERS, hidden), component(inner, "ffn", FFNS, hidden))
        if not inner.has("mixer", "ffn"):
            inner.problem("mixer", "missing; a layer has a mixer, an ffn or both")
        inner.leftovers()
        layers += [layer] * repeat
    if len(layers) > MOST_LAYERS:
        keys.problem(name, f"{len(layers)} layers are more than {MOST_LAYERS}")
    return tuple(layers)


def component(keys: Keys, name: str, kinds: Mapping[str, type], hidden: int) -> Any:
    """One mixer or ffn by its `kind`; None where the layer has none."""
    if not keys.has(name):
        return None
    inner = keys.inner(name)
    before = len(keys.problems)
    kind = inner.word("kind", allowed=kinds)
    if len(keys.problems) > before:
        return None
    values = dict(inner.values)
    inner.asked.update(inner.values)
    if kind == "attention":
        values = attention_defaults(inner, hidden)
    if kind == "linear":
        values["kind"] = values.pop("variant", None)
    else:
        values.pop("kind")
    built = build(kinds[kind], Keys(values, inner.place, keys.problems))
    check(built, inner)
    return built


def attention_defaults(keys: Keys, hidden: int) -> dict[str, Any]:
    """The keys of an attention with those filled in that are usually left out."""
    heads = keys.whole("heads")
    values = {"kv_heads": heads, **keys.values}
    if "head_dim" not in values:
        values["head_dim"] = max(1, hidden // heads)
        if is_read(hidden) and hidden % heads:
            keys.problem("head_dim", f"missing, and hidden {hidden} is not a multiple of {heads} heads")
    return {"v_head_dim": values["head_dim"], **values}


def build(cls: type, keys: Keys) -> Any:
    """A spec dataclass from a mapping of its fields, by their types; unknown keys are problems."""
    hints = get_type_hints(cls)
    values = {field.name: field_value(field, hints[field.name], keys) for field in fields(cls)}
    keys.leftovers()
    return cls(**values)


def field_value(field: Field[Any], hint: Any, keys: Keys) -> Any:
    """One field's value: a whole number, a truth value, one of some words, or an indexer; None where allowed."""
    choices = get_args(hint) if get_origin(hint) is UnionType or NoneType in get_args(hint) else (hint,)
    if not keys.has(field.name) and field.default is not MISSING:
        return field.default
    if not keys.has(field.name) and NoneType in choices:
        return None
    plain = next(choice for choice in choices if choice is not NoneType)
    if plain is Indexer:
        return build(Indexer, keys.inner(field.name))
    if plain is bool:
        return keys.flag(field.name)
    if get_origin(plain) is Literal:
        return keys.word(field.name, allowed=get_args(plain))
    return keys.whole(field.name, least=0 if field.name in MAY_BE_ZERO else 1)


def check(built: object, keys: Keys) -> None:
    """What fields must satisfy together."""
    if isinstance(built, Attention) and built.heads % built.kv_heads:
        keys.problem("kv_heads", f"{built.kv_heads} does not divide {built.heads} heads")
    uneven = uneven_part(built)
    if uneven is not None:
        keys.problem(*uneven)
    if isinstance(built, CompressedAttention) and built.heads * built.head_dim % built.o_groups:
        keys.problem("o_groups", f"{built.o_groups} does not divide heads x head_dim")
    if isinstance(built, MoE) and built.top_k > built.experts:
        keys.problem("top_k", f"{built.top_k} is more than {built.experts} experts")
    if isinstance(built, MoE) and (built.experts % built.groups or built.group_top_k > built.groups):
        keys.problem("groups", f"{built.groups} must divide {built.experts} experts and be at least group_top_k")
