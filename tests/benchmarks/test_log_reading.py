"""Reading long logs: what is counted, not how long it takes (200 MB are timed in tests/simulator/test_explain.py)."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from simulator.launch.explain import reading
from simulator.launch.explain.reading import read_log
from tests.simulator.test_explain import START_S, megatron

NOISE = "node17: [rank3] NCCL INFO Channel 07/0 : 3[3] -> 4[4] via P2P/CUMEM, and more of what logs are full of\n"


def log_file(folder: Path, steps: int, noise_per_step: int) -> Path:
    file = folder / f"{steps}.log"
    lines = (
        megatron(step, 5000, START_S + 5 * step, total=steps) + noise_per_step * NOISE for step in range(1, steps + 1)
    )
    file.write_text("".join(lines))
    return file


def test_a_line_is_taken_apart_once_and_noise_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    read_line = reading._read_line

    def counted(line: bytes, count: int, state: reading._Reading) -> None:
        taken.append(count)
        read_line(line, count, state)

    monkeypatch.setattr(reading, "_read_line", counted)
    log = read_log(log_file(tmp_path, 2000, noise_per_step=9))
    assert log.lines == 20_000
    assert taken == list(range(1, 20_001, 10)), "the lines about steps, in their order"


def test_memory_grows_by_a_steps_figures_alone(tmp_path: Path) -> None:
    """Five figures of 8 bytes a step, and as much again while arrays grow and are copied; a log's text is not kept."""

    def peak_bytes(steps: int) -> int:
        file = log_file(tmp_path, steps, noise_per_step=20)
        tracemalloc.start()
        read_log(file)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak_bytes(2000), peak_bytes(8000)
    assert many - few < 6000 * 3 * 5 * 8
    assert few < 10 * reading.BLOCK_BYTES
