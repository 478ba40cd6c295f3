"""The files of a profile: fitted from all points, written as comparable text, and what changes by them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.collectives.links import Links
from hardware.problems import InputError, Place
from hardware.profile import VERSION, applied, forget, read_profile
from hardware.specs import Accelerator
from simulator.report.folder import write_text
from validate.calibrate.fitting.collective_curves import fit_collectives
from validate.calibrate.fitting.held_out import TooFew
from validate.calibrate.fitting.kernel_set import KERNEL_FAMILIES, fit_kernels
from validate.calibrate.fitting.part import accelerator_of, machine_files, node_of, shipped_set
from validate.calibrate.machine import MeasuredMachine, machine_of, today
from validate.calibrate.options import Options, scenario_of
from validate.calibrate.points import Points
from validate.calibrate.profile_text import page
from validate.kernels.common import rounded

if TYPE_CHECKING:
    from simulator.scenario.schema import Scenario


# ---- after measuring


def finish(options: Options, skipped: list[str], lost: str = "") -> dict[str, Any] | None:
    """Fits, writes, and tells; the document of what was made, None where too little was measured."""
    points = Points(options.points_file)
    saved = f"{len(points.usable())} points are kept in {points.path}"
    if lost:
        sys.stderr.write(f"{lost}\n{saved}; run the same command again to go on from there\n")
    if skipped:
        sys.stderr.write(
            f"the time was up with {len(skipped)} cases left ({skipped[0]}, ...); {saved}; run again to go on\n"
        )
    try:
        machine = machine_of(points.usable())
        machine = replace(machine, part=machine.part or options.part)
        scenario = scenario_of(options)
        documents = write_profile(options.out, points, machine, links_of_scenario(machine, scenario))
    except TooFew as error:
        sys.stderr.write(f"no profile yet: {error}; {saved}\n")
        return None
    change = prediction_change(options, scenario) if scenario else None
    return {"profile": documents["profile.json"], "prediction": change}


def prediction_change(options: Options, scenario: Scenario) -> Mapping[str, Any] | None:
    """Step time of the scenario by the shipped curves and by the profile; None where it is of another part."""
    from simulator.predict.prediction import evaluate

    try:
        cluster = applied(scenario.cluster, read_profile(options.out), Place(str(options.out)))
    except InputError as error:
        sys.stderr.write(f"the scenario is not changed by this profile: {error}\n")
        return None
    before = evaluate(scenario)
    after = evaluate(replace(scenario, cluster=cluster))
    return {
        "scenario": scenario.name,
        "step_time_before_s": before.step_time_s,
        "step_time_after_s": after.step_time_s,
        "evidence_before": before.evidence,
        "evidence_after": after.evidence,
        "warnings": list(after.warnings),
    }


# ---- fitted and written


def write_profile(folder: Path, points: Points, machine: MeasuredMachine, links: Links | None = None) -> dict[str, Any]:
    """Fits all points and writes the profile's files; returns its documents by file name.

    `links` are those of the cluster that the groups were measured on; without one, those of the machine as measured.
    Without kernels a profile is of collectives alone, and kernels stay as the catalogue has them. Raises InputError,
    and TooFew where neither could be fitted.
    """
    usable = points.usable()
    part, known = accelerator_of(machine, usable)
    source = f"measured by traincast calibrate on {machine.facts['gpu']}, torch {machine.facts['torch']}, {today()}"
    kernels, missing = kernels_of(points, part, known, source)
    documents: dict[str, Any] = {"kernels.json": kernels} if kernels else {}
    texts = {} if known else machine_files(part, usable)
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, documents, texts)
    links = links or links_as_measured(folder, part, known)
    collectives = fit_collectives(usable, links, links.nic_technology, source) if links else None
    if not kernels and not has_curves(collectives):
        raise TooFew("; ".join([missing, *(collectives or {}).get("notes", [])]))
    if collectives:
        if missing:
            collectives["notes"].append(f"kernels are the catalogue's: {missing}")
        documents["collectives.json"] = rounded(collectives)
    documents["profile.json"] = {
        "version": VERSION,
        "name": folder.name,
        "part": part.name.lower(),
        "made": today(),
        "machine": dict(machine.facts),
        "files": list(documents),
        "points": len(usable),
        "summary": summary_of(points, documents),
    }
    texts["REPORT.md"] = page(documents, points)
    write_files(folder, documents, texts)
    forget()
    read_profile(folder)  # what is written must be what is read
    return documents


def kernels_of(points: Points, part: Accelerator, known: bool, source: str) -> tuple[dict[str, Any], str]:
    """(kernel set, "") or ({}, why there is none): of a known part one can do without."""
    usable = points.usable()
    measured = any(point.family in KERNEL_FAMILIES for point in usable)
    collectives = any(point.family == "collective" for point in usable)
    if collectives and not measured:
        return {}, "no kernel was measured"
    try:
        kernels: dict[str, Any] = rounded(fit_kernels(usable, part, shipped_set(part, known), source))
    except TooFew as error:
        if not (known and collectives):
            raise
        return {}, str(error)
    return kernels, ""


def has_curves(collectives: Mapping[str, Any] | None) -> bool:
    """Whether anything could be fitted."""
    return bool(collectives and (collectives["scale_up"] or collectives["network"]))


def write_files(folder: Path, documents: Mapping[str, Any], texts: Mapping[str, str]) -> None:
    """profile.json last, so that a reader never finds a profile without its curves."""
    for name, document in documents.items():
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
        write_text(folder / name, text + "\n")
    for name, text in texts.items():
        write_text(folder / name, text)


# ---- the links that the groups' curves refer to


def links_of_scenario(machine: MeasuredMachine, scenario: Scenario | None) -> Links | None:
    """Links of the scenario's cluster where it is of the part measured; the groups' curves then refer to them.

    A part that no catalogue has is described by its own measurements, whatever an older profile said of it.
    """
    if scenario is None or machine.kind == "cpu":
        return None
    from hardware.collectives.links import links_of

    same = scenario.cluster.accelerator.name.lower() == machine.part
    return links_of(replace(scenario.cluster, efficiencies="")) if same else None


def links_as_measured(folder: Path, part: Accelerator, known: bool) -> Links | None:
    """Links of a single server of this machine; None for a part that no node of the catalogue has."""
    from hardware import catalogue
    from hardware.collectives.links import links_of

    name = node_of(part.name.lower(), folder)
    if known and name.endswith(".yaml"):
        return None
    node = catalogue.node(name)
    return links_of(catalogue.cluster(node.gpus, node, "none"))


# ---- how well it holds


def summary_of(points: Points, documents: Mapping[str, Any]) -> dict[str, Any]:
    """Counts of points by family, failures, and held-out errors by fit."""
    counts: dict[str, int] = {}
    failed: dict[str, int] = {}
    for point in points.by_key.values():
        target = counts if point.usable else failed
        name = point.family if point.usable else f"{point.family}: {point.failed}"
        target[name] = target.get(name, 0) + 1
    errors = kernel_errors(documents.get("kernels.json", {}))
    collectives = documents.get("collectives.json", {}).get("held_out", {})
    errors |= {f"collective {name}": entry for name, entry in collectives.items()}
    return {"points": counts, "failed": failed, "held_out": errors}


def kernel_errors(kernels: Mapping[str, Any]) -> dict[str, Any]:
    """Name of a fit -> its held-out errors, of the families that were measured."""
    errors: dict[str, Any] = {}
    for family in ("gemm", "grouped_gemm", "attention"):
        if family in kernels and family not in kernels["borrowed"]:
            for dtype, entry in kernels[family].items():
                errors[f"{family} {dtype}"] = entry["held_out"]["fit"]
    for kind, entry in kernels.get("streaming", {}).items():
        if "held_out" in entry:
            errors[f"streaming {kind}"] = entry["held_out"]["fit"]
    return errors
