"""Reads a Hugging Face config.json into a Model by the data of its family, and refuses by name what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware.problems import InputError, Place, one_of
from simulator.model import read_ffns
from simulator.model.config import MOST_LAYERS, Config, flattened, text_keys
from simulator.model.families import Family, families, vocabulary
from simulator.model.keys import Keys, is_one_of
from simulator.model.layer_kinds import indexed_layers, mixer_kinds, sparse_layers
from simulator.model.read_mixers import read_mixer
from simulator.model.spec import DenseFFN, Layer, Mixer, Model, MoE

POSITION_WORDS = ("absolute", "alibi", "nope", "rope", "rope_gptj", "rotary")
BLOCKS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
BLOCK_WORDS = {"linear_attention": "mamba", "full_attention": "attention", **{word: word for word in BLOCKS.values()}}


def from_huggingface(config: Mapping[str, Any], name: str, place: Place | None = None, source: str = "") -> Model:
    """The language model that `config` (a parsed config.json, perhaps with a nested text_config) describes.

    `place` says where it was read, for messages (None: `name`). Raises InputError listing every problem: an unknown
    family, a missing key, a contradiction, a key that is not understood.
    """
    at = place or Place(name)
    refuse_type(Keys(config, at))
    keys = text_keys(config, at)
    family = read_family(keys)
    view = Config(flattened(keys, family.flatten), family)
    model = read_model(view, name, source)
    view.finish()
    return model


def refuse_type(keys: Keys) -> None:
    """Raise InputError where model_type names an architecture that is known and not modelled."""
    written = keys.values.get("model_type")
    refused = vocabulary().refused_types
    if isinstance(written, str) and written in refused:
        raise InputError([keys.place.under("model_type").problem(f"{written} is not modelled: {refused[written]}")])


def read_family(keys: Keys) -> Family:
    """The family that model_type names. Raises InputError where it is unknown, or known and not modelled."""
    refuse_type(keys)
    name = keys.word("model_type", allowed=families())
    if keys.problems:
        raise InputError(keys.problems)
    return families()[name]


def read_model(config: Config, name: str, source: str) -> Model:
    layers = read_layers(config)
    family = config.family
    hidden, vocab = config.whole("hidden_size"), config.whole("vocab_size")
    for key in ("word_embed_proj_dim", "embedding_size"):
        if config.whole(key, default=hidden) != hidden:
            config.problem(key, "an embedding of another width than the layers is not modelled")
    no_bias = config.flag("no_bias")
    layer_embedding = config.whole("hidden_size_per_layer_input", default=0, least=0)
    return Model(
        name=name,
        hidden=hidden,
        vocab=vocab,
        layers=layers,
        mtp=read_mtp(config, layers),
        tied_embeddings=config.flag("tie_word_embeddings"),
        norm="rms" if no_bias and family.norm == "layer" else family.norm,
        positions=positions(config),
        causal=family.causal,
        hyper_connections=config.whole("hc_mult", default=1),
        parallel_blocks=config.flag("use_parallel_residual", default=family.parallel_blocks),
        source=source,
        block_norms="sandwich" if config.flag("use_sandwich_norm") else family.block_norms,
        layer_embedding=layer_embedding,
        layer_vocab=config.whole("vocab_size_per_layer_input", default=vocab) if layer_embedding else 0,
    )


def positions(config: Config) -> int:
    """Rows of learned position tables, and of a token-type table."""
    family = config.family
    config.word("position_embedding_type", allowed=POSITION_WORDS, default="absolute")
    learned = family.learned_positions and config.flag("learned_pos_emb", default=True) and not config.flag("alibi")
    rows = config.whole("max_position_embeddings", default=0, least=0)
    extra = config.whole("type_vocab_size", default=family.extra_positions, least=0)
    if learned and not rows:
        config.problem("max_position_embeddings", "missing; a learned position table needs its length")
    return rows + extra if learned else 0


def read_layers(config: Config) -> tuple[Layer, ...]:
    """The decoder stack, in order."""
    if config.family.arrangement == "blocks":
        return block_layers(config)
    count = config.whole("num_hidden_layers", most=MOST_LAYERS)
    kinds, sparse = layer_mixers(config, count), sparse_layers(config, count)
    known: dict[str, tuple[Layer, ...]] = {}
    layers: list[Layer] = []
    for kind, is_sparse, changes in zip(kinds, sparse, layer_changes(config, kinds), strict=True):
        key = repr((kind, is_sparse, changes))
        if key not in known:
            known[key] = arranged(config.changed(changes), kind, is_sparse)
        layers += known[key]
    return tuple(layers)


def layer_mixers(config: Config, count: int) -> list[str]:
    """The kind of mixer of each layer; layers that use another's indexer have none of their own."""
    if config.has("compress_ratios"):
        return ["compressed attention"] * count
    kinds = mixer_kinds(config, count)
    if not any(kind.startswith("indexed") for kind in kinds):
        return kinds
    own = indexed_layers(config, count)
    return [kind if is_own else kind.removeprefix("indexed ") for kind, is_own in zip(kinds, own, strict=True)]


