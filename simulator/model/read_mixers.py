"""Reads the token mixer of one layer from a Hugging Face config: attention in all its kinds, linear, state-space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_type_hints

from simulator.model.config import Config
from simulator.model.families import vocabulary
from simulator.model.keys import REQUIRED, Required, is_read
from simulator.model.recurrent import uneven_part
from simulator.model.spec import (
    MIXERS,
    Attention,
    CompressedAttention,
    Indexer,
    LatentAttention,
    LightningAttention,
    LinearAttention,
    Mamba1,
    Mamba2,
    Mixer,
)

Limit = Literal["window", "chunk", "none"]
# Stretched rotary embeddings that multiply what they rotate.
SCALED_ROPES = ("yarn", "longrope", "su")


def full(config: Config) -> Attention:
    return attention(config, "none")


def sliding(config: Config) -> Attention:
    return attention(config, "window")


def chunked(config: Config) -> Attention:
    return attention(config, "chunk")


def indexed(config: Config) -> Attention:
    return attention(config, "none", read_indexer(config))


def read_indexer(config: Config) -> Indexer:
    """DeepSeek's lightning indexer, or MiniMax's block scores (top blocks x block size keys are kept)."""
    heads, head_dim = config.whole("index_n_heads"), config.whole("index_head_dim")
    if config.has("index_topk_blocks"):
        top_k = config.whole("index_topk_blocks") * config.whole("index_block_size")
        return Indexer(heads, head_dim, top_k, weights=False)
    return Indexer(heads, head_dim, config.whole("index_topk"))


def own_whole(config: Config, limit: Limit, key: str, default: int | Required = REQUIRED) -> int:
    """A size of attention; sliding layers may have one of their own, written with "swa_" before it (MiMo)."""
    if limit == "window" and config.has(f"swa_{key}"):
        return config.whole(f"swa_{key}")
    return config.whole(key, default=default)


def kv_heads_of(config: Config, limit: Limit, heads: int) -> int:
    """Key/value heads: written, one with multi-query attention (GPT-BigCode, Falcon), else as many as heads."""
    if config.flag("multi_query") and not config.flag("new_decoder_architecture"):
        config.has("num_key_value_heads")
        return 1
    kv_heads = own_whole(config, limit, "num_key_value_heads", default=heads)
    if heads % kv_heads and config.silent("num_key_value_heads"):
        return heads
    if heads % kv_heads:
        config.problem("num_key_value_heads", f"{kv_heads} does not divide {heads} heads")
    return kv_heads


def head_width(config: Config, limit: Limit, heads: int) -> int:
    """Width of a head: written, or hidden / heads."""
    hidden = config.whole("hidden_size")
    if not config.has("head_dim") and is_read(hidden) and hidden % heads:
        config.problem("head_dim", f"missing, and hidden_size {hidden} is not a multiple of {heads} heads")
    return own_whole(config, limit, "head_dim", default=max(1, hidden // heads))


def attention(config: Config, limit: Limit, indexer: Indexer | None = None) -> Attention:
    """Multi-head and grouped-query attention."""
    family = config.family
    heads = own_whole(config, limit, "num_attention_heads")
    kv_heads = kv_heads_of(config, limit, heads)
    head_dim = head_width(config, limit, heads)
    bias = config.flag("attention_bias") and not config.flag("no_bias")
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=own_whole(config, limit, "v_head_dim", default=head_dim),
        window=config.whole("sliding_window") if limit == "window" else None,
        chunk=config.whole("attention_chunk_size") if limit == "chunk" else None,
        qk_norm=qk_norm(config),
        qkv_bias=bias,
        out_bias=config.flag("attention_out_bias", default=bias and family.out_bias),
        output_gate=config.flag("attn_output_gate", default=family.output_gate),
        head_gate=config.flag("use_attention_gate", default=family.head_gate),
        sinks=sinks(config, limit),
        scaled_rope=family.scaled_rope or scales_rope(config),
        indexer=indexer,
        keys_from=keys_from(config, limit),
    )


def scales_rope(config: Config) -> bool:
    """Whether rotated queries and keys are scaled as well: YaRN (arXiv 2309.00071) and LongRoPE (arXiv 2402.13753) do,
    unless the config says a factor of 1 (attention_factor) or stretches nothing (factor)."""
    scaled = (rope for rope in rotary_settings(config) if rope.get("rope_type", rope.get("type")) in SCALED_ROPES)
    return any(rope.get("attention_factor") != 1 and rope.get("factor") != 1 for rope in scaled)


def rotary_settings(config: Config) -> Iterator[Mapping[str, Any]]:
    """The mappings under rope_scaling and rope_parameters, and those by kind of layer inside them."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = config.keys.values.get(key)
        if isinstance(rope, Mapping):
            yield rope
            yield from (below for below in rope.values() if isinstance(below, Mapping))


