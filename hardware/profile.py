"""A folder of measured curves made on one's own machines: read, checked value by value, and laid under a cluster.

A profile holds `profile.json` (what was measured, where, when) and one or both of `kernels.json` (a kernel set as the
shipped ones in `data/kernels`) and `collectives.json` (coefficients as `data/collectives`), by what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hardware.collectives import closed_form
from hardware.collectives.algorithms import ALGORITHMS, OPERATIONS, PROTOCOLS
from hardware.documents import read_document
from hardware.kernels.curves import AttentionCurve, GemmCurve, kernel_set
from hardware.kernels.matmul import ROLES
from hardware.kernels.scaling import is_borrowed
from hardware.kernels.streaming import fractions
from hardware.precisions import REFERENCE
from hardware.problems import InputError, Place, one_of
from hardware.sections import Section
from hardware.specs import Cluster

VERSION = 1
FRACTIONS = ("bandwidth_fraction", "ramp", "efficiency", "fraction")


@dataclass(frozen=True, slots=True)
class Profile:
    """A checked profile. `part` is the accelerator it was measured on, `made` the date; paths are absolute.

    `kernels` is empty where no kernel was measured, `collectives` where no group was.
    """

    name: str
    part: str
    made: str
    kernels: str
    collectives: str
    machine: Mapping[str, Any]


def profile_folder(name: str, file: str) -> Path:
    """A profile named in a scenario file: beside the file, or else (as `--set` has it) from where one works."""
    beside = Path(file).parent / name
    return (beside if beside.is_dir() else Path(name)).resolve()


def read_profile(folder: str | Path, at: Place | None = None) -> Profile:
    """The profile in a folder, `at` being where it was named. Raises InputError with every problem of its files."""
    folder = Path(folder).resolve()
    head = folder / "profile.json"
    if not head.is_file():
        place = at or Place(str(folder))
        raise InputError(
            [place.problem(f"{folder} holds no profile.json; `traincast calibrate --out {folder}` makes it")]
        )
    document = read_document(head)
    top = Section(document.data, document.place)
    version = top.count("version")
    if version not in (None, VERSION):
        top.report("version", f"is {version}; this program reads {VERSION}. Fit it again from its points: "
                   f"`traincast calibrate --fit-only --out {folder}`")  # fmt: skip
    name, part, made = top.text("name"), top.text("part"), top.text("made")
    machine, held = top.take("machine", {}), top.take("files")
    listed = held if isinstance(held, list) else []
    wanted = {kind: folder / f"{kind}.json" for kind in CHECKS if f"{kind}.json" in listed}
    if not wanted:
        top.report("files", "must be a list that names kernels.json, collectives.json, or both")
    for key in ("points", "summary"):
        top.seen.add(key)
    top.done()
    problems = list(top.problems)
    for kind, path in wanted.items():
        try:
            CHECKS[kind](path)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    paths = {kind: str(path) for kind, path in wanted.items()}
    return Profile(name, part, made, paths.get("kernels", ""), paths.get("collectives", ""), machine)


def applied(cluster: Cluster, profile: Profile, at: Place) -> Cluster:
    """The cluster priced by the profile's curves. Raises InputError where they were measured on another part.

    A part that the catalogue prices by the measured one's curves (H800 by H100) keeps its scale.
    """
    part = cluster.accelerator
    derived = part.corrected_as == profile.part and not is_borrowed(part)
    same = derived or part.name.lower() == profile.part
    if not same and part.kernels != profile.part:
        raise InputError([at.problem(f"was measured on {profile.part}, the cluster is of {part.name}: calibrate "
                                     f"there, or take a node of {profile.part}")])  # fmt: skip
    cluster = replace(cluster, efficiencies=profile.collectives)
    if not profile.kernels:
        return cluster
    scale = 1.0 if same else part.kernel_scale
    priced = replace(part, kernels=profile.kernels, kernel_scale=scale)
    return replace(cluster, node=replace(cluster.node, accelerator=priced))


def forget() -> None:
    """Drops what was read of profiles, so that a file written anew is read anew."""
    kernel_set.cache_clear()
    closed_form.measured_efficiencies.cache_clear()
    closed_form.forget()


def check_kernels(path: Path) -> None:
    """Raises InputError with every key of a kernels.json that is missing, unknown, or out of its range."""
    document = read_document(path)
    top = Section(document.data, document.place)
    for key in ("name", "source"):
        top.text(key)
    peaks = top.section("part").section("peak_flops_per_s")
    for key in [*peaks.data, *([REFERENCE] if REFERENCE not in peaks.data else [])]:
        number(peaks, key)
    for family, kind in {"gemm": GemmCurve, "grouped_gemm": GemmCurve, "attention": AttentionCurve}.items():
        section = top.section(family)
        for key in [*section.data, *([REFERENCE] if REFERENCE not in section.data else [])]:
            curve = section.section(key).section("curve")
            for each in fields(kind):
                value(curve, each.name)
            curve.done()
    rates = top.section("role_rates")
    for family in ("gemm", "grouped_gemm"):
        roles = rates.section(family)
        for role in ROLES:
            number(roles, role)
    streams = top.section("streaming")
    for key in streams.data:
        if key not in fractions():
            streams.report(key, one_of(key, fractions()))
        number(streams.section(key), "fraction")
    borrowed = top.take("borrowed")
    if not isinstance(borrowed, list) or not all(isinstance(each, str) for each in borrowed):
        top.report("borrowed", "must be a list of families")
    for key in ("spread", "measured_range"):
        top.section(key)
    top.seen.add("notes")
    top.done()
    top.raise_problems()


def value(section: Section, key: str) -> None:
    """A number, or a list of numbers for curves over head sizes."""
    if isinstance(section.data.get(key), list):
        items = section.take(key)
        for index, item in enumerate(items):
            if not usable(item):
                section.report(f"{key}.{index}", f"must be a number of at least 0, not {item!r}")
        if not items:
            section.report(key, "is an empty list")
    else:
        number(section, key)


def number(section: Section, key: str) -> None:
    """A finite number of at least 0, and at most 1 where it is a share."""
    found = section.take(key)
    if found is None:
        return
    if not usable(found):
        section.report(key, f"must be a number of at least 0, not {found!r}")
    elif key in FRACTIONS and found > 1:
        section.report(key, f"is a share and cannot be above 1, not {found!r}")


def usable(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item) and item >= 0


def check_collectives(path: Path) -> None:
    """Raises InputError with every key of a collectives.json that is missing, unknown, or out of its range."""
    document = read_document(path)
    top = Section(document.data, document.place)
    top.text("source")
    pairs = {f"{algorithm}/{protocol}" for algorithm in ALGORITHMS for protocol in PROTOCOLS}
    generations = top.section("scale_up")
    for generation in generations.data:
        table = generations.section(generation)
        for operation in known(table, OPERATIONS):
            curves = table.section(operation)
            for pair in known(curves, pairs):
                five = curves.take(pair)
                if not isinstance(five, list) or len(five) != 5 or not all(usable(each) for each in five):
                    curves.report(pair, "must be five numbers: fixed_s, step_s, efficiency, copies, sharpness")
                elif not 0 < five[2] <= 1 or five[4] < 1:
                    curves.report(pair, "needs an efficiency in (0, 1] and a sharpness of at least 1")
    technologies = top.section("network")
    for technology in technologies.data:
        check_network(technologies.section(technology))
    slowed = top.section("contention")
    for key in slowed.data:
        number(slowed, key)
    for key in ("held_out", "interval", "measured_range"):
        top.section(key)
    top.seen.add("notes")
    top.done()
    top.raise_problems()


def check_network(entry: Section) -> None:
    for key in ("evidence", "source"):
        entry.text(key)
    number(entry, "sharpness")
    for key in ("fixed_s", "step_s", "efficiency"):
        below = entry.section(key)
        for protocol in PROTOCOLS:
            number(below, protocol)


def known(section: Section, choices: Collection[str]) -> list[str]:
    """The section's keys that are among the choices; the others are reported."""
    for key in section.data:
        if key not in choices:
            section.report(key, one_of(key, choices))
    return [key for key in section.data if key in choices]


CHECKS = {"kernels": check_kernels, "collectives": check_collectives}
