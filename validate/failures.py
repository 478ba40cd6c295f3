"""Published figures on failures beside the simulated ones; `python -m validate.failures` prints them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hardware.problems import InputError, Problem
from simulator.run.checkpoints import CheckpointPolicy, SavePaths
from simulator.run.durations import fixed
from simulator.run.fault_timeline import FaultTimeline, draw, draw_lemons
from simulator.run.faults import Machines, mean_time_between_s
from simulator.run.montecarlo import simulate
from simulator.run.read_failures import failure_model, preset
from simulator.run.result import RunResult
from simulator.run.spares import spares_needed
from simulator.run.specs import Recovery, Restart, RunSpec, Segment, Simulation
from validate.failure_studies import StudyFigure, figures_of, is_study_file, read_studies
from validate.tables import why_unreadable

PUBLISHED = Path(__file__).parent / "published" / "failures.csv"
COLUMNS = ("study", "metric", "value", "conditions", "source")
DAY_S = 86400.0
HOUR_S = 3600.0
LLAMA, RSC, BLOOM = "Llama 3 405B", "Meta RSC", "BLOOM-176B"
STEPFUN, STEPFUN_FAULTS = "StepFun trace", "StepFun InfiniteHBD trace"


@dataclass(frozen=True, slots=True)
class FailureRow:
    """One published figure and what the simulator says: `interval` is the 10th to 90th percentile over runs.

    `status`: "predicted", "in-sample" (the model was made from this figure), or "bound" (at least `measured`).
    """

    id: str
    status: str
    quantity: str
    measured: float
    predicted: float
    interval: tuple[float, float]
    assumptions: str
    source: str

    @property
    def error_fraction(self) -> float:
        """Predicted over measured, less one; for a bound only what is missing counts."""
        error = self.predicted / self.measured - 1
        return min(error, 0.0) if self.status == "bound" else error

    def to_dict(self) -> dict[str, Any]:
        names = ("id", "status", "quantity", "measured", "predicted", "error_fraction", "assumptions", "source")
        return {name: getattr(self, name) for name in names} | {"interval": list(self.interval)}


@dataclass(frozen=True, slots=True)
class Figures:
    """A file of figures in the published columns, by (study, metric)."""

    table: Mapping[tuple[str, str], Mapping[str, str]]

    def number(self, study: str, metric: str, number: int = 0, column: str = "value") -> float:
        """The `number`-th number in a cell, e.g. of "5.54 / 0.85 / 13.0" or ">90"."""
        found = re.findall(r"[0-9]+(?:[.][0-9]+)?", self.table[study, metric][column])
        if number >= len(found):
            raise KeyError((study, metric))
        return float(found[number])

    def text(self, study: str, metric: str, column: str) -> str:
        return self.table[study, metric][column]

    def metrics(self, study: str) -> list[str]:
        return [metric for of, metric in self.table if of == study]


@cache
def read_figures(path: Path = PUBLISHED) -> Figures:
    """Raises InputError where the columns are not those of the published file."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            lacking = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            table = {} if lacking else {(row["study"], row["metric"]): row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError([Problem(str(path), None, "", why_unreadable(error))]) from None
    if lacking:
        raise InputError([Problem(str(path), 1, "", f"columns missing: {', '.join(lacking)}")])
    return Figures(table)


def rows(runs: int = 200, seed: int = 0, path: Path = PUBLISHED) -> tuple[list[FailureRow], list[str]]:
    """Every figure of the file that the simulator predicts, and of each study why it does not: it is not modelled, or
    the file lacks a figure that its prediction starts from.

    A file may hold the published figures or studies in columns of their own (`validate.failure_studies`).
    """
    found: list[FailureRow] = []
    if path.is_file() and is_study_file(path):
        for own in read_studies(path):
            found += [_of_study(figure) for figure in figures_of(own, runs, seed)]
        return found, []
    figures = read_figures(path)
    unsupported = []
    # The fault counts of StepFun's trace stand under another title; they are predicted with its repair times.
    for study in sorted({study for study, _ in figures.table} - {STEPFUN_FAULTS}):
        if study not in STUDIES:
            unsupported.append(f"{study}: no model of this study ({len(figures.metrics(study))} figures)")
            continue
        try:
            found += STUDIES[study](figures, runs, seed)
        except KeyError as lacking:
            unsupported.append(f"{study}: the file lacks {' / '.join(map(str, lacking.args[0]))}, as a number")
    return found, unsupported


def _of_study(figure: StudyFigure) -> FailureRow:
    name = f"{_slug(figure.study)}-{_slug(figure.quantity)}"
    told = (figure.measured, figure.predicted, figure.interval, figure.given, figure.source)
    return FailureRow(name, "predicted", figure.quantity, *told)


