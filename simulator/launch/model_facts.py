"""A model as the flat list of keys that launch arguments have, and what of it is not flat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import groupby
from typing import Any

from simulator.launch.express import Inexpressible
from simulator.launch.hybrid import is_hybrid, pattern, unknown_blocks
from simulator.model.spec import Attention, DenseFFN, LatentAttention, Layer, Mamba2, Model, MoE

_OF_MODEL = (
    "hidden",
    "vocab",
    "mtp_shared",
    "tied_embeddings",
    "norm",
    "positions",
    "causal",
    "hyper_connections",
    "parallel_blocks",
    "block_norms",
    "layer_embedding",
)
_KINDS: dict[type, str] = {Attention: "attention", LatentAttention: "mla"}


def model_facts(model: Model, seq_length: int) -> tuple[dict[str, Any], tuple[Inexpressible, ...]]:
    """Keys `model.*` of a model in which layers differ by their window and their kind of feed-forward alone.

    Beside them, what cannot be said so: layers of other kinds, or of several sizes.
    """
    problems: list[Inexpressible] = []
    facts: dict[str, Any] = {f"model.{name}": getattr(model, name) for name in _OF_MODEL}
    facts["model.layers"] = len(model.layers)
    facts["model.mtp"] = len(model.mtp)
    facts["model.learned_positions"] = model.positions > 0
    facts["model.position_limit"] = max(model.positions, seq_length)
    hybrid = is_hybrid(model)
    facts |= _hybrid_facts(model, problems) if hybrid else {}
    facts |= _mixer_facts(model.layers, problems, hybrid)
    facts |= _ffn_facts(model.layers, problems, hybrid)
    facts |= _shared_facts(model, problems)
    return facts, tuple(problems)


def _hybrid_facts(model: Model, problems: list[Inexpressible]) -> dict[str, Any]:
    """The pattern of a model with Mamba layers, and the sizes of the one kind that these have."""
    kinds = list(dict.fromkeys(layer.mixer for layer in model.layers if isinstance(layer.mixer, Mamba2)))
    unknown = unknown_blocks(model)
    if unknown or len(kinds) > 1:
        told = ", ".join(unknown) or "Mamba layers of several sizes"
        problems.append(Inexpressible("model", told, "a hybrid has Mamba 2, attention, dense and expert blocks alone"))
        return {}
    return {"model.hybrid": pattern(model), **_fields("model.mamba", kinds[0])}


def _mixer_facts(layers: Sequence[Layer], problems: list[Inexpressible], hybrid: bool) -> dict[str, Any]:
    """Keys of the one mixer that all layers have, windows apart; of a hybrid that of its attention."""
    mixers = [layer.mixer for layer in layers]
    if hybrid:
        mixers = [mixer for mixer in mixers if mixer is not None and not isinstance(mixer, Mamba2)]
    plain = [mixer for mixer in mixers if isinstance(mixer, Attention | LatentAttention)]
    alike = {replace(mixer, window=None) for mixer in plain}
    if len(alike) != 1 or len(plain) < len(mixers):
        kinds = ", ".join(sorted({_name_of(mixer) for mixer in mixers}))
        problems.append(Inexpressible("model", kinds, "layers need one kind and size of attention (MHA, GQA or MLA)"))
        return {}
    (mixer,) = alike
    facts = _fields("model.mixer", mixer)
    facts["model.mixer.kind"] = _KINDS[type(mixer)]
    facts |= _window_facts([each.window for each in plain])
    if isinstance(mixer, Attention):
        facts["model.mixer.grouped"] = mixer.kv_heads != mixer.heads
        problems += _odd_attention(mixer)
    else:
        facts["model.mixer.qk_norm"] = "mla"
        problems += _odd_latent(next((each for each in plain if each.window), plain[0]))
    if mixer.indexer is not None:
        facts |= _fields("model.mixer.indexer", mixer.indexer)
    facts["model.mixer.indexer"] = mixer.indexer is not None
    return facts


def _window_facts(windows: list[int | None]) -> dict[str, Any]:
    """The window, and which layers have it, as Megatron's --window-attn-skip-freq counts: 1 with, 0 without."""
    sizes = sorted({window for window in windows if window is not None})
    if not sizes:
        return {}
    pattern = [0 if window is None else 1 for window in windows]
    facts: dict[str, Any] = {"model.mixer.window_pair": f"{sizes[0]},0"}
    if not all(pattern):
        facts["model.mixer.window_pattern"] = run_lengths(pattern)
    return facts


