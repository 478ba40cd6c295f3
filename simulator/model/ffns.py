"""Reads the feed-forward part of each layer from a Hugging Face config: dense or mixture of experts."""

from __future__ import annotations

from simulator.model.families import GATED_ACTIVATIONS, PLAIN_ACTIVATIONS, Family
from simulator.model.keys import Keys
from simulator.model.spec import FFN, DenseFFN, MoE

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts")
SHARED_WIDTHS = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "share_expert_dim",
)
# A dense width apart from the experts' first, then the general key.
DENSE_WIDTHS = (("intermediate_size_mlp",), ("dense_intermediate_size",), ("intermediate_size", "n_inner", "ffn_dim"))


def read_ffns(keys: Keys, family: Family, hidden: int, count: int) -> list[FFN]:
    """The ffn of each of `count` layers."""
    placed = moe_layers(keys, count)
    sparse = moe(keys, family, hidden) if any(placed) else None
    thick = dense(keys, family, hidden) if not all(placed) else None
    keys.asked.update(
        {"intermediate_size", "moe_intermediate_size", *(name for names in DENSE_WIDTHS for name in names)}
    )
    return [sparse if is_moe else thick for is_moe in placed]  # type: ignore[misc]


def moe_layers(keys: Keys, count: int) -> list[bool]:
    """Which layers hold experts, from whichever key the config writes it in."""
    has_experts = keys.has(*EXPERTS) and keys.whole(*EXPERTS, least=0) > 0
    first = keys.whole("first_k_dense_replace", default=0, least=0)
    dense_only = keys.wholes("mlp_only_layers")
    step = keys.whole("decoder_sparse_step", default=1)
    interleave = keys.whole("interleave_moe_layer_step", default=1)
    kinds = keys.each("mlp_layer_types", count, {"dense", "sparse"})
    every, listed = layer_frequency(keys, count)
    if not has_experts:
        return [False] * count
    if kinds or listed:
        return [kind == "sparse" for kind in kinds] or listed
    return [
        layer >= first
        and layer % every == 0
        and (layer + 1) % step == 0
        and (layer + 1) % interleave == 0
        and layer not in dense_only
        for layer in range(count)
    ]


def layer_frequency(keys: Keys, count: int) -> tuple[int, list[bool]]:
    """moe_layer_freq is a number (every so many layers) or a list of 0 and 1."""
    if isinstance(keys.values.get("moe_layer_freq"), list):
        return 1, [bool(flag) for flag in keys.each("moe_layer_freq", count, {0, 1})]
    return keys.whole("moe_layer_freq", default=1), []


def gated(keys: Keys, family: Family) -> bool:
    """Three matrices or two: by the family, checked against the activation the config names."""
    known = GATED_ACTIVATIONS if family.gated else PLAIN_ACTIVATIONS
    default = sorted(known)[0]
    keys.word("hidden_act", "mlp_hidden_act", "activation_function", allowed=known, default=default)
    return family.gated


def dense(keys: Keys, family: Family, hidden: int) -> DenseFFN:
    named = next((names for names in DENSE_WIDTHS if keys.has(*names)), DENSE_WIDTHS[-1])
    if not family.gated and not keys.has(*named):
        width = hidden * keys.whole("expansion_ratio", default=4)
    else:
        width = keys.whole(*named)
    return DenseFFN(width, gated(keys, family), keys.flag("mlp_bias", "enable_bias", default=family.mlp_bias))


def moe(keys: Keys, family: Family, hidden: int) -> MoE:
    experts = keys.whole(*EXPERTS)
    top_k = keys.whole("num_experts_per_tok", "num_experts_per_token", "experts_per_token")
    width = keys.whole("moe_intermediate_size" if keys.has("moe_intermediate_size") else "intermediate_size")
    groups = keys.whole("n_group", "num_expert_group", default=1)
    group_top_k = keys.whole("topk_group", default=1)
    if top_k > experts:
        keys.problem("num_experts_per_tok", f"{top_k} is more than {experts} experts")
    if experts % groups or group_top_k > groups:
        keys.problem("n_group", f"{groups} groups must divide {experts} experts, topk_group be no more than that")
    shared = shared_width(keys, family, width)
    latent = keys.has("moe_latent_size", "routed_expert_hidden_size")
    return MoE(
        experts=experts,
        top_k=top_k,
        width=width,
        gated=gated(keys, family),
        shared_width=shared,
        shared_gate=family.shared_gate and shared > 0,
        latent_width=keys.whole("moe_latent_size", "routed_expert_hidden_size") if latent else None,
        groups=groups,
        group_top_k=group_top_k,
        bias=family.expert_bias,
        router_bias=family.expert_bias,
        clamped=family.clamped,
    )


def shared_width(keys: Keys, family: Family, expert_width: int) -> int:
    """Width of all shared experts together: written out, or a count of experts as wide as the routed ones."""
    number = keys.whole("n_shared_experts", "num_shared_experts", default=int(family.one_shared_expert), least=0)
    written = [name for name in SHARED_WIDTHS if keys.has(name)]
    if written:
        return keys.whole(*written, least=0)
    return number * expert_width
