"""The command line: `traincast VERB ...`. Exit codes: 0 done, 1 the answer is no, 2 bad input."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import typer

from simulator.cli import calibrate, catalogues, clusters, evaluate, validate

app = typer.Typer(
    name="traincast",
    help="Cluster simulator and capacity planner for training trillion-parameter mixture-of-experts models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# Every verb of the house: name, function. The functions import what they need when called, so that help stays quick.
VERBS: dict[str, Callable[..., None]] = {
    "calibrate": calibrate.calibrate,
    "evaluate": evaluate.evaluate,
    "hardware": catalogues.hardware,
    "models": catalogues.models,
    "schema": catalogues.schema,
    "stacks": catalogues.stacks,
    "validate": validate.validate,
}
for verb, function in VERBS.items():
    app.command(verb)(function)
app.add_typer(clusters.app, name="collective")


def main() -> None:
    """Runs the command line; bad input ends with every problem on stderr and exit code 2, without a traceback."""
    from hardware.problems import InputError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name in another script must not end a run in an ASCII locale
    try:
        app()
    except InputError as error:
        from simulator.cli.common import explain

        sys.stderr.write(explain(error))
        sys.exit(2)
