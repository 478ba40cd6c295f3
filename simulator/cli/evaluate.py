"""`traincast evaluate`: one scenario, its step time, memory and training time, and looks into the step."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.common import AsJson, OutDir, Overrides, ScenarioFile, print_json, progress_bar

if TYPE_CHECKING:
    from simulator.predict.simulate import Simulated
    from simulator.run.alternatives import Alternative
    from simulator.scenario.schema import Scenario


class RankChoice(StrEnum):
    """Which ranks are simulated by themselves."""

    stage = "stage"
    all = "all"


TraceFile = Annotated[
    Path | None,
    typer.Option("--trace", metavar="FILE", help="Write the step: .json or .json.gz for Perfetto, .svg as a picture."),
]
MemoryFile = Annotated[
    Path | None,
    typer.Option(
        "--memory",
        metavar="FILE",
        help="Write memory over the step: .svg as a chart, .pickle for PyTorch's viewer.",
    ),
]
Ranks = Annotated[
    RankChoice, typer.Option("--ranks", help="One rank for all that are equal, or every GPU by itself (see spread:).")
]
Alternatives = Annotated[
    bool, typer.Option("--alternatives", help="Also try other checkpoint intervals, spare counts and policies.")
]
Samples = Annotated[int, typer.Option("--samples", min=1, max=1000, help="Steps drawn with --ranks all.")]


def evaluate(
    scenario: ScenarioFile,
    set_: Overrides = None,
    as_json: AsJson = False,
    out: OutDir = None,
    trace: TraceFile = None,
    memory: MemoryFile = None,
    ranks: Ranks = RankChoice.stage,
    samples: Samples = 4,
    alternatives: Alternatives = False,
) -> None:
    """One scenario: step time, MFU, memory, training time.

    Exit code 0 when it fits in memory and can finish, 1 when not, 2 when the scenario cannot be read.
    """
    from simulator.scenario.schema import load_scenario

    check_endings({"--trace": (trace, (".json", ".json.gz", ".svg")), "--memory": (memory, (".svg", ".pickle"))})
    loaded = load_scenario(scenario, set_ or [])
    if ranks is RankChoice.all:
        check_ranks(loaded)

    from hardware.problems import printable
    from simulator.predict.outer_reports import reports
    from simulator.predict.prediction import predict
    from simulator.predict.simulate import simulate
    from simulator.report.document import evaluate_document

    done = simulate(loaded)
    write_looks(done, trace, memory)
    every, around = None, reports(done.step)
    if ranks is RankChoice.all:
        from simulator.predict.heterogeneity import contention, every_gpu

        every, around["contention"] = every_gpu(done, samples), contention(done)
    with progress_bar("runs") as progress:
        prediction = predict(done, progress)
    if alternatives:
        around["alternatives"] = try_alternatives(done)
    document = evaluate_document(prediction, every, around)
    if out is not None:
        from simulator.report.folder import evaluation_files, write_results
        from simulator.report.pictures import memory_picture, step_picture

        drawn = {"Step": step_picture(done), "Memory": memory_picture(done)}
        write_results(out, evaluation_files(loaded, document, drawn))
    if as_json:
        print_json(document)
        sys.stderr.writelines(f"warning: {printable(warning)}\n" for warning in prediction.warnings)
    else:
        from simulator.report.terminal import print_evaluation

        print_evaluation(document)
    finishes = prediction.run is None or prediction.run.finishes
    raise typer.Exit(0 if prediction.fits and finishes else 1)


def try_alternatives(done: Simulated) -> tuple[Alternative, ...]:
    """Other choices for the run of a simulated step."""
    from simulator.predict.run_spec import whole_run_spec
    from simulator.run.alternatives import alternatives

    spec = whole_run_spec(done)
    if spec is None:
        return ()
    with progress_bar("alternatives") as progress:
        return alternatives(spec, progress)


def check_endings(files: dict[str, tuple[Path | None, tuple[str, ...]]]) -> None:
    """Raises InputError for every file whose name does not say a format that its option writes."""
    from hardware.problems import InputError, Problem

    wrong = [
        Problem(str(path), None, option, f"does not end in {' or '.join(endings)}, which name the format")
        for option, (path, endings) in files.items()
        if path is not None and not path.name.endswith(endings)
    ]
    if wrong:
        raise InputError(wrong)


def check_ranks(scenario: Scenario) -> None:
    """Raises InputError where not every GPU can be simulated by itself."""
    from hardware.problems import InputError, Problem
    from simulator.scenario.spread_section import unfit
    from simulator.step.spread import Spread

    wrong = unfit(Spread(), scenario.model, scenario.cluster, scenario.plan)
    if wrong:
        raise InputError([Problem(scenario.file, None, key, message) for key, message in wrong])


def write_looks(done: Simulated, trace: Path | None, memory: Path | None) -> None:
    """The trace and the memory of the step, each in the format that its file's name says."""
    if trace is None and memory is None:
        return
    import pickle

    from simulator.report.folder import write_file
    from simulator.report.pictures import memory_picture, step_picture, step_trace, torch_snapshot
    from simulator.report.step_trace import trace_bytes

    if trace is not None:
        drawn = trace.suffix == ".svg"
        data = step_picture(done).encode() if drawn else trace_bytes(step_trace(done), trace.suffix == ".gz")
        write_file(trace, data, "--trace")
    if memory is not None:
        drawn = memory.suffix == ".svg"
        data = memory_picture(done).encode() if drawn else pickle.dumps(torch_snapshot(done))
        write_file(memory, data, "--memory")
