"""Which model a row of the older column layout trained: a known one, changed as its columns say, or theirs alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from simulator.model import catalogue
from simulator.model.inline import from_mapping
from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.model.written import to_mapping
from validate.columns_cells import Cells
from validate.columns_words import normal, vocabulary
from validate.row import Unsupported
from validate.row_scenarios import published_models

# Families whose feed-forward has two matrices and layer norms with biases; the others are gated with RMS norms.
PLAIN_FAMILIES = ("gpt", "opt", "bloom", "mpt", "nemotron")


def model_of(cells: Cells) -> tuple[str | dict[str, Any], list[str]]:
    """A name for the scenario's `model` or a model written out, and what was assumed.

    Raises Unsupported where neither name nor columns say enough.
    """
    name = known_name(cells.text("model_name"))
    if name is None:
        return _of_columns(cells)
    model = _load(name)
    hidden = cells.count("hidden")
    if hidden and hidden != model.hidden:
        return _of_columns(cells)
    changed, assumed = _as_columns_say(model, cells)
    return (name if changed == model else to_mapping(changed)), assumed


@cache
def known_name(model_name: str) -> str | None:
    """The entry of the catalogue or of the published models that a name stands for."""
    text = normal(model_name)
    listed = vocabulary()["models"].get(text)
    if listed:
        return str(listed)
    known = {normal(entry): entry for entry in (*catalogue.names(), *published_models())}
    without_remark = text.partition(" (")[0].partition(" cut to ")[0]
    return known.get(text) or known.get(without_remark)


def _load(name: str) -> Model:
    written = published_models().get(name)
    return catalogue.load(name) if written is None else from_mapping(written, name)


def _as_columns_say(model: Model, cells: Cells) -> tuple[Model, list[str]]:
    """The known model with the heads, vocabulary and number of layers of the row's columns, each change said."""
    assumed = []
    heads, vocab, layers = cells.count("heads"), cells.count("vocab"), cells.count("layers")
    attention = next((layer.mixer for layer in model.layers if isinstance(layer.mixer, Attention)), None)
    changed = model
    if heads and attention and heads != attention.heads:
        changed = _with_heads(changed, heads)
        assumed.append(f"{heads} heads as the row says, not the {attention.heads} of {model.name}")
    if vocab and vocab != model.vocab:
        changed = replace(changed, vocab=vocab)
        assumed.append(f"vocabulary {vocab} as the row says")
    length = cells.count("seq_len")
    if model.positions and length and length > model.positions:
        changed = replace(changed, positions=length)
        assumed.append(f"a table of {length} learned positions, as long as the sequence")
    if layers and layers != len(model.layers):
        changed = replace(changed, layers=_cut(model.layers, layers, cells.count("dense_layers")), mtp=())
        assumed.append(f"{layers} of the {len(model.layers)} layers, no multi-token prediction")
    return changed, assumed


def _with_heads(model: Model, heads: int) -> Model:
    """The model with `heads` attention heads of hidden / heads; key/value heads follow where there were as many."""

    def changed(layer: Layer) -> Layer:
        mixer = layer.mixer
        if not isinstance(mixer, Attention):
            return layer
        kv_heads = heads if mixer.kv_heads == mixer.heads else mixer.kv_heads
        width = model.hidden // heads
        return replace(layer, mixer=replace(mixer, heads=heads, kv_heads=kv_heads, head_dim=width, v_head_dim=width))

    return replace(model, layers=tuple(changed(layer) for layer in model.layers))


def _cut(layers: tuple[Layer, ...], count: int, dense: int | None) -> tuple[Layer, ...]:
    """`count` layers like these, repeated where there are fewer; the first `dense` are dense where that is said."""
    first = [layer for layer in layers if isinstance(layer.ffn, DenseFFN)]
    rest = [layer for layer in layers if not isinstance(layer.ffn, DenseFFN)]
    if first and rest and dense is not None and len({*first}) == 1:
        return (*(first * dense)[:dense], *(rest * count)[: count - dense])
    return (layers * (count // len(layers) + 1))[:count]


def _of_columns(cells: Cells) -> tuple[dict[str, Any], list[str]]:
    """A model from the row's columns alone: uniform attention, dense or MoE. Raises Unsupported for other kinds."""
    name = cells.text("model_name")
    missing = [column for column in ("layers", "hidden", "heads", "vocab") if cells.count(column) is None]
    if missing:
        raise Unsupported(f"no catalogue entry for {name!r}, and its {', '.join(missing)} unknown")
    gated = not normal(name).startswith(PLAIN_FAMILIES)
    mixer, about_mixer = _mixer(cells)
    dense = {"kind": "dense", "width": cells.count("ffn_hidden") or 4 * cells.need("hidden"), "gated": gated}
    first, total = cells.count("dense_layers") or 0, cells.need("layers")
    if cells.count("n_experts"):
        layers = [{"repeat": first, "mixer": mixer, "ffn": dense}] if first else []
        layers.append({"repeat": total - first, "mixer": mixer, "ffn": _experts(cells, gated)})
    else:
        layers = [{"repeat": total, "mixer": mixer, "ffn": dense}]
    matrices = "gated feed-forward" if gated else "plain feed-forward with two matrices"
    model = {
        "name": name,
        "hidden": cells.need("hidden"),
        "vocab": cells.need("vocab"),
        "layers": layers,
        "norm": "rms" if gated else "layer",
        "source": "the row's columns",
    }
    return model, ["architecture from the row's columns", *about_mixer, matrices]


def _mixer(cells: Cells) -> tuple[Mapping[str, Any], list[str]]:
    """The attention that the row names. Raises Unsupported for a word that is none of MHA, GQA<n> and MLA."""
    word, heads = normal(cells.text("kv_heads_or_attention")), cells.need("heads")
    if word in ("", "mha"):
        return {"kind": "attention", "heads": heads}, []
    groups = word.removeprefix("gqa").strip()
    if groups.isdecimal():
        return {"kind": "attention", "heads": heads, "kv_heads": int(groups)}, []
    if word != "mla":
        raise Unsupported(f"no catalogue entry for {cells.text('model_name')!r}, whose attention is {word!r}")
    latent = {"kind": "mla", "heads": heads, "kv_lora_rank": 512, "nope_head_dim": 128, "rope_head_dim": 64,
              "v_head_dim": 128}  # fmt: skip
    if cells.need("hidden") > 4096:
        latent["q_lora_rank"] = 1536
    return latent, ["latent widths of DeepSeek-V2/V3"]


def _experts(cells: Cells, gated: bool) -> dict[str, Any]:
    width = cells.count("moe_ffn_hidden") or cells.need("ffn_hidden")
    return {
        "kind": "moe",
        "experts": cells.need("n_experts"),
        "top_k": cells.need("topk"),
        "width": width,
        "shared_width": (cells.count("shared_experts") or 0) * width,
        "gated": gated,
    }
