"""The Slurm file that calibrates many nodes: one torchrun per node, one rank per GPU, rank 0 writes the profile."""

from __future__ import annotations

import shlex

from validate.calibrate.asked import Asked

HEAD = """#!/bin/bash
#SBATCH --job-name=traincast-calibrate
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={gpus}
#SBATCH --exclusive
#SBATCH --time={minutes}
#SBATCH --output=%x-%j.log
# Measured points are kept in {out}/points.jsonl as they come: submit again to go on after a failure.
set -euo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node={gpus} \\
  --rdzv-backend=c10d --rdzv-endpoint="$first:29500" --rdzv-id="$SLURM_JOB_ID" \\
  -m validate.calibrate {arguments}
"""


def job(asked: Asked) -> str:
    """The file's text; `asked.processes` is the number of GPUs per node, 8 where it was left at 1."""
    gpus = asked.processes if asked.processes > 1 else 8
    out = str(asked.out.resolve())
    arguments = ["--out", out, "--budget", f"{asked.budget_s:g}", "--case", f"{asked.case_s:g}"]
    if asked.scenario is not None:
        arguments += ["--scenario", str(asked.scenario.resolve())]
    for each in asked.overrides:
        arguments += ["--set", each]
    if asked.part:
        arguments += ["--part", asked.part]
    minutes = int(asked.budget_s / 60) + 15  # starting, joining and fitting
    text = " ".join(shlex.quote(each) for each in arguments)
    return HEAD.format(nodes=asked.slurm_nodes, gpus=gpus, minutes=minutes, out=out, arguments=text)