def _odd_attention(mixer: Attention) -> Iterable[Inexpressible]:
    if mixer.v_head_dim != mixer.head_dim:
        why = f"value heads have the width of key heads, {mixer.head_dim}"
        yield Inexpressible("model.mixer.v_head_dim", mixer.v_head_dim, why, mixer.head_dim)
    if mixer.chunk is not None:
        yield Inexpressible("model.mixer.chunk", mixer.chunk, "no attention in chunks")
    if mixer.indexer is not None:
        yield Inexpressible("model.mixer.indexer", "indexer", "sparse attention is MLA's")
    if mixer.qk_norm == "layer":
        yield Inexpressible("model.mixer.qk_norm", "layer", "norms of queries and keys are by head", "head")


def _odd_latent(mixer: Attention | LatentAttention) -> Iterable[Inexpressible]:
    for name in ("output_gate", "head_gate", "window"):
        if getattr(mixer, name):
            yield Inexpressible(f"model.mixer.{name}", getattr(mixer, name), "not offered with latent attention")


def _ffn_facts(layers: Sequence[Layer], problems: list[Inexpressible], hybrid: bool) -> dict[str, Any]:
    """Keys of the one dense and the one expert feed-forward, and which layers have experts."""
    ffns = [layer.ffn for layer in layers]
    dense = sorted({ffn for ffn in ffns if isinstance(ffn, DenseFFN)}, key=lambda ffn: ffn.width)
    moe = list(dict.fromkeys(ffn for ffn in ffns if isinstance(ffn, MoE)))
    if len(dense) > 1 or len(moe) > 1 or (None in ffns and not hybrid):
        problems.append(Inexpressible("model", "feed-forwards", "every layer needs one, of one size for each kind"))
    facts = {**_fields("model.dense", dense[0])} if dense else {}
    facts |= _fields("model.moe", moe[0]) if moe else {}
    if moe and not hybrid:
        facts["model.moe_layers"] = 1 if not dense else run_lengths([int(isinstance(ffn, MoE)) for ffn in ffns])
    return facts


def _shared_facts(model: Model, problems: list[Inexpressible]) -> dict[str, Any]:
    """Whether linears have a bias and feed-forwards a gate, which one argument says for all."""
    blocks = model.layers + model.mtp
    ffns = [layer.ffn for layer in blocks if layer.ffn is not None]
    gated = {ffn.gated for ffn in ffns}
    biased = {ffn.bias for ffn in ffns}
    attentions = [layer.mixer for layer in blocks if isinstance(layer.mixer, Attention)]
    biased |= {mixer.out_bias for mixer in attentions}
    if len(gated) > 1:
        problems.append(Inexpressible("model", "gated", "all feed-forwards are gated, or none"))
    if len(biased) > 1:
        problems.append(Inexpressible("model", "bias", "all linears have a bias, or none but that of queries and keys"))
    return {"model.gated": gated == {True}, "model.bias": True in biased}


def _fields(prefix: str, spec: Any) -> dict[str, Any]:
    return {f"{prefix}.{each.name}": getattr(spec, each.name) for each in fields(spec)}


def _name_of(mixer: Any) -> str:
    return "no mixer" if mixer is None else type(mixer).__name__


def run_lengths(pattern: Sequence[int]) -> str:
    """A list of layers as Megatron reads it: `([0]*3+[1]*58)`."""
    parts = [f"[{value}]*{len(list(run))}" for value, run in groupby(pattern)]
    return f"({'+'.join(parts)})"
