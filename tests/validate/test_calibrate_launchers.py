"""Logs as launchers write them: every line behind its rank, host, pod or time; the points are the plain log's."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from validate.calibrate.logs.launchers import without_prefix
from validate.calibrate.logs.read_log import read_log

DEVICES = "\n".join(
    f"#  Rank  {rank} Group  0 Pid 4{rank} on node-a device  {rank} [0000:{rank}1:00] AMD Instinct MI300X"
    for rank in range(8)
)
LOG = f"""# Collective test starting: {{program}}
# nThread 1 nGpus 1 minBytes 1048576 maxBytes 4194304 step: 2(factor) warmup iters: 5 iters: 20
#
rccl-tests: Version develop:abcdef0
# Using devices
{DEVICES}
#
#                                                              out-of-place                       in-place
#       size         count      type   redop    root     time   algbw   busbw #wrong     time   algbw   busbw #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)            (us)  (GB/s)  (GB/s)
     1048576        262144     float     sum      -1    31.50   33.29   58.25      0    31.70   33.08   57.89      0
     4194304       1048576     float     sum      -1    60.20   69.67  121.93      0    60.40   69.44  121.52      0
# Out of bounds values : 0 OK
"""
PLAIN = LOG.format(program="all_reduce_perf")


def measured(tmp_path: Path, text: str) -> list[tuple[str, int, int, float]]:
    path = tmp_path / "run.log"
    path.write_text(text)
    points = read_log(path).points.values()
    return [(p.shape["operation"], p.shape["n_gpus"], p.shape["size_bytes"], round(p.seconds * 1e6, 2)) for p in points]


EXPECTED = [("all_reduce", 8, 1048576, 31.5), ("all_reduce", 8, 4194304, 60.2)]
PREFIXES: dict[str, Callable[[int], str]] = {
    "none": lambda line: "",
    "srun --label": lambda line: " 0: ",
    "srun --label of a large job": lambda line: "   0: ",
    "mpirun --tag-output": lambda line: "[1,0]<stdout>:",
    "mpirun of Open MPI 5": lambda line: "[prterun-node-a-17@1,0]<stdout>: ",
    "mpiexec -prepend-rank": lambda line: "[0] ",
    "torchrun": lambda line: "[rank0]:",
    "torchrun with a space": lambda line: "[rank0]: ",
    "torchrun --tee": lambda line: "[default0]:",
    "kubectl --prefix": lambda line: "[pod/nccl-test-launcher-x7k2p/main] ",
    "kubectl --prefix --timestamps": lambda line: f"[pod/nccl-0/main] 2026-05-01T10:00:{line:02d}.123456789Z ",
    "containerd": lambda line: f"2026-05-01T10:00:{line:02d}.123456789Z stdout F ",
    "stern": lambda line: "nccl-test-launcher-x7k2p main ",
    "docker compose": lambda line: "worker-0  | ",
    "pdsh": lambda line: "node-a: ",
    "a logger's time": lambda line: f"[2026-05-01 10:00:{line:02d},250] ",
    "pdsh by address": lambda line: "10.0.0.7: ",
    "Ray": lambda line: "(NcclTest pid=812, ip=10.0.0.7) ",
    "a logger's level": lambda line: f"2026-05-01 10:00:{line:02d},250 - INFO - ",
    "time and srun": lambda line: f"10:00:{line:02d} 0: ",
    "colours": lambda line: "\x1b[36m[rank0]:\x1b[0m ",
}


@pytest.mark.parametrize("launcher", PREFIXES)
def test_a_launchers_prefix_changes_nothing(tmp_path: Path, launcher: str) -> None:
    lines = [PREFIXES[launcher](number) + line for number, line in enumerate(PLAIN.splitlines())]
    assert measured(tmp_path, "\n".join(lines)) == EXPECTED


def test_ranks_that_write_at_once_are_kept_apart(tmp_path: Path) -> None:
    """Two tests of one job, their lines shuffled as they come: each row keeps its own operation."""
    programs = {0: "all_reduce_perf", 1: "all_gather_perf"}
    waiting = {rank: LOG.format(program=program).splitlines() for rank, program in programs.items()}
    order = [rank for rank, lines in waiting.items() for _ in lines]
    random.Random(0).shuffle(order)
    lines = [f"{rank}: {waiting[rank].pop(0)}" for rank in order]
    both = {operation for operation, *_ in measured(tmp_path, "\n".join(lines))}
    assert both == {"all_reduce", "all_gather"}
    assert len(measured(tmp_path, "\n".join(lines))) == 4


def test_lines_of_the_launcher_itself_do_not_matter(tmp_path: Path) -> None:
    labelled = "\n".join(f"0: {line}" for line in PLAIN.splitlines())
    noise = "srun: job 77 queued and waiting for resources\nsrun: job 77 has been allocated resources\n"
    talk = "0: node-a:41:41 [0] NCCL INFO NET/IB : Using [0]mlx5_0:1/IB\n"
    assert measured(tmp_path, noise + talk + labelled) == EXPECTED


@pytest.mark.parametrize(
    "line", ["     1048576        262144     float     sum      -1    31.50", "#  Rank  0 Group  0", "# nThread 1", ""]
)
def test_a_line_without_a_prefix_stays_whole(line: str) -> None:
    assert without_prefix(line) == ("", line)


def test_rows_of_an_operation_that_is_not_modelled_are_not_taken_for_another(tmp_path: Path) -> None:
    """A file may hold several runs; what hypercube_perf measured is not the all-reduce before it."""
    other = LOG.format(program="hypercube_perf").replace("1048576  ", "2097152  ")
    assert measured(tmp_path, PLAIN + other) == EXPECTED
    path = tmp_path / "run.log"
    assert "hypercube_perf" in read_log(path).reasons
