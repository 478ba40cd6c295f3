"""`traincast init`: a complete, commented scenario to start from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

ModelName = Annotated[str, typer.Option("--model", metavar="NAME", help="A catalogue model ('traincast models').")]
Gpus = Annotated[int, typer.Option("--gpus", min=1, help="GPUs of the job.")]
NodeName = Annotated[str, typer.Option("--node", metavar="NAME", help="A catalogue node ('traincast hardware').")]
FabricName = Annotated[
    str | None, typer.Option("--fabric", metavar="NAME", help="A fabric instead of the plainest that fits.")
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the scenario here, not on stdout.")]


def init(model: ModelName, gpus: Gpus, node: NodeName, fabric: FabricName = None, out: OutFile = None) -> None:
    """A complete, commented scenario to start from: every section, and a legal plan with memory to spare if any has.

    The head of the file says how the plan was chosen."""
    from hardware.problems import InputError, Problem
    from simulator.cli.common import check_known
    from simulator.launch.start import starting_scenario
    from simulator.model.catalogue import names
    from simulator.report.folder import write_file

    model = check_known("model", model, names())
    if out is not None and out.exists():
        raise InputError([Problem(str(out), None, "--out", "exists; name a new file, or remove it")])
    text = starting_scenario(model, gpus, node, fabric)
    if out is None:
        sys.stdout.write(text)
    else:
        write_file(out, text.encode(), "--out")
