"""The matrices and vectors of every mixer and ffn: the one list that parameters, FLOPs and GEMM shapes follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from simulator.model.spec import (
    Attention,
    CompressedAttention,
    DenseFFN,
    Indexer,
    LatentAttention,
    Layer,
    LinearAttention,
    Mamba2,
    Model,
    MoE,
)

Parallel = Literal["column", "row", "replicated", "expert_column", "expert_row"]


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix of `inputs` x `outputs`, how tensor parallelism splits it, and whether it has a bias.

    `copies` such matrices exist (experts, output groups) and each token passes `used` of them. `role` tells apart
    the router and gates, the indexer and the residual mixing, whose FLOPs conventions leave out.
    """

    name: str
    inputs: int
    outputs: int
    parallel: Parallel
    bias: bool = False
    copies: int = 1
    used: int = 1
    role: Literal["compute", "routing", "indexing", "residual"] = "compute"


@dataclass(frozen=True, slots=True)
class Vector:
    """Parameters outside matrix products (gains, convolution taps, decay rates, sinks): `size` of them per layer."""

    name: str
    size: int
    sharded: bool


Parts = tuple[list[Linear], list[Vector]]


def indexer_parts(indexer: Indexer, query_inputs: int, hidden: int) -> Parts:
    """Lightning indexer: queries from `query_inputs`, one shared key, one weight per head, and the key's LayerNorm.

    Replicated over tp, as Megatron-Core's DSA indexer is.
    """
    linears = [
        Linear("index_q", query_inputs, indexer.heads * indexer.head_dim, "replicated", role="indexing"),
        Linear("index_k", hidden, indexer.head_dim, "replicated", role="indexing"),
    ]
    if indexer.weights:
        linears.append(Linear("index_weights", hidden, indexer.heads, "replicated", role="indexing"))
    return linears, [Vector("index_k_norm", 2 * indexer.head_dim, False)]


def attention_parts(mixer: Attention, hidden: int) -> Parts:
    queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    values, outputs = mixer.kv_heads * mixer.v_head_dim, mixer.heads * mixer.v_head_dim
    gate = outputs if mixer.output_gate else 0
    linears = [
        Linear("qkv", hidden, queries + keys + values + gate, "column", mixer.qkv_bias),
        Linear("out", outputs, hidden, "row", mixer.out_bias),
    ]
    vectors = []
    if mixer.qk_norm == "head":
        vectors.append(Vector("qk_norm", 2 * mixer.head_dim, False))
    if mixer.qk_norm == "layer":
        vectors.append(Vector("qk_norm", queries + keys, True))
    if mixer.sinks:
        vectors.append(Vector("sinks", mixer.heads, True))
    if mixer.indexer:
        more_linears, more_vectors = indexer_parts(mixer.indexer, hidden, hidden)
        return linears + more_linears, vectors + more_vectors
    return linears, vectors


def latent_attention_parts(mixer: LatentAttention, hidden: int) -> Parts:
    query_width = mixer.heads * (mixer.nope_head_dim + mixer.rope_head_dim)
    latents = mixer.kv_lora_rank + mixer.rope_head_dim
    linears, vectors = [], []
    if mixer.q_lora_rank is None:
        linears.append(Linear("q", hidden, query_width, "column"))
    else:
        linears += [
            Linear("q_down", hidden, mixer.q_lora_rank, "replicated"),
            Linear("q_up", mixer.q_lora_rank, query_width, "column"),
        ]
        vectors.append(Vector("q_norm", mixer.q_lora_rank, False))
    linears += [
        Linear("kv_down", hidden, latents, "replicated"),
        Linear("kv_up", mixer.kv_lora_rank, mixer.heads * (mixer.nope_head_dim + mixer.v_head_dim), "column"),
        Linear("out", mixer.heads * mixer.v_head_dim, hidden, "row"),
    ]
    vectors.append(Vector("kv_norm", mixer.kv_lora_rank, False))
    if mixer.output_gate:
        linears.append(Linear("gate", hidden, mixer.heads * mixer.v_head_dim, "column"))
    if mixer.indexer:
        more_linears, more_vectors = indexer_parts(mixer.indexer, mixer.q_lora_rank or hidden, hidden)
        return linears + more_linears, vectors + more_vectors
    return linears, vectors


