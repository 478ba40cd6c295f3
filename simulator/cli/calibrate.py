"""`traincast calibrate`: real kernels and collectives measured here, fitted into a profile that predictions rest on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.cli.common import AsJson, Overrides, print_json

Scenario = Annotated[
    Path | None, typer.Argument(metavar="[SCENARIO]", help="Measure this scenario's shapes and groups first.")
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The profile's folder; measuring goes on from its points.")
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cuda|cpu", help="What to measure on.")]
Part = Annotated[
    str,
    typer.Option(
        "--part", metavar="NAME", help="The accelerator in the catalogue, or a YAML file, where its name does not tell."
    ),
]
Budget = Annotated[float, typer.Option("--budget", metavar="SECONDS", help="Time for measuring.", min=1.0)]
CaseTime = Annotated[float, typer.Option("--case", metavar="SECONDS", help="Most time for one case.", min=0.001)]
Processes = Annotated[int, typer.Option("--processes", metavar="N", help="Ranks on this machine: one per GPU.", min=1)]
Shared = Annotated[bool, typer.Option("--shared", help="Measure although other work runs on the device.")]
FitOnly = Annotated[bool, typer.Option("--fit-only", help="Measure nothing; fit again what the folder holds.")]
Logs = Annotated[
    list[Path] | None,
    typer.Option(
        "--import", metavar="FILE", help="Take points from nccl-tests output (text, JSON), PyTorch traces, or CSV."
    ),
]
Nodes = Annotated[
    int,
    typer.Option("--slurm", metavar="NODES", help="Only write the Slurm file that calibrates so many nodes.", min=0),
]
Step = Annotated[bool, typer.Option("--step", help="Also train the project's own torch model and compare its step.")]


def calibrate(
    out: Out,
    scenario: Scenario = None,
    set_: Overrides = None,
    device: Device = "auto",
    part: Part = "",
    budget: Budget = 420.0,
    case: CaseTime = 0.5,
    processes: Processes = 1,
    shared: Shared = False,
    fit_only: FitOnly = False,
    imports: Logs = None,
    slurm: Nodes = 0,
    step: Step = False,
    as_json: AsJson = False,
) -> None:
    """Measure this machine and fit a hardware profile.

    From then on `hardware: {profile: DIR}` in a scenario makes predictions rest on it. Exit code 0 with a profile,
    1 when too little could be measured for one, 2 for bad input.
    """
    from validate.calibrate.options import VerbOptions
    from validate.calibrate.verb import run

    options = VerbOptions(
        out=out,
        scenario=scenario,
        overrides=tuple(set_ or ()),
        device=device,
        part=part,
        budget_s=budget,
        case_s=case,
        shared=shared,
        processes=processes,
        fit_only=fit_only,
        imports=tuple(imports or ()),
        slurm_nodes=slurm,
        step=step,
    )
    result = run(options)
    tell(result, as_json)
    raise typer.Exit(0 if result.get("ok") else 1)


def tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(result)
    else:
        sys.stdout.write(result["text"])
