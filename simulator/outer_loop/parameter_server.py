"""Data parallelism through a parameter server: synchronous, asynchronous, or with bounded staleness.

It predicts speed, staleness and traffic; what staleness does to the loss it does not say.
Bounded staleness is the stale-synchronous-parallel rule (Ho et al., NeurIPS 2013): no worker begins a step more
than `bound` steps ahead of the slowest one.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, Literal

import numpy as np
import simpy
from numpy.typing import NDArray

from simulator.fields import METADATA, Setting, setting
from simulator.step.spread import mean_one

# Beyond these no cluster is described any more; every worker is simulated by itself.
MOST_WORKERS, MOST_BOUND, MOST_SIGMA, MOST_SLOWNESS, MOST_SECONDS = 4096, 1_000_000, 3.0, 1e4, 3600.0
Mode = Literal["synchronous", "asynchronous", "bounded"]
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class ParameterServer:
    """`workers` compute `step_s` (times a lognormal of `jitter_sigma`, times their factor in `slow`), pull
    `parameter_bytes` before and push `gradient_bytes` after each step. All servers together move
    `server_bytes_per_s` each way, a worker at most `worker_bytes_per_s`, and apply a gradient in `update_s`,
    one at a time (synchronous: one update per round).
    """

    workers: int
    step_s: float
    parameter_bytes: float
    gradient_bytes: float
    server_bytes_per_s: float = setting(
        MISSING, Setting("What all servers together send, and receive, per second.", "100 GB/s")
    )
    worker_bytes_per_s: float = setting(MISSING, Setting("What one worker sends, and receives, per second at most."))
    update_s: float = setting(
        0.0, Setting("What the servers take to apply a gradient, one at a time.", "5 ms", least=0, most=MOST_SECONDS)
    )
    latency_s: float = setting(
        0.0, Setting("Of a message between worker and server.", "20 us", least=0, most=MOST_SECONDS)
    )
    mode: Mode = setting(
        "synchronous",
        Setting(
            "When gradients are applied. synchronous: all of a step together; asynchronous: each as it comes; bounded: "
            "as it comes, but no worker is more than bound steps ahead of the slowest.",
            "bounded",
        ),
    )
    bound: int = setting(
        0, Setting("Steps by which a worker may be ahead, in mode bounded.", 2, least=0, most=MOST_BOUND)
    )
    jitter_sigma: float = setting(
        0.0, Setting("Lognormal spread of a worker's step from one to the next.", 0.05, least=0, most=MOST_SIGMA)
    )
    slow: Mapping[int, float] = field(
        default_factory=dict,
        metadata={METADATA: Setting("How many times slower each worker is.", {0: 2.0}, most=MOST_SLOWNESS)},
    )

    def __post_init__(self) -> None:
        positive = ("workers", "step_s", "server_bytes_per_s", "worker_bytes_per_s")
        others = ("parameter_bytes", "gradient_bytes", "update_s", "latency_s", "jitter_sigma", "bound")
        values = {name: getattr(self, name) for name in (*positive, *others)}
        wrong = [f"{name} must be positive, not {values[name]}" for name in positive if not values[name] > 0]
        wrong += [f"{name} must not be negative, but is {values[name]}" for name in others if not values[name] >= 0]
        wrong += [f"slow: worker {w} does not exist" for w in self.slow if not 0 <= w < self.workers]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True, slots=True)
class ServerResult:
    """`staleness[k]`: how many gradients were applied k updates after their parameters were read. `waiting_fraction`:
    share of the workers' time not spent computing."""

    seconds: float
    steps: int
    steps_per_s: float
    staleness: NDArray[np.int64]
    traffic_bytes_per_s: float
    waiting_fraction: float

    @property
    def mean_staleness(self) -> float:
        return float((np.arange(len(self.staleness)) * self.staleness).sum() / max(1, self.staleness.sum()))


