"""The command line: `traincast VERB ...`. Exit codes: 0 done, 1 the answer is no, 2 bad input, 70 no answer."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, cast

import typer

from simulator.cli import (
    calibrate,
    catalogues,
    clusters,
    compare,
    evaluate,
    explain,
    import_launch,
    init,
    launch,
    plan,
    size,
    validate,
)

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
    "compare": compare.compare,
    "evaluate": evaluate.evaluate,
    "explain": explain.explain,
    "hardware": catalogues.hardware,
    "import": import_launch.import_launch,
    "init": init.init,
    "launch": launch.launch,
    "models": catalogues.models,
    "plan": plan.plan,
    "schema": catalogues.schema,
    "size": size.size,
    "stacks": catalogues.stacks,
    "validate": validate.validate,
}
NO, BAD_INPUT, INTERNAL = 1, 2, 70  # exit codes; 70 is EX_SOFTWARE of sysexits.h
# Of what is typed wrong, typer's own or that of the click it stands on.
MISTYPED = cast(type[Exception], typer.BadParameter.__mro__[2])
TRACEBACK = "TRAINCAST_TRACEBACK"
for verb, function in VERBS.items():
    app.command(verb)(function)
app.add_typer(clusters.app, name="collective")


def main() -> None:
    """Runs the command line and ends with its exit code; only an answer ends with 0 or 1.

    Bad input ends with every problem on stderr and 2; what is no fault of the input (an error of the program, a stdout
    that is full or closed, lost workers) with INTERNAL; a signal with 128 and its number.
    """
    if sys.stdout is None:
        sys.exit(_failed("stdout is closed"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name in another script must not end a run in an ASCII locale
    signal.signal(signal.SIGTERM, _end)
    code = _run()
    if code > NO:
        _drop_stdout()
    sys.exit(code)


def _run() -> int:
    from hardware.problems import InputError

    try:
        code = _answer()
        sys.stdout.flush()
        return code
    except InputError as error:
        from simulator.cli.common import explain

        sys.stderr.write(explain(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return _failed("stdout was closed before all was written")
    except OSError as error:
        return _failed(f"{error.strerror or error}{f': {error.filename}' if error.filename else ', on writing'}", error)
    except Exception as error:
        from simulator.executor import WorkerLost

        if isinstance(error, WorkerLost):
            return _failed(str(error))
        return _failed(f"internal error, not an answer: {type(error).__name__}: {error}", error)


def _answer() -> int:
    """The exit code of the verb that was typed; what is typed wrong is told as every other bad input."""
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        return 128 + signal.SIGINT
    except MISTYPED as error:
        cast("Any", error).show()
        return BAD_INPUT
    return code if isinstance(code, int) else 0


def _failed(what: str, error: Exception | None = None) -> int:
    """Says what went wrong, with the traceback where the environment asks for it."""
    if error is not None and os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
    hint = f"; set {TRACEBACK}=1 for the traceback" if error is not None else ""
    sys.stderr.write(f"traincast: {what}{hint}\n")
    return INTERNAL


def _end(number: int, frame: object) -> None:
    """A polite end: what is open is closed and workers are ended on the way out."""
    raise SystemExit(128 + number)


def _drop_stdout() -> None:
    """What is left in its buffer would be written, and might fail again, at the very end."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        sys.stdout = None
