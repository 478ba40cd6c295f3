"""What `traincast calibrate` does with what was asked: import, measure on every rank, fit, compare, tell."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hardware import catalogue
from hardware.problems import InputError, Problem
from simulator.report.folder import json_text, write_text
from validate.calibrate.logs.points_of_part import points_of_part
from validate.calibrate.measuring.session import calibrate, progress
from validate.calibrate.options import VerbOptions
from validate.calibrate.points import MeasuredPoint, Points
from validate.calibrate.profile_files import finish
from validate.calibrate.profile_text import told
from validate.calibrate.torch_ranks import PeerLost, on_ranks, slurm_job

DEVICES = ("auto", "cuda", "cpu")


def run(options: VerbOptions) -> dict[str, Any]:
    """The result as one document: `ok`, `profile`, `prediction`, `step`, and `text` for people. Raises InputError."""
    check(options)
    if options.slurm_nodes:
        return write_slurm_file(options)
    skipped: list[str] = []
    lost = ""
    if options.imports:
        import_logs(options)
    elif not options.fit_only:
        skipped, lost = measure_here(options)
    profile = finish(options, skipped, lost)
    result: dict[str, Any] = {"ok": profile is not None and not lost, **(profile or {})}
    if options.step and profile:
        result["step"] = train_steps(options)
    return {**result, "text": told(result, options.out)}


def check(options: VerbOptions) -> None:
    """Raises InputError with everything that cannot be done, before anything is measured."""
    problems = []
    if options.device not in DEVICES:
        problems.append(Problem("--device", None, "", f"{options.device!r}: choose one of {', '.join(DEVICES)}"))
    missing = [path for path in options.imports if not path.is_file()]
    problems += [Problem(str(path), None, "--import", "there is no such file") for path in missing]
    if options.out.exists() and not options.out.is_dir():
        problems.append(Problem(str(options.out), None, "--out", "is a file; name a folder"))
    only_fits = bool(options.imports or options.fit_only or options.slurm_nodes) and not options.step
    if not only_fits and find_spec("torch") is None:
        message = "is not installed; pip install 'traincast[torch]', or your vendor's build"
        problems.append(Problem("torch", None, "", message))
    if options.imports and options.part not in ("", "cpu"):
        try:
            catalogue.accelerator(options.part)
        except InputError as error:
            problems += [Problem("--part", None, "", problem.message) for problem in error.problems]
    if problems:
        raise InputError(problems)


def import_logs(options: VerbOptions) -> None:
    """Adds the points of log files to the folder's. Raises InputError with what is wrong with any, and adds none."""
    problems: list[Problem] = []
    imported: list[MeasuredPoint] = []
    for path in options.imports:
        try:
            points, note = points_of_part(path, options.part)
        except InputError as error:
            problems += error.problems
            continue
        imported += points
        sys.stderr.write(f"{path}: {len(points)} points{note}\n")
    if problems:
        raise InputError(problems)
    file = Points(options.points_file)
    for point in imported:
        file.add(point)


def measure_here(options: VerbOptions) -> tuple[list[str], str]:
    """Measures here, or on so many ranks of this machine; (cases skipped, why a rank was lost)."""
    try:
        if options.processes == 1:
            return calibrate(options), ""
        return on_ranks(calibrate, options, options.processes), ""
    except PeerLost as error:
        return [], str(error)
    except KeyboardInterrupt:
        return [], "interrupted"


def train_steps(options: VerbOptions) -> list[dict[str, Any]]:
    """Trains the project's models here (and the scenario's, where one GPU holds it) beside their predictions."""
    import torch

    from simulator.scenario.schema import load_scenario
    from validate.calibrate.fitting.part import node_of
    from validate.calibrate.machine import find_machine
    from validate.calibrate.training_step import compare, scenarios

    machine = find_machine(options.device, 0, options.part)
    wanted = scenarios(machine.kind, node_of(machine.part, options.out), options.out)
    if options.scenario is not None:
        by_profile = f"hardware.profile={options.out.resolve()}"
        own = load_scenario(options.scenario, [*options.overrides, by_profile])
        if own.plan.gpus == 1:
            wanted = [own, *wanted]
    with progress("step", len(wanted)) as tick:
        rows = compare(wanted, torch.device(machine.device), tick)
    write_text(options.out / "steps.json", json_text({"rows": rows}))
    return rows


def write_slurm_file(options: VerbOptions) -> dict[str, Any]:
    options.out.mkdir(parents=True, exist_ok=True)
    path: Path = options.out / "calibrate.sbatch"
    write_text(path, slurm_job(options))
    return {"ok": True, "file": str(path), "text": f"wrote {path}; submit it with: sbatch {path}\n"}
