"""Chunks give the same results on one process or several, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from simulator.executor import WorkerLost, map_chunks

ROOT = Path(__file__).parents[2]
SLEEPERS = """
import os, sys, time
from functools import partial
from simulator.executor import map_chunks
from tests.simulator.test_executor import sleep_beside_own_pid

if __name__ == "__main__":
    list(map_chunks(partial(sleep_beside_own_pid, sys.argv[1]), [0, 1], workers=2))
"""


def square(number: int) -> int:
    return number**2


def die_once(folder: str, number: int) -> int:
    """Ends its own process the first time that number 3 comes up."""
    mark = Path(folder) / "died"
    if number == 3 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def always_die(number: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(number: int) -> int:
    raise ValueError(f"chunk {number} is bad")


def sleep_beside_own_pid(folder: str, number: int) -> None:
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(120)


@pytest.mark.parametrize("workers", [1, 2])
def test_every_chunk_has_its_result(workers: int) -> None:
    assert dict(map_chunks(square, range(5), workers)) == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}


def test_no_chunks_no_results() -> None:
    assert list(map_chunks(square, [], 2)) == []


def test_a_killed_worker_is_replaced_and_its_chunk_done_again(tmp_path: Path) -> None:
    results = dict(map_chunks(partial(die_once, str(tmp_path)), range(6), workers=2))
    assert (tmp_path / "died").exists()
    assert results == {number: number**2 for number in range(6)}


def test_work_that_kills_every_worker_is_given_up() -> None:
    with pytest.raises(WorkerLost, match="Use fewer"):
        list(map_chunks(always_die, [1, 2], workers=2))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_work_raises_comes_through(workers: int) -> None:
    with pytest.raises(ValueError, match="is bad"):
        list(map_chunks(fail, [1, 2], workers))


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, ending: signal.Signals) -> None:
    script = tmp_path / "sleepers.py"
    script.write_text(SLEEPERS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    pids = wait_for_pids(tmp_path, 2)
    parent.send_signal(ending)
    parent.wait(timeout=30)
    deadline = time.monotonic() + 30
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(pid) for pid in pids)


def wait_for_pids(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pids = [int(path.stem) for path in folder.glob("*.pid")]
        if len(pids) == count:
            return pids
        time.sleep(0.05)
    raise AssertionError(f"{count} workers did not start")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
