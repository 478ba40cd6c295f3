"""The ranks that measure together: where this process stands, several on this machine, and many nodes by Slurm."""

from __future__ import annotations

import os
import shlex
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from validate.calibrate.options import Options, VerbOptions

GPUS_PER_NODE = 8  # of a Slurm job that does not say
STARTING_MINUTES = 15  # of a Slurm job, for starting, joining and fitting
SLURM_FILE = """#!/bin/bash
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
RankWork = Callable[[Options], list[str]]


class PeerLost(Exception):
    """A rank died, did not come or no longer answers; what was measured until then is kept."""


@dataclass(frozen=True, slots=True)
class RankPlace:
    """This process among all that measure: its rank, how many there are, and how many on each node."""

    rank: int
    size: int
    per_node: int


def rank_place() -> RankPlace:
    """The place by torchrun's environment; alone without it."""
    rank = int(os.environ.get("RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE") or size)
    return RankPlace(rank, size, per_node)


# ---- several ranks on this machine


def on_ranks(work: RankWork, options: Options, processes: int) -> list[str]:
    """Does `work` (a function of a module) in so many processes, one per GPU; returns what rank 0's returned.

    Raises PeerLost where one of them ends badly; the points measured until then stay.
    """
    import torch.multiprocessing as mp
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    start: Any = spawn
    skipped: Any = mp.get_context("spawn").Queue()
    arguments = (processes, free_port(), work, options, skipped)
    try:
        start(rank_main, arguments, nprocs=processes)
    except (ProcessExitedException, ProcessRaisedException) as error:
        raise PeerLost(f"a rank ended: {reason_of(error)}") from None
    return list(skipped.get())


def rank_main(rank: int, processes: int, port: int, work: RankWork, options: Options, skipped: Any) -> None:
    """One rank: torchrun's environment, one thread on a CPU so that ranks do not take each other's cores."""
    import torch

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with warnings.catch_warnings():
        result = work(options)
    if rank == 0:
        skipped.put(result)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def reason_of(error: Exception) -> str:
    """The last line of a traceback that says anything, or the error's type."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__


# ---- many nodes


def slurm_job(options: VerbOptions) -> str:
    """The Slurm file: one torchrun per node, one rank per GPU, rank 0 writes the profile.

    `options.processes` is the number of GPUs per node, GPUS_PER_NODE where it was left at 1.
    """
    gpus = options.processes if options.processes > 1 else GPUS_PER_NODE
    out = str(options.out.resolve())
    arguments = ["--out", out, "--budget", f"{options.budget_s:g}", "--case", f"{options.case_s:g}"]
    if options.scenario is not None:
        arguments += ["--scenario", str(options.scenario.resolve())]
    for override in options.overrides:
        arguments += ["--set", override]
    if options.part:
        arguments += ["--part", options.part]
    return SLURM_FILE.format(
        nodes=options.slurm_nodes,
        gpus=gpus,
        minutes=int(options.budget_s / 60) + STARTING_MINUTES,
        out=out,
        arguments=" ".join(shlex.quote(argument) for argument in arguments),
    )
