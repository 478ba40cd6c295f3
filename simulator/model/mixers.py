"""Reads the token mixer of each layer from a Hugging Face config: attention in all its kinds, linear, state-space."""

from __future__ import annotations

from typing import Literal

from simulator.model.families import Family
from simulator.model.keys import Keys
from simulator.model.spec import (
    Attention,
    CompressedAttention,
    Indexer,
    LatentAttention,
    LinearAttention,
    Mamba2,
    Mixer,
)

LAYER_TYPES = frozenset({"full_attention", "sliding_attention", "chunked_attention", "linear_attention"})


def read_mixers(keys: Keys, family: Family, hidden: int, count: int) -> list[Mixer]:
    """The mixer of each of `count` layers."""
    if keys.has("compress_ratios"):
        return list(compressed(keys, count)[:count])
    kinds = layer_kinds(keys, family, count)
    indexed = indexed_layers(keys, count)
    built: dict[tuple[str, bool], Mixer] = {}
    for kind in zip(kinds, indexed, strict=True):
        if kind not in built:
            built[kind] = mixer_of(keys, family, hidden, *kind)
    return [built[kind] for kind in zip(kinds, indexed, strict=True)]


def mixer_of(keys: Keys, family: Family, hidden: int, kind: str, indexed: bool) -> Mixer:
    indexer = read_indexer(keys) if indexed else None
    if kind == "linear_attention":
        return kda(keys) if keys.has("linear_attn_config") else gdn(keys)
    if keys.has("kv_lora_rank"):
        return latent_attention(keys, indexer)
    return attention(keys, family, hidden, kind, indexer)


def layer_kinds(keys: Keys, family: Family, count: int) -> list[str]:
    """The kind of attention of each layer, from whichever key the config writes it in."""
    full = ["full_attention"] * count
    keys.has("full_attention_interval", "no_rope_layers")
    if keys.has("layer_types"):
        return keys.each("layer_types", count, LAYER_TYPES) or full
    if keys.has("linear_attn_config"):
        return kda_kinds(keys.inner("linear_attn_config"), count)
    if keys.has("hybrid_layer_pattern"):
        pattern = keys.each("hybrid_layer_pattern", count, {0, 1})
        return ["sliding_attention" if flag else "full_attention" for flag in pattern] or full
    if keys.has("full_attention_interval"):
        every = keys.whole("full_attention_interval")
        return ["linear_attention" if (layer + 1) % every else "full_attention" for layer in range(count)]
    if family.chunked and keys.has("attention_chunk_size"):
        rotary = keys.each("no_rope_layers", count, {0, 1}) or [int((layer + 1) % 4 != 0) for layer in range(count)]
        return ["chunked_attention" if flag else "full_attention" for flag in rotary]
    return windowed_kinds(keys, family, count)


def kda_kinds(inner: Keys, count: int) -> list[str]:
    """Kimi writes two lists of layer numbers that count from one."""
    linear, full = inner.wholes("kda_layers"), inner.wholes("full_attn_layers")
    if sorted(linear + full) != list(range(1, count + 1)):
        inner.problem("kda_layers", f"with full_attn_layers must name each layer from 1 to {count} once")
        return ["full_attention"] * count
    named = set(linear)
    return ["linear_attention" if layer + 1 in named else "full_attention" for layer in range(count)]


def windowed_kinds(keys: Keys, family: Family, count: int) -> list[str]:
    """Every layer slides where a window is set; Qwen must switch it on and keeps the first layers full."""
    used = keys.flag("use_sliding_window", default=not family.window_off)
    set_at_all = keys.has("sliding_window", "sliding_window_size")
    if not (used and set_at_all):
        return ["full_attention"] * count
    first = keys.whole("max_window_layers", default=0, least=0) if family.window_off else 0
    return ["sliding_attention" if layer >= first else "full_attention" for layer in range(count)]


