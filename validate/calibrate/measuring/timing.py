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

from validate.calibrate.points import Timing

if TYPE_CHECKING:
    import torch

Clock = Callable[[], float]  # seconds since some moment, as time.perf_counter and time.monotonic tell them
FLUSHES = 3  # of them, so that the GPU is busy for some 0.2 ms while the host enqueues the work behind
FLUSH_BYTES = {"cuda": 256 * 2**20, "cpu": 8 * 2**20}  # more than any part's L2 (126 MB on B200); a token on a CPU
QUARTILES_PER_SIGMA = 1.349  # distance of a normal distribution's quartiles
MEDIAN_ERROR = 1.2533  # standard error of a normal sample's median over that of its mean


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
class Deadline:
    """The moment, seconds of `clock`, after which no new case begins."""

    ends_s: float
    clock: Clock = time.monotonic

    @property
    def left_s(self) -> float:
        """Seconds until then; negative afterwards."""
        return self.ends_s - self.clock()

    @property
    def passed(self) -> bool:
        return self.left_s <= 0


class Stopwatch:
    """Times work on one device. `clock` tells when a case's budget is spent, and times work on a CPU."""

    def __init__(self, device: torch.device, method: Method, clock: Clock = time.perf_counter) -> None:
        import torch

        self.torch = torch
        self.device = device
        self.method = method
        self.clock = clock
        self.flushed = torch.zeros(FLUSH_BYTES[device.type] // 4, dtype=torch.int32, device=device)

    def time(self, work: Callable[[], Any]) -> Timing:
        """Repeats `work` as the method says."""
        method = self.method
        for _ in range(method.warmup):
            work()
        self.wait()
        begun_s = self.clock()
        seconds: list[float] = []
        while True:
            seconds += self._batch(work, method.fewest)
            spent_s = self.clock() - begun_s
            if spent_s > method.budget_s or len(seconds) >= method.most:
                return summary(seconds)
            if spent_s >= method.least_s and settled(seconds, method.tolerance):
                return summary(seconds)

    def wait(self) -> None:
        """Returns once the device is idle."""
        if self.device.type == "cuda":
            self.torch.cuda.synchronize(self.device)

    def _batch(self, work: Callable[[], Any], count: int) -> list[float]:
        if self.device.type != "cuda":
            return [self._by_wall(work) for _ in range(count)]
        events = [(gpu_event(), gpu_event()) for _ in range(count)]
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
        begun_s = self.clock()
        work()
        return self.clock() - begun_s


def gpu_event() -> Any:
    """An event that takes its time on the GPU."""
    import torch

    cuda: Any = torch.cuda
    return cuda.Event(enable_timing=True)


def settled(seconds: list[float], tolerance: float) -> bool:
    """Whether the median's standard error (its sigma from the quartiles) is within `tolerance` of the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    sigma = (high - low) / QUARTILES_PER_SIGMA
    error = MEDIAN_ERROR * sigma / np.sqrt(len(seconds))
    return bool(error <= tolerance * middle)


def summary(seconds: list[float]) -> Timing:
    low, middle, high = np.quantile(seconds, [0.1, 0.5, 0.9])
    return Timing(float(middle), float(low), float(high), len(seconds))
