"""Parts of a user's own: what follows from the base that an accelerator changes, and figures that no part has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isnan
from typing import Any

from hardware import units
from hardware.sections import Section

# Figures of one part that are believed: dimension, least and most; from embedded parts to several dies in one.
BELIEVED = {
    "tdp": ("w", "10 W", "5 kW"),
    "idle": ("w", "0 W", "1 kW"),
    "sm_count": ("count", "1", "2048"),
    "memory_capacity": ("bytes", "1 GB", "4 TB"),
    "overhead_power": ("w", "0 W", "200 kW"),
    "bandwidth": ("bytes_per_s", "1 Gb/s", "20 Tb/s"),
}


SHOWN: Mapping[str, Callable[[float], str]] = {
    "w": lambda value: f"{value:g} W",
    "count": lambda value: f"{value:g}",
    "bytes": lambda value: units.format_rate(value).removesuffix("/s"),
    "bytes_per_s": units.format_rate,
}


def report_unbelieved(section: Section, part: str, values: Mapping[str, float | None]) -> None:
    """Adds a problem for every figure that no such part for training has: slips of the pen, or of the unit."""
    for key, value in values.items():
        dimension, *bounds = BELIEVED[key]
        least, most = (units.parse(bound, dimension, bare=False) for bound in bounds)
        if value is not None and not isnan(value) and not least <= value <= most:
            told = SHOWN[dimension](value)
            right = " to ".join(bounds)
            section.report(key, f"{told} is not believed of one {part}; {right} is. Write such a value")


def peaks_of_multiprocessors(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base's peaks by the share of its multiprocessors that a changed part has, where it writes no peaks.

    Fewer multiprocessors of the same kind compute less. Nothing where the counts cannot be read.
    """
    count, whole = (_plain(entry.get("sm_count")) for entry in (changes, base))
    peaks = base.get("peak")
    if "peak" in changes or not isinstance(count, int) or not isinstance(whole, int) or not isinstance(peaks, Mapping):
        return {}
    if count < 1 or whole < 1 or count == whole:
        return {}
    return {"peak": {name: _scaled(value, count / whole) for name, value in peaks.items()}}


def _scaled(written: Any, share: float) -> Any:
    """A peak times `share`; as it is where it cannot be read, which reading the entry reports."""
    try:
        peak = units.parse(_plain(written), "flops_per_s", bare=False)
    except units.QuantityError:
        return written
    return {"value": f"{share * peak / 1e12:.12g} TFLOP/s", "source": "the base's, by the count of multiprocessors"}


def _plain(written: Any) -> Any:
    """What is written, without the source beside it."""
    return written.get("value") if isinstance(written, Mapping) else written