def indexed_layers(keys: Keys, count: int) -> list[bool]:
    """Which layers carry a sparse-attention indexer of their own."""
    keys.has("index_n_heads", "index_head_dim", "index_topk", "index_topk_freq", "index_skip_topk_offset",
             "index_share_for_mtp_iteration")  # fmt: skip
    if keys.has("sparse_attention_config"):
        sparse = keys.inner("sparse_attention_config")
        if not sparse.flag("use_sparse_attention", default=True):
            return [False] * count
        return [bool(flag) for flag in sparse.each("sparse_attention_freq", count, {0, 1})] or [True] * count
    if keys.has("indexer_types"):
        listed = keys.each("indexer_types", count, {"full", "shared"})
        return [kind == "full" for kind in listed] or [False] * count
    if keys.whole("index_topk_freq", default=1) != 1:
        keys.problem("indexer_types", "missing; index_topk_freq shares indexers, so list which layers own one")
    return [keys.has("index_topk")] * count


def read_indexer(keys: Keys) -> Indexer:
    """DeepSeek's lightning indexer, or MiniMax's block scores (top blocks x block size keys are kept)."""
    if not keys.has("sparse_attention_config"):
        return Indexer(keys.whole("index_n_heads"), keys.whole("index_head_dim"), keys.whole("index_topk"))
    sparse = keys.inner("sparse_attention_config")
    kept = sparse.whole("sparse_topk_blocks") * sparse.whole("sparse_block_size")
    return Indexer(sparse.whole("sparse_num_index_heads"), sparse.whole("sparse_index_dim"), kept, weights=False)


