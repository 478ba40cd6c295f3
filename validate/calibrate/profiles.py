"""Writes a profile: curves, coefficients, what was measured and how well the fits hold, as comparable text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware.collectives.group import Links
from hardware.profile import VERSION, forget, read_profile
from hardware.specs import Accelerator
from simulator.report.folder import write_text
from validate.calibrate.fit import fit_kernels
from validate.calibrate.fit_groups import fit_collectives
from validate.calibrate.machine import Machine, today
from validate.calibrate.part import accelerator_of, machine_files, node_of, shipped_set
from validate.calibrate.points import Points
from validate.kernels.common import rounded


def write_profile(folder: Path, points: Points, machine: Machine, links: Links | None = None) -> dict[str, Any]:
    """Fits all points and writes the profile's files; returns its summary. Raises TooFew, InputError.

    `links` are those of the cluster that the groups were measured on; without one, those of the machine as measured.
    """
    part, known = accelerator_of(machine, points.usable())
    source = f"measured by traincast calibrate on {machine.facts['gpu']}, torch {machine.facts['torch']}, {today()}"
    kernels = rounded(fit_kernels(points.usable(), part, shipped_set(part, known), source))
    documents: dict[str, Any] = {"kernels.json": kernels}
    texts = {} if known else machine_files(part, points.usable())
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, documents, texts)
    own = links or links_as_measured(folder, part, known)
    collectives = fit_collectives(points.usable(), own, own.nic_technology, source) if own else None
    if collectives:
        documents["collectives.json"] = rounded(collectives)
    summary = summary_of(points, documents)
    documents["profile.json"] = {
        "version": VERSION,
        "name": folder.name,
        "part": part.name.lower(),
        "made": today(),
        "machine": dict(machine.facts),
        "files": [name for name in documents if name != "profile.json"],
        "points": len(points.usable()),
        "summary": summary,
    }
    from validate.calibrate.report import page

    texts["REPORT.md"] = page(documents, points)
    write_files(folder, documents, texts)
    forget()
    read_profile(folder)  # what is written must be what is read
    return documents


def write_files(folder: Path, documents: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """profile.json last, so that a reader never finds a profile without its curves."""
    for name, document in documents.items():
        write_text(folder / name, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    for name, text in texts.items():
        write_text(folder / name, text)


def links_as_measured(folder: Path, part: Accelerator, known: bool) -> Links | None:
    """Links of a single server of this machine, to which the groups' curves refer."""
    from hardware import catalogue
    from hardware.collectives.group import links_of

    name = node_of(part.name.lower(), folder)
    if known and name.endswith(".yaml"):
        return None
    node = catalogue.node(name)
    return links_of(catalogue.cluster(node.gpus, node, "none"))


def summary_of(points: Points, documents: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of points by family, failures, and held-out errors by fit."""
    counts: dict[str, int] = {}
    failed: dict[str, int] = {}
    for point in points.found.values():
        target = counts if point.usable else failed
        name = point.family if point.usable else f"{point.family}: {point.failed}"
        target[name] = target.get(name, 0) + 1
    errors: dict[str, Any] = {}
    kernels = documents["kernels.json"]
    for family in ("gemm", "grouped_gemm", "attention"):
        for dtype, entry in kernels[family].items():
            if family not in kernels["borrowed"]:
                errors[f"{family} {dtype}"] = entry["held_out"]["fit"]
    errors |= {f"streaming {kind}": entry["held_out"]["fit"] for kind, entry in kernels["streaming"].items()
               if "held_out" in entry}  # fmt: skip
    if "collectives.json" in documents:
        errors |= {f"collective {name}": entry for name, entry in documents["collectives.json"]["held_out"].items()}
    return {"points": counts, "failed": failed, "held_out": errors}
