"""Software stacks that several tests take: a release with some behaviours changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simulator.stack import DEFAULT, Stack, release


def stack_of(name: str = DEFAULT, **behaviours: Any) -> Stack:
    """A release, with `behaviours` on top."""
    return replace(release(name).stack, **behaviours)


TORCHTITAN = stack_of("torchtitan-0.3-compiled")
FSDP = stack_of("pytorch-fsdp-2025")
ZERO3_2021 = stack_of("deepspeed-zero3-2021")
ELSEWHERE = stack_of("hai-llm-2024")
