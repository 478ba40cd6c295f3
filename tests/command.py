"""The command line inside the tests' own process: its output, its errors, its exit code."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from simulator.cli import main

ROOT = Path(__file__).parents[1]


def traincast(*arguments: str) -> CompletedProcess[str]:
    """What `traincast ARGUMENTS` prints and answers, run from the project's folder without a process of its own."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        contextlib.chdir(ROOT),
        patch.object(sys, "argv", ["traincast", *arguments]),
    ):
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return CompletedProcess(["traincast", *arguments], code, out.getvalue(), err.getvalue())
