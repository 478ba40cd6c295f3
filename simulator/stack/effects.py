"""Behaviours of a stack that do nothing because another behaviour of it decides: which ones, and why."""

from __future__ import annotations

from collections.abc import Callable

from simulator.stack.spec import Stack


def overruled(stack: Stack) -> dict[str, str]:
    """Behaviours, by name, that another one of the same stack leaves without effect, each with the reason."""
    reasons = {name: reason(stack) for name, reason in REASONS.items()}
    return {name: why for name, why in reasons.items() if why}


def _flash_kernels(stack: Stack) -> str:
    return "" if stack.flash_attention else "flash_attention is false"


def _expert_scores(stack: Stack) -> str:
    eager = stack.expert_scores == "eager"
    return "fused_kernels is true" if eager and stack.fused_kernels else ""


def _fused_loss(stack: Stack) -> str:
    if not stack.fused_loss or stack.fused_kernels:
        return ""
    if stack.fused_loss_alone == "with_experts":
        return "fused_kernels is false, so own_loss runs but in models with experts (fused_loss_alone)"
    return "fused_kernels is false, so own_loss runs"


def _fused_loss_alone(stack: Stack) -> str:
    if stack.fused_loss_alone == "never":
        return ""
    if not stack.fused_loss:
        return "fused_loss is false"
    return "fused_kernels is true, so every loss is fused" if stack.fused_kernels else ""


def _own_loss(stack: Stack) -> str:
    if stack.fused_loss and stack.fused_kernels:
        return "fused_loss is true"
    if stack.own_loss == "streamed" and not stack.fused_kernels:
        return "fused_kernels is false, so it runs as eager"
    return ""


def _joint_ends(stack: Stack) -> str:
    wrong_engine = stack.joint_ends and stack.sharding_engine != "fsdp2"
    return f"sharding_engine is {stack.sharding_engine}, not fsdp2" if wrong_engine else ""


REASONS: dict[str, Callable[[Stack], str]] = {
    "flash_version": _flash_kernels,
    "flash_build": _flash_kernels,
    "expert_scores": _expert_scores,
    "fused_loss": _fused_loss,
    "fused_loss_alone": _fused_loss_alone,
    "own_loss": _own_loss,
    "joint_ends": _joint_ends,
}
