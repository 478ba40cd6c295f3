"""Rules of the plan's own software stack: what its release says that it cannot do, and behaviours without effect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

from hardware.precisions import PRECISIONS
from simulator.plans.case import Check, Fault, PlanCase, written
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan
from simulator.stack import Stack, names, release
from simulator.stack.effects import overruled
from simulator.stack.releases import LIMITS

_PADDED_TO = next(each.default for each in fields(Plan) if each.name == "vocab_divisible_by")


@dataclass(frozen=True, slots=True)
class Limit:
    """A plan key that a release may be unable to follow: when the plan asks for it, and what would be right."""

    key: str
    asks: Callable[[Plan], bool]
    remedy: str


def _shards_gradients(plan: Plan) -> bool:
    return SHARDINGS[plan.sharding].shards_gradients


def _computes_quantized(plan: Plan) -> bool:
    return PRECISIONS[plan.precision].quantized


RELEASE_LIMITS: dict[str, Limit] = {
    "tp": Limit("tp", lambda plan: plan.tp > 1, "tp 1"),
    "pp": Limit("pp", lambda plan: plan.pp > 1, "pp 1"),
    "low_precision": Limit("precision", _computes_quantized, "bf16 or fp16"),
    "sharded_gradients": Limit("sharding", _shards_gradients, "sharding none or optimizer"),
    "sharded_gradients_with_pp": Limit(
        "sharding", lambda plan: plan.pp > 1 and _shards_gradients(plan), "sharding none or optimizer, or pp 1"
    ),
}


def release_can(name: str, case: PlanCase) -> Fault | None:
    """Whether the plan asks for what its stack's release cannot do; a stack without a release can do all."""
    plan, limit = case.plan, RELEASE_LIMITS[name]
    if plan.stack.name not in names() or not limit.asks(plan):
        return None
    reason = release(plan.stack.name).cannot.get(name)
    if reason is None:
        return None
    why = f"stack {plan.stack.name} cannot: {reason}"
    remedy = f"{limit.remedy}, another plan.stack, or plan.stack.framework_rules false for a fork that can"
    return Fault(f"plan.{limit.key}", getattr(plan, limit.key), why, remedy)


def flash_build_exists(case: PlanCase) -> Fault | None:
    """Only the first generation of flash attention was measured in a build of Triton."""
    stack = case.plan.stack
    if stack.flash_build == "cuda" or not stack.flash_attention or stack.flash_version == 1:
        return None
    why = f"of flash_version {stack.flash_version} only CUDA's kernels are known"
    return Fault("plan.stack.flash_build", stack.flash_build, why, "cuda, or flash_version 1")


def modules_beside_chosen_operators(case: PlanCase) -> Fault | None:
    """torchtitan's selective checkpointing keeps a list of operators of its own."""
    plan = case.plan
    chooses = plan.stack.selective_recompute == "operators" and plan.recompute.named_modules
    if not chooses or not plan.recompute.modules:
        return None
    why = f"does nothing: stack {plan.stack.name} chooses single operators by itself (selective_recompute)"
    return Fault("plan.recompute.modules", plan.recompute.modules, why, "leave it out")


def layers_that_do_not_run_again(case: PlanCase) -> Fault | None:
    """Some engines leave full recomputation out though it is asked for."""
    recompute, stack = case.plan.recompute, case.plan.stack
    if not recompute.whole_layers or case.plan.reruns_layers:
        return None
    why = f"does nothing: stack {stack.name} leaves it out (full_recompute)"
    return Fault("plan.recompute.granularity", recompute.granularity, why, "plan.stack.full_recompute obeyed, or none")


def padding_without_effect(case: PlanCase) -> Fault | None:
    """A vocabulary that is taken as it is has no multiple."""
    plan = case.plan
    if plan.stack.vocabulary == "padded" or plan.vocab_divisible_by == _PADDED_TO:
        return None
    why = f"does nothing: stack {plan.stack.name} pads no vocabulary"
    return Fault("plan.vocab_divisible_by", plan.vocab_divisible_by, why, "leave it out")


def behaviours_without_effect(case: PlanCase) -> Fault | None:
    """Behaviours changed by the scenario that another behaviour of the stack overrules."""
    stack = case.plan.stack
    if stack.name not in names():
        return None
    base = release(stack.name).stack
    changed = {spec.name for spec in fields(Stack) if getattr(stack, spec.name) != getattr(base, spec.name)}
    reasons = {name: why for name, why in overruled(stack).items() if name in changed}
    if not reasons:
        return None
    name, why = next(iter(reasons.items()))
    also = "".join(f"; {other} neither: {reason}" for other, reason in list(reasons.items())[1:])
    return Fault(f"plan.stack.{name}", written(getattr(stack, name)), f"does nothing: {why}{also}", "leave it out")


UNIVERSAL: dict[str, Check] = {"flash_build_exists": flash_build_exists}
RELEASE: dict[str, Check] = {f"release_can_{name}": partial(release_can, name) for name in LIMITS}
WITHOUT_EFFECT: dict[str, Check] = {
    "layers_that_do_not_run_again": layers_that_do_not_run_again,
    "padding_without_effect": padding_without_effect,
    "modules_beside_chosen_operators": modules_beside_chosen_operators,
    "behaviours_without_effect": behaviours_without_effect,
}
