"""When flows that share links max-min fairly finish, event by event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from hardware.arrays import Floats, Ints
from hardware.flows.alike import components, merge, without_idle_limits
from hardware.flows.max_min import Paths, check_paths, max_min_rates

# Above so many flows looking for implied links costs more than a few events without them.
_PRUNED = 65536


class CapacityChange(NamedTuple):
    """At `time_s` the capacity of `links` becomes `capacity` (each, or one for all); zero stalls what crosses it."""

    time_s: float
    links: Ints
    capacity: Floats | float


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """When each flow finished, when the last did, and how often the rates were solved on the way."""

    finish_s: Floats
    makespan_s: float
    solves: int


class _Flight:
    """The flows in flight, compacted as they finish; lives for one simulation.

    `index`, `left` and `rate` are of those in flight; `part` labels flows that share links, directly or through others.
    """

    def __init__(self, paths: Paths, capacity: Floats, size: Floats, weight: Floats, caps: Floats) -> None:
        self.paths, self.size, self.weight, self.caps = paths, size, weight, caps
        self.capacity = capacity.astype(float).copy()
        self.part = components(paths, len(capacity))
        self.finish = np.full(len(size), np.nan)
        self.index = np.empty(0, np.int64)
        self.left = np.empty(0)
        self.rate = np.empty(0)

    def add(self, new: Ints) -> None:
        self.index = np.concatenate([self.index, new])
        self.left = np.concatenate([self.left, self.size[new]])
        self.rate = np.concatenate([self.rate, np.zeros(len(new))])

    def solve(self, changed: Ints | None) -> None:
        """New rates for the components in `changed` (None: all)."""
        mine = slice(None) if changed is None else np.isin(self.part[self.index], changed)
        index = self.index[mine]
        self.rate[mine] = max_min_rates(self.paths[:, index], self.capacity, self.weight[index], self.caps[index])

    def ends(self, now: float) -> Floats:
        """When each flow in flight would finish at its present rate."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return now + np.where(self.left > 0, self.left / self.rate, 0.0)

    def advance(self, ends: Floats, now: float, until: float) -> Ints:
        """Moves time on; the flows that have finished leave, and are returned."""
        over = ends <= until
        finished = self.index[over]
        self.finish[finished] = ends[over]
        with np.errstate(invalid="ignore"):
            moved = np.where(np.isinf(self.rate), 0, self.rate) * (until - now)
            self.left = np.maximum(self.left - moved, 0.0)
        self.index, self.left, self.rate = self.index[~over], self.left[~over], self.rate[~over]
        return finished


def simulate(
    paths: Paths,
    capacity: Floats,
    size_bytes: Floats,
    entry_s: Floats | None = None,
    caps: Floats | None = None,
    changes: Sequence[CapacityChange] = (),
    tolerance: float = 0.0,
    weights: Floats | None = None,
) -> FlowTimes:
    """When each flow has delivered its bytes, all sharing links max-min fairly from event to event.

    A flow takes bandwidth from `entry_s` on (its start and the latency of its path); `caps` limit it, `weights` tell
    how many equal flows a column stands for. Rates are solved anew at every entry, finish and capacity change, and
    only among the flows that share links with those that changed. `tolerance` > 0 lets finishes within that fraction
    of the elapsed time count as one event: each flow still finishes at its own time, but what it frees is given on up
    to so much later (0: exact). ValueError for flows that can never finish.
    """
    size = np.asarray(size_bytes, dtype=float)
    flows = paths.shape[1]
    entry = np.zeros(flows) if entry_s is None else np.asarray(entry_s, dtype=float)
    cap = np.full(flows, np.inf) if caps is None else np.asarray(caps, dtype=float)
    _check_flows(paths, capacity, size, entry, cap)
    if not flows:
        return FlowTimes(np.empty(0), 0.0, 0)
    first, kind, count = merge(paths, size, entry, cap)
    if weights is not None:
        count = np.bincount(kind, weights).astype(float)
    distinct = paths[:, first]
    if not changes and len(first) <= _PRUNED:
        distinct = without_idle_limits(distinct, capacity)
    flight = _Flight(distinct, capacity, size[first], count, cap[first])
    finish, solves = _run(flight, entry[first], changes, tolerance)
    return FlowTimes(finish[kind], float(finish.max()), solves)


def _check_flows(paths: Paths, capacity: Floats, size: Floats, entry: Floats, cap: Floats) -> None:
    check_paths(paths, capacity)
    flows = paths.shape[1]
    for name, values in (("size_bytes", size), ("entry_s", entry), ("caps", cap)):
        if values.shape != (flows,):
            raise ValueError(f"{name}: {flows} flows need {flows} values, not {values.shape}")
        if np.isnan(values).any() or (values < 0).any():
            raise ValueError(f"{name}: must not be negative or NaN")
    if not np.isfinite(size).all() or not np.isfinite(entry).all():
        raise ValueError("size_bytes and entry_s must be finite")


def _run(flight: _Flight, entry: Floats, changes: Sequence[CapacityChange], tolerance: float) -> tuple[Floats, int]:
    """The event loop over distinct flows: (finish times, number of solves)."""
    arrivals = np.argsort(entry, kind="stable")
    arrival_s = entry[arrivals]
    pending = sorted(changes, key=lambda change: change.time_s)
    arrived = solves = 0
    now = 0.0
    while arrived < len(arrivals) or len(flight.index):
        next_entry = float(arrival_s[arrived]) if arrived < len(arrivals) else np.inf
        next_change = pending[0].time_s if pending else np.inf
        ends = flight.ends(now)
        until = _next_event(ends, min(next_entry, next_change), tolerance)
        if np.isinf(until):
            raise ValueError(f"{len(flight.index)} flows can never finish: a link on their path has no capacity")
        touched = flight.part[flight.advance(ends, now, until)]
        now = until
        if next_entry <= now:
            entered = int(np.searchsorted(arrival_s, now, side="right"))
            new = arrivals[arrived:entered]
            flight.add(new)
            touched = np.concatenate([touched, flight.part[new]])
            arrived = entered
        everything = bool(pending) and pending[0].time_s <= now
        while pending and pending[0].time_s <= now:
            change = pending.pop(0)
            flight.capacity[change.links] = change.capacity
        if len(flight.index) and (everything or len(touched)):
            flight.solve(None if everything else np.unique(touched))
            solves += 1
    return flight.finish, solves


def _next_event(ends: Floats, outside: float, tolerance: float) -> float:
    """The next finish; those close together are one event, unless something from outside comes between."""
    soonest = float(ends.min()) if len(ends) else np.inf
    return min(max(soonest, soonest * (1 + tolerance)), outside)
