"""Which model a launch trains: a catalogue's, by its sizes or by name, or one written out."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from simulator.launch.hybrid import ATTENTION, DENSE, EXPERTS, MAMBA
from simulator.launch.importing.hybrids import hybrid_model, mamba
from simulator.launch.importing.named import by_words, quoted, sibling
from simulator.launch.importing.statements import Found, Keys
from simulator.launch.model_facts import model_facts
from simulator.launch.tables import as_text
from simulator.model.attention import Attention, LatentAttention
from simulator.model.catalogue import load, names
from simulator.model.config import MOST_LAYERS
from simulator.model.feedforward import MoE
from simulator.model.spec import Model
from simulator.plans.layout import parse_layout

# Keys of a model that do not tell one from another, or that a launch need not have as the model does.
NOT_COMPARED = ("model.position_limit", "model.layers", "model.mtp", "model.vocab", "model.moe_layers",
                "model.mtp_shared", "model.learned_positions", "model.positions")  # fmt: skip
# Megatron-LM rounds a gated feed-forward's default width, 4 hidden x 2/3, to a multiple of this.
GATED_ROUNDING = 64


@cache
def catalogue_facts(name: str) -> Mapping[str, Any] | None:
    """A catalogue model's flat keys; None where it has layers that no launch argument says."""
    facts, problems = model_facts(load(name), 1)
    return None if problems else facts


def model_of(keys: Keys, words: Sequence[str], config: str | None) -> Found | None:
    """The `model` of the scenario: a Hugging Face config, what sizes say, or what a name says; None where nothing
    does."""
    if config is not None:
        return Found({"huggingface": config})
    if keys.value("model.hidden") is not None and keys.value("model.layers") is not None:
        return _by_sizes(keys, words)
    named = by_words(words)
    if named is not None:
        return _changed(named, keys, f"named by {quoted(words, named)}")
    other = sibling(words)
    return Found(None, (), other) if other else _by_layout(keys)


def _changed(name: str, keys: Keys, comment: str) -> Found:
    """A catalogue model, with another depth, or other prediction modules, where the launch has them."""
    model, layout = load(name), layout_counts(keys)
    layers, mtp = keys.value("model.layers"), keys.value("model.mtp", layout[1] if layout else None)
    other: dict[str, Any] = {}
    if isinstance(layers, int) and layers != len(model.layers):
        other["layers"] = layers
    if isinstance(mtp, int) and mtp != len(model.mtp):
        other["mtp"] = mtp
    if not other:
        return Found(name, (), comment)
    return Found({"base": name, **other}, keys.origins("model.layers", "model.mtp"), comment)


def layout_counts(keys: Keys) -> tuple[int, int] | None:
    """Layers and prediction modules of a pipeline layout, if there is one that can be read."""
    layout = keys.value("plan.layout")
    if not isinstance(layout, str):
        return None
    try:
        symbols = "".join(parse_layout(layout))
    except ValueError:
        return None
    return symbols.count("t"), symbols.count("m")


# -- by sizes -------------------------------------------------------------------------------------------------------


def _by_sizes(keys: Keys, words: Sequence[str]) -> Found:
    """The catalogue model with the sizes that were found, the nearest in depth and vocabulary of several, named by
    `words` of equals; the model written out where none has them."""
    origins = keys.origins("model.hidden", "model.layers", "model.mixer.heads", "model.moe.experts")
    stated = {key: found.value for key, found in keys.found.items()
              if key.startswith("model.") and key not in NOT_COMPARED and found.value is not None}  # fmt: skip
    if keys.value("model.mixer.kind") == "mla":
        stated.pop("model.mixer.qk_norm", None)  # latent attention norms its low-rank inputs by itself
    if not keys.value("model.moe.experts"):
        stated = {key: value for key, value in stated.items() if not key.startswith("model.moe.")}
    fitting = [name for name in names() if _has_sizes(name, stated) and _same_experts(load(name), keys)]
    if fitting:
        named = by_words(words)
        nearest = min(fitting, key=lambda name: (len(_other_depth(name, keys)), name != named))
        return _with_other_depth(nearest, fitting, keys, origins)
    written = written_out(keys)
    if written is None:
        return Found(None, origins, "some sizes of the model are not told")
    return Found(written, origins, "no catalogue model has these sizes")


