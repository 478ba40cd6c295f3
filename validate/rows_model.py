"""Which model a published row trained: a catalogue entry where its name is known, checked against the columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from simulator.model import catalogue
from simulator.model.inline import from_mapping
from simulator.model.spec import Attention, DenseFFN, Layer, Model, MoE
from validate.rows import Row, Unsupported

# Patterns of model_name -> catalogue entry; the first that is found decides. A name not found here is looked up in the
# catalogue itself, letter case and punctuation apart.
NAMES = (
    (r"parallel transformer block", "megascale-175b"),
    (r"MT-NLG|GPT 5(30|29)", "gpt-530b"),
    (r"GPT 1T", "gpt-1t"),
    (r"GPT 22B", "gpt-22b"),
    (r"GPT-?3?[ -]17[45]", "gpt3-175b"),
    (r"BLOOM", "bloom-176b"),
    (r"Internal-352B", "megascale-moe-352b"),
    (r"Nemotron-3-Super", "nemotron-3-super-120b-a12b"),
    (r"Nemotron-3-Ultra", "nemotron-3-ultra-550b-a55b"),
    (r"Nemotron-3\.5-Lightning", "nemotron-3.5-lightning-30b-a3b"),
    (r"Nemotron-3-Nano", "nemotron-3-nano-30b-a3b"),
    (r"Llama-4-Scout", "llama-4-scout"),
    (r"Llama-4-Maverick", "llama-4-maverick"),
    (r"Mixtral-8x22B-G8T8", "mixtral-8x22b-g8t8"),
    (r"Grok-1", "grok-1"),
)
# Prediction depths that a vendor trains with where the model's file has one module: all depths pass the same weights.
SHARED_DEPTHS = {
    r"Nemotron-3-(Super|Ultra)|Nemotron-3\.5-Lightning": (
        2,
        "mtp_num_layers = 2 and mtp_use_repeated_layer of Megatron-Bridge's recipes (recipes/nemotronh)",
    ),
}
_CUT = re.compile(r"\s+(cut to \d+ layers|\(.*\)|\d+B(-A\d+B)?$)", re.IGNORECASE)


# Models of published rows that are too small or odd for the catalogue, by the rows' model_name.
WRITTEN_OUT = Path(__file__).parent / "published" / "models.json"


@cache
def models_written_out() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(WRITTEN_OUT.read_text(encoding="utf-8"))
    return found


def plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


@cache
def entry_of(name: str) -> str | None:
    """The catalogue entry that a row's model_name stands for."""
    for pattern, entry in NAMES:
        if re.search(pattern, name, re.IGNORECASE):
            return entry
    known = {plain(entry): entry for entry in catalogue.names()}
    return known.get(plain(name)) or known.get(plain(_CUT.sub("", name)))


def model_of(row: Row) -> tuple[Model, list[str]]:
    """The model of a row and what was assumed. Raises Unsupported where neither name nor columns say enough."""
    name, entry = row.text("model_name"), entry_of(row.text("model_name"))
    written = models_written_out().get(name)
    if written is not None:
        return from_mapping(written, name), [f"architecture: {written['source']}"]
    if entry is None:
        return model_of_columns(row)
    model, assumed = with_shared_depths(catalogue.load(entry), name)
    model, changes = as_columns_say(model, row)
    return model, assumed + changes


def with_shared_depths(model: Model, name: str) -> tuple[Model, list[str]]:
    """The model with its one prediction module passed as often as the vendor's recipes do."""
    for pattern, (depths, source) in SHARED_DEPTHS.items():
        if model.mtp and re.search(pattern, name, re.IGNORECASE):
            return replace(model, mtp=model.mtp[:1] * depths, mtp_shared=True), [
                f"{depths} prediction depths: {source}"
            ]
    return model, []


def as_columns_say(model: Model, row: Row) -> tuple[Model, list[str]]:
    """The catalogue model with what the row's columns say differently: layers cut, widths, heads, vocabulary."""
    assumed: list[str] = []
    hidden, vocab, layers = row.count("hidden"), row.count("vocab"), row.count("layers")
    if hidden and hidden != model.hidden:
        return model_of_columns(row)
    heads, ffn = row.count("heads"), row.count("ffn_hidden")
    attention = next((layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)), None)
    if heads and attention and heads != attention.heads:
        model = with_heads(model, heads)
        assumed.append(f"{heads} heads as the row says, not the {attention.heads} of {model.name}")
    kv_heads = grouped_heads(row)
    if kv_heads and attention and not mixed(model) and kv_heads != attention.kv_heads:
        assumed.append(f"{attention.kv_heads} key/value heads of {model.name}, not the {kv_heads} of the row")
    if ffn and not same_width(model, ffn):
        assumed.append(f"feed-forward widths of {model.name}, not the {ffn} of the row")
    if vocab and vocab != model.vocab:
        model = replace(model, vocab=vocab)
        assumed.append(f"vocabulary {vocab} as the row says")
    if layers and layers != len(model.layers):
        model, cut = with_layers(model, layers, row.count("dense_layers"))
        assumed.append(cut)
    notes = row.text("notes")
    if model.mtp and ("w/o MTP" in notes or layers_are_cut(row)):
        model = replace(model, mtp=())
        assumed.append("no multi-token prediction")
    return model, assumed