class FairLink:
    """A link whose transfers all move at the same rate: capacity over their number, at most `cap` each."""

    def __init__(self, env: simpy.Environment, bytes_per_s: float, cap_bytes_per_s: float) -> None:
        self.env, self.capacity, self.cap = env, bytes_per_s, cap_bytes_per_s
        self.moved = 0.0  # bytes that a transfer present all along would have moved
        self.since = 0.0
        self.ends: list[tuple[float, int, simpy.Event]] = []
        self.count = 0
        self.due: simpy.Event | None = None

    def transfer(self, size_bytes: float) -> simpy.Event:
        """The event of the transfer's end."""
        self._advance()
        done = self.env.event()
        self.count += 1
        heapq.heappush(self.ends, (self.moved + size_bytes, self.count, done))
        self._schedule()
        return done

    def _rate(self) -> float:
        return min(self.cap, self.capacity / len(self.ends)) if self.ends else 0.0

    def _advance(self) -> None:
        self.moved += (self.env.now - self.since) * self._rate()
        self.since = self.env.now

    def _schedule(self) -> None:
        if self.ends:
            self.due = self.env.timeout(max(0.0, self.ends[0][0] - self.moved) / self._rate())
            self.due.callbacks.append(self._finish)

    def _finish(self, event: Any) -> None:
        if event is not self.due:
            return  # another transfer has begun since
        self._advance()
        target = self.ends[0][0]
        self.moved = max(self.moved, target)
        while self.ends and self.ends[0][0] <= self.moved:
            heapq.heappop(self.ends)[2].succeed()
        self._schedule()


class _Run:
    """State of one simulation."""

    def __init__(self, spec: ParameterServer, rng: np.random.Generator) -> None:
        self.spec, self.rng, self.env = spec, rng, simpy.Environment()
        self.down = FairLink(self.env, spec.server_bytes_per_s, spec.worker_bytes_per_s)
        self.up = FairLink(self.env, spec.server_bytes_per_s, spec.worker_bytes_per_s)
        self.server = simpy.Resource(self.env, capacity=1)
        self.version = 0
        self.clocks = [0] * spec.workers
        self.arrived = 0
        self.moved_on = self.env.event()
        self.staleness: list[int] = []
        self.computing_s = 0.0
        self.over = self.env.event()

    def worker(self, number: int, steps: int) -> Process:
        """One worker's steps; the first asynchronous one that is through ends the run, for alone the others would tell
        nothing of the pace of all."""
        spec = self.spec
        for _ in range(steps):
            while spec.mode == "bounded" and self.clocks[number] - min(self.clocks) > spec.bound:
                yield self.moved_on
            read = self.version
            yield self.down.transfer(spec.parameter_bytes)
            yield self.env.timeout(spec.latency_s)
            factor = float(mean_one(spec.jitter_sigma, self.rng.standard_normal(1))[0]) * spec.slow.get(number, 1.0)
            self.computing_s += spec.step_s * factor
            yield self.env.timeout(spec.step_s * factor)
            yield self.up.transfer(spec.gradient_bytes)
            yield self.env.timeout(spec.latency_s)
            yield from self._round() if spec.mode == "synchronous" else self._apply(read)
            self.clocks[number] += 1
            if spec.mode == "bounded":
                self._wake()
        if spec.mode == "asynchronous" and not self.over.triggered:
            self.over.succeed()

    def _apply(self, read: int) -> Process:
        with self.server.request() as turn:
            yield turn
            yield self.env.timeout(self.spec.update_s)
        self.staleness.append(self.version - read)
        self.version += 1

    def _round(self) -> Process:
        """Everyone waits for the last gradient and the one update."""
        self.staleness.append(0)
        self.arrived += 1
        if self.arrived < self.spec.workers:
            yield self.moved_on
            return
        self.arrived = 0
        yield self.env.timeout(self.spec.update_s)
        self.version += 1
        self._wake()

    def _wake(self) -> None:
        event, self.moved_on = self.moved_on, self.env.event()
        event.succeed()


def simulate_server(spec: ParameterServer, steps: int, rng: np.random.Generator) -> ServerResult:
    """`steps` steps of every worker; asynchronous ones until the first has taken so many."""
    run = _Run(spec, rng)
    workers = [run.env.process(run.worker(number, steps)) for number in range(spec.workers)]
    run.env.run(run.over if spec.mode == "asynchronous" else run.env.all_of(workers))
    seconds, done = float(run.env.now), sum(run.clocks)
    return ServerResult(
        seconds=seconds,
        steps=done,
        steps_per_s=done / seconds,
        staleness=np.bincount(run.staleness),
        traffic_bytes_per_s=done * (spec.parameter_bytes + spec.gradient_bytes) / seconds,
        waiting_fraction=1 - run.computing_s / (seconds * spec.workers),
    )
