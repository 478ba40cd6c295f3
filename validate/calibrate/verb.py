"""What `traincast calibrate` does with what was asked: import, measure on every rank, fit, compare, tell."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from validate.calibrate.finish import finish
from validate.calibrate.points import Points
from validate.calibrate.run import Options, calibrate, points_file

DEVICES = ("auto", "cuda", "cpu")


@dataclass(frozen=True, slots=True)
class Asked:
    """The verb's arguments, as the command line has them."""

    out: Path
    scenario: Path | None = None
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    part: str = ""
    budget_s: float = 480.0
    case_s: float = 0.5
    processes: int = 1
    shared: bool = False
    fit_only: bool = False
    imports: tuple[Path, ...] = ()
    slurm_nodes: int = 0
    step: bool = False


def run(asked: Asked) -> dict[str, Any]:
    """The result as one document: `ok`, `profile`, `prediction`, `step`, and `text` for people."""
    check(asked)
    options = Options(asked.out, asked.scenario, asked.overrides, asked.device, asked.part, asked.budget_s,
                      asked.case_s, shared=asked.shared)  # fmt: skip
    if asked.slurm_nodes:
        return slurm_file(asked)
    skipped: list[str] = []
    lost = ""
    if asked.imports:
        imported(asked)
    elif not asked.fit_only:
        skipped, lost = measured(options, asked.processes)
    made = finish(options, skipped, lost)
    result: dict[str, Any] = {"ok": made is not None and not lost, **(made or {})}
    if asked.step and asked.scenario is not None:
        from validate.calibrate.step import compare_step

        result["step"] = compare_step(options)
    from validate.calibrate.report import told

    return {**result, "text": told(result, asked.out)}


def check(asked: Asked) -> None:
    """Raises InputError with everything that cannot be done, before anything is measured."""
    problems = []
    if asked.device not in DEVICES:
        problems.append(Problem("--device", None, "", f"{asked.device!r}: choose one of {', '.join(DEVICES)}"))
    problems += [Problem(str(path), None, "--import", "there is no such file") for path in asked.imports if not path.is_file()]
    if asked.step and asked.scenario is None:
        problems.append(Problem("--step", None, "", "needs a scenario: the model to train"))
    if asked.out.exists() and not asked.out.is_dir():
        problems.append(Problem(str(asked.out), None, "--out", "is a file; name a folder"))
    try:
        import torch  # noqa: F401
    except ImportError:
        problems.append(Problem("torch", None, "", "is not installed; pip install 'traincast[torch]', or your vendor's build"))
    if problems:
        raise InputError(problems)


def measured(options: Options, processes: int) -> tuple[list[str], str]:
    """Measures here, or on so many ranks of this machine; (cases skipped, why a rank was lost)."""
    from validate.calibrate.groups import PeerLost
    from validate.calibrate.spawn import on_ranks

    try:
        return (calibrate(options) if processes == 1 else on_ranks(options, processes)), ""
    except PeerLost as error:
        return [], str(error)
    except KeyboardInterrupt:
        return [], "interrupted"


def imported(asked: Asked) -> None:
    """Adds the points of log files to the folder's."""
    from validate.calibrate.imports import read_log

    points = Points(points_file(asked.out))
    for path in asked.imports:
        found = read_log(path)
        for point in found:
            points.add(point)
        sys.stderr.write(f"{path}: {len(found)} points\n")


def slurm_file(asked: Asked) -> dict[str, Any]:
    from simulator.report.folder import write_text
    from validate.calibrate.slurm import job

    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "calibrate.sbatch"
    write_text(path, job(asked))
    return {"ok": True, "file": str(path), "text": f"wrote {path}; submit it with: sbatch {path}\n"}