def layers_are_cut(row: Row) -> bool:
    return "cut to" in row.text("model_name") or "layer-reduced" in row.text("notes")


def mixed(model: Model) -> bool:
    return len({layer.mixer for layer in model.layers}) > 1


def same_width(model: Model, width: int) -> bool:
    """Whether some feed-forward of the model has this width, per expert or as one expert's share of a dense layer."""
    widths = {layer.ffn.width for layer in model.layers if isinstance(layer.ffn, (DenseFFN, MoE))}
    return width in widths


def with_heads(model: Model, heads: int) -> Model:
    """The model with `heads` attention heads of hidden / heads; key/value heads follow where there were as many."""

    def changed(layer: Layer) -> Layer:
        if not isinstance(layer.mixer, Attention):
            return layer
        kv_heads = heads if layer.mixer.kv_heads == layer.mixer.heads else layer.mixer.kv_heads
        width = model.hidden // heads
        mixer = replace(layer.mixer, heads=heads, kv_heads=kv_heads, head_dim=width, v_head_dim=width)
        return replace(layer, mixer=mixer)

    return replace(model, layers=tuple(changed(layer) for layer in model.layers))


def with_layers(model: Model, count: int, dense: int | None) -> tuple[Model, str]:
    """The model cut (or repeated) to `count` layers, of which the first `dense` are dense where the row says so."""
    first = [layer for layer in model.layers if isinstance(layer.ffn, DenseFFN)]
    rest = [layer for layer in model.layers if not isinstance(layer.ffn, DenseFFN)]
    if first and rest and dense is not None and len({*first}) == 1:
        kept = (first * dense)[:dense] + (rest * count)[: count - dense]
    else:
        kept = list((model.layers * (count // len(model.layers) + 1))[:count])
    return replace(model, layers=tuple(kept), mtp=model.mtp), f"{count} of the {len(model.layers)} layers"


def grouped_heads(row: Row) -> int | None:
    found = re.search(r"GQA-?(\d+)|-> (\d+) KV heads", row.text("kv_heads_or_attention"))
    return int(found[1] or found[2]) if found else None


def model_of_columns(row: Row) -> tuple[Model, list[str]]:
    """A model from the row's columns alone: uniform attention, dense or MoE. Raises Unsupported for other kinds."""
    words = row.text("kv_heads_or_attention")
    missing = [c for c in ("layers", "hidden", "heads", "vocab") if row.count(c) is None]
    if missing:
        raise Unsupported(f"no catalogue entry for {row.text('model_name')!r}, and its {', '.join(missing)} unknown")
    if re.search(r"hybrid|mamba|DSA|sparse", words, re.IGNORECASE):
        raise Unsupported(f"no catalogue entry for {row.text('model_name')!r}, whose attention is {words!r}")
    assumed = ["architecture from the row's columns"]
    hidden, heads = row.need("hidden"), row.need("heads")
    mixer: Mapping[str, object]
    if words.upper().startswith("MLA"):
        mixer = {"kind": "mla", "heads": heads, "q_lora_rank": 1536 if hidden > 4096 else None, "kv_lora_rank": 512,
                 "nope_head_dim": 128, "rope_head_dim": 64, "v_head_dim": 128}  # fmt: skip
        assumed.append("latent widths of DeepSeek-V2/V3")
    else:
        mixer = {"kind": "attention", "heads": heads, "kv_heads": grouped_heads(row) or heads}
    gated = not re.search(r"gpt|opt|bloom|mpt|nemotron", row.text("model_name"), re.IGNORECASE)
    assumed.append("gated feed-forward" if gated else "plain feed-forward with two matrices")
    dense = {"kind": "dense", "width": row.count("ffn_hidden") or 4 * hidden, "gated": gated}
    experts = row.count("n_experts")
    if not experts:
        layers = [{"repeat": row.need("layers"), "mixer": mixer, "ffn": dense}]
    else:
        width = row.count("moe_ffn_hidden") or row.need("ffn_hidden")
        shared = (row.count("shared_experts") or 0) * width
        moe = {"kind": "moe", "experts": experts, "top_k": row.need("topk"), "width": width, "shared_width": shared,
               "gated": gated}  # fmt: skip
        first = row.count("dense_layers") or 0
        layers = [{"repeat": first, "mixer": mixer, "ffn": dense}] if first else []
        layers.append({"repeat": row.need("layers") - first, "mixer": mixer, "ffn": moe})
    norm = "rms" if gated else "layer"
    mapping = {"hidden": hidden, "vocab": row.need("vocab"), "layers": layers, "norm": norm, "source": "row"}
    return from_mapping(mapping, row.text("model_name")), assumed
