"""Rules on what computes and travels below 16 bit, and on what a plan leaves in 16 bit beside it."""

from __future__ import annotations

from dataclasses import fields

from hardware.precisions import PRECISIONS
from simulator.plans.case import Check, Fault, PlanCase, near_multiple
from simulator.plans.choices import SHARDINGS
from simulator.plans.quantized import ALL_LINEARS, Quantized, keeps_16_bit_parts


def low_precision_is_aligned(case: PlanCase) -> Fault | None:
    plan = case.plan
    block = PRECISIONS[plan.precision].alignment
    if block is None:
        return None
    dense = case.facts.dense if plan.quantized.mlp else ()
    experts = case.facts.moe if plan.quantized.experts else ()
    sides = [("hidden size", case.facts.hidden)]
    sides += [(f"feed-forward width over tp = {plan.tp}", ffn.width // plan.tp) for ffn in dense]
    sides += [(f"expert width over etp = {plan.etp}", moe.width // plan.etp) for moe in experts]
    for what, size in sides:
        if size % block:
            why = f"{what} is {size}, not a multiple of {block}"
            return Fault("plan.precision", plan.precision, why, f"{near_multiple(size, block)}, or another precision")
    return None


def low_precision_gather_is_possible(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not plan.fp8_param_gather:
        return None
    precision = PRECISIONS[plan.precision]
    if not precision.quantized:
        why = f"precision {plan.precision} has no such weights"
        quantized = ", ".join(name for name, each in PRECISIONS.items() if each.quantized)
        return Fault("plan.fp8_param_gather", True, why, f"a precision of {quantized}, or false")
    if not SHARDINGS[plan.sharding].shards_optimizer and precision.low_weights_need_sharding:
        return Fault(
            "plan.fp8_param_gather", True, "nothing is gathered: sharding is none", "sharding optimizer, or false"
        )
    return None


def layers_in_16_bit_exist(case: PlanCase) -> Fault | None:
    start, end = case.plan.quantized.bf16_layers_at_start, case.plan.quantized.bf16_layers_at_end
    if start + end <= case.facts.layers:
        return None
    key = "bf16_layers_at_end" if end else "bf16_layers_at_start"
    why = f"{start} + {end} layers at the ends are more than the model's {case.facts.layers}"
    return Fault(f"plan.quantized.{key}", end or start, why, f"{case.facts.layers} together at most")


def mixed_widths_stay_on_the_gpu(case: PlanCase) -> Fault | None:
    """Weights of two widths are priced where they are gathered, not where they wait in host memory."""
    plan = case.plan
    offloads = plan.offload.params != "gpu" or plan.offload.optimizer_fraction > 0
    if not plan.fp8_param_gather or not offloads or not keeps_16_bit_parts(plan):
        return None
    why = "weights of 8 and of 16 bit are not simulated together in host memory"
    return Fault("plan.fp8_param_gather", True, why, "false, or offload nothing, or quantise every part")


def quantized_without_effect(case: PlanCase) -> Fault | None:
    plan = case.plan
    if PRECISIONS[plan.precision].quantized or plan.quantized == ALL_LINEARS:
        return None
    names = [spec.name for spec in fields(Quantized)]
    name = next(name for name in names if getattr(plan.quantized, name) != getattr(ALL_LINEARS, name))
    why = f"does nothing: precision {plan.precision} quantises nothing"
    return Fault(f"plan.quantized.{name}", getattr(plan.quantized, name), why, "leave it out")


UNIVERSAL: dict[str, Check] = {
    "low_precision_is_aligned": low_precision_is_aligned,
    "layers_in_16_bit_exist": layers_in_16_bit_exist,
    "mixed_widths_stay_on_the_gpu": mixed_widths_stay_on_the_gpu,
}
MEGATRON: dict[str, Check] = {"low_precision_gather_is_possible": low_precision_gather_is_possible}
WITHOUT_EFFECT: dict[str, Check] = {"quantized_without_effect": quantized_without_effect}
