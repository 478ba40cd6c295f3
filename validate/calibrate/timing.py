"""How one thing is timed: warmed up, caches flushed, repeated until the median holds still, with its spread.

GPU work is timed by events on its own stream while the host runs ahead, so that launching is not in it; on a CPU the
wall clock serves. Each repetition starts with a cold L2 cache, as a kernel finds it in training.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

FLUSHES = 3  # of them, so that the GPU is busy for some 0.2 ms while the host enqueues the work behind
FLUSH_BYTES = {"cuda": 256 * 2**20, "cpu": 8 * 2**20}  # more than any part's L2 (126 MB on B200); a token on a CPU


@dataclass(frozen=True, slots=True)
class Method:
    """How long and how exactly: repetitions go on until the median's standard error is below `tolerance` of it, at
    least `fewest` times and `least_s` seconds (clocks under load are not those of a first burst), at most `most` times
    or `budget_s` seconds per case."""

    warmup: int = 3
    fewest: int = 7
    most: int = 2000
    tolerance: float = 0.01
    budget_s: float = 0.5
    least_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and 10th and 90th percentile of the repetitions, seconds."""

    seconds: float
    low_s: float
    high_s: float
    repetitions: int


class Clock:
    """Times work on one device."""

    def __init__(self, device: torch.device, method: Method) -> None:
        import torch

        self.torch, self.device, self.method = torch, device, method
        self.flushed = torch.zeros(FLUSH_BYTES[device.type] // 4, dtype=torch.int32, device=device)

    def time(self, work: Callable[[], Any]) -> Timing:
        """Repeats `work` as the method says."""
        for _ in range(self.method.warmup):
            work()
        self.wait()
        begun = time.perf_counter()
        seconds: list[float] = []
        while True:
            seconds += self._batch(work, self.method.fewest)
            spent_s = time.perf_counter() - begun
            if spent_s > self.method.budget_s or len(seconds) >= self.method.most:
                return summary(seconds)
            if spent_s >= self.method.least_s and settled(seconds, self.method.tolerance):
                return summary(seconds)

    def wait(self) -> None:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def _batch(self, work: Callable[[], Any], count: int) -> list[float]:
        if self.device.type != "cuda":
            return [self._by_wall(work) for _ in range(count)]
        events = [tuple(self.torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
        for start, stop in events:
            for _ in range(FLUSHES):
                self.flushed.zero_()
            start.record()
            work()
            stop.record()
        self.wait()
        return [start.elapsed_time(stop) * 1e-3 for start, stop in events]

    def _by_wall(self, work: Callable[[], Any]) -> float:
        self.flushed.zero_()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def settled(seconds: list[float], tolerance: float) -> bool:
    """Whether the median's standard error (1.2533 sigma / sqrt(n), sigma from the quartiles) is small."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    sigma = (high - low) / 1.349
    return bool(1.2533 * sigma / np.sqrt(len(seconds)) <= tolerance * middle)


def summary(seconds: list[float]) -> Timing:
    low, middle, high = (float(each) for each in np.quantile(seconds, [0.1, 0.5, 0.9]))
    return Timing(middle, low, high, len(seconds))