def keys_from(config: Config, limit: Limit) -> Literal["own", "values", "earlier layer"]:
    """Gemma's last layers use the keys and values of earlier ones; its full layers may use one projection for both."""
    if config.value("shares_earlier_keys") is True:
        return "earlier layer"
    return "values" if config.flag("attention_k_eq_v") and limit == "none" else "own"


def sinks(config: Config, limit: Limit) -> bool:
    sliding_default = config.family.sinks or config.family.window_sinks
    in_sliding = config.flag("add_swa_attention_sink_bias", default=sliding_default)
    in_full = config.flag("add_full_attention_sink_bias", default=config.family.sinks)
    return in_sliding if limit == "window" else in_full


def qk_norm(config: Config) -> Literal["head", "layer"] | None:
    """Gains of a norm over queries and keys: the family's kind where the config switches it on."""
    family = config.family
    config.has("qk_norm_type")
    if not config.flag("use_qk_norm", default=family.qk_norm is not None) or not family.qk_norm_gains:
        return None
    default = "per_layer" if family.qk_norm == "layer" else "per_head"
    written = config.word("qk_norm_type", allowed={"per_layer", "per_head"}, default=default)
    return "layer" if written == "per_layer" else "head"


def latent(config: Config, indexer: Indexer | None = None, window: int | None = None) -> LatentAttention:
    """MLA; head_dim and num_key_value_heads are also written there but mean nothing."""
    config.has("head_dim")
    config.has("num_key_value_heads")
    nope, rope = config.whole("qk_nope_head_dim"), config.whole("qk_rope_head_dim")
    if config.whole("qk_head_dim", default=nope + rope) != nope + rope and "per_layer_config" not in config.keys.values:
        config.problem("qk_head_dim", f"is not qk_nope_head_dim + qk_rope_head_dim = {nope + rope}")
    if config.flag("attention_bias"):
        config.problem("attention_bias", "biases of latent attention are not modelled; only false")
    return LatentAttention(
        heads=config.whole("num_attention_heads"),
        q_lora_rank=config.maybe_whole("q_lora_rank"),
        kv_lora_rank=config.whole("kv_lora_rank"),
        nope_head_dim=nope,
        rope_head_dim=rope,
        v_head_dim=config.whole("v_head_dim"),
        output_gate=config.flag("mla_use_output_gate", default=config.family.output_gate),
        indexer=indexer,
        head_gate=config.family.latent_head_gate,
        window=window,
    )


def latent_indexed(config: Config) -> LatentAttention:
    return latent(config, read_indexer(config))


def latent_sliding(config: Config) -> LatentAttention:
    return latent(config, window=config.whole("sliding_window"))


def compressed(config: Config) -> CompressedAttention:
    """DeepSeek-V4: the ratio stands with the layer; 4-fold compression picks keys by an indexer."""
    for key in ("num_key_value_heads", "attention_bias", "index_n_heads", "index_head_dim", "index_topk"):
        config.has(key)
    ratio = config.whole("compress_ratio", default=0, least=0)
    heads, groups, head_dim = (config.whole(key) for key in ("num_attention_heads", "o_groups", "head_dim"))
    if heads * head_dim % groups:
        config.problem("o_groups", f"{groups} does not divide {heads} x {head_dim} attention outputs")
    return CompressedAttention(
        heads=heads,
        head_dim=head_dim,
        rope_head_dim=config.whole("qk_rope_head_dim"),
        q_lora_rank=config.whole("q_lora_rank"),
        o_lora_rank=config.whole("o_lora_rank"),
        o_groups=groups,
        window=config.whole("sliding_window"),
        compress_ratio=ratio,
        indexer=read_indexer(config) if ratio == 4 else None,
    )


def kda(config: Config) -> LinearAttention:
    heads = config.whole("linear_num_heads", default=config.whole("num_attention_heads"))
    head_dim = config.whole("linear_head_dim")
    return LinearAttention(
        kind="kda",
        key_heads=heads,
        value_heads=heads,
        key_head_dim=head_dim,
        value_head_dim=head_dim,
        conv_kernel=config.whole("linear_conv_kernel_dim"),
        full_rank_gate=config.flag("use_full_rank_gate"),
        full_rank_decay=config.family.full_rank_decay,
    )