def attention(keys: Keys, family: Family, hidden: int, kind: str, indexer: Indexer | None = None) -> Attention:
    """Multi-head and grouped-query attention; sliding layers may have heads of their own (MiMo)."""
    prefix = "swa_" if kind == "sliding_attention" and keys.has("swa_num_attention_heads") else ""
    keys.asked.update({"swa_num_attention_heads", "swa_num_key_value_heads", "swa_head_dim", "swa_v_head_dim"})
    plain = not prefix
    heads = keys.whole(f"{prefix}num_attention_heads", *(("n_head", "n_heads") if plain else ()))
    kv_heads = keys.whole(f"{prefix}num_key_value_heads", default=heads)
    head_dim_names = (f"{prefix}head_dim", *(("attention_head_dim",) if plain else ()))
    if not keys.has(*head_dim_names) and hidden % heads:
        keys.problem("head_dim", f"missing, and hidden_size {hidden} is not a multiple of {heads} heads")
    head_dim = keys.whole(*head_dim_names, default=max(1, hidden // heads))
    if heads % kv_heads:
        keys.problem("num_key_value_heads", f"{kv_heads} does not divide {heads} heads")
    bias = keys.flag("attention_bias", "qkv_bias", default=family.attention_bias)
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=keys.whole(f"{prefix}v_head_dim", default=head_dim),
        window=window(keys) if kind == "sliding_attention" else None,
        chunk=keys.whole("attention_chunk_size") if kind == "chunked_attention" else None,
        qk_norm=qk_norm(keys, family),
        qkv_bias=bias,
        out_bias=bias and family.out_bias,
        output_gate=keys.flag("attn_output_gate", "attention_output_gate", default=family.output_gate),
        sinks=sinks(keys, family, kind),
        scaled_rope=family.scaled_rope,
        indexer=indexer,
    )


def window(keys: Keys) -> int:
    keys.has("attention_chunk_size")
    return keys.whole("sliding_window", "sliding_window_size")


def sinks(keys: Keys, family: Family, kind: str) -> bool:
    sliding = keys.flag("add_swa_attention_sink_bias", default=family.sinks)
    full = keys.flag("add_full_attention_sink_bias", default=family.sinks)
    return sliding if kind == "sliding_attention" else full


def qk_norm(keys: Keys, family: Family) -> Literal["head", "layer"] | None:
    keys.has("qk_norm_type")
    if not keys.flag("use_qk_norm", default=family.qk_norm is not None) or not family.qk_norm_gains:
        return None
    default = "per_layer" if family.qk_norm == "layer" else "per_head"
    written = keys.word("qk_norm_type", allowed={"per_layer", "per_head"}, default=default)
    return "layer" if written == "per_layer" else "head"


def latent_attention(keys: Keys, indexer: Indexer | None) -> LatentAttention:
    """MLA; head_dim and num_key_value_heads are also written there but mean nothing."""
    keys.asked.update({"head_dim", "num_key_value_heads"})
    nope, rope = keys.whole("qk_nope_head_dim"), keys.whole("qk_rope_head_dim")
    if keys.whole("qk_head_dim", default=nope + rope) != nope + rope:
        keys.problem("qk_head_dim", f"is not qk_nope_head_dim + qk_rope_head_dim = {nope + rope}")
    if keys.flag("attention_bias"):
        keys.problem("attention_bias", "biases of latent attention are not modelled; only false")
    return LatentAttention(
        heads=keys.whole("num_attention_heads"),
        q_lora_rank=keys.whole("q_lora_rank") if keys.has("q_lora_rank") else None,
        kv_lora_rank=keys.whole("kv_lora_rank"),
        nope_head_dim=nope,
        rope_head_dim=rope,
        v_head_dim=keys.whole("v_head_dim"),
        output_gate=keys.flag("mla_use_output_gate"),
        indexer=indexer,
    )


def compressed(keys: Keys, count: int) -> list[CompressedAttention]:
    """DeepSeek-V4 mixers: one ratio per layer and prediction depth; 4-fold compression picks keys by an indexer."""
    depth = keys.whole("num_nextn_predict_layers", default=0, least=0)
    keys.asked.update({"num_key_value_heads", "attention_bias", "index_n_heads", "index_head_dim", "index_topk"})
    ratios = keys.each("compress_ratios", count + depth, range(4097)) or [0] * (count + depth)
    built = {ratio: compressed_attention(keys, ratio) for ratio in sorted(set(ratios))}
    return [built[ratio] for ratio in ratios]


def compressed_attention(keys: Keys, ratio: int) -> CompressedAttention:
    heads, groups = keys.whole("num_attention_heads"), keys.whole("o_groups")
    head_dim = keys.whole("head_dim")
    if heads * head_dim % groups:
        keys.problem("o_groups", f"{groups} does not divide {heads} x {head_dim} attention outputs")
    return CompressedAttention(
        heads=heads,
        head_dim=head_dim,
        rope_head_dim=keys.whole("qk_rope_head_dim"),
        q_lora_rank=keys.whole("q_lora_rank"),
        o_lora_rank=keys.whole("o_lora_rank"),
        o_groups=groups,
        window=keys.whole("sliding_window"),
        compress_ratio=ratio,
        indexer=read_indexer(keys) if ratio == 4 else None,
    )


def gdn(keys: Keys) -> LinearAttention:
    return LinearAttention(
        kind="gdn",
        key_heads=keys.whole("linear_num_key_heads"),
        value_heads=keys.whole("linear_num_value_heads"),
        key_head_dim=keys.whole("linear_key_head_dim"),
        value_head_dim=keys.whole("linear_value_head_dim"),
        conv_kernel=keys.whole("linear_conv_kernel_dim"),
    )


def kda(keys: Keys) -> LinearAttention:
    inner = keys.inner("linear_attn_config")
    heads, head_dim = inner.whole("num_heads"), inner.whole("head_dim")
    return LinearAttention(
        kind="kda",
        key_heads=heads,
        value_heads=heads,
        key_head_dim=head_dim,
        value_head_dim=head_dim,
        conv_kernel=inner.whole("short_conv_kernel_size"),
        full_rank_gate=inner.flag("use_full_rank_gate"),
    )


def mamba2(keys: Keys) -> Mamba2:
    """Mamba-2 with a convolution bias and no projection bias, as Nemotron has it."""
    if keys.flag("use_bias", "mamba_proj_bias") or not keys.flag("use_conv_bias", default=True):
        keys.problem("use_conv_bias", "only a convolution bias and no projection bias is modelled")
    return Mamba2(
        heads=keys.whole("mamba_num_heads"),
        head_dim=keys.whole("mamba_head_dim"),
        groups=keys.whole("n_groups"),
        state=keys.whole("ssm_state_size"),
        conv_kernel=keys.whole("conv_kernel"),
    )
