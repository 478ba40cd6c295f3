"""Studies of failures in columns of their own: cluster, scale, rates and policy in, simulated figures beside theirs.

One row a study. `gpus` and a measured figure are all that it must give; see COLUMNS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hardware.problems import InputError, Problem
from simulator.run.checkpoints import CheckpointPolicy, SavePaths
from simulator.run.durations import fixed
from simulator.run.faults import FailureModel, mean_time_between_s, scaled
from simulator.run.montecarlo import simulate
from simulator.run.read_failures import preset, presets
from simulator.run.specs import Restart, RunSpec, Segment, Simulation
from validate.tables import read_table

HOUR_S, DAY_S = 3600.0, 86400.0
REQUIRED = ("study", "gpus")
# What a study may state: GPUs of a server, days observed, a shipped failure model or the job's mean time between
# failures, the interval and the duration of checkpoints, and of a restart.
GIVEN = ("gpus_per_node", "days", "model", "mtbf_h", "checkpoint_every_s", "checkpoint_write_s", "restart_s", "source")
# What it may have measured.
MEASURED = ("interruptions", "mttf_h", "effective_fraction")
COLUMNS = (*REQUIRED, *GIVEN, *MEASURED)
DEFAULT_MODEL = "llama-3"


@dataclass(frozen=True, slots=True)
class Study:
    """One row of such a file."""

    name: str
    cells: Mapping[str, str]

    def number(self, column: str, otherwise: float | None = None) -> float | None:
        text = self.cells.get(column, "")
        return float(text) if text else otherwise

    @property
    def gpus(self) -> int:
        return int(float(self.cells["gpus"]))


@dataclass(frozen=True, slots=True)
class StudyFigure:
    """A measured figure of a study and what is predicted for it; `interval` spans the models that the study leaves
    open, or the 10th to 90th percentile over runs."""

    study: str
    quantity: str
    measured: float
    predicted: float
    interval: tuple[float, float]
    given: str
    source: str


def is_study_file(path: Path) -> bool:
    """Whether a file holds studies in columns of their own."""
    head = path.read_text(encoding="utf-8").partition("\n")[0]
    return set(REQUIRED) <= {name.strip() for name in head.split(",")}


def read_studies(path: Path) -> list[Study]:
    """Raises InputError naming unknown columns, cells that are no positive numbers and models that are not known."""
    problems: list[Problem] = []
    table = read_table(path, problems)
    studies = []
    if table is not None:
        unknown = [name for name in table.columns if name not in COLUMNS]
        if unknown:
            what = f"columns {', '.join(unknown)} are not known. Write some of {', '.join(COLUMNS)}."
            problems.append(Problem(str(path), 1, "", what))
        for cells, place in table.lines:
            problems += [place.under(name).problem(why) for name, why in _faults(cells).items()]
            studies.append(Study(cells["study"], cells))
    if problems:
        raise InputError(problems)
    return studies


def _faults(cells: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name in COLUMNS:
        text = cells.get(name, "")
        if name in ("study", "source"):
            continue
        if name == "model":
            if text and text not in presets():
                found[name] = f"{text!r} is no failure model. Use one of {', '.join(presets())}."
        elif not text:
            if name == "gpus":
                found[name] = "is missing. Write the number of GPUs."
        elif not _positive(text):
            found[name] = f"{text!r} is not a positive number"
    return found


def _positive(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def models_of(study: Study) -> list[FailureModel]:
    """The failure model that a study states, else every shipped one, the default first.

    A mean time between failures sets the rate in the mix of the named or the default model.
    """
    mtbf_h, named = study.number("mtbf_h"), study.cells.get("model", "")
    if mtbf_h is not None:
        model = preset(named or DEFAULT_MODEL)
        return [scaled(model, mean_time_between_s(model, study.gpus) / (mtbf_h * HOUR_S))]
    if named:
        return [preset(named)]
    return [preset(DEFAULT_MODEL), *(preset(name) for name in presets() if name != DEFAULT_MODEL)]


def figures_of(study: Study, runs: int, seed: int) -> list[StudyFigure]:
    """Every figure that the study measured, beside what is predicted for it."""
    models, source = models_of(study), study.cells.get("source", "")
    if len(models) > 1:
        given = f"model {DEFAULT_MODEL}; the interval spans all shipped models"
    else:
        given = f"model {models[0].name}"
    hours = [mean_time_between_s(model, study.gpus) / HOUR_S for model in models]
    found = []
    measured = study.number("mttf_h")
    if measured is not None:
        found.append(StudyFigure(study.name, "mttf_h", measured, hours[0], (min(hours), max(hours)), given, source))
    measured, days = study.number("interruptions"), study.number("days")
    if measured is not None and days is not None:
        counts = [days * DAY_S / HOUR_S / each for each in hours]
        between = (min(counts), max(counts))
        found.append(StudyFigure(study.name, "interruptions", measured, counts[0], between, given, source))
    measured = study.number("effective_fraction")
    if measured is not None:
        results = [simulate(study_run(study, model, runs, seed)) for model in models]
        low = min(each.goodput_quantiles.p10 for each in results)
        high = max(each.goodput_quantiles.p90 for each in results)
        predicted = results[0].goodput_fraction
        found.append(StudyFigure(study.name, "effective_fraction", measured, predicted, (low, high), given, source))
    return found


def study_run(study: Study, model: FailureModel, runs: int, seed: int) -> RunSpec:
    """A job of the study's scale and policy: saves stop it for `checkpoint_write_s`, restarts for `restart_s`; nodes
    are replaced at once."""
    gpus = study.gpus
    per_node = min(gpus, int(study.number("gpus_per_node", 8.0) or 8))
    classes = tuple(replace(fault, detect=fixed(0.0), repair=None, scope="job") for fault in model.classes)
    write_s = study.number("checkpoint_write_s", 0.0) or 0.0
    return RunSpec(
        segments=(Segment("main", (study.number("days", 30.0) or 30.0) * DAY_S, 1.0, 1.0),),
        job_nodes=max(1, gpus // per_node),
        gpus_per_node=per_node,
        replicas=1,
        checkpoint=CheckpointPolicy("async", study.number("checkpoint_every_s"), overhead_s=write_s),
        paths=SavePaths(1.0, gpus, 1, 1e12, 1e12, 2e9, 50e9, 50e9, 3e9),
        failures=replace(model, classes=classes),
        restart=Restart(process_start_s=study.number("restart_s", 300.0) or 300.0, init_s_per_gpu=0.0, warm_up_s=0.0),
        simulation=Simulation(runs=runs, seed=seed),
    )
