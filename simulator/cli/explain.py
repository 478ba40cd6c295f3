"""`traincast explain`: a running job's log against the prediction: where the time goes, and what could explain it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simulator.cli.common import AsJson, Overrides, ScenarioFile, print_json

if TYPE_CHECKING:
    from simulator.launch.explain.compare import Explanation

LogFile = Annotated[
    Path,
    typer.Option("--log", metavar="FILE", help="What the job printed: Megatron, torchtitan, DeepSpeed, MLPerf."),
]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", metavar="FILE", help="A profiler's trace of one rank, .json or .json.gz.")
]
JobNumber = Annotated[
    int | None, typer.Option("--job", min=1, help="Which job of a log that holds several, counted from 1.")
]
FitFile = Annotated[
    Path | None,
    typer.Option("--fit", metavar="FILE", help="Add the run to this site correction, made where there is none."),
]


def explain(
    scenario: ScenarioFile,
    log: LogFile,
    trace: TraceFile = None,
    job: JobNumber = None,
    fit: FitFile = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """A running job's log against the prediction: step time, memory, time lost, and what could explain the gap."""
    from simulator.launch.explain.compare import explain as explained
    from simulator.launch.explain.kineto import read_trace
    from simulator.launch.explain.reading import read_log
    from simulator.report.explanation import explanation_document, print_explanation
    from simulator.scenario.schema import load_scenario

    loaded = load_scenario(scenario, set_ or [])
    traced = read_trace(trace) if trace is not None else None
    found = explained(loaded, read_log(log), traced, job)
    fitted = _fitted(found, fit) if fit is not None else None
    document = explanation_document(found, fitted)
    print_json(document) if as_json else print_explanation(document)


def _fitted(found: Explanation, path: Path) -> dict[str, Any]:
    """Adds the run to the correction in a file; gives what that changes.

    Raises InputError where what the log ran cannot be predicted."""
    from hardware.problems import InputError, Problem
    from simulator.launch.explain.site_fit import effect_on, site_text, with_run
    from simulator.report.folder import write_file

    if found.no_run:
        message = f"nothing is fitted: {found.no_run}. Set the scenario to what the log ran (--set KEY=VALUE)"
        raise InputError([Problem(found.log.file, found.job.lines[0], "--fit", message)])
    site = with_run(path, found.run)
    write_file(path, site_text(site).encode(), "--fit")
    before_s = found.prediction.step_time_s
    after_s, interval_s = effect_on(found.scenario, site)
    return {
        "file": str(path),
        "runs": len(site.runs),
        "step_time_before_s": before_s,
        "interval_before_s": list(found.prediction.step_time_interval_s),
        "step_time_s": after_s,
        "interval_s": list(interval_s),
    }