def layer_changes(config: Config, kinds: list[str]) -> list[dict[str, Any]]:
    """The keys that each layer has of its own: listed by layer, by Gemma's two sorts of layers, and by compression."""
    changes = config.layer_changes(len(kinds))
    of_full = full_layer_changes(config)
    for own, kind in zip(changes, kinds, strict=True):
        own |= of_full if kind == "attention" else {}
    shared = config.whole("num_kv_shared_layers", default=0, least=0)
    of_shared = sharing_layer_changes(config)
    for own in changes[max(0, len(changes) - shared) :]:
        own |= of_shared
    for own, ratio in zip(changes, compress_ratios(config, len(kinds)), strict=False):
        own["compress_ratio"] = ratio
    return changes


def full_layer_changes(config: Config) -> dict[str, Any]:
    """Gemma 4's layers of full attention have heads of their own; per_layer_config says so for each where it stands."""
    head_dim = config.maybe_whole("global_head_dim")
    kv_heads = config.maybe_whole("num_global_key_value_heads")
    if "per_layer_config" in config.keys.values or head_dim is None:
        return {}
    if kv_heads is None or not config.flag("attention_k_eq_v"):
        return {"head_dim": head_dim}
    return {"head_dim": head_dim, "num_key_value_heads": kv_heads}


def sharing_layer_changes(config: Config) -> dict[str, Any]:
    """Gemma's last layers use the keys and values of earlier ones, and may have a ffn twice as wide."""
    if not config.flag("use_double_wide_mlp"):
        return {"shares_earlier_keys": True}
    return {"shares_earlier_keys": True, "intermediate_size": 2 * config.whole("intermediate_size")}


def compress_ratios(config: Config, count: int) -> list[int]:
    """DeepSeek-V4's compression by layer: listed (prediction modules last), or by the layer's word."""
    depth = config.whole("num_nextn_predict_layers", default=0, least=0, most=64)
    if config.has("compress_ratios"):
        return config.each("compress_ratios", count + depth, range(4097)) or [0] * count
    rates = config.value("compress_rates")
    if rates is None:
        return []
    layer_words = config.each("layer_types", count) or ["sliding_attention"] * count
    if not isinstance(rates, Mapping) or not all(type(rate) is int and 0 < rate < 4097 for rate in rates.values()):
        config.problem("compress_rates", "must map words of layer_types to whole numbers from 1 to 4096")
        return [0] * count
    return [rates.get(word, 0) for word in layer_words]


def arranged(config: Config, kind: str, sparse: bool) -> tuple[Layer, ...]:
    """One layer of the config as layers of (mixer, ffn)."""
    mixer: Mixer = read_mixer(config, kind)
    if not config.family.has_ffn:
        return (Layer(mixer, None),)
    ffn = read_ffns.moe(config) if sparse else read_ffns.dense(config)
    if config.family.arrangement == "attention beside mamba2":
        return Layer(read_mixer(config, "mamba2"), None), Layer(mixer, ffn)
    if config.family.arrangement == "experts across two layers":
        return Layer(mixer, ffn), Layer(mixer, read_ffns.dense(config))
    return (Layer(mixer, ffn),)