def _has_sizes(name: str, stated: Mapping[str, Any]) -> bool:
    """Whether a catalogue model has the sizes that are stated. Experts without a width of their own have the dense one,
    which says nothing else of a model without dense feed-forwards."""
    facts = catalogue_facts(name)
    if facts is None:
        return False
    own = dict(stated)
    if "model.moe.experts" in own and "model.dense.width" not in facts:
        width = own.pop("model.dense.width", None)
        if width is not None:
            own.setdefault("model.moe.width", width)
    return all(_same(facts.get(key), value) for key, value in own.items())


def _same(fact: Any, value: Any) -> bool:
    if fact is None or fact is False:
        return value in (None, False, 0, "null")
    return as_text(fact) == as_text(value)


def _same_experts(model: Model, keys: Keys) -> bool:
    """Whether model and launch both have experts, or neither."""
    return model.has_experts == bool(keys.value("model.moe.experts"))


def _with_other_depth(name: str, fitting: Sequence[str], keys: Keys, origins: tuple[Any, ...]) -> Found:
    """The catalogue model with the launch's depth, modules and vocabulary, where these differ; equals are named."""
    other = _other_depth(name, keys)
    equals = [each for each in fitting if each != name and not other and not _other_depth(each, keys)]
    comment = "; ".join(["its sizes", *_words_of_equals(name, equals)])
    return Found({"base": name, **other} if other else name, origins, comment)


def _words_of_equals(name: str, equals: Sequence[str]) -> list[str]:
    """Other catalogue models of the same sizes: the same model under another name, or one to be told apart by hand."""
    alike = [each for each in equals if _nameless(each) == _nameless(name)]
    others = [each for each in equals if each not in alike]
    words = []
    if alike:
        words.append(f"the same model to a prediction as {' and '.join(alike)}")
    if others:
        words.append(f"CHECK: {' and '.join(others)} may be meant, of the same sizes as far as they are told")
    return words


def _nameless(name: str) -> Model:
    """A catalogue model without what only names it."""
    return replace(load(name), name="", source="")


def _other_depth(name: str, keys: Keys) -> dict[str, Any]:
    """Where the launch's depth, prediction modules and vocabulary are not the catalogue model's."""
    model = load(name)
    other: dict[str, Any] = {}
    layers, mtp, vocab = (keys.value(f"model.{key}") for key in ("layers", "mtp", "vocab"))
    if layers != len(model.layers):
        other["layers"] = layers
    if mtp is not None and mtp != len(model.mtp):
        other["mtp"] = mtp
    if isinstance(vocab, int) and vocab != model.vocab:
        other["vocab"] = vocab
    return other


def written_out(keys: Keys) -> dict[str, Any] | None:
    """A model in the scenario's own form, from flat keys; None where a size is missing."""
    hidden, layers, heads = (keys.value(key) for key in ("model.hidden", "model.layers", "model.mixer.heads"))
    if not all(isinstance(value, int) and value > 0 for value in (hidden, layers, heads)):
        return None
    mixer = _mixer(keys, hidden, heads)
    if keys.value("model.hybrid") is not None:
        return _written_hybrid(keys, hidden, mixer)
    pattern = (
        layer_pattern(keys.value("model.moe_layers", 1), layers) if keys.value("model.moe.experts") else [0] * layers
    )
    if mixer is None or pattern is None:
        return None
    entries: list[dict[str, Any]] = []
    for has_experts in pattern:
        ffn = _experts(keys) if has_experts else _dense(keys, hidden)
        if entries and entries[-1]["ffn"] == ffn:
            entries[-1]["repeat"] += 1
        else:
            entries.append({"repeat": 1, "mixer": mixer, "ffn": ffn})
    vocab = keys.value("model.vocab")
    if not isinstance(vocab, int):
        return None
    model: dict[str, Any] = {"hidden": hidden, "vocab": vocab, "layers": entries}
    if keys.value("model.mtp"):
        model["mtp"] = [{**entries[-1], "repeat": keys.value("model.mtp")}]
    for name in ("tied_embeddings", "norm", "mtp_shared"):
        if keys.value(f"model.{name}"):
            model[name] = keys.value(f"model.{name}")
    return model


