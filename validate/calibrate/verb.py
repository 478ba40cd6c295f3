"""What `traincast calibrate` does with what was asked: import, measure on every rank, fit, compare, tell."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from simulator.report.folder import json_text, write_text
from validate.calibrate.asked import Asked
from validate.calibrate.finish import finish
from validate.calibrate.machine import part_of
from validate.calibrate.peers import PeerLost
from validate.calibrate.points import Point, Points
from validate.calibrate.run import calibrate, points_file

DEVICES = ("auto", "cuda", "cpu")


def run(asked: Asked) -> dict[str, Any]:
    """The result as one document: `ok`, `profile`, `prediction`, `step`, and `text` for people."""
    check(asked)
    if asked.slurm_nodes:
        return slurm_file(asked)
    skipped: list[str] = []
    lost = ""
    if asked.imports:
        imported(asked)
    elif not asked.fit_only:
        skipped, lost = measured(asked)
    made = finish(asked, skipped, lost)
    result: dict[str, Any] = {"ok": made is not None and not lost, **(made or {})}
    if asked.step and made:
        result["step"] = stepped(asked)
    from validate.calibrate.report import told

    return {**result, "text": told(result, asked.out)}


def check(asked: Asked) -> None:
    """Raises InputError with everything that cannot be done, before anything is measured."""
    problems = []
    if asked.device not in DEVICES:
        problems.append(Problem("--device", None, "", f"{asked.device!r}: choose one of {', '.join(DEVICES)}"))
    problems += [
        Problem(str(path), None, "--import", "there is no such file") for path in asked.imports if not path.is_file()
    ]
    if asked.out.exists() and not asked.out.is_dir():
        problems.append(Problem(str(asked.out), None, "--out", "is a file; name a folder"))
    if find_spec("torch") is None:
        problems.append(
            Problem("torch", None, "", "is not installed; pip install 'traincast[torch]', or your vendor's build")
        )
    if problems:
        raise InputError(problems)


def measured(asked: Asked) -> tuple[list[str], str]:
    """Measures here, or on so many ranks of this machine; (cases skipped, why a rank was lost)."""
    from validate.calibrate.spawn import on_ranks

    try:
        return (calibrate(asked) if asked.processes == 1 else on_ranks(asked, asked.processes)), ""
    except PeerLost as error:
        return [], str(error)
    except KeyboardInterrupt:
        return [], "interrupted"


def stepped(asked: Asked) -> list[dict[str, Any]]:
    """Trains the project's models here (and the scenario's, where one GPU holds it) beside their predictions."""
    import torch

    from validate.calibrate.machine import find_machine
    from validate.calibrate.part import node_of
    from validate.calibrate.run import progress
    from validate.calibrate.step import compare, scenarios

    machine = find_machine(asked.device, 0, asked.part)
    wanted = scenarios(machine.kind, node_of(machine.part, asked.out), asked.out)
    if asked.scenario is not None:
        from simulator.scenario.schema import load_scenario

        override = f"hardware.profile={asked.out.resolve()}"
        own = load_scenario(asked.scenario, [*asked.overrides, override])
        wanted = [own, *wanted] if own.plan.gpus == 1 else wanted
    with progress("step", len(wanted)) as tick:
        rows = compare(wanted, torch.device(machine.device), tick)
    write_text(asked.out / "steps.json", json_text({"rows": rows}))
    return rows


def imported(asked: Asked) -> None:
    """Adds the points of log files to the folder's."""
    from validate.calibrate.imports import read_log

    points = Points(points_file(asked.out))
    for path in asked.imports:
        found = [of_part(point, asked.part, path) for point in read_log(path)]
        kept = [point for point in found if point is not None]
        for point in kept:
            points.add(point)
        others = f", {len(found) - len(kept)} of other parts left out" if len(kept) < len(found) else ""
        sys.stderr.write(f"{path}: {len(kept)} points{others}\n")


def of_part(point: Point, part: str, path: Path) -> Point | None:
    """The point with its part's name; None where it is of another than the one asked for."""
    own = part_of(str(point.where.get("gpu", "")))
    if not (own or part):
        named = point.where.get("gpu") or "a part it does not name"
        message = f"is of {named}; say which accelerator of the catalogue that is: --part h100-sxm-80gb"
        raise InputError([Problem(str(path), None, "", message)])
    if part and own and own != part:
        return None
    return replace(point, where={**point.where, "part": part or own, "device": "cuda"})


def slurm_file(asked: Asked) -> dict[str, Any]:
    from validate.calibrate.slurm import job

    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "calibrate.sbatch"
    write_text(path, job(asked))
    return {"ok": True, "file": str(path), "text": f"wrote {path}; submit it with: sbatch {path}\n"}
