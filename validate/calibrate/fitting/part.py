"""What the fit must know of the part: from the catalogue, or, where that has none, from its own best measurements."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hardware import catalogue
from hardware.kernels.curves import DATA
from hardware.problems import InputError, Problem
from hardware.specs import Accelerator
from validate.calibrate.fitting.collective_curves import bandwidth_reached
from validate.calibrate.fitting.held_out import TooFew
from validate.calibrate.machine import MeasuredMachine
from validate.calibrate.measuring.passes import moved_bytes
from validate.calibrate.points import MeasuredPoint
from validate.kernels.inference import COPY_FRACTION

NUMBER_FORMAT = {"fp8_block": "fp8"}
COPIES = ("copy", "add")  # passes that no arithmetic slows
ABOVE_REACHED = 1.05  # a link's bandwidth over the best that a collective reached of it


def accelerator_of(machine: MeasuredMachine, points: Iterable[MeasuredPoint]) -> tuple[Accelerator, bool]:
    """The part measured, and whether the catalogue has it. Raises InputError for a GPU that is in no catalogue."""
    if machine.part and machine.part != "cpu":
        return catalogue.accelerator(machine.part), True
    if machine.kind == "cuda":
        message = (
            f"{machine.facts['gpu']!r} is not clearly one of the catalogue's accelerators; name it, as --part "
            "h200-sxm-141gb, or a YAML file that describes it"
        )
        raise InputError([Problem("--part", None, "", message)])
    return as_measured(machine, list(points)), False


def as_measured(machine: MeasuredMachine, points: list[MeasuredPoint]) -> Accelerator:
    """A processor described by what it reached: peaks are its best products, its bandwidth that of its best copy.

    Raises TooFew where neither was measured.
    """
    peaks = best_products(points)
    copied = best_copy(points)
    if "bf16" not in peaks or not copied:
        raise TooFew("neither a product nor a copy was measured: nothing describes this processor")
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator(
        name="cpu",
        generation="cpu",
        peak_flops_per_s={key: float(f"{value:.4g}") for key, value in sorted(peaks.items())},
        memory_capacity_bytes=float(pages),
        memory_bandwidth_bytes_per_s=float(f"{copied / COPY_FRACTION:.4g}"),
        sm_count=int(machine.facts.get("threads", 1)),
        tdp_w=100.0,
        idle_w=0.0,
        host_bandwidth_bytes_per_s=copied,
        kernels="",
    )


def best_products(points: Iterable[MeasuredPoint]) -> dict[str, float]:
    """Number format -> the most FLOP/s that a product reached."""
    best: dict[str, float] = {}
    for point in points:
        if point.usable and point.family == "gemm":
            number_format = NUMBER_FORMAT.get(point.dtype, point.dtype)
            flops = 2.0 * point.shape["m"] * point.shape["n"] * point.shape["k"]
            best[number_format] = max(best.get(number_format, 0.0), flops / point.seconds)
    return best


def best_copy(points: Iterable[MeasuredPoint]) -> float:
    """The most bytes/s that a copy moved; 0 where none was measured."""
    best = 0.0
    for point in points:
        if point.usable and point.family == "streaming" and point.shape["op"] in COPIES:
            best = max(best, moved_bytes(point.shape) / point.seconds)
    return best


# ---- files that describe a processor


def machine_files(part: Accelerator, points: list[MeasuredPoint]) -> dict[str, str]:
    """Accelerator and node files of a processor that no catalogue has, so that scenarios can name it."""
    return {
        "accelerator.yaml": as_yaml(accelerator_data(part)),
        "node.yaml": as_yaml(node_data(part, points)),
    }


def accelerator_data(part: Accelerator) -> dict[str, Any]:
    measured = "measured: the best of this profile"
    assumed = "assumed: nothing was read"
    return {
        "name": part.name,
        "about": "A processor as calibration found it, not as its vendor describes it.",
        "generation": part.generation,
        "peak": {key: quantity(value, "FLOP/s", measured) for key, value in part.peak_flops_per_s.items()},
        "memory_capacity": quantity(part.memory_capacity_bytes, "B", "as the system tells"),
        "memory_bandwidth": quantity(part.memory_bandwidth_bytes_per_s, "B/s", f"best copy over {COPY_FRACTION}"),
        "sm_count": {"value": part.sm_count, "source": "threads that torch used"},
        "tdp": quantity(part.tdp_w, "W", assumed),
        "idle": quantity(part.idle_w, "W", assumed),
        "host_bandwidth": quantity(part.host_bandwidth_bytes_per_s, "B/s", measured),
        "kernels": "kernels.json",
    }


def node_data(part: Accelerator, points: list[MeasuredPoint]) -> dict[str, Any]:
    ranks = max((point.shape["n_gpus"] for point in points if point.family == "collective"), default=1)
    reached = bandwidth_reached(points) or part.memory_bandwidth_bytes_per_s
    link = ABOVE_REACHED * reached
    scale_up = {
        "kind": "nvswitch",
        "domain_gpus": ranks,
        "bandwidth": quantity(link, "B/s", "measured: the best of this profile"),
        "latency": quantity(1e-6, "s", "assumed"),
    }
    nic = {
        "technology": "infiniband",
        "bandwidth": quantity(link, "B/s", "assumed: as inside"),
        "latency": quantity(1e-5, "s", "assumed"),
    }
    return {
        "name": f"{part.name}-node",
        "about": "The machine that calibration ran on; its scale-up links are its memory.",
        "accelerator": "accelerator.yaml",
        "gpus": ranks,
        "scale_up": scale_up,
        "nic": nic,
        "overhead_power": quantity(0.0, "W", "assumed"),
    }


def quantity(value: float, unit: str, source: str) -> dict[str, str]:
    return {"value": f"{value:.6g} {unit}", "source": source}


def as_yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)


# ---- what the catalogue has of the part


def node_of(part: str, folder: Path) -> str:
    """A catalogue node of the part, or the file that the profile in `folder` describes its machine by."""
    nodes = catalogue.names("nodes")
    alike = [name for name in nodes if catalogue.node(name).accelerator.name.lower() == part]
    return alike[0] if alike else str((folder / "node.yaml").resolve())


def shipped_set(part: Accelerator, known: bool) -> dict[str, Any] | None:
    """The raw kernel set that ships for this very part; None where it has none or only a sibling's."""
    path = DATA / f"{part.kernels}.json"
    if not known or part.name.lower() != part.kernels or not path.is_file():
        return None
    shipped: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return shipped
