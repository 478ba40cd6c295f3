"""Seconds of kernels that only move memory, and of launching a kernel at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from hardware.arrays import Number, floats
from hardware.kernels.curves import DATA, Evidence, kernel_set
from hardware.precisions import REFERENCE
from hardware.specs import Accelerator


@dataclass(frozen=True, slots=True)
class Fraction:
    """Achieved share of memory bandwidth of one kind of kernel: by kernel set where measured, else `default`."""

    default: float
    low: float
    high: float
    by_set: Mapping[str, float]
    evidence: Evidence
    source: str


@cache
def fractions() -> Mapping[str, Fraction]:
    """Kind of memory-bound kernel -> share of the memory bandwidth it reaches."""
    raw = json.loads((DATA / "streaming.json").read_text(encoding="utf-8"))
    return {kind: Fraction(**entry) for kind, entry in raw["kinds"].items()}


def streaming_s(accelerator: Accelerator, read_and_write_bytes: Number, kind: str = "elementwise") -> Number:
    """Seconds to read and write so many bytes, plus one launch. Raises ValueError for an unknown kind."""
    fraction = fractions().get(kind)
    if fraction is None:
        raise ValueError(f"kind: {kind!r} is no memory-bound kernel; known: {', '.join(fractions())}")
    own = kernel_set(accelerator.kernels).streaming
    achieved = own.get(kind) or fraction.by_set.get(accelerator.kernels, fraction.default)
    moved_s = floats(read_and_write_bytes) / (accelerator.memory_bandwidth_bytes_per_s * achieved)
    return moved_s + launch_s(accelerator)


def launch_s(accelerator: Accelerator) -> float:
    """What a kernel costs on the device beyond its work: gap to its predecessor, fill and drain.

    The constant of the bf16 matrix-multiply fit. Products, attention and streaming times already contain it.
    """
    return kernel_set(accelerator.kernels).gemm[REFERENCE].latency_s