def compressor_parts(name: str, hidden: int, head_dim: int, ratio: int) -> Parts:
    """DeepSeek-V4 key compressor: values and gates per token, a learned position per slot; ratio 4 overlaps windows."""
    width = head_dim * (2 if ratio == 4 else 1)
    linears = [Linear(name, hidden, 2 * width, "replicated")]
    return linears, [Vector(f"{name}_positions", ratio * width, False), Vector(f"{name}_norm", head_dim, False)]


def compressed_attention_parts(mixer: CompressedAttention, hidden: int) -> Parts:
    outputs = mixer.heads * mixer.head_dim
    linears = [
        Linear("q_down", hidden, mixer.q_lora_rank, "replicated"),
        Linear("q_up", mixer.q_lora_rank, outputs, "column"),
        Linear("kv", hidden, mixer.head_dim, "replicated"),
        Linear("out_down", outputs // mixer.o_groups, mixer.o_lora_rank, "column",
               copies=mixer.o_groups, used=mixer.o_groups),
        Linear("out", mixer.o_groups * mixer.o_lora_rank, hidden, "row"),
    ]  # fmt: skip
    vectors = [
        Vector("q_norm", mixer.q_lora_rank, False),
        Vector("kv_norm", mixer.head_dim, False),
        Vector("sinks", mixer.heads, True),
    ]
    if mixer.compress_ratio:
        more_linears, more_vectors = compressor_parts("compress", hidden, mixer.head_dim, mixer.compress_ratio)
        linears, vectors = linears + more_linears, vectors + more_vectors
    if mixer.indexer:
        keys, key_vectors = compressor_parts("index_compress", hidden, mixer.indexer.head_dim, mixer.compress_ratio)
        linears += [
            Linear("index_q", mixer.q_lora_rank, mixer.indexer.heads * mixer.indexer.head_dim, "replicated",
                   role="indexing"),
            Linear("index_weights", hidden, mixer.indexer.heads, "replicated", role="indexing"),
            *keys,
        ]  # fmt: skip
        vectors = vectors + key_vectors
    return linears, vectors


def linear_attention_parts(mixer: LinearAttention, hidden: int) -> Parts:
    keys, values = mixer.key_heads * mixer.key_head_dim, mixer.value_heads * mixer.value_head_dim
    convolution = Vector("convolution", mixer.conv_kernel * (2 * keys + values), True)
    norm, decay = Vector("norm", mixer.value_head_dim, False), Vector("decay_rate", mixer.value_heads, True)
    out = Linear("out", values, hidden, "row")
    if mixer.kind == "gdn":
        linears = [Linear("qkv_gate", hidden, 2 * keys + 2 * values + 2 * mixer.value_heads, "column"), out]
        return linears, [convolution, norm, decay, Vector("decay_bias", mixer.value_heads, True)]
    linears = [
        Linear("qkv_beta", hidden, 2 * keys + values + mixer.value_heads, "column"),
        Linear("decay_down", hidden, mixer.key_head_dim, "replicated"),
        Linear("decay_up", mixer.key_head_dim, keys, "column"),
        out,
    ]
    if mixer.full_rank_gate:
        linears.append(Linear("gate", hidden, values, "column"))
    else:
        linears += [
            Linear("gate_down", hidden, mixer.value_head_dim, "replicated"),
            Linear("gate_up", mixer.value_head_dim, values, "column"),
        ]
    return linears, [convolution, norm, decay, Vector("decay_bias", keys, True)]


def mamba2_parts(mixer: Mamba2, hidden: int) -> Parts:
    inner, states = mixer.heads * mixer.head_dim, 2 * mixer.groups * mixer.state
    linears = [
        Linear("in", hidden, 2 * inner + states + mixer.heads, "column"),
        Linear("out", inner, hidden, "row"),
    ]
    return linears, [
        Vector("convolution", (mixer.conv_kernel + 1) * (inner + states), True),
        Vector("decay_rate_skip_and_step", 3 * mixer.heads, True),
        Vector("norm", inner, True),
    ]


