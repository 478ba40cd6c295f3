"""Several ranks on this machine without torchrun: one process per GPU, or as many as asked for on a CPU."""

from __future__ import annotations

import os
import socket
import warnings
from typing import Any

from validate.calibrate.asked import Options
from validate.calibrate.peers import PeerLost
from validate.calibrate.run import calibrate


def on_ranks(options: Options, processes: int) -> list[str]:
    """Calibrates on so many ranks. Raises PeerLost where one of them ends badly; the points measured stay."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    skipped: Any = context.Queue()
    port = free_port()
    try:
        mp.spawn(rank_main, (processes, port, options, skipped), nprocs=processes)
    except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
        raise PeerLost(f"a rank ended: {reason_of(error)}") from None
    return list(skipped.get())


def rank_main(rank: int, processes: int, port: int, options: Options, skipped: Any) -> None:
    """One rank: torchrun's environment, one thread on a CPU so that ranks do not take each other's cores."""
    import torch

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_WORLD_SIZE=str(processes),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with warnings.catch_warnings():
        found = calibrate(options)
    if rank == 0:
        skipped.put(found)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def reason_of(error: Exception) -> str:
    """The last line of a traceback that says anything, or the exit code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
