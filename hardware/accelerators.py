"""Accelerators of the catalogue and the user's own, and whose measured curves price those that were not measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hardware.entries import INLINE, OWN_KEYS, ROOT, entry, names, read_name
from hardware.own_parts import report_unbelieved
from hardware.precisions import FORMATS, REFERENCE
from hardware.problems import Place, one_of
from hardware.sections import Section
from hardware.specs import GENERATIONS, Accelerator, Origin

# The sets of measured kernels that price operators; a part that was not measured names a sibling's and a scale.
KERNEL_SETS = (
    "a100-sxm-80gb",
    "h100-sxm-80gb",
    "h200-sxm-141gb",
    "b200-sxm-180gb",
    "b300-sxm-288gb",
    "gb200-nvl72",
    "gb300-nvl72",
)


def accelerator(what: str | Mapping[str, Any], at: Place = INLINE) -> Accelerator:
    """A GPU by catalogue name, file or mapping; `at` is where the question stands, for messages and relative files.

    Raises InputError with every problem found.
    """
    return _read_accelerator(entry("accelerators", what, at))


def _read_accelerator(section: Section) -> Accelerator:
    name = read_name(section)
    peaks = section.section("peak")
    peak = {str(key): peaks.quantity(str(key), "flops_per_s") for key in peaks.data if key in FORMATS}
    for key in peaks.data:
        if key not in peak:
            peaks.report(str(key), one_of(key, FORMATS))
    if not peak and not peaks.broken:
        peaks.report(REFERENCE, "is missing: give the dense peak of at least one number format")
    tdp_w = section.quantity("tdp", "w")
    idle_w = section.quantity("idle", "w", zero=True)
    sm_count = section.count("sm_count")
    memory_bytes = section.quantity("memory_capacity", "bytes")
    believed = {"tdp": tdp_w, "idle": idle_w, "sm_count": sm_count, "memory_capacity": memory_bytes}
    report_unbelieved(section, "accelerator", believed)
    found = Accelerator(
        name=name,
        generation=_read_generation(section),
        peak_flops_per_s=peak,
        memory_capacity_bytes=memory_bytes,
        memory_bandwidth_bytes_per_s=section.quantity("memory_bandwidth", "bytes_per_s"),
        sm_count=sm_count,
        tdp_w=tdp_w,
        idle_w=idle_w,
        host_bandwidth_bytes_per_s=section.quantity("host_bandwidth", "bytes_per_s"),
        kernels=_read_kernels(section),
        kernel_scale=section.quantity("kernel_scale", "fraction", 1.0),
        price_usd_per_hour=section.quantity("price", "usd_per_hour", None, zero=True),
        sources=section.sources,
        power_limit_w=_read_power_limit(section, tdp_w, idle_w),
    )
    base, own_keys = section.take(ROOT, None), tuple(section.take(OWN_KEYS, ()))
    corrections = section.choice("corrections", names("accelerators"), None)
    section.done()
    section.raise_problems()
    origin = _origin(found, base, corrections, "kernel_scale" in section.data)
    shipped = accelerator(base) if base is not None else None
    sheet = shipped.peak_flops_per_s if shipped else None
    return replace(found, origin=origin, data_sheet=sheet, base=base, own_keys=own_keys)


def _read_power_limit(section: Section, tdp_w: float | None, idle_w: float | None) -> float | None:
    """The cap on a part's power; it lies between what the part draws idle and its TDP."""
    limit_w: float | None = section.quantity("power_limit", "w", None)
    if tdp_w is not None and idle_w is not None and tdp_w <= idle_w:
        section.report("tdp", f"is {tdp_w:g} W, no more than the {idle_w:g} W that the part draws idle; write more")
    if limit_w is None or tdp_w is None or idle_w is None:
        return limit_w
    if limit_w > tdp_w:
        section.report("power_limit", f"is {limit_w:g} W, above the part's {tdp_w:g} W; write less, or leave it out")
    if limit_w <= idle_w:
        section.report("power_limit", f"is {limit_w:g} W, no more than the part draws idle; write above {idle_w:g} W")
    return limit_w


def _origin(part: Accelerator, base: str | None, corrections: str | None, scaled: bool) -> Origin | None:
    """Whose curves and corrections price a part; None for its own.

    A part derived from a shipped one has that one's. A part written from nothing that takes a shipped part's kernels
    has that part's, `scaled` by its own word or else by the peaks. A profile's kernels are the part's own.
    """
    if base is not None:
        return _inherited(part, accelerator(base))
    if part.kernels.endswith(".json"):
        return None
    if corrections is not None:
        return _itself(part, corrections, same_generation=False)
    if part.name.lower() in names("accelerators"):
        return _itself(part, part.name.lower(), same_generation=True)
    measured = accelerator(part.kernels)
    same = part.generation == measured.generation
    if scaled:
        return _itself(part, part.kernels, same)
    return Origin(
        part.kernels, measured.peak_flops_per_s, measured.memory_bandwidth_bytes_per_s, measured.power_w, same
    )


def _inherited(part: Accelerator, base: Accelerator) -> Origin | None:
    """The origin of a part's base; one that brings other curves or a scale of its own is scaled by nothing else."""
    origin = base.origin
    if origin is None or part.kernels.endswith(".json"):
        return None
    if (part.kernels, part.kernel_scale) == (base.kernels, base.kernel_scale):
        return origin
    return _itself(part, origin.name, origin.same_generation)


def _itself(part: Accelerator, corrections: str, same_generation: bool) -> Origin:
    """An origin with the part's own figures, so that nothing is scaled."""
    return Origin(corrections, part.peak_flops_per_s, part.memory_bandwidth_bytes_per_s, part.power_w, same_generation)


def _read_generation(section: Section) -> str:
    """One of the known generations, in any case of letters."""
    name = section.text("generation", example=f"one of {', '.join(GENERATIONS)}; a new one takes the nearest's")
    if isinstance(section.data.get("generation"), str) and name.lower() not in GENERATIONS:
        nearest = f"{one_of(name.lower(), GENERATIONS)}; a new one takes the name of the nearest"
        section.report("generation", nearest)
    return cast(str, name)


def _read_kernels(section: Section) -> str:
    """The name of a shipped kernel set, or the path of a measured one (a kernels.json beside the entry's file)."""
    name = section.text("kernels", example=f"one of {', '.join(KERNEL_SETS)}, the nearest part's, or your kernels.json")
    if name is None:
        return ""
    if not isinstance(name, str) or not name.endswith(".json"):
        return cast(str, section.choice("kernels", KERNEL_SETS))
    path = (Path(section.place.file).parent / name).resolve()
    if not path.is_file():
        section.report("kernels", f"there is no file {path}")
    return str(path)
