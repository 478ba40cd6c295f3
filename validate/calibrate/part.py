"""What the fit must know of the part: from the catalogue, or, where that has none, from its own best measurements."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from hardware import catalogue
from hardware.problems import InputError, Problem
from hardware.specs import Accelerator
from validate.calibrate.fit import TooFew
from validate.calibrate.fit_groups import bandwidth_reached
from validate.calibrate.machine import Machine
from validate.calibrate.passes import moved_bytes
from validate.calibrate.points import Point
from validate.kernels.inference import COPY_FRACTION

NUMBER_FORMAT = {"fp8_block": "fp8"}


def accelerator_of(machine: Machine, points: Iterable[Point]) -> tuple[Accelerator, bool]:
    """The part measured, and whether the catalogue has it. Raises InputError for a GPU that is in no catalogue."""
    if machine.part and machine.part != "cpu":
        return catalogue.accelerator(machine.part), True
    if machine.kind == "cuda":
        name = machine.facts["gpu"]
        raise InputError([Problem("--part", None, "", f"{name!r} is not clearly one of the catalogue's accelerators; "
                                  f"name it, as --part h200-sxm-141gb, or a YAML file that describes it")])  # fmt: skip
    return as_measured(machine, list(points)), False


def as_measured(machine: Machine, points: list[Point]) -> Accelerator:
    """A processor described by what it reached: peaks are its best products, its bandwidth that of its best copy.

    Raises TooFew where neither was measured.
    """
    best: dict[str, float] = {}
    copied = 0.0
    for point in points:
        if not point.usable:
            continue
        if point.family == "gemm":
            shape = point.shape
            format = NUMBER_FORMAT.get(point.dtype, point.dtype)
            best[format] = max(best.get(format, 0.0), 2 * shape["m"] * shape["n"] * shape["k"] / point.seconds)
        elif point.family == "streaming" and point.shape["op"] in ("copy", "add"):
            copied = max(copied, moved_bytes(point.shape) / point.seconds)
    if "bf16" not in best or not copied:
        raise TooFew("neither a product nor a copy was measured: nothing describes this processor")
    import os

    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Accelerator(
        name="cpu",
        generation="cpu",
        peak_flops_per_s={key: float(f"{value:.4g}") for key, value in sorted(best.items())},
        memory_capacity_bytes=float(pages),
        memory_bandwidth_bytes_per_s=float(f"{copied / COPY_FRACTION:.4g}"),
        sm_count=int(machine.facts.get("threads", 1)),
        tdp_w=100.0,
        idle_w=0.0,
        host_bandwidth_bytes_per_s=copied,
        kernels="",
    )


def machine_files(part: Accelerator, points: list[Point]) -> dict[str, str]:
    """Accelerator and node files of a processor that no catalogue has, so that scenarios can name it."""
    ranks = max((point.shape["n_gpus"] for point in points if point.family == "collective"), default=1)
    link = bandwidth_reached(points) or part.memory_bandwidth_bytes_per_s
    measured = "measured: the best of this profile"
    accelerator: dict[str, Any] = {
        "name": part.name,
        "about": "A processor as calibration found it, not as its vendor describes it.",
        "generation": part.generation,
        "peak": {key: given(value, "FLOP/s", measured) for key, value in part.peak_flops_per_s.items()},
        "memory_capacity": given(part.memory_capacity_bytes, "B", "as the system tells"),
        "memory_bandwidth": given(part.memory_bandwidth_bytes_per_s, "B/s", f"best copy over {COPY_FRACTION}"),
        "sm_count": {"value": part.sm_count, "source": "threads that torch used"},
        "tdp": given(part.tdp_w, "W", "assumed: nothing was read"),
        "idle": given(part.idle_w, "W", "assumed: nothing was read"),
        "host_bandwidth": given(part.host_bandwidth_bytes_per_s, "B/s", measured),
        "kernels": "kernels.json",
    }
    node: dict[str, Any] = {
        "name": f"{part.name}-node",
        "about": "The machine that calibration ran on; its scale-up links are its memory.",
        "accelerator": "accelerator.yaml",
        "gpus": ranks,
        "scale_up": {"kind": "nvswitch", "domain_gpus": ranks, "bandwidth": given(1.05 * link, "B/s", measured),
                     "latency": given(1e-6, "s", "assumed")},
        "nic": {"technology": "infiniband", "bandwidth": given(1.05 * link, "B/s", "assumed: as inside"),
                "latency": given(1e-5, "s", "assumed")},
        "overhead_power": given(0.0, "W", "assumed"),
    }  # fmt: skip
    return {"accelerator.yaml": as_yaml(accelerator), "node.yaml": as_yaml(node)}


def node_of(part: str, folder: Path) -> str:
    """A catalogue node of the part, or the file that the profile in `folder` describes its machine by."""
    alike = [name for name in catalogue.names("nodes") if catalogue.node(name).accelerator.name.lower() == part]
    return alike[0] if alike else str((folder / "node.yaml").resolve())


def given(value: float, unit: str, source: str) -> dict[str, str]:
    return {"value": f"{value:.6g} {unit}", "source": source}


def as_yaml(data: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=120)


def shipped_set(part: Accelerator, known: bool) -> dict[str, Any] | None:
    """The raw kernel set that ships for this very part; None where it has none or only a sibling's."""
    import json

    from hardware.kernels.curves import DATA

    path = DATA / f"{part.kernels}.json"
    if not known or part.name.lower() != part.kernels or not Path(path).is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))
