"""After measuring: the profile is fitted and written, and its reader told what changed."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hardware.problems import InputError, Place
from hardware.profile import applied, read_profile
from validate.calibrate.asked import Options
from validate.calibrate.fit import TooFew
from validate.calibrate.machine import Machine, machine_of
from validate.calibrate.points import Points
from validate.calibrate.profiles import write_profile
from validate.calibrate.run import load, points_file


def finish(options: Options, skipped: list[str], lost: str = "") -> dict[str, Any] | None:
    """Fits, writes, and tells; the document of what was made, None where too little was measured."""
    points = Points(points_file(options.out))
    kept = f"{len(points.usable())} points are kept in {points.path}"
    if lost:
        sys.stderr.write(f"{lost}\n{kept}; run the same command again to go on from there\n")
    if skipped:
        sys.stderr.write(
            f"the time was up with {len(skipped)} cases left ({skipped[0]}, ...); {kept}; run again to go on\n"
        )
    try:
        machine = machine_of(points.usable())
        machine = replace(machine, part=machine.part or options.part)
        scenario = load(options)
        documents = write_profile(options.out, points, machine, own_links(machine, scenario))
    except TooFew as error:
        sys.stderr.write(f"no profile yet: {error}; {kept}\n")
        return None
    change = changed(options, scenario) if scenario else None
    return {"profile": documents["profile.json"], "prediction": change}


def own_links(machine: Machine, scenario: Any) -> Any:
    """Links of the scenario's cluster where it is of the part measured; the groups' curves then refer to them.

    A part that no catalogue has is described by its own measurements, whatever an older profile said of it.
    """
    if scenario is None or machine.kind == "cpu":
        return None
    from hardware.collectives.group import links_of

    same = scenario.cluster.accelerator.name.lower() == machine.part
    return links_of(replace(scenario.cluster, efficiencies="")) if same else None


def changed(options: Options, scenario: Any) -> Mapping[str, Any] | None:
    """Step time of the scenario by the shipped curves and by the profile; None where it is of another part."""
    from simulator.predict.prediction import evaluate

    try:
        cluster = applied(scenario.cluster, read_profile(options.out), Place(str(options.out)))
    except InputError as error:
        sys.stderr.write(f"the scenario is not changed by this profile: {error}\n")
        return None
    before, after = evaluate(scenario), evaluate(replace(scenario, cluster=cluster))
    return {
        "scenario": scenario.name,
        "step_time_before_s": before.step_time_s,
        "step_time_after_s": after.step_time_s,
        "evidence_before": before.evidence,
        "evidence_after": after.evidence,
        "warnings": list(after.warnings),
    }
