"""`traincast import`: an existing launch, and descriptions of the machine, read into a scenario."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...",
        help="Launch files (Megatron-LM, MLPerf, Megatron-Bridge, torchtitan, DeepSpeed, Primus, sbatch), a Hugging "
        "Face config.json, and topologies (NCCL's XML, 'nvidia-smi topo -m', Slurm's topology.conf or .yaml).",
    ),
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the scenario here, not on stdout.")]
Given = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Fill in a key, as cluster.fabric=ndr-rail-2tier."),
]


def import_launch(files: Files, out: OutFile = None, set_: Given = None) -> None:
    """Reads a launch into a scenario; each line says whence it came, what the launch does not tell is marked.

    Nothing in the files is run. Lines TO FILL IN are listed on stderr.
    """
    from hardware.problems import InputError, Problem
    from simulator.launch.importing.importer import import_launch as imported
    from simulator.report.folder import write_file

    if out is not None and out.exists():
        raise InputError([Problem(str(out), None, "--out", "exists; name a new file, or remove it")])
    found = imported(files, set_ or [], out.parent if out is not None else None)
    if out is None:
        sys.stdout.write(found.text)
    else:
        write_file(out, found.text.encode(), "--out")
    sys.stderr.writelines(f"note: {note}\n" for note in found.notes)
    if found.fill_in:
        sys.stderr.write(f"to fill in: {', '.join(found.fill_in)}\n")
