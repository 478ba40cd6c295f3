"""What a model is: a list of layers, each (mixer, ffn), between an embedding and a head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Indexer:
    """Lightning indexer of sparse attention: scores all keys cheaply, attends to the `top_k` best.

    `weights`: each head's score has a learned weight per token (DeepSeek); otherwise scores are merged by maximum.
    """

    heads: int
    head_dim: int
    top_k: int
    weights: bool = True


@dataclass(frozen=True, slots=True)
class Attention:
    """Multi-head, grouped-query or multi-query attention.

    `window` limits the keys seen to the last so many, `chunk` to those of the same chunk (None: no limit).
    `head_dim` is the width of a query and key head, `v_head_dim` of a value head. `qk_norm` is "head" (one gain
    per head dimension), "layer" (one per whole projection) or None. `sinks` adds one logit per head.
    `scaled_rope`: rotated queries and keys are scaled as well (YaRN, arXiv 2309.00071).
    """

    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    chunk: int | None = None
    qk_norm: Literal["head", "layer"] | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    output_gate: bool = False
    sinks: bool = False
    scaled_rope: bool = False
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention (MLA): low-rank queries (None: full rank) and keys/values."""

    heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    nope_head_dim: int
    rope_head_dim: int
    v_head_dim: int
    output_gate: bool = False
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class CompressedAttention:
    """DeepSeek-V4 attention: one shared key/value head, low-rank queries and grouped low-rank outputs.

    Keys are compressed `compress_ratio`-fold (0: not, sliding window only), beside a `window` of raw keys.
    """

    heads: int
    head_dim: int
    rope_head_dim: int
    q_lora_rank: int
    o_lora_rank: int
    o_groups: int
    window: int
    compress_ratio: int
    indexer: Indexer | None = None


@dataclass(frozen=True, slots=True)
class LinearAttention:
    """Gated DeltaNet ("gdn") and Kimi delta attention ("kda"): a recurrent state instead of a score matrix.

    `full_rank_gate`: the output gate of kda is one full matrix, not a low-rank pair.
    """

    kind: Literal["gdn", "kda"]
    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    conv_kernel: int
    full_rank_gate: bool = False


@dataclass(frozen=True, slots=True)
class Mamba2:
    """State-space mixer with `heads` x `head_dim` inner width."""

    heads: int
    head_dim: int
    groups: int
    state: int
    conv_kernel: int


Mixer = Attention | LatentAttention | CompressedAttention | LinearAttention | Mamba2


@dataclass(frozen=True, slots=True)
class DenseFFN:
    """Feed-forward of `width`; `gated` has three matrices (SwiGLU), otherwise two (GELU, squared ReLU)."""

    width: int
    gated: bool = True
    bias: bool = False


@dataclass(frozen=True, slots=True)
class MoE:
    """`experts` routed experts of `width`, `top_k` per token, beside one shared expert of `shared_width` (0: none).

    `latent_width`: experts work at that width between a down- and an up-projection (None: at the hidden size).
    `groups`/`group_top_k`: a token's experts lie in at most `group_top_k` of `groups` equal groups. `clamped`: what
    enters the activation function is limited.
    """

    experts: int
    top_k: int
    width: int
    gated: bool = True
    shared_width: int = 0
    shared_gate: bool = False
    latent_width: int | None = None
    groups: int = 1
    group_top_k: int = 1
    bias: bool = False
    router_bias: bool = False
    clamped: bool = False


FFN = DenseFFN | MoE


@dataclass(frozen=True, slots=True)
class Layer:
    """One block; hybrids write a layer with only a mixer or only an ffn."""

    mixer: Mixer | None
    ffn: FFN | None


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder (or encoder, `causal=False`) language model.

    `mtp` lists the layers of multi-token-prediction modules, one per depth, sharing embedding and head; with
    `mtp_shared` all depths pass the same module, whose weights exist once (Megatron's mtp_use_repeated_layer).
    `norm` counts parameters per norm and channel: "rms" one, "layer" two. `positions` > 0: a learned position
    table. `hyper_connections` is the residual-stream multiplicity of mHC (1: a plain residual).
    `parallel_blocks`: mixer and dense ffn of a layer read the same input and their outputs are summed (PaLM,
    arXiv 2204.02311 section 2; GPT-NeoX), so that tensor parallelism exchanges once where it would twice.
    """

    name: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    mtp: tuple[Layer, ...] = ()
    mtp_shared: bool = False
    tied_embeddings: bool = False
    norm: Literal["rms", "layer"] = "rms"
    positions: int = 0
    causal: bool = True
    hyper_connections: int = 1
    parallel_blocks: bool = False
    source: str = ""
