"""Tasks that run at the same time slow each other down: streams of one GPU, and transfers on a shared link.

Durations are the times alone. While a compute task runs beside communication kernels it has fewer SMs, and these
have less bandwidth; transfers on one link share it equally. Rates change whenever a task begins or ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simpy

from simulator.step.graph import STREAM, STREAMS, Ints, TaskGraph


@dataclass(frozen=True, slots=True)
class Contention:
    """`slowdown[victim, beside]` (stream names): how many times longer a task of one stream takes while the other
    stream of the same rank is busy. `link` [tasks]: the link a transfer occupies (-1: none), `capacity` how many
    transfers a link carries at full speed (1 where it is not named)."""

    slowdown: Mapping[tuple[str, str], float] = field(default_factory=dict)
    link: Ints | None = None
    capacity: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for (victim, beside), factor in self.slowdown.items():
            if victim not in STREAMS or beside not in STREAMS:
                raise ValueError(f"slowdown ({victim}, {beside}): streams are {', '.join(STREAMS)}")
            if not (np.isfinite(factor) and factor >= 1):
                raise ValueError(f"slowdown ({victim}, {beside}) is {factor}; at least 1")


def network_ports(graph: TaskGraph) -> Ints:
    """A link per pipeline rank that its pp and dp transfers share: the port of its GPU. Whole-world tasks have none."""
    uses = np.isin(graph.stream, (STREAM["pp"], STREAM["dp"])) & (graph.rank >= 0)
    return np.where(uses, graph.rank, -1)


def beside_communication(graph: TaskGraph, sm_count: int, communication_sms: int) -> Contention:
    """What data-parallel and pipeline transfers do to a step: their kernels take `communication_sms` of a GPU's SMs
    from computation (NCCL: 16-32 for rings over the network, 1-6 with SHARP or registered buffers), and
    both use the GPU's one network port."""
    if not 0 <= communication_sms < sm_count:
        raise ValueError(f"communication_sms {communication_sms}: from 0 to below the GPU's {sm_count} SMs")
    left = sm_count / (sm_count - communication_sms)
    return Contention({("compute", "dp"): left, ("compute", "pp"): left}, network_ports(graph))


class Shares:
    """Who runs beside whom right now, and the event at which each task ends at its present rate."""

    def __init__(self, env: simpy.Environment, graph: TaskGraph, contention: Contention) -> None:
        self.env = env
        self.rank, self.stream = graph.rank.tolist(), graph.stream.tolist()
        self.alone = graph.duration_s.tolist()
        self.link = [-1] * len(graph) if contention.link is None else contention.link.tolist()
        self.capacity = contention.capacity
        self.slowdown = {(STREAM[v], STREAM[b]): factor for (v, b), factor in contention.slowdown.items()}
        self.on_rank: dict[int, set[int]] = {}
        self.on_link: dict[int, set[int]] = {}
        self.left: dict[int, float] = {}  # seconds alone still to do
        self.since: dict[int, float] = {}
        self.rate: dict[int, float] = {}
        self.done: dict[int, simpy.Event] = {}
        self.due: dict[int, simpy.Event] = {}

    def begin(self, task: int) -> simpy.Event:
        """The event, of value `task`, at which the task ends."""
        self.left[task], self.since[task], self.rate[task] = self.alone[task], self.env.now, 0.0
        self.done[task] = self.env.event()
        self.on_rank.setdefault(self.rank[task], set()).add(task)
        self.on_link.setdefault(self.link[task], set()).add(task)
        self._settle(task)
        return self.done[task]

    def _end(self, event: Any) -> None:
        task: int = event.value
        if self.due.get(task) is not event:
            return  # the rate has changed since this end was foreseen
        self.on_rank[self.rank[task]].discard(task)
        self.on_link[self.link[task]].discard(task)
        for state in (self.left, self.since, self.rate, self.due):
            del state[task]
        self._settle(task)
        self.done.pop(task).succeed(task)

    def _settle(self, changed: int) -> None:
        """New rates for everything that runs beside a task that began or ended."""
        beside = set(self.on_rank[self.rank[changed]])
        if self.link[changed] >= 0:
            beside |= self.on_link[self.link[changed]]
        for task in sorted(beside):
            rate = self._rate(task)
            if rate == self.rate[task]:
                continue
            self.left[task] -= (self.env.now - self.since[task]) * self.rate[task]
            self.since[task], self.rate[task] = self.env.now, rate
            self.due[task] = self.env.timeout(max(0.0, self.left[task]) / rate, task)
            self.due[task].callbacks.append(self._end)

    def _rate(self, task: int) -> float:
        rate = 1.0
        for other in self.on_rank[self.rank[task]]:
            if other != task:
                rate /= self.slowdown.get((self.stream[task], self.stream[other]), 1.0)
        link = self.link[task]
        if link >= 0:
            rate *= min(1.0, self.capacity.get(link, 1.0) / len(self.on_link[link]))
        return rate
