"""Rules on offloading activations and optimizer state to host memory."""

from __future__ import annotations

from simulator.optimizers import OPTIMIZERS
from simulator.plans.case import Check, Fault, PlanCase
from simulator.plans.choices import FSDP, SHARDINGS
from simulator.schedules import SCHEDULES

WHOLE_LAYER = "whole_layer"
MODULES = (
    WHOLE_LAYER,
    "layer_input",
    "core_attn",
    "attn_proj",
    "qkv_linear",
    "attn_norm",
    "mlp_norm",
    "expert_fc1",
    "moe_act",
    "fused_group_mlp",
)
_OF_EXPERTS = {"expert_fc1", "moe_act", "fused_group_mlp"}


def offloaded_shares_are_fractions(case: PlanCase) -> Fault | None:
    offload = case.plan.offload
    for key, value in (
        ("plan.offload.activation", offload.activation_fraction),
        ("plan.offload.optimizer", offload.optimizer_fraction),
        ("plan.offload.gradients", offload.gradient_fraction),
    ):
        if value is not None and not 0 <= value <= 1:
            return Fault(key, value, "is a share of what there is", "from 0 to 1")
    return None


def offload_is_complete(case: PlanCase) -> Fault | None:
    offload = case.plan.offload
    if offload.activation_fraction and not offload.modules:
        why = "activations are offloaded, but of no module"
        return Fault("plan.offload.modules", (), why, f"some of {', '.join(MODULES)}")
    return None


def offload_modules_exist(case: PlanCase) -> Fault | None:
    named = case.plan.offload.modules
    unknown = [module for module in named if module not in MODULES]
    if unknown:
        why = f"{', '.join(unknown)}: no such module is modelled"
        return Fault("plan.offload.modules", named, why, f"some of {', '.join(MODULES)}")
    absent = [module for module in named if module in _OF_EXPERTS]
    if absent and not case.facts.moe:
        return Fault("plan.offload.modules", named, f"{', '.join(absent)}: the model has no experts", "drop them")
    return None


def whole_layers_leave_alone(case: PlanCase) -> Fault | None:
    modules = case.plan.offload.modules
    if WHOLE_LAYER not in modules or len(modules) == 1:
        return None
    return Fault("plan.offload.modules", modules, "whole_layer holds the others", "[whole_layer], or the others")


def offload_has_whole_backwards(case: PlanCase) -> Fault | None:
    """What a put-off weight gradient needs would have to come back twice, or stay."""
    plan = case.plan
    if not plan.offload.modules or not SCHEDULES[plan.schedule].puts_off_weight_gradients:
        return None
    why = f"schedule {plan.schedule} puts weight gradients off; that with offloaded activations is not modelled"
    return Fault("plan.offload.modules", plan.offload.modules, why, "no modules, or another schedule")


def projection_is_offloaded_with_attention(case: PlanCase) -> Fault | None:
    """The projection's input is attention's output, which attention's backward needs too."""
    modules = case.plan.offload.modules
    if "attn_proj" not in modules or "core_attn" in modules:
        return None
    return Fault("plan.offload.modules", modules, "attn_proj needs core_attn beside it", "both, or neither")


def offloaded_optimizer_is_offered(case: PlanCase) -> Fault | None:
    """--optimizer-cpu-offload needs the precision-aware optimizer, which is Adam's, and shards."""
    plan = case.plan
    if not plan.offload.optimizer_fraction:
        return None
    share = plan.offload.optimizer_fraction
    if not OPTIMIZERS[plan.optimizer.kind].precision_aware:
        able = " or ".join(kind for kind, each in OPTIMIZERS.items() if each.precision_aware)
        return Fault("plan.offload.optimizer", share, f"{plan.optimizer.kind} cannot be offloaded", f"{able}, or 0")
    if not SHARDINGS[plan.sharding].shards_optimizer:
        return Fault("plan.offload.optimizer", share, "needs a sharded optimizer", "sharding optimizer, or 0")
    return None


def gradients_leave_with_the_optimizer(case: PlanCase) -> Fault | None:
    """Gradients in host memory are read there, by the optimizer's share that runs there."""
    offload = case.plan.offload
    if offload.gradient_fraction is None or offload.gradient_fraction <= offload.optimizer_fraction:
        return None
    why = f"more gradients than optimizer states ({offload.optimizer_fraction:g}) would leave the GPU"
    return Fault("plan.offload.gradients", offload.gradient_fraction, why, "at most offload.optimizer, or auto")


def offloaded_params_are_shards(case: PlanCase) -> Fault | None:
    """ZeRO-3 and FSDP offload the shards that they gather, together with the optimizer that updates them."""
    plan, where = case.plan, case.plan.offload.params
    if where == "gpu":
        return None
    if not SHARDINGS[plan.sharding].shards_weights:
        why = "only fully sharded parameters leave the GPU"
        return Fault("plan.offload.params", where, why, "sharding full, or gpu")
    if plan.offload.optimizer_fraction < 1:
        why = "parameters leave together with the whole optimizer"
        return Fault("plan.offload.params", where, why, "offload.optimizer 100%, or gpu")
    if where == "nvme" and plan.stack.sharding_engine in FSDP:
        return Fault("plan.offload.params", where, "FSDP offloads to host memory only", "host")
    return None


def offload_without_effect(case: PlanCase) -> Fault | None:
    offload, recompute = case.plan.offload, case.plan.recompute
    if offload.modules and not offload.activation_fraction:
        return Fault("plan.offload.modules", offload.modules, "does nothing: offload.activation is 0", "leave it out")
    if offload.optimizer_overlap and not offload.optimizer_fraction:
        return Fault("plan.offload.optimizer_overlap", True, "does nothing: offload.optimizer is 0", "false")
    if (
        offload.modules
        and recompute.whole_layers
        and {WHOLE_LAYER, "layer_input", "attn_norm"}.isdisjoint(offload.modules)
    ):
        why = "do nothing: full recompute keeps only the layer's input"
        return Fault("plan.offload.modules", offload.modules, why, "[layer_input], or another recompute")
    return None


UNIVERSAL: dict[str, Check] = {
    "offloaded_shares_are_fractions": offloaded_shares_are_fractions,
    "offload_is_complete": offload_is_complete,
    "offload_modules_exist": offload_modules_exist,
    "whole_layers_leave_alone": whole_layers_leave_alone,
    "offload_has_whole_backwards": offload_has_whole_backwards,
    "gradients_leave_with_the_optimizer": gradients_leave_with_the_optimizer,
    "offloaded_params_are_shards": offloaded_params_are_shards,
}
MEGATRON: dict[str, Check] = {
    "projection_is_offloaded_with_attention": projection_is_offloaded_with_attention,
    "offloaded_optimizer_is_offered": offloaded_optimizer_is_offered,
}
WITHOUT_EFFECT: dict[str, Check] = {"offload_without_effect": offload_without_effect}