def _written_hybrid(keys: Keys, hidden: int, attention: dict[str, Any] | None) -> dict[str, Any] | None:
    """A model with Mamba layers in the scenario's own form, by its pattern of blocks."""
    dense = _dense(keys, hidden)
    experts = _experts(keys) if keys.value("model.moe.experts") else None
    parts = {MAMBA: mamba(keys), ATTENTION: attention, DENSE: dense, EXPERTS: experts}
    model, vocab = hybrid_model(str(keys.value("model.hybrid")), parts), keys.value("model.vocab")
    if model is None or not isinstance(vocab, int):
        return None
    written: dict[str, Any] = {"hidden": hidden, "vocab": vocab, **model}
    named = {name: keys.value(f"model.{name}") for name in ("tied_embeddings", "norm", "mtp_shared")}
    return written | {name: value for name, value in named.items() if value}


def _mixer(keys: Keys, hidden: int, heads: int) -> dict[str, Any] | None:
    latent = keys.value("model.mixer.kind") == "mla"
    cls = LatentAttention if latent else Attention
    known = {name: keys.value(f"model.mixer.{name}") for name in cls.__dataclass_fields__}
    mixer = {name: value for name, value in known.items() if value not in (None, False) and name != "indexer"}
    if latent:
        mixer.pop("qk_norm", None)
        needed = ("kv_lora_rank", "nope_head_dim", "rope_head_dim", "v_head_dim")
        return {"kind": "mla", **mixer} if all(name in mixer for name in needed) else None
    mixer.setdefault("head_dim", hidden // heads)
    if not keys.value("model.mixer.grouped", True):
        mixer.pop("kv_heads", None)
    if mixer.get("qk_norm") is True:
        mixer["qk_norm"] = "head"
    return {"kind": "attention", **mixer}


def _dense(keys: Keys, hidden: int) -> dict[str, Any]:
    gated = bool(keys.value("model.gated", False))
    width = keys.value("model.dense.width")
    if width is None:
        width = int(4 * hidden * 2 / 3 / GATED_ROUNDING) * GATED_ROUNDING if gated else 4 * hidden
    ffn: dict[str, Any] = {"kind": "dense", "width": width}
    return ffn | ({} if gated else {"gated": False}) | ({"bias": True} if keys.value("model.bias") else {})


def _experts(keys: Keys) -> dict[str, Any]:
    ffn: dict[str, Any] = {"kind": "moe", "top_k": 2}  # Megatron's default
    for name in MoE.__dataclass_fields__:
        value = keys.value(f"model.moe.{name}")
        if value not in (None, False):
            ffn[name] = value
    ffn.setdefault("width", keys.value("model.dense.width"))
    if not keys.value("model.gated", False):
        ffn["gated"] = False
    return ffn


def layer_pattern(written: Any, layers: int) -> list[int] | None:
    """Which layers have experts (1) by Megatron's --moe-layer-freq: a number, or a list as `([0]*3+[1]*58)`."""
    if isinstance(written, list) and len(written) == 1:
        written = written[0]
    if isinstance(written, int) and written > 0:
        return [int(layer % written == 0) for layer in range(layers)]
    try:
        pattern = _list(ast.parse(str(written).strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return pattern if len(pattern) == layers else None


def _list(node: ast.expr) -> list[int]:
    """A list of 0 and 1 put together by + and repeated by *."""
    if isinstance(node, ast.List):
        items = [each.value for each in node.elts if isinstance(each, ast.Constant)]
        marks = [item for item in items if isinstance(item, int) and item in (0, 1)]
        if len(marks) == len(node.elts):
            return [int(mark) for mark in marks]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _list(node.left) + _list(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) and isinstance(node.right, ast.Constant):
        times = node.right.value
        if not isinstance(times, int) or not 0 <= times <= MOST_LAYERS:
            raise ValueError("repeated a number of times that is none")
        return _list(node.left) * times
    raise ValueError("not a pattern of layers")


# -- by the pipeline layout alone -----------------------------------------------------------------------------------


def _by_layout(keys: Keys) -> Found | None:
    """A catalogue model with as many layers and prediction modules as a layout, and experts where it spreads them."""
    counts = layout_counts(keys)
    if counts is None:
        return None
    layers, modules = counts
    spread = keys.value("plan.ep", 1) > 1
    fitting = [
        name
        for name in names()
        if (len(load(name).layers), len(load(name).mtp)) == (layers, modules) and (load(name).has_experts or not spread)
    ]
    if not fitting:
        return None
    first = min(fitting, key=len)
    others = [name for name in fitting if name != first]
    also = f" (so have {', '.join(others)})" if others else ""
    comment = f"assumed, CHECK: the layout has {layers} layers and {modules} prediction modules{also}"
    return Found(first, keys.origins("plan.layout"), comment)
