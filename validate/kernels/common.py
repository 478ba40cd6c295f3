"""What the fits share: parts, sources, what a collection timed besides the kernel, rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.catalogue import accelerator
from hardware.specs import Accelerator

INFERENCE = "ai-dynamo/aiconfigurator (Apache-2.0), TensorRT-LLM 1.3.0rc20 collection (A100: 1.0.0), read 2026-11-21"
TRAINING = "MooreThreads/SimuMax system files b200_bf16_ceperm.json and a100_pcie.json of 2026-05-11, read 2026-11-21"
A100, H100, H200, B200 = "a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm-180gb"
MEASURED = (A100, H100, H200, B200, "b300-sxm-288gb", "gb200-nvl72", "gb300-nvl72")
OPERAND_BYTES = {"bf16": 2.0, "fp8": 1.0, "fp8_block": 1.0 + 4 / 128, "nvfp4": 0.5 + 1 / 16}
SETTINGS: dict[str, Any] = {"loss": "soft_l1", "f_scale": 0.05}  # errors of some 5 % count squared, outliers linearly


def part(name: str) -> Accelerator:
    """The measured part of that name, from the catalogue."""
    return accelerator(name)


def peak_flops_per_s(part: Accelerator, dtype: str) -> float:
    """Dense peak of a collection's dtype (bf16, fp8, fp8_block, nvfp4)."""
    return part.peak_flops_per_s[{"fp8_block": "fp8", "nvfp4": "fp4"}.get(dtype, dtype)]


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a collection timed besides the kernel, and the fit sets apart: casts, copies, extra launches.

    `passes` are bytes per element of each kind of traffic, as if at the full memory bandwidth.
    """

    latency_s: float
    passes: tuple[float, ...]

    def seconds(self, elements: tuple[Any, ...], part: Accelerator) -> Any:
        moved = sum(p * e for p, e in zip(self.passes, elements, strict=True))
        return self.latency_s + moved / part.memory_bandwidth_bytes_per_s


def significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def rounded(value: Any) -> Any:
    """Four significant digits, plain Python types: what JSON holds and a diff shows."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return significant(float(value)) if isinstance(value, float | np.floating) else value
