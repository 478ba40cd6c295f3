"""Model FLOPs per token, by the convention that a published figure was counted with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.model.components import Linear, layer_linears, linears, mtp_linears
from simulator.model.parameters import active_parameters
from simulator.model.spec import (
    Attention,
    CompressedAttention,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Mixer,
    Model,
)

Mask = Literal["causal", "megatron", "full"]
Floats = NDArray[np.float64]

TRAINING = 3.0  # forward once, backward twice: the input gradient and the weight gradient cost one forward each


def keys_seen(seq_length: ArrayLike, limit: float | None, mask: Mask) -> Floats:
    """Mean number of keys that one query of a sequence meets, where it may see at most `limit` of them.

    "causal": the lower triangle, s/2 or w(1 - w/2s) within a window w; "full": all of them; "megatron": half of
    "full", even within a window.
    """
    seq = np.asarray(seq_length, dtype=float)
    seen = seq if limit is None else np.minimum(seq, float(limit))
    if mask == "full":
        return seen
    return seen / 2 if mask == "megatron" else seen * (1 - seen / (2 * seq))


def chunk_keys(seq_length: ArrayLike, chunk: int, mask: Mask) -> Floats:
    """The same where attention stays within chunks: each chunk is a short sequence of its own, the last a shorter."""
    seq = np.asarray(seq_length, dtype=float)
    whole, rest = np.divmod(seq, chunk)
    seen = (whole * chunk**2 + rest**2) / seq
    return seen if mask == "full" else seen / 2


def attended_keys(mixer: Attention | LatentAttention, seq_length: ArrayLike, mask: Mask) -> Floats:
    """Mean keys per query after the window, the chunks and the indexer's choice ("full" knows no choice)."""
    if isinstance(mixer, Attention) and mixer.chunk is not None:
        return chunk_keys(seq_length, mixer.chunk, mask)
    window = mixer.window if isinstance(mixer, Attention) else None
    if mixer.indexer is None or mask == "full":
        return keys_seen(seq_length, window, mask)
    if mask == "megatron":
        return np.minimum(keys_seen(seq_length, window, mask), mixer.indexer.top_k)
    return keys_seen(seq_length, min(mixer.indexer.top_k, window or mixer.indexer.top_k), mask)


def attention_core(mixer: Attention, seq_length: ArrayLike, mask: Mask) -> Floats:
    return 2 * mixer.heads * (mixer.head_dim + mixer.v_head_dim) * attended_keys(mixer, seq_length, mask)


def latent_attention_core(mixer: LatentAttention, seq_length: ArrayLike, mask: Mask) -> Floats:
    """Training runs MLA with keys and values expanded to every head."""
    width = mixer.nope_head_dim + mixer.rope_head_dim + mixer.v_head_dim
    return 2 * mixer.heads * width * attended_keys(mixer, seq_length, mask)


def compressed_attention_core(mixer: CompressedAttention, seq_length: ArrayLike, mask: Mask) -> Floats:
    """A window of raw keys, and the compressed ones (the indexer's choice of them where there is one).

    Megatron counts the window whole and the compressed keys causally.
    """
    seen = keys_seen(seq_length, mixer.window, "full" if mask == "megatron" else mask)
    if mixer.compress_ratio:
        slots = np.asarray(seq_length, dtype=float) / mixer.compress_ratio
        chosen = mixer.indexer.top_k if mixer.indexer else None
        seen = seen + keys_seen(slots, chosen, "causal" if mask == "megatron" else mask)
    return 2 * mixer.heads * 2 * mixer.head_dim * seen


def linear_attention_core(mixer: LinearAttention, seq_length: ArrayLike, mask: Mask) -> Floats:
    """Convolution taps and four passes over the state per head, as Megatron-LM counts Gated DeltaNet."""
    keys, values = mixer.key_heads * mixer.key_head_dim, mixer.value_heads * mixer.value_head_dim
    taps = mixer.conv_kernel * (2 * keys + values)
    flops = 2 * (taps + 4 * mixer.value_heads * mixer.key_head_dim * mixer.value_head_dim)
    return np.full(np.shape(seq_length), float(flops))


def mamba2_core(mixer: Mamba2, seq_length: ArrayLike, mask: Mask) -> Floats:
    """The scan, as Megatron-LM counts it: seven operations per inner channel and state."""
    return np.full(np.shape(seq_length), 7.0 * mixer.heads * mixer.head_dim * mixer.state)


CORES: dict[type, Callable[[Any, ArrayLike, Mask], Floats]] = {
    Attention: attention_core,
    LatentAttention: latent_attention_core,
    CompressedAttention: compressed_attention_core,
    LinearAttention: linear_attention_core,
    Mamba2: mamba2_core,
}


def core_flops_per_token(mixer: Mixer | None, seq_length: ArrayLike, mask: Mask = "causal") -> Floats:
    """Forward FLOPs per token of everything in a mixer that is not a weight matrix: scores and values, or the scan.

    `seq_length` is a scalar or an array; `mask` says how causal attention is counted. Excludes the indexer.
    """
    if mixer is None:
        return np.zeros(np.shape(seq_length))
    return CORES[type(mixer)](mixer, seq_length, mask)


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
    return 2 * indexer.heads * indexer.head_dim * keys_seen(slots, None, mask)


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


def component_flops_per_token(component: object, hidden: int) -> float:
    """Forward FLOPs per token of the matrices of one mixer or ffn."""
    return sum(linear_flops_per_token(linear) for linear in linears(component, hidden))