def lightning(config: Config) -> LightningAttention:
    heads = config.whole("num_attention_heads")
    return LightningAttention(heads, head_width(config, "none", heads))


def mamba1(config: Config) -> Mamba1:
    """Mamba with a convolution bias and no projection bias."""
    refuse_other_biases(config)
    hidden = config.whole("hidden_size")
    inner = config.whole("mamba_expand", default=2) * hidden
    rank = config.value("mamba_dt_rank")
    automatic = rank is None or rank == "auto"
    return Mamba1(
        inner=config.whole("mamba_inner_size", default=inner),
        state=config.whole("ssm_state_size"),
        step_rank=-(-hidden // 16) if automatic else config.whole("mamba_dt_rank"),
        conv_kernel=config.whole("conv_kernel"),
        inner_norms=config.family.inner_norms,
    )


def mamba2(config: Config) -> Mamba2:
    """Mamba-2 with a convolution bias and no projection bias, as Nemotron has it."""
    refuse_other_biases(config)
    problems = len(config.keys.problems)
    hidden = config.whole("hidden_size")
    inner = config.whole("mamba_inner_size", default=config.whole("mamba_expand", default=2) * hidden)
    heads = config.whole("mamba_num_heads")
    head_dim = config.value("mamba_head_dim")
    automatic = head_dim is None or head_dim == "auto"
    mixer = Mamba2(
        heads=heads,
        head_dim=shared_out(config, inner, heads) if automatic else config.whole("mamba_head_dim"),
        groups=config.whole("n_groups"),
        state=config.whole("ssm_state_size"),
        conv_kernel=config.whole("conv_kernel"),
        gated_norm=config.flag("mamba_rms_norm", default=True),
    )
    if is_read(hidden) and len(config.keys.problems) == problems:
        check_mamba2(config, mixer, inner)
    return mixer


def shared_out(config: Config, inner: int, heads: int) -> int:
    """The width of a head where none is written."""
    if inner % heads and is_read(inner):
        config.problem("mamba_num_heads", f"{heads} does not divide the mixer's {inner:,} channels")
    return max(1, inner // heads)


def check_mamba2(config: Config, mixer: Mamba2, inner: int) -> None:
    """Groups share the heads out; heads fill the inner width, but where a family takes the width from them."""
    uneven = uneven_part(mixer)
    if uneven is not None:
        config.problem("n_groups", uneven[1])
    heads, head_dim = mixer.heads, mixer.head_dim
    if heads * head_dim == inner or config.family.mamba_width_from_heads:
        return
    of = config.written("mamba_inner_size") if config.has("mamba_inner_size") else "expand x hidden"
    remedy = f". Use {inner // head_dim} heads" if inner % head_dim == 0 else ""
    message = f"{heads} heads of {head_dim} make {heads * head_dim:,} channels, and {of} is {inner:,}{remedy}"
    config.problem("mamba_num_heads", message)


def refuse_other_biases(config: Config) -> None:
    if config.flag("mamba_proj_bias") or not config.flag("use_conv_bias", default=True):
        config.problem("use_conv_bias", "only a convolution bias and no projection bias is modelled")


MIXER_READERS: dict[str, Callable[[Config], Mixer]] = {
    "attention": full,
    "sliding attention": sliding,
    "chunked attention": chunked,
    "indexed attention": indexed,
    "mla": latent,
    "indexed mla": latent_indexed,
    "sliding mla": latent_sliding,
    "compressed attention": compressed,
    "kda": kda,
    "lightning": lightning,
    "mamba": mamba1,
    "mamba2": mamba2,
}


def read_mixer(config: Config, kind: str) -> Mixer:
    """The mixer of this kind, by its function or by the data that maps its record's fields to keys."""
    if kind in MIXER_READERS:
        return MIXER_READERS[kind](config)
    table = vocabulary().mixers[kind]
    record = MIXERS[table["record"]]
    hints = get_type_hints(record)
    problems = len(config.keys.problems)
    sizes = {field: field_of(config, key, hints[field]) for field, key in table["fields"].items()}
    mixer: Mixer = record(**table.get("fixed", {}), **sizes)
    uneven = uneven_part(mixer)
    if uneven is not None and len(config.keys.problems) == problems:
        config.problem(table["fields"][uneven[0]], uneven[1])
    return mixer


def field_of(config: Config, key: str, hint: Any) -> Any:
    """The value of one field of a record: true or false, a whole number, or None where the record allows it."""
    if hint is bool:
        return config.flag(key)
    return config.maybe_whole(key) if NoneType in get_args(hint) else config.whole(key)
