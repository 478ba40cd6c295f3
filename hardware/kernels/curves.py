"""Fitted kernel curves: what each measured accelerator sustains, shipped in `hardware/data/kernels` or in a profile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from hardware.kernels.scaling import is_borrowed, is_scaled, peak_scale
from hardware.precisions import PRECISIONS, REFERENCE, Precision
from hardware.specs import Accelerator

DATA = Path(__file__).parent.parent / "data" / "kernels"
Evidence = Literal["measured", "fitted", "nominal", "assumed"]


@dataclass(frozen=True, slots=True)
class GemmCurve:
    """What one matrix-multiply kernel family reaches on one part (see `hardware.kernels.matmul.tiled_s`).

    `k_half` is the reduction length at which half the sustained rate is lost to prologue and epilogue, `ramp` in
    [0, 1] how much of a partly filled last wave is lost, `tile_penalty` what small tiles lose to operand traffic,
    `overlap` the exponent that joins compute and memory time (large: perfect overlap), `epilogue_bytes` what an
    element of the output costs beyond its own bytes.
    """

    sustained_flops_per_s: float
    k_half: float
    latency_s: float
    bandwidth_fraction: float
    ramp: float
    overlap: float
    tile_penalty: float
    epilogue_bytes: float


@dataclass(frozen=True, slots=True)
class AttentionCurve:
    """What flash attention reaches on one part (see `hardware.kernels.attention.flash_s`).

    Sustained forward rate by head size; `keys_half` is the number of keys seen by an average query at which half of
    it is lost; `tail` weighs the longest single tile of queries, which no other tile can hide; `unequal_rate`
    multiplies the rate where qk_dim differs from v_dim; `backward_rates` are backward over forward rates by head size
    (`backward_head_dims`), with 2.5 times the forward FLOPs.
    """

    head_dims: tuple[float, ...]
    sustained_flops_per_s: tuple[float, ...]
    keys_half: float
    tail: float
    latency_s: float
    bandwidth_fraction: float
    unequal_rate: float
    backward_head_dims: tuple[float, ...]
    backward_rates: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class KernelSet:
    """All curves of one measured part, by precision key of the collection (bf16, fp8, fp8_block, nvfp4).

    `role_rates`: family -> role -> rate over the forward rate. `borrowed` names the families not measured here.
    `spread`: family -> role -> [p10, p50, p90] of training collections' times over predicted times.
    `streaming`: kind -> share of the memory bandwidth, where it was measured with the rest of the set.
    `measured_range`: family -> dtype -> dimension -> (smallest, largest) measured; empty where it was not recorded.
    """

    name: str
    peak_flops_per_s: Mapping[str, float]
    gemm: Mapping[str, GemmCurve]
    grouped_gemm: Mapping[str, GemmCurve]
    attention: Mapping[str, AttentionCurve]
    role_rates: Mapping[str, Mapping[str, float]]
    borrowed: frozenset[str]
    spread: Mapping[str, Any]
    streaming: Mapping[str, float] = field(default_factory=dict)
    measured_range: Mapping[str, Any] = field(default_factory=dict)


@cache
def kernel_set(name: str) -> KernelSet:
    """The curves named `name` (an accelerator's `kernels`): a shipped set, or the path of a profile's kernels.json.

    Raises ValueError for a name without a file.
    """
    own = name.endswith(".json")
    path = Path(name) if own else DATA / f"{name}.json"
    if not (own or name.replace("-", "").isalnum()) or not path.is_file():
        known = ", ".join(sorted(p.stem for p in DATA.glob("*.json") if p.stem != "streaming"))
        raise ValueError(f"kernels: no measured kernel set {name!r}; known: {known}")
    raw = json.loads(path.read_text(encoding="utf-8"))
    return KernelSet(
        name=raw["name"],
        peak_flops_per_s=raw["part"]["peak_flops_per_s"],
        gemm={key: GemmCurve(**curve["curve"]) for key, curve in raw["gemm"].items()},
        grouped_gemm={key: GemmCurve(**curve["curve"]) for key, curve in raw["grouped_gemm"].items()},
        attention={key: attention_curve(curve["curve"]) for key, curve in raw["attention"].items()},
        role_rates=raw["role_rates"],
        borrowed=frozenset(raw["borrowed"]),
        spread=raw["spread"],
        streaming={kind: entry["fraction"] for kind, entry in raw.get("streaming", {}).items()},
        measured_range=raw.get("measured_range", {}),
    )


def attention_curve(raw: Mapping[str, Any]) -> AttentionCurve:
    """An attention curve from its JSON object, lists turned into tuples."""
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in raw.items()}
    return AttentionCurve(**values)


@dataclass(frozen=True, slots=True)
class Choice:
    """The curve that prices one precision on one accelerator, the rate to multiply it by, and the hard ceiling."""

    precision: Precision
    curve: Any
    rate: float
    peak_flops_per_s: float
    evidence: Evidence


def choose(accelerator: Accelerator, family: Literal["gemm", "grouped_gemm", "attention"], precision: str) -> Choice:
    """Which curve stands for `precision` here; a format without one borrows the reference's, scaled by the peaks.

    Raises ValueError for a precision that does not exist or that the part cannot compute in.
    """
    wanted = supported(accelerator, precision)
    measured = kernel_set(accelerator.kernels)
    curves: Mapping[str, Any] = getattr(measured, family)
    peak = accelerator.peak_flops_per_s[wanted.format]
    for key in wanted.curves:
        if key in curves:
            rate = accelerator.kernel_scale * peak_scale(accelerator, wanted.format)
            return Choice(
                wanted, curves[key], rate, peak, _curve_evidence(accelerator, measured, family, wanted.format)
            )
    rate = peak / measured.peak_flops_per_s[REFERENCE]
    return Choice(wanted, curves[REFERENCE], rate, peak, "nominal")


def _curve_evidence(accelerator: Accelerator, measured: KernelSet, family: str, number_format: str) -> Evidence:
    """A curve is measured on this very part, fitted to a sibling of its generation, or assumed for any other."""
    if is_scaled(accelerator, number_format) or is_borrowed(accelerator):
        return "assumed"
    own = accelerator.corrected_as == measured.name
    return "measured" if own and family not in measured.borrowed else "fitted"


def supported(accelerator: Accelerator, precision: str) -> Precision:
    """The precision's record. Raises ValueError, saying what the part has, where it cannot compute in it."""
    wanted = PRECISIONS.get(precision)
    if wanted is None:
        raise ValueError(f"precision: {precision!r} is unknown; known: {', '.join(PRECISIONS)}")
    if wanted.lacks(accelerator.peak_flops_per_s):
        has = ", ".join(sorted(accelerator.peak_flops_per_s))
        raise ValueError(f"precision: {accelerator.name} cannot compute in {precision!r} (it has {has})")
    return wanted