def _llama_rows(figures: Figures, runs: int, seed: int) -> list[FailureRow]:
    """Counts by cause over the window (in-sample: the rates are the table's), and the effective time it reports."""
    model, gpus, days = preset("llama-3"), figures.number(LLAMA, "gpus"), figures.number(LLAMA, "window")
    rng = np.random.default_rng(seed)
    machines, window = Machines(int(gpus) // 8, 0, 8), (0.0, days * DAY_S)
    drawn = [draw(model, machines, window, np.empty(0, int), rng) for _ in range(runs)]
    counts = np.array([np.bincount(t.component, minlength=len(model.classes)) for t in drawn])
    given = "preset llama-3 over the same GPUs and days"
    found = [_counted(figures, "llama-3-unexpected", LLAMA, "interruptions_unexpected", counts.sum(axis=1), given)]
    for i, fault in enumerate(model.classes):
        found.append(
            _counted(figures, f"llama-3-{_slug(fault.name)}", LLAMA, f"cause: {fault.name}", counts[:, i], given)
        )
    effective = figures.number(LLAMA, "effective_training_time") / 100
    given = "restart, planned stops of 30 min, repair times and enough spares are assumed; storage 2 TB/s as published"
    result = simulate(llama_run(figures, runs, seed))
    return [
        *found,
        _goodput(
            "llama-3-effective-time",
            "bound",
            figures.text(LLAMA, "effective_training_time", "source"),
            effective,
            result,
            given,
        ),
    ]


def llama_run(figures: Figures, runs: int, seed: int) -> RunSpec:
    """Llama 3 405B as described: 16,384 H100 over some 54 days, sharded state of 14 B per parameter to 2 TB/s of
    storage, automated recovery, planned stops once a day (47 in 54 days)."""
    model, storage = preset("llama-3"), figures.number(LLAMA, "storage_throughput") * 1e12
    step_s = 10.0
    planned_s = figures.number(LLAMA, "window") / figures.number(LLAMA, "interruptions_planned") * DAY_S
    return RunSpec(
        segments=(Segment("main", 50 * DAY_S / step_s, 1.0, step_s),),
        job_nodes=2048,
        gpus_per_node=8,
        replicas=128,
        checkpoint=CheckpointPolicy("sharded", None, least_every_s=0.0),
        paths=SavePaths(405e9 * 14, 16384, 128, storage, storage, 2e9, 50e9, 50e9, 3e9),
        failures=model,
        recovery=Recovery(hot_spares=spares_needed(model, 16384), maintenance_every_s=planned_s, maintenance_s=1800.0),
        simulation=Simulation(runs=runs, seed=seed),
    )


def _rsc_rows(figures: Figures, runs: int, seed: int) -> list[FailureRow]:
    """Mean times to failure from one rate, and the effective time ratio with five-minute checkpoints."""
    model = preset("rsc-1")
    found = []
    for metric, gpus, unit_s in (("MTTF 8 GPUs", 8, DAY_S), ("MTTF 1024 GPUs", 1024, HOUR_S),
                                 ("MTTF 16384 GPUs", 16384, HOUR_S), ("MTTF 131072 GPUs", 131072, HOUR_S)):  # fmt: skip
        observed = figures.text(RSC, metric, "conditions") == "observed"
        hours = figures.number(RSC, metric) * unit_s / HOUR_S
        predicted = mean_time_between_s(model, gpus) / HOUR_S
        given = "observed on small jobs, which exceed the projections' rate" if observed else "projected from this rate"
        status = "predicted" if observed else "in-sample"
        found.append(
            _exact(f"rsc-1-mttf-{gpus}", status, "mttf_h", hours, predicted, given, figures.text(RSC, metric, "source"))
        )
    for name, status, metric, gpus, every_s in (
        ("rsc-1-ettr-5min", "predicted", "ETTR at 5 min checkpoint", 16384, 300.0),
        ("rsc-1-ettr-60min", "bound", "ETTR 2048-4096 GPU runs", 4096, 3600.0),
    ):
        given = f"{gpus} GPUs, non-blocking writes every {every_s / 60:.0f} min, restart 5 min, no waiting for nodes"
        result = simulate(rsc_run(figures, runs, seed, gpus, every_s))
        found.append(
            _goodput(name, status, figures.text(RSC, metric, "source"), figures.number(RSC, metric), result, given)
        )
    return found


def rsc_run(figures: Figures, runs: int, seed: int, gpus: int, every_s: float) -> RunSpec:
    """A job on RSC-1 as in the paper's projections: restart u0 = 5 min, writes that stop nothing, nothing else lost."""
    given = preset("rsc-1")
    failure = replace(given.classes[0], detect=fixed(0.0), repair=None, scope="job")
    return RunSpec(
        segments=(Segment("main", 30 * DAY_S, 1.0, 1.0),),
        job_nodes=gpus // 8,
        gpus_per_node=8,
        replicas=128,
        checkpoint=CheckpointPolicy("async", every_s, overhead_s=0.0),
        paths=SavePaths(1.0, gpus, 128, 1e12, 1e12, 2e9, 50e9, 50e9, 3e9),
        failures=replace(given, classes=(failure,), burst_mean=0.0),
        restart=Restart(
            process_start_s=figures.number(RSC, "restart overhead u0 used") * 60, init_s_per_gpu=0.0, warm_up_s=0.0
        ),
        simulation=Simulation(runs=runs, seed=seed),
    )


def _bloom_rows(figures: Figures, runs: int, seed: int) -> list[FailureRow]:
    """BLOOM wrote 2.3 TB in 40 s every three hours: the overhead follows from the bytes and the bandwidth."""
    write_s = figures.number(BLOOM, "checkpoint write")
    bandwidth = 2.3e12 / write_s
    spec = RunSpec(
        segments=(Segment("main", 90 * DAY_S / 100, 1.0, 100.0),),
        job_nodes=48,
        gpus_per_node=8,
        replicas=8,
        checkpoint=CheckpointPolicy("sharded", 3 * HOUR_S),
        paths=SavePaths(2.3e12, 384, 48, bandwidth, bandwidth, 2e9, 12e9, 25e9, 3e9),
        failures=failure_model("none"),
        simulation=Simulation(runs=1),
    )
    result = simulate(spec)
    overhead = result.lost_s["checkpoint"] / result.ideal_s
    printed = float(re.findall(r"([0-9.]+)% of time", figures.text(BLOOM, "checkpoint write", "conditions"))[0]) / 100
    given = "384 GPUs, 2.3 TB to storage of 57.5 GB/s every 3 h, all ranks wait"
    where = figures.text(BLOOM, "checkpoint write", "source")
    return [_exact("bloom-checkpoint-overhead", "predicted", "lost_fraction", printed, overhead, given, where)]


def _stepfun_rows(figures: Figures, runs: int, seed: int) -> list[FailureRow]:
    """The whole 348 days of the trace from a model fitted on its first 174: half of every figure was not seen."""
    faults, repair = (STEPFUN_FAULTS, "node faults"), (STEPFUN, "repair time mean/median/p90/max")
    model, machines, window = preset("stepfun"), Machines(400, 0, 8), (0.0, 348 * DAY_S)
    rng = np.random.default_rng(seed)
    drawn = [draw(model, machines, window, draw_lemons(model, machines, rng), rng) for _ in range(runs)]
    measures: dict[str, tuple[float, Callable[[FaultTimeline], float]]] = {
        "faults": (figures.number(*faults), lambda t: float(len(t))),
        "nodes-hit": (figures.number(*faults, 2, "conditions"), lambda t: float(len(np.unique(t.node)))),
        "repair-mean-days": (figures.number(*repair), lambda t: float(t.repair_s.mean()) / DAY_S),
        "repair-median-days": (figures.number(*repair, 1), lambda t: float(np.median(t.repair_s)) / DAY_S),
        "repair-p90-days": (figures.number(*repair, 2), lambda t: float(np.quantile(t.repair_s, 0.9)) / DAY_S),
    }
    given = "fitted on days 0 to 174, figures of days 0 to 348"
    return [
        _spread(
            f"stepfun-{name}",
            "predicted",
            name,
            measured,
            np.array([of(t) for t in drawn]),
            given,
            figures.text(*faults, "source"),
        )
        for name, (measured, of) in measures.items()
    ]


def _exact(
    name: str, status: str, quantity: str, measured: float, predicted: float, given: str, where: str
) -> FailureRow:
    """A prediction without chance in it."""
    return FailureRow(name, status, quantity, measured, predicted, (predicted, predicted), given, where)


def _counted(figures: Figures, name: str, study: str, metric: str, runs: np.ndarray, given: str) -> FailureRow:
    return _spread(
        name, "in-sample", "count", figures.number(study, metric), runs, given, figures.text(study, metric, "source")
    )


def _spread(
    name: str, status: str, quantity: str, measured: float, runs: np.ndarray, given: str, where: str
) -> FailureRow:
    low, high = np.quantile(runs, (0.1, 0.9))
    return FailureRow(name, status, quantity, measured, float(runs.mean()), (float(low), float(high)), given, where)


def _goodput(name: str, status: str, where: str, measured: float, result: RunResult, given: str) -> FailureRow:
    spread = result.goodput_quantiles
    quantiles = (spread.p10, spread.p90)
    return FailureRow(name, status, "goodput_fraction", measured, result.goodput_fraction, quantiles, given, where)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


STUDIES: dict[str, Callable[[Figures, int, int], list[FailureRow]]] = {
    LLAMA: _llama_rows,
    RSC: _rsc_rows,
    BLOOM: _bloom_rows,
    STEPFUN: _stepfun_rows,
}


def failures_text(found: list[FailureRow], unsupported: list[str]) -> str:
    """One line per figure: its name, whether it was predicted, measured, predicted, error; then what is not."""
    lines = [f"{'figure':<42} {'status':<10} {'measured':>10} {'predicted':>10} {'error':>9}"]
    for row in found:
        figures = f"{row.measured:>10.4g} {row.predicted:>10.4g} {100 * row.error_fraction:>+8.1f}%"
        lines.append(f"{row.id:<42} {row.status:<10} {figures}")
    if unsupported:
        lines += ["", "not predicted:", *(f"  {reason}" for reason in unsupported)]
    return "\n".join(lines) + "\n"


def main() -> None:
    print(failures_text(*rows()), end="")


if __name__ == "__main__":
    main()
