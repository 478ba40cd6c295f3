"""`traincast evaluate`: one scenario, its step time, memory and training time."""

from __future__ import annotations

import sys

import typer

from simulator.cli.common import AsJson, OutDir, Overrides, ScenarioFile, print_json


def evaluate(scenario: ScenarioFile, set_: Overrides = None, as_json: AsJson = False, out: OutDir = None) -> None:
    """One scenario: step time, MFU, memory, training time.

    Exit code 0 when it fits in memory and can finish, 1 when not, 2 when the scenario cannot be read.
    """
    from simulator.scenario.schema import load_scenario

    loaded = load_scenario(scenario, set_ or [])

    from simulator.evaluate import evaluate as predict
    from simulator.report.document import evaluate_document

    prediction = predict(loaded)
    document = evaluate_document(prediction)
    if out is not None:
        from simulator.report.folder import evaluation_files, write_results

        write_results(out, evaluation_files(loaded, document))
    if as_json:
        print_json(document)
        sys.stderr.writelines(f"warning: {warning}\n" for warning in prediction.warnings)
    else:
        from simulator.report.terminal import print_evaluation

        print_evaluation(document)
    finishes = prediction.run is None or prediction.run.finishes
    raise typer.Exit(0 if prediction.fits and finishes else 1)
