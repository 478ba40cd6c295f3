"""Model FLOPs per token, by the convention that a published figure was counted with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from simulator.model.components import layer_linears, mtp_linears
from simulator.model.masks import Floats, Mask, keys_seen
from simulator.model.parameters import active_parameters
from simulator.model.parts import Linear
from simulator.model.spec import CompressedAttention, Layer, Mixer, Model

TRAINING = 3.0  # forward once, backward twice: the input gradient and the weight gradient cost one forward each


def core_flops_per_token(mixer: Mixer | None, seq_length: ArrayLike, mask: Mask = "causal") -> Floats:
    """Forward FLOPs per token of everything in a mixer that is not a weight matrix: scores and values, or the scan.

    `seq_length` is a scalar or an array; `mask` says how causal attention is counted. Excludes the indexer.
    """
    if mixer is None:
        return np.zeros(np.shape(seq_length))
    return mixer.core_flops(seq_length, mask)


def indexer_flops_per_token(mixer: Mixer | None, seq_length: ArrayLike, mask: Mask = "causal") -> Floats:
    """Forward FLOPs per token of an indexer's scores: every head against every earlier (compressed) key.

    Megatron counts the compressed keys whole.
    """
    indexer = getattr(mixer, "indexer", None)
    if indexer is None:
        return np.zeros(np.shape(seq_length))
    slots = np.asarray(seq_length, dtype=float)
    if isinstance(mixer, CompressedAttention):
        slots = slots / mixer.compress_ratio
        mask = "full" if mask == "megatron" else mask
    flops: Floats = 2 * indexer.heads * indexer.head_dim * keys_seen(slots, None, mask)
    return flops


def linear_flops_per_token(linear: Linear) -> float:
    """Forward FLOPs per token of a matrix: two per weight that the token passes."""
    return 2.0 * linear.inputs * linear.outputs * linear.used


@dataclass(frozen=True, slots=True)
class Counted:
    """What a convention counts: how causal masks, which roles of matrices, and whether multi-token prediction."""

    mask: Mask
    roles: tuple[str, ...] = ("compute",)
    mtp: bool = False
    layer_factor: float = TRAINING


def layer_flops(model: Model, layer: Layer, seq_length: ArrayLike, counted: Counted) -> Floats:
    """Forward FLOPs per token of one layer."""
    counted_linears = [linear for linear in layer_linears(model, layer) if linear.role in counted.roles]
    matrices = sum(linear_flops_per_token(linear) for linear in counted_linears)
    core = core_flops_per_token(layer.mixer, seq_length, counted.mask if model.causal else "full")
    if "indexing" in counted.roles:
        core = core + indexer_flops_per_token(layer.mixer, seq_length, counted.mask)
    return matrices + core


def counted_flops(model: Model, seq_length: ArrayLike, vocab: int, counted: Counted) -> Floats:
    """Sum over layers, prediction depths and logits, forward and backward."""
    layers = Counter(model.layers)
    depths = 0
    glue = 0.0
    if counted.mtp:
        layers.update(model.mtp)
        depths = len(model.mtp)
        glue = depths * sum(linear_flops_per_token(linear) for linear in mtp_linears(model))
    body = np.zeros(np.shape(seq_length))
    for layer, number in layers.items():
        body = body + number * layer_flops(model, layer, seq_length, counted)
    logits = 2.0 * model.hidden * vocab * (1 + depths)
    return counted.layer_factor * (body + glue) + TRAINING * logits


def megatron(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """Megatron-LM and Megatron-Bridge today: masks halved, prediction depths and padded logits in, router out.

    Megatron takes a Mamba block to be twice the hidden size wide whatever its heads; we count its real width
    (Nemotron-3-Nano: 7 % less). Source: NVIDIA/Megatron-LM, num_floating_point_operations.
    """
    return counted_flops(model, seq_length, vocab, Counted("megatron", ("compute", "indexing"), mtp=True))


def megatron_2021(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """72 L h^2 (1 + s/6h + V/12Lh) for a GPT: whole masks, no recomputation. Source: arXiv 2104.04473."""
    return counted_flops(model, seq_length, vocab, Counted("full"))


def megatron_2021_recompute(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """96 L h^2 (1 + s/6h + V/16Lh): the same with every layer's forward computed twice. Source: arXiv 2104.04473."""
    return counted_flops(model, seq_length, vocab, Counted("full", layer_factor=TRAINING + 1))


def six_n(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """6 N + 12 L H Q s: N active parameters without the input embedding, whole masks, no prediction depths.

    Source: PaLM (arXiv 2204.02311) appendix B; torchtitan counts the same way, router included.
    """
    head = 0 if model.vocab == vocab else (vocab - model.vocab) * model.hidden
    parameters = active_parameters(model, input_embedding=False) + head
    attention = np.zeros(np.shape(seq_length))
    for mixer, number in Counter(layer.mixer for layer in model.layers).items():
        attention = attention + number * core_flops_per_token(mixer, seq_length, "full")
    return TRAINING * (2.0 * parameters + attention)


def executed(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """Matrix work that is really done, backward counted twice forward: router, indexer and prediction depths in."""
    return counted_flops(
        model, seq_length, vocab, Counted("causal", ("compute", "routing", "indexing", "residual"), mtp=True)
    )


def deepseek_causal(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """Lower triangle only, logits in, prediction depths and router out. Source: arXiv 2505.09343, table 4."""
    return counted_flops(model, seq_length, vocab, Counted("causal"))


def deepseek_noncausal(model: Model, seq_length: ArrayLike, vocab: int) -> Floats:
    """The same with whole masks. Source: arXiv 2505.09343, table 4."""
    return counted_flops(model, seq_length, vocab, Counted("full"))


CONVENTIONS: dict[str, Callable[[Model, ArrayLike, int], Floats]] = {
    "megatron": megatron,
    "megatron-2021": megatron_2021,
    "megatron-2021-recompute": megatron_2021_recompute,
    "palm": six_n,
    "torchtitan": six_n,
    "deepseek-causal": deepseek_causal,
    "deepseek-noncausal": deepseek_noncausal,
    "executed": executed,
}


def flops_per_token(
    model: Model, seq_length: ArrayLike, convention: str = "megatron", padded_vocab: int | None = None
) -> Floats:
    """Forward and backward FLOPs per token of sequences of `seq_length` (scalar or array), by a named convention.

    `padded_vocab` None: the vocabulary as it is. Raises KeyError for an unknown convention.
    """
    return CONVENTIONS[convention](model, seq_length, padded_vocab or model.vocab)
