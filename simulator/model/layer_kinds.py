"""Which mixer each layer of a Hugging Face config has, and whether its ffn holds experts: lists, periods, patterns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware.problems import InputError
from simulator.model.config import Config
from simulator.model.families import vocabulary

FULL, SLIDING = "full_attention", "sliding_attention"


def mixer_kinds(config: Config, count: int) -> list[str]:
    """The kind of mixer of each of `count` layers, as MIXER_READERS knows it.

    Raises InputError for a list that cannot be read: every key of its layers would be said to be superfluous.
    """
    known = {**vocabulary().kinds, **config.family.kinds}
    problems = len(config.keys.problems)
    layer_words = config.each("layer_types", count, known)
    if len(config.keys.problems) > problems:
        raise InputError(config.keys.problems)
    layer_words = layer_words or patterned_words(config, count)
    return [known[word] for word in layer_words]


def patterned_words(config: Config, count: int) -> list[str]:
    """A word of layer_types per layer where the config has no such list: from other keys, or the family's habit."""
    pattern = config.family.pattern
    if not pattern:
        return windowed_words(config, count)
    if "needs" in pattern and not config.value(pattern["needs"]):
        return [FULL] * count
    if "flags" in pattern and config.has(pattern["flags"]):
        return flagged_words(config, count, pattern)
    if "listed" in pattern and config.has(pattern["listed"]):
        return listed_words(config, count, pattern)
    if "cycle" in pattern:
        return cyclic_words(count, pattern)
    if "period" in pattern:
        return periodic_words(config, count, pattern)
    if "required" in pattern:
        config.problem(pattern["required"], "missing; this family has no usual order, so list the kind of every layer")
    return [pattern.get("always", FULL)] * count


def flagged_words(config: Config, count: int, pattern: Mapping[str, Any]) -> list[str]:
    """A key holds 0 or 1 for every layer."""
    flags = config.each(pattern["flags"], count, {0, 1}) or [0] * count
    return [pattern["word"] if flag else pattern["other"] for flag in flags]


def cyclic_words(count: int, pattern: Mapping[str, Any]) -> list[str]:
    """The same words again and again; the first layer may have one of its own."""
    cycle = pattern["cycle"]
    words = [cycle[layer % len(cycle)] for layer in range(count)]
    return [pattern.get("first", words[0]), *words[1:]]


def listed_words(config: Config, count: int, pattern: Mapping[str, Any]) -> list[str]:
    """The layers whose numbers a key lists have one word, the others another; `from` is the number of the first."""
    key, first = pattern["listed"], pattern.get("from", 0)
    last = first + count - 1
    listed = config.wholes(key)
    wrong = [layer for layer in listed if not first <= layer <= last]
    if wrong:
        config.problem(key, f"names layer {wrong[0]}; layers count from {first} to {last}")
    if "others_listed" in pattern:
        others = config.wholes(pattern["others_listed"])
        if sorted(listed + others) != list(range(first, last + 1)):
            config.problem(key, f"with {pattern['others_listed']} must name each layer from {first} to {last} once")
    named = set(listed)
    return [pattern["word"] if layer in named else pattern["other"] for layer in range(first, last + 1)]


def periodic_words(config: Config, count: int, pattern: Mapping[str, Any]) -> list[str]:
    """One layer of every `period` has a word of its own: the last of them, or the one at `offset`."""
    word = pattern.get("period_word", pattern.get("word", FULL))
    other = pattern.get("period_other", pattern.get("other", SLIDING))
    written = config.value(pattern["period"])
    if isinstance(written, str) and written and set(written) <= {"L", "G"}:
        return lettered_words(written, count)
    period = config.whole(pattern["period"], least=0)
    if not period:
        return [word] * count
    offset = pattern.get("offset", period - 1)
    place = config.whole(offset, least=0) if isinstance(offset, str) else offset
    words = [word if layer % period == place % period else other for layer in range(count)]
    if "last" in pattern:
        words[-1] = pattern["last"]
    return words


def lettered_words(letters: str, count: int) -> list[str]:
    """A period written as letters, L for sliding and G for full attention (EXAONE); the last layer is always full."""
    words = [FULL if letters[layer % len(letters)] == "G" else SLIDING for layer in range(count)]
    return [*words[:-1], FULL]


def windowed_words(config: Config, count: int) -> list[str]:
    """Every layer slides where a window is set; Qwen must switch it on and keeps the first layers full."""
    switched = config.flag("use_sliding_window", default=not config.family.window_needs_switch)
    if not (switched and config.value("sliding_window")):
        return [FULL] * count
    first = config.whole("max_window_layers", default=0, least=0) if config.family.window_needs_switch else 0
    return [SLIDING if layer >= first else FULL for layer in range(count)]


def indexed_layers(config: Config, count: int) -> list[bool]:
    """Which of the layers with sparse attention have an indexer of their own; the others use an earlier layer's."""
    if config.has("indexer_types"):
        return [kind == "full" for kind in config.each("indexer_types", count, {"full", "shared"})] or [False] * count
    if config.whole("index_topk_freq", default=1) != 1:
        config.problem("indexer_types", "missing; index_topk_freq shares indexers, so list which layers own one")
    return [True] * count


def sparse_layers(config: Config, count: int) -> list[bool]:
    """Which layers hold experts, from whichever keys the config writes it in."""
    experts = config.value("n_routed_experts")
    if not config.flag("enable_moe_block", default=True) or (experts is None and not config.family.sparse):
        return [False] * count
    if not isinstance(experts, list) and config.whole("n_routed_experts", least=0) == 0:
        return [False] * count
    listed = listed_sparse_layers(config, count)
    return listed if listed else ruled_sparse_layers(config, count)


def listed_sparse_layers(config: Config, count: int) -> list[bool]:
    """From a list by layer, or of the layers' numbers; empty where the config has none."""
    words = config.each("mlp_layer_types", count, {"dense", "sparse", "moe", "hash_moe"})
    if words:
        return [word != "dense" for word in words]
    for key in ("is_moe_layer", "moe_layer_freq"):
        if isinstance(config.value(key), list):
            return [bool(flag) for flag in config.each(key, count, {0, 1})]
    if isinstance(config.value("moe_layers"), list):
        named = set(config.wholes("moe_layers"))
        return [layer in named for layer in range(count)]
    return []


def ruled_sparse_layers(config: Config, count: int) -> list[bool]:
    """From first layers that are dense and periods that experts come in."""
    first = config.whole("first_k_dense_replace", default=0, least=0)
    last = config.whole("moe_layer_end_index", default=-1, least=-1)
    every = config.whole("moe_layer_freq", default=1)
    period = config.whole("expert_layer_period", default=1)
    offset = config.whole("expert_layer_offset", default=0, least=0)
    step = config.whole("decoder_sparse_step", default=1)
    dense_only = config.wholes("mlp_only_layers")
    stop = last + 1 if last >= 0 else count
    return [
        first <= layer < stop
        and layer % every == 0
        and layer % period == offset
        and (layer + 1) % step == 0
        and layer not in dense_only
        for layer in range(count)
    ]
