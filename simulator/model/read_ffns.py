"""Reads the feed-forward part of a layer from a Hugging Face config: dense or mixture of experts."""

from __future__ import annotations

from simulator.model.config import Config
from simulator.model.families import vocabulary
from simulator.model.spec import DenseFFN, MoE


def gated(config: Config) -> bool:
    """Three matrices or two: by the family; the activation that the config names must be a known one."""
    config.word("hidden_act", allowed=vocabulary().activations, default="silu")
    return config.family.gated


def dense(config: Config) -> DenseFFN:
    """A dense ffn, as wide as its own key or the general one says; classic models leave out four times the width."""
    key = "dense_intermediate_size" if config.has("dense_intermediate_size") else "intermediate_size"
    config.has("intermediate_size")
    if config.family.gated or config.has(key):
        width = adjusted_width(config, config.whole(key))
    else:
        width = config.whole("hidden_size") * config.whole("expansion_ratio", default=4)
    bias = config.flag("mlp_bias") and not config.flag("no_bias")
    return DenseFFN(width, gated(config), bias)


def adjusted_width(config: Config, written: int) -> int:
    """LFM2 writes a width of which two thirds, rounded up to a multiple, are used; others use it as it is."""
    if not config.flag("block_auto_adjust_ff_dim"):
        for key in ("block_ffn_dim_multiplier", "block_multiple_of"):
            config.has(key)
        return written
    width = 2 * written // 3
    factor = config.value("block_ffn_dim_multiplier")
    if factor is None:
        return width
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1000:
        config.problem("block_ffn_dim_multiplier", f"{factor!r} is not a number between 0 and 1000")
        return width
    multiple = config.whole("block_multiple_of")
    return -(-int(factor * width) // multiple) * multiple


def moe(config: Config) -> MoE:
    config.has("intermediate_size")
    experts = config.whole("n_routed_experts")
    top_k = config.whole("num_experts_per_tok")
    identities = config.whole("zero_expert_num", default=0, least=0)
    groups = config.whole("n_group", default=1)
    group_top_k = config.whole("topk_group", default=1)
    if top_k > experts:
        config.problem("num_experts_per_tok", f"{top_k} is more than {experts} experts")
    if experts % groups or group_top_k > groups:
        config.problem("n_group", f"{groups} groups must divide {experts} experts, topk_group be no more than that")
    family = config.family
    width = config.whole("moe_intermediate_size")
    shared = shared_width(config, width)
    return MoE(
        experts=experts,
        top_k=max(1, round(top_k * experts / (experts + identities))),
        width=width,
        gated=gated(config),
        shared_width=shared,
        shared_gate=family.shared_gate and shared > 0,
        latent_width=config.maybe_whole("moe_latent_size"),
        groups=groups,
        group_top_k=group_top_k,
        bias=family.expert_bias,
        router_bias=family.expert_bias,
        clamped=family.clamped,
        identity_experts=identities,
    )


def shared_width(config: Config, expert_width: int) -> int:
    """Width of all shared experts together: written out, or a count of experts as wide as the routed ones."""
    number = config.whole("n_shared_experts", default=0, least=0)
    if config.has("shared_expert_intermediate_size"):
        return config.whole("shared_expert_intermediate_size", least=0)
    return number * config.whole("shared_experts_intermediate_size", default=expert_width)
