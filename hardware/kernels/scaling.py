"""By how much a part's rates differ from those of the part that its curves and corrections stand for."""

from __future__ import annotations

from collections.abc import Collection
from math import log

from hardware.precisions import half_precision_peak
from hardware.specs import Accelerator, Origin
from hardware.units import format_rate

# How far a scaled rate may be off, as a share of the logarithm of the scale (one standard deviation): the root mean
# square, over the pairs of measured generations, of what their products reach in long training beside what their peaks
# promise (a test works it out from the shipped curves and corrections).
SCALE_ERROR = 0.29
# Dynamic power is f V^2, and near the limit the voltage follows the clock: f grows with the cube root of the watts.
CLOCK_EXPONENT = 1 / 3


def peak_scale(part: Accelerator, number_format: str) -> float:
    """A part's dense peak in a format over that of its origin; 1 for its own curves, and for a format it added."""
    if part.origin is None:
        return 1.0
    base = part.origin.peak_flops_per_s.get(number_format)
    own = part.peak_flops_per_s.get(number_format)
    return own / base if own and base else 1.0


def clock_scale(part: Accelerator) -> float:
    """Sustained clock at the part's power over the one at its origin's: the cube root of the watts above idle.

    A part with lower peaks than its origin has less to feed: it needs its share of the watts for the same clock.
    Published runs of H100 at 500 and 700 W differ by 0.86 in 16-bit and 0.82 in 8-bit products; the law says 0.88.
    """
    origin = part.origin
    if origin is None:
        return 1.0
    needed_w = (origin.power_w - part.idle_w) * min(1.0, _half_precision_scale(part, origin))
    available_w = part.power_w - part.idle_w
    if needed_w <= 0 or available_w <= 0:
        return 1.0
    return float((available_w / needed_w) ** CLOCK_EXPONENT)


def _half_precision_scale(part: Accelerator, origin: Origin) -> float:
    base = half_precision_peak(origin.peak_flops_per_s)
    own = half_precision_peak(part.peak_flops_per_s)
    return own / base if own and base else 1.0


def memory_scale(part: Accelerator) -> float:
    """A part's memory bandwidth over its origin's."""
    if part.origin is None:
        return 1.0
    return part.memory_bandwidth_bytes_per_s / part.origin.memory_bandwidth_bytes_per_s


def is_scaled(part: Accelerator, number_format: str) -> bool:
    """Whether a part's products in a format run at a rate that no measurement stands for."""
    return clock_scale(part) != 1.0 or peak_scale(part, number_format) != 1.0


def is_borrowed(part: Accelerator) -> bool:
    """Whether kernels and sustained clocks of a part are those of another generation."""
    return part.origin is not None and not part.origin.same_generation


def scale_spread(part: Accelerator, formats: Collection[str]) -> float:
    """Standard deviation of the logarithm of a part's rates, of products in `formats`, that comes from scaling them."""
    scales = [peak_scale(part, each) for each in part.peak_flops_per_s if each in formats]
    scales += [clock_scale(part), memory_scale(part)]
    return SCALE_ERROR * max(abs(log(scale)) for scale in scales)


def scaling_words(part: Accelerator) -> tuple[str, ...]:
    """What of a part is assumed, for its reader: whose curves stand in, and what is scaled from what."""
    origin = part.origin
    if origin is None:
        return ()
    words = []
    if is_borrowed(part):
        words.append(
            f"no kernel of {part.name}'s generation ({part.generation}) was measured: the curves of {part.kernels}, "
            f"scaled by {part.kernel_scale:g}, and the sustained clocks of {origin.name} are assumed for it"
        )
    changes = _changes(part, origin)
    if changes:
        words.append(f"rates of {part.name} are assumed, scaled from {origin.name}: {'; '.join(changes)}")
    return tuple(words)


def _changes(part: Accelerator, origin: Origin) -> list[str]:
    found = []
    for key, own in part.peak_flops_per_s.items():
        scale = peak_scale(part, key)
        if scale != 1.0:
            base = origin.peak_flops_per_s[key]
            found.append(f"{key} products x {scale:.3g} (peak {own / 1e12:g} for {base / 1e12:g} TFLOP/s)")
    memory = memory_scale(part)
    if memory != 1.0:
        own_rate, base_rate = part.memory_bandwidth_bytes_per_s, origin.memory_bandwidth_bytes_per_s
        found.append(f"memory-bound kernels x {memory:.3g} ({format_rate(own_rate)} for {format_rate(base_rate)})")
    clock = clock_scale(part)
    if clock != 1.0:
        fed = min(1.0, _half_precision_scale(part, origin))
        peak = f", which feed {fed:.3g} of the peak" if fed < 1 else ""
        found.append(f"sustained clock x {clock:.3g} ({part.power_w:g} W for {origin.power_w:g} W{peak})")
    return found
