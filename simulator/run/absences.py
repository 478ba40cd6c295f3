"""How many nodes are in repair at any time of one run, from the faults that it meets, and when its work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Floats, Ints
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.faults import SLOW
from simulator.run.specs import Recovery, RunSpec


@dataclass(frozen=True, slots=True)
class Absences:
    """From `since_s` (k,), ascending from 0, on so many nodes are `away` (k,); known until `until_s`."""

    since_s: Floats
    away: Ints
    until_s: float

    @property
    def lasts_s(self) -> Floats:
        """How long each number of nodes is away, (k,)."""
        return np.diff(self.since_s, append=self.until_s)

    def most(self, within_s: float) -> int:
        """The most nodes that are away at once before a time."""
        return int(self.away[self.since_s < within_s].max())


def absences(recovery: Recovery, faults: FaultTimeline, until_s: float) -> Absences:
    """Nodes away under these faults up to a time: each from when its fault is found until it is repaired.

    A node in repair cannot fail again; one that failed `evict_after` times stays away.
    """
    left_s, back_s = _repairs(recovery, faults)
    back_s = back_s[np.isfinite(back_s)]
    times_s = np.concatenate([[0.0], left_s, back_s])
    changes = np.concatenate([[0], np.ones(len(left_s), int), -np.ones(len(back_s), int)])
    order = np.argsort(times_s, kind="stable")
    return Absences(np.minimum(times_s[order], until_s), np.cumsum(changes[order]), until_s)


def _repairs(recovery: Recovery, faults: FaultTimeline) -> tuple[Floats, Floats]:
    """When nodes leave and when they are back (infinity: never), (k,) each."""
    takes_node = (faults.node >= 0) & (faults.repair_s > 0)
    is_replaced = (faults.detect_s < faults.lasts_s) & recovery.evict_slow
    chosen = faults.take(np.flatnonzero(takes_node & ((faults.kind != SLOW) | is_replaced)))
    found_s = chosen.time_s + chosen.detect_s
    repairs = zip(
        chosen.node.tolist(),
        chosen.time_s.tolist(),
        found_s.tolist(),
        (found_s + chosen.repair_s).tolist(),
        strict=True,
    )
    ready_s: dict[int, float] = {}
    failures: dict[int, int] = {}
    left: list[float] = []
    back: list[float] = []
    for node, time_s, leaves_s, returns_s in repairs:
        if ready_s.get(node, 0.0) > time_s:
            continue
        failures[node] = failures.get(node, 0) + 1
        is_evicted = recovery.evict_after is not None and failures[node] >= recovery.evict_after
        ready_s[node] = math.inf if is_evicted else returns_s
        left.append(leaves_s)
        back.append(ready_s[node])
    return np.array(left), np.array(back)


def speeds_when_short(spec: RunSpec) -> Floats:
    """The job's speed by the number of its nodes that are missing, (job_nodes + 1,).

    A job that waits stands; one that shrinks goes on with the replicas that are whole.
    """
    missing = np.arange(spec.job_nodes + 1)
    if spec.recovery.when_short == "wait":
        return np.where(missing == 0, 1.0, 0.0)
    whole = (spec.job_nodes - missing) // spec.nodes_per_replica
    return np.where(whole >= spec.recovery.min_replicas, whole / spec.replicas, 0.0)


def wall_time_s(known: Absences, spares: int, work_s: float, speeds: Floats) -> float:
    """When `work_s` of work is done with so many spares; infinite where it is not within what is known."""
    missing = np.clip(known.away - spares, 0, len(speeds) - 1)
    speed = speeds[missing]
    worked_s = np.cumsum(known.lasts_s * speed)
    last = int(np.searchsorted(worked_s, work_s))
    if last == len(worked_s):
        return math.inf
    end_s = known.since_s[last] + known.lasts_s[last]
    return float(end_s - (worked_s[last] - work_s) / speed[last])


def pace_fraction(known: Absences, spares: int, speeds: Floats) -> float:
    """Mean speed over all that is known."""
    missing = np.clip(known.away - spares, 0, len(speeds) - 1)
    return float((known.lasts_s * speeds[missing]).sum() / known.until_s)