def block_words(config: Config, pattern_key: str, list_key: str) -> list[str]:
    """One of mamba, attention, moe, mlp per layer for hybrids that write the stack as a list or a string of letters.

    Empty where the config has neither. Raises InputError for other words or letters: without them no layer is known,
    and every key of the layers would be said to be superfluous or missing.
    """
    if config.has(list_key):
        listed = config.value(list_key)
        if not isinstance(listed, list) or not listed:
            config.stop(list_key, f"must be a list of {', '.join(BLOCK_WORDS)}, one per layer")
        unknown = [(number, word) for number, word in enumerate(listed, 1) if not is_one_of(word, BLOCK_WORDS)]
        if unknown:
            config.stop(list_key, f"layer {unknown[0][0]}: {one_of(str(unknown[0][1]), BLOCK_WORDS)}")
        return [BLOCK_WORDS[word] for word in listed]
    if not config.has(pattern_key):
        return []
    pattern, known = config.value(pattern_key), ", ".join(f"{letter} ({block})" for letter, block in BLOCKS.items())
    if not isinstance(pattern, str) or not pattern:
        config.stop(pattern_key, f"must be a string of the letters {known}")
    wrong = [(number, letter) for number, letter in enumerate(pattern, 1) if letter not in BLOCKS]
    if wrong:
        number, letter = wrong[0]
        config.stop(pattern_key, f"layer {number} is {letter!r}, which is no layer; write {known}")
    return [BLOCKS[letter] for letter in pattern]


def block_layers(config: Config) -> tuple[Layer, ...]:
    blocks = block_words(config, "hybrid_override_pattern", "layers_block_type")
    config.has("layers_block_type")
    count = config.whole("num_hidden_layers", default=len(blocks), most=MOST_LAYERS)
    if not blocks:
        config.stop("layers_block_type", "missing; list the block of every layer: mamba, attention, moe or mlp")
    if len(blocks) != count:
        config.problem("num_hidden_layers", f"{count} contradicts a pattern of {len(blocks)} layers")
    config.has("intermediate_size")
    return tuple(block_layer(config, block) for block in blocks)


def block_layer(config: Config, block: str) -> Layer:
    """A layer of a hybrid stack: a mixer alone or an ffn alone."""
    if block == "mamba":
        return Layer(read_mixer(config, "mamba2"), None)
    if block == "attention":
        return Layer(read_mixer(config, "attention"), None)
    if block == "moe":
        return Layer(None, read_ffns.moe(config))
    return Layer(None, read_ffns.dense(config))


def read_mtp(config: Config, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Multi-token-prediction layers, one per depth: like the last decoder layer unless the config says otherwise."""
    depth = config.whole("num_nextn_predict_layers", default=0, least=0, most=64)
    modules = config.whole("num_mtp_modules", default=0, least=0, most=64)
    if not depth and config.flag("use_mtp", default=True):
        depth = modules
    if config.whole("mtp_transformer_layers", default=1) != 1:
        config.problem("mtp_transformer_layers", "modules of several layers are not modelled; only 1")
    if config.flag("mtp_use_dedicated_embeddings"):
        config.problem("mtp_use_dedicated_embeddings", "embeddings of its own are not modelled; only false")
    if not depth or not layers:
        return ()
    blocks = block_words(config, "mtp_hybrid_override_pattern", "mtp_layers_block_type")
    if blocks:
        return (joined(config, blocks),) * depth
    if config.has("compress_ratios"):
        ratios = compress_ratios(config, len(layers))[len(layers) :]
        changed = [config.changed({"compress_ratio": ratio}) for ratio in ratios]
        return tuple(Layer(read_mixer(one, "compressed attention"), layers[-1].ffn) for one in changed)
    return (layers[-1],) * depth


def joined(config: Config, blocks: list[str]) -> Layer:
    """A hybrid's prediction module of one mixer and one ffn, as one layer."""
    parts = [block_layer(config, block) for block in blocks]
    mixers = [part.mixer for part in parts if part.mixer]
    ffns: list[DenseFFN | MoE] = [part.ffn for part in parts if part.ffn]
    if len(mixers) != 1 or len(ffns) != 1:
        config.problem("mtp_hybrid_override_pattern", "only one mixer followed by one ffn is modelled")
        return Layer(None, None)
    return Layer(mixers[0], ffns[0])