def dense_parts(ffn: DenseFFN, hidden: int) -> Parts:
    wide = ffn.width * (2 if ffn.gated else 1)
    return [Linear("fc1", hidden, wide, "column", ffn.bias), Linear("fc2", ffn.width, hidden, "row", ffn.bias)], []


def moe_parts(ffn: MoE, hidden: int) -> Parts:
    matrices = 2 if ffn.gated else 1
    width = ffn.latent_width or hidden
    linears = [
        Linear("router", hidden, ffn.experts, "replicated", ffn.router_bias, role="routing"),
        Linear("expert_fc1", width, ffn.width * matrices, "expert_column", ffn.bias, ffn.experts, ffn.top_k),
        Linear("expert_fc2", ffn.width, width, "expert_row", ffn.bias, ffn.experts, ffn.top_k),
    ]
    if ffn.latent_width:
        linears += [
            Linear("latent_down", hidden, ffn.latent_width, "replicated"),
            Linear("latent_up", ffn.latent_width, hidden, "replicated"),
        ]
    if ffn.shared_width:
        linears += [
            Linear("shared_fc1", hidden, ffn.shared_width * matrices, "column"),
            Linear("shared_fc2", ffn.shared_width, hidden, "row"),
        ]
    if ffn.shared_gate:
        linears.append(Linear("shared_gate", hidden, 1, "replicated", role="routing"))
    return linears, []


PARTS: dict[type, Callable[[Any, int], Parts]] = {
    Attention: attention_parts,
    LatentAttention: latent_attention_parts,
    CompressedAttention: compressed_attention_parts,
    LinearAttention: linear_attention_parts,
    Mamba2: mamba2_parts,
    DenseFFN: dense_parts,
    MoE: moe_parts,
}


def linears(component: object, hidden: int) -> list[Linear]:
    """The matrices of one mixer or ffn (None: none)."""
    return [] if component is None else PARTS[type(component)](component, hidden)[0]


def vectors(component: object, hidden: int) -> list[Vector]:
    """The parameters of one mixer or ffn that are not in a matrix (None: none)."""
    return [] if component is None else PARTS[type(component)](component, hidden)[1]


def norm_size(model: Model) -> int:
    """Parameters of one norm over the hidden size: a gain, and for LayerNorm a bias."""
    return model.hidden * (2 if model.norm == "layer" else 1)


def block_linears(model: Model, component: object) -> list[Linear]:
    """Matrices of one residual block: the mixer or ffn and, with hyper-connections, the mix of residual streams.

    mHC reads all streams (streams x hidden) and yields pre, post and streams x streams mixing weights.
    """
    found = linears(component, model.hidden)
    if component is not None and model.hyper_connections > 1:
        streams = model.hyper_connections
        found.append(Linear("hyper_connection", streams * model.hidden, streams * (streams + 2), "replicated",
                            role="residual"))  # fmt: skip
    return found


def block_vectors(model: Model, component: object) -> list[Vector]:
    """Vectors of one residual block: the mixer's or ffn's own, its norm, and the hyper-connection's bias and scales."""
    if component is None:
        return []
    found = [*vectors(component, model.hidden), Vector("block_norm", norm_size(model), False)]
    if model.hyper_connections > 1:
        streams = model.hyper_connections
        found.append(Vector("hyper_connection_bias_and_scale", streams * (streams + 2) + 3, False))
    return found


def layer_linears(model: Model, layer: Layer) -> list[Linear]:
    """Every matrix of one layer, mixer first."""
    return block_linears(model, layer.mixer) + block_linears(model, layer.ffn)


def mtp_linears(model: Model) -> list[Linear]:
    """The projection that joins the previous depth's hidden state and the next token's embedding (2h to h)."""
    return [Linear("mtp_projection", 2 * model.hidden, model.hidden, "column")]
