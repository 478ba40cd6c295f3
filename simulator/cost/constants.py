"""The few global constants that published runs decide: sustained clocks, and what each software stack adds.

They live in `data/constants.toml`; each has a physical meaning, the parts and stacks it holds for, and its interval.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from itertools import combinations
from math import log, sqrt
from pathlib import Path
from typing import Any

from hardware.kernels import clock_scale, kernel_set
from hardware.precisions import PRECISIONS
from hardware.specs import Accelerator
from simulator.plans.spec import Plan

DATA = Path(__file__).parent / "data" / "constants.toml"


@dataclass(frozen=True, slots=True)
class Constants:
    """What multiplies or adds to the costs of one accelerator under one plan; the defaults change nothing.

    Rates divide seconds: of products in 16 bit or more and in fewer (`gemm_rate`, `low_gemm_rate`: sustained over
    short-benchmark clock under the power limit; `grouped_rate` on top for experts, `low_grouped_rate` on top of that in
    fewer bits), of attention, of memory-bound kernels, of tensor- and context-parallel collectives, of expert
    exchanges, of data-parallel gathers and reductions.
    `host_s_per_kernel` is what the host spends to launch one kernel, `expert_launches` the launches per local expert
    and direction where no grouped kernel does it all. `lost_beside_dp` is how long computing stands still, in effect,
    for every second of collectives that fully sharded parameters and gradients run beside it. `rank_noise` is the
    spread of a rank's step, as a fraction, and `collective_wait_s` that of a rank's arrival at a collective that all
    ranks of a tensor or context parallel group wait for: n ranks wait for the slowest (`slowest_of`).
    `host_overlap_loss` is how much longer than either a slot takes whose host and GPU need equally long (`hosted_s`).
    """

    gemm_rate: float = 1.0
    low_gemm_rate: float = 1.0
    grouped_rate: float = 1.0
    low_grouped_rate: float = 1.0
    attention_rate: float = 1.0
    streaming_rate: float = 1.0
    tp_rate: float = 1.0
    ep_rate: float = 1.0
    dp_rate: float = 1.0
    host_s_per_kernel: float = 6e-6
    expert_launches: float = 0.0
    lost_beside_dp: float = 0.0
    rank_noise: float = 0.0
    collective_wait_s: float = 0.0
    host_overlap_loss: float = 0.0


# The family of kernels whose shipped curves a rate corrects.
CORRECTED = {
    "gemm_rate": "gemm",
    "low_gemm_rate": "gemm",
    "grouped_rate": "grouped_gemm",
    "low_grouped_rate": "grouped_gemm",
    "attention_rate": "attention",
    "streaming_rate": "streaming",
}
# The rates that follow the clock of the multiprocessors.
CLOCKED = ("gemm_rate", "low_gemm_rate", "attention_rate")
NEUTRAL = Constants()
NAMES = tuple(field.name for field in fields(Constants))


@cache
def entries() -> tuple[Mapping[str, Any], ...]:
    """The entries of the data file. Raises ValueError for one that names no constant or holds no number."""
    found = tomllib.loads(DATA.read_text(encoding="utf-8")).get("constants", [])
    for entry in found:
        if entry.get("constant") not in NAMES or not isinstance(entry.get("value"), int | float):
            raise ValueError(f"{DATA.name}: {entry.get('name')!r} must name one of {', '.join(NAMES)} and a value")
    return tuple(found)


def holds_for(entry: Mapping[str, Any], accelerator: Accelerator, plan: Plan) -> bool:
    """Whether an entry holds for a part under a plan; what it does not name is free."""
    about = {
        "parts": accelerator.corrected_as,
        "dispatchers": plan.dispatcher,
        "bits": str(PRECISIONS[plan.precision].operand_bits),
        "precisions": plan.precision,
        "shardings": plan.sharding,
        "contexts": "split" if plan.cp > 1 else "whole",
    }
    named = all(_matches(about[key], entry[key]) for key in about if key in entry)
    behaviours = entry.get("behaviours", {})
    return named and all(getattr(plan.stack, key) in allowed for key, allowed in behaviours.items())


def _matches(word: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(word, pattern) for pattern in patterns)


def profiled(constant: str, accelerator: Accelerator) -> bool:
    """Whether a profile measured on this very machine takes the place of a rate that corrects shipped kernel curves."""
    family = CORRECTED.get(constant)
    if family is None or not accelerator.kernels.endswith(".json"):
        return False
    own = kernel_set(accelerator.kernels)
    return bool(own.streaming) if family == "streaming" else family not in own.borrowed


def combined(entries: Sequence[Mapping[str, Any]], accelerator: Accelerator, plan: Plan) -> Constants:
    """What entries make of the constants of a part under a plan; rates multiply, others take the last that holds."""
    values = {name: getattr(NEUTRAL, name) for name in NAMES}
    for entry in entries:
        if holds_for(entry, accelerator, plan) and not profiled(entry["constant"], accelerator):
            name = entry["constant"]
            values[name] = values[name] * entry["value"] if name.endswith("_rate") else entry["value"]
    for name in CLOCKED:
        values[name] = clocked(values[name], clock_scale(accelerator))
    return Constants(**values)


def clocked(rate: float, scale: float) -> float:
    """A sustained rate at another clock, `scale` over the one that it was fitted at.

    More power lifts it to the clock of short benchmarks, which are not limited (rate 1), and no further.
    """
    return min(rate * scale, max(rate, 1.0)) if scale != 1.0 else rate


def borrowed_spread() -> float:
    """How far sustained clocks of two generations lie apart: root mean square of the logarithm over all pairs.

    What a part may be off by that takes another generation's, from the entries of 16-bit products.
    """
    rates = [(entry["generation"], entry["value"]) for entry in entries() if "generation" in entry]
    apart = [log(one / other) for (first, one), (second, other) in combinations(rates, 2) if first != second]
    return sqrt(sum(each**2 for each in apart) / len(apart))


def constants_for(accelerator: Accelerator, plan: Plan) -> Constants:
    """The constants of a part under a plan, from the data file."""
    return combined(entries(), accelerator, plan)


def product_rate(constants: Constants, precision: str, grouped: bool) -> float:
    """What divides the seconds of a product in `precision`."""
    rate = constants.low_gemm_rate if PRECISIONS[precision].quantized else constants.gemm_rate
    if not grouped:
        return rate
    return rate * constants.grouped_rate * (constants.low_grouped_rate if PRECISIONS[precision].quantized else 1.0)
