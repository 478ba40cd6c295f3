"""The search on a real Ray cluster of several worker processes; skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.planner.executors import Ray, Serial
from simulator.planner.options import SearchOptions
from simulator.planner.planning import plan as search
from simulator.scenario.schema import load_scenario

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
KEEP = ["sequence_parallel", "dispatcher", "overlap.shared_experts", "overlap.delay_wgrad", "micro_batch_size"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    context = ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield context.address_info["address"]
    ray.shutdown()


def test_ray_finds_the_same(cluster: str) -> None:
    base = load_scenario(TINY)
    serial, spread = (search(base, SearchOptions(keep=KEEP, top=5), executor=each) for each in (Serial(), Ray(cluster)))
    assert [each.plan for each in spread.plans] == [each.plan for each in serial.plans]
    assert (spread.legal, spread.fitting) == (serial.legal, serial.fitting)


def dies_once(path: str) -> int:
    """Work whose first worker is killed in the middle."""
    marker = Path(path)
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def test_work_of_a_worker_that_is_killed_is_done_again(cluster: str, tmp_path: Path) -> None:
    chunks = [str(tmp_path / "first"), str(tmp_path / "second")]
    assert list(Ray(cluster).run(dies_once, chunks, lambda chunk: chunk)) == [7, 7]
    assert all(Path(chunk).exists() for chunk in chunks)
