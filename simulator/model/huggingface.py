"""Reads a Hugging Face config.json into a Model, in every dialect met, and refuses by name what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware.problems import InputError, Place
from simulator.model import ffns, mixers
from simulator.model.families import FAMILIES, HARMLESS, Family
from simulator.model.keys import Keys
from simulator.model.spec import FFN, Layer, Mixer, Model

MOST_LAYERS = 10_000
BLOCKS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}


def from_huggingface(config: Mapping[str, Any], name: str, place: Place | None = None, source: str = "") -> Model:
    """The language model that `config` (a parsed config.json, perhaps with a nested text_config) describes.

    `place` says where it was read, for messages (None: `name`). Raises InputError listing every problem: an unknown
    family, a missing key, a contradiction, a key that is not understood.
    """
    keys = text_keys(config, place or Place(name))
    family_name = keys.word("model_type", allowed=FAMILIES)
    if keys.problems:
        raise InputError(keys.problems)
    family = conventions(keys, FAMILIES[family_name])
    layers = read_layers(keys, family)
    mtp = read_mtp(keys, family, layers)
    hidden = hidden_size(keys)
    if keys.whole("word_embed_proj_dim", default=hidden) != hidden:
        keys.problem("word_embed_proj_dim", "an embedding of another width than the layers is not modelled")
    model = Model(
        name=name,
        hidden=hidden,
        vocab=keys.whole("vocab_size"),
        layers=layers,
        mtp=mtp,
        tied_embeddings=keys.flag("tie_word_embeddings", default=family.tied),
        norm=family.norm,
        positions=positions(keys, family),
        causal=family.causal,
        hyper_connections=keys.whole("hc_mult", default=1),
        parallel_blocks=keys.flag("use_parallel_residual", default=family.parallel_blocks),
        source=source,
    )
    keys.finish(HARMLESS)
    return model


def conventions(keys: Keys, family: Family) -> Family:
    """The family as this config bends it: MPT's no_bias drops the biases of matrices and norms alike."""
    keys.word("norm_type", allowed={"layernorm", "low_precision_layernorm"}, default="layernorm")
    keys.word("position_embedding_type", allowed={"absolute"}, default="absolute")
    if keys.flag("no_bias"):
        return replace(family, attention_bias=False, mlp_bias=False, norm="rms")
    return family


def text_keys(config: Mapping[str, Any], place: Place) -> Keys:
    """The text model's keys: a multimodal config nests them, and may tie the embeddings outside."""
    inner = config.get("text_config")
    if not isinstance(inner, Mapping):
        return Keys({key: value for key, value in config.items() if key != "vision_config"}, place)
    outer_tie = {"tie_word_embeddings": config.get("tie_word_embeddings")}
    own = {key: value for key, value in inner.items() if value is not None}
    return Keys(outer_tie | own, place.under("text_config"))


def hidden_size(keys: Keys) -> int:
    return keys.whole("hidden_size", "n_embd", "d_model")


def positions(keys: Keys, family: Family) -> int:
    """Rows of learned position tables, and of a token-type table."""
    learned = family.positions and keys.flag("learned_pos_emb", default=True)
    if keys.has("attn_config"):
        attention = keys.inner("attn_config")
        attention.word("attn_type", allowed={"multihead_attention"}, default="multihead_attention")
        learned = learned and not attention.flag("alibi")
    keys.has("n_ctx")
    rows = keys.whole("max_position_embeddings", "n_positions", "max_seq_len", default=0, least=0)
    extra = keys.whole("type_vocab_size", default=family.extra_positions, least=0)
    if learned and not rows:
        keys.problem("max_position_embeddings", "missing; a learned position table needs its length")
    return rows + extra if learned else 0


def block_pattern(keys: Keys) -> list[str]:
    """One of mamba, attention, moe, mlp per layer for hybrids that write the stack as a pattern; empty for others."""
    keys.has("expand")
    return blocks(keys, "hybrid_override_pattern", "layers_block_type")


def blocks(keys: Keys, pattern_key: str, list_key: str) -> list[str]:
    known = frozenset(BLOCKS.values())
    if keys.has(list_key):
        listed = keys.values[list_key]
        return keys.each(list_key, len(listed) if isinstance(listed, list) else 0, known)
    if not keys.has(pattern_key):
        return []
    pattern = keys.values[pattern_key]
    if not isinstance(pattern, str) or set(pattern) - set(BLOCKS):
        keys.problem(pattern_key, f"must be a string of {', '.join(BLOCKS)}")
        return []
    return [BLOCKS[letter] for letter in pattern]


def read_layers(keys: Keys, family: Family) -> tuple[Layer, ...]:
    """The decoder stack, in order."""
    pattern = block_pattern(keys)
    count = keys.whole(
        "num_hidden_layers", "n_layer", "n_layers", "num_layers",
        **({"default": len(pattern)} if pattern else {}), most=MOST_LAYERS,
    )  # fmt: skip
    if pattern and len(pattern) != count:
        keys.problem("num_hidden_layers", f"{count} contradicts a pattern of {len(pattern)} layers")
    hidden = hidden_size(keys)
    if pattern:
        keys.has("intermediate_size")
        return tuple(hybrid_layer(keys, family, hidden, block) for block in pattern)
    mixed: list[Mixer] = mixers.read_mixers(keys, family, hidden, count)
    fed: list[FFN] = ffns.read_ffns(keys, family, hidden, count)
    return tuple(Layer(mixer, ffn) for mixer, ffn in zip(mixed, fed, strict=True))


def hybrid_layer(keys: Keys, family: Family, hidden: int, block: str) -> Layer:
    """A layer of a hybrid stack: a mixer alone or an ffn alone."""
    if block == "mamba":
        return Layer(mixers.mamba2(keys), None)
    if block == "attention":
        return Layer(mixers.attention(keys, family, hidden, "full_attention"), None)
    if block == "moe":
        return Layer(None, ffns.moe(keys, family, hidden))
    return Layer(None, ffns.dense(keys, family, hidden))


def read_mtp(keys: Keys, family: Family, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Multi-token-prediction layers, one per depth: like the last decoder layer unless the config says otherwise."""
    depth = keys.whole("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0, least=0, most=64)
    modules = keys.whole("num_mtp_modules", default=0, least=0, most=64)
    if not depth and keys.flag("use_mtp", default=True):
        depth = modules
    if keys.whole("mtp_transformer_layers", default=1) != 1:
        keys.problem("mtp_transformer_layers", "modules of several layers are not modelled; only 1")
    if keys.flag("mtp_use_dedicated_embeddings"):
        keys.problem("mtp_use_dedicated_embeddings", "embeddings of its own are not modelled; only false")
    if not depth or not layers:
        return ()
    pattern = blocks(keys, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if pattern:
        return (joined(keys, family, pattern),) * depth
    if keys.has("compress_ratios"):
        return tuple(Layer(mixer, layers[-1].ffn) for mixer in mixers.compressed(keys, len(layers))[len(layers) :])
    return (layers[-1],) * depth


def joined(keys: Keys, family: Family, pattern: list[str]) -> Layer:
    """A hybrid's prediction module of one mixer and one ffn, as one layer."""
    parts = [hybrid_layer(keys, family, hidden_size(keys), block) for block in pattern]
    mixer = [part.mixer for part in parts if part.mixer]
    ffn = [part.ffn for part in parts if part.ffn]
    if len(mixer) != 1 or len(ffn) != 1:
        keys.problem("mtp_hybrid_override_pattern", "only one mixer followed by one ffn is modelled")
        return Layer(None, None)
    return Layer(mixer[0], ffn[0])
