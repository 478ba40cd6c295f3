"""Stacks as the column layout says them, by framework and flags, as behaviours; goes with the words of that layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simulator.stack import Stack, release

BASES = {
    "megatron-core": "megatron-core-0.19",
    "torchtitan": "torchtitan-0.3",
    "fsdp": "pytorch-fsdp-2025",
    "deepspeed": "deepspeed-0.19",
    "deepseek": "hai-llm-2024",
    "ddp": "pytorch-ddp-2021",
}
NEVER_FUSED = ("deepspeed", "ddp")
CHECKPOINTS_OF_PYTORCH = ("torchtitan", "fsdp")
ASYNC_TP = ("megatron-core", "deepseek")
FLAGS = {"flash_version": 3, "fused_kernels": True, "fused_loss": True, "early_stop": True, "async_tp_backward": True}


def stack_of_flags(flags: Mapping[str, Any]) -> Stack:
    """The stack of a framework with flags; what is not said is as in current releases."""
    framework = flags.get("framework", "megatron-core")
    said = {**FLAGS, **{key: value for key, value in flags.items() if key != "framework"}}
    old = not said.get("flash_attention", True) or said["flash_version"] == 1
    said |= {
        "fused_loss": said["fused_loss"] and framework not in NEVER_FUSED,
        "early_stop": said["early_stop"] and framework in CHECKPOINTS_OF_PYTORCH,
        "async_tp_backward": said["async_tp_backward"] and framework in ASYNC_TP,
        "cuda_context": "eager" if old else "lazy",
    }
    if framework == "fsdp":
        said["flash_build"] = "triton"
    if framework == "deepspeed":
        said["sharding_engine"] = "lists"
    return replace(release(BASES[framework]).stack, **said)
