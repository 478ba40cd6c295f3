"""Fluid flows that share links max-min fairly: the rates at one moment, and the times at which flows finish.

Pure arrays; nothing here knows what a link is. A path is a column of link indices; shorter paths are padded with the
index `len(capacity)`, a link without limit. Flows over one path with one cap share alike and are solved as one with a
weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Paths = NDArray[np.int32]
# Two fair shares this close are the same: rounding of residual capacities stays far below it.
_EQUAL = 1e-9


class CapacityChange(NamedTuple):
    """At `time_s` the capacity of `links` becomes `capacity` (each, or one for all); zero stalls what crosses it."""

    time_s: float
    links: NDArray[np.int64]
    capacity: Floats | float


@dataclass(frozen=True, slots=True)
class FlowTimes:
    """When each flow finished, when the last did, and how often the rates were solved on the way."""

    finish_s: Floats
    makespan_s: float
    solves: int


def check_paths(paths: Paths, capacity: Floats) -> None:
    """ValueError for indices outside the links, negative or NaN capacities."""
    if paths.ndim != 2:
        raise ValueError(f"paths: one column of link indices per flow is wanted, not an array of {paths.ndim} axes")
    if paths.size and (paths.min() < 0 or paths.max() > len(capacity)):
        raise ValueError(
            f"paths: link indices lie in 0..{len(capacity)} (the last one pads), not {paths.min()}..{paths.max()}"
        )
    if np.isnan(capacity).any() or (capacity < 0).any():
        raise ValueError("capacity: must not be negative or NaN")


def max_min_rates(paths: Paths, capacity: Floats, weights: Floats | None = None, caps: Floats | None = None) -> Floats:
    """Max-min fair rate of each flow by progressive filling.

    `paths` (hops, flows) link indices, `capacity` (links,), `weights` (flows,) how many equal flows a column stands
    for, `caps` (flows,) the limit of each such flow. A flow over unlimited links only, without a cap, gets inf.
    """
    check_paths(paths, capacity)
    weight = np.ones(paths.shape[1]) if weights is None else np.asarray(weights, dtype=float)
    if caps is not None and np.isfinite(caps).any():
        paths, capacity = _with_own_links(paths, capacity, weight, np.asarray(caps, dtype=float))
    return _fill(np.ascontiguousarray(paths, dtype=np.intp), np.append(capacity.astype(float), np.inf), weight)


def _with_own_links(paths: Paths, capacity: Floats, weight: Floats, caps: Floats) -> tuple[Paths, Floats]:
    """A cap is a link that one flow has for itself."""
    capped = np.flatnonzero(np.isfinite(caps))
    links = len(capacity)
    own = np.full(paths.shape[1], links + len(capped), dtype=np.int32)
    own[capped] = links + np.arange(len(capped))
    widened = np.where(paths == links, links + len(capped), paths)
    return np.vstack([widened, own]), np.concatenate([capacity, caps[capped] * weight[capped]])


def _fill(route: NDArray[np.intp], residual: Floats, weight: Floats) -> Floats:
    """Progressive filling in rounds; `residual` ends with the unlimited link that pads paths.

    All links that are bottlenecks to every flow they still carry are filled in one round: their fair share cannot
    rise any more, for removing flows of lower rate from other links only raises those. Rounds are as many as
    bottlenecks depend on each other in a chain. Where a round fills few links, one link at a time is quicker.
    """
    links = len(residual) - 1
    rates = np.full(route.shape[1], np.inf)
    active = np.arange(route.shape[1])
    load = _sums(route, weight, links)
    while len(active):
        share = _shares(residual, load)
        offered = share[route]
        rate = offered.min(axis=0)
        tight = offered <= rate * (1 + _EQUAL)
        held = _sums(route, weight, links, tight)
        bottleneck = (held >= load * (1 - _EQUAL)) & np.isfinite(share)
        done = (tight & bottleneck[route]).any(axis=0)
        if not done.any():
            break  # what is left crosses unlimited links only
        rates[active[done]] = rate[done]
        residual = np.maximum(residual - _sums(route[:, done], weight[done] * rate[done], links), 0.0)
        keep = ~done
        active, route, weight = active[keep], route[:, keep], weight[keep]
        # Counted anew rather than subtracted, so that no rounding stays behind.
        load = _sums(route, weight, links)
        if np.count_nonzero(bottleneck) * _ONE_BY_ONE < route.size:
            rates[active] = _fill_one_by_one(route, residual, weight, load)
            break
    return rates


# Crossings that a whole round can look at in the time that filling one link by itself takes.
_ONE_BY_ONE = 1500


def _shares(residual: Floats, load: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(load > 0, residual / load, np.inf)


def _fill_one_by_one(route: NDArray[np.intp], residual: Floats, weight: Floats, load: Floats) -> Floats:
    """Progressive filling, lowest fair share first, touching only the links of the flows that it settles."""
    hops, flows = route.shape
    starts, crossing = _flows_by_link(route, len(residual))
    rates, waiting = np.full(flows, np.inf), np.ones(flows, dtype=bool)
    share = _shares(residual, load)
    # A load below half of the lightest flow is nothing but rounding.
    least = 0.5 * weight.min()
    alike = weight.min() == weight.max()
    while True:
        link = int(share.argmin())
        level = share[link]
        if not np.isfinite(level):
            return rates
        settled = crossing[starts[link] : starts[link + 1]]
        settled = settled[waiting[settled]]
        waiting[settled] = False
        rates[settled] = level
        touched = route[:, settled].ravel()
        amount = weight[0] if alike else np.tile(weight[settled], hops)
        np.subtract.at(load, touched, amount)
        np.subtract.at(residual, touched, amount * level)
        left = load[touched]
        share[touched] = np.where(left > least, np.maximum(residual[touched] / np.maximum(left, least), level), np.inf)
        share[link] = np.inf


def _flows_by_link(route: NDArray[np.intp], links: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(start of each link's run, flows in runs by link)."""
    from scipy.sparse import coo_array

    hops, flows = route.shape
    flow = np.broadcast_to(np.arange(flows), (hops, flows)).ravel()
    table = coo_array((np.ones(hops * flows, np.int8), (route.ravel(), flow)), shape=(links, flows)).tocsr()
    return table.indptr, table.indices


def _sums(route: NDArray[np.integer], weight: Floats, links: int, where: NDArray[np.bool_] | None = None) -> Floats:
    """Sum of flow weights over each link (`where`: only the marked crossings)."""
    total = np.zeros(links + 1)
    for hop in range(route.shape[0]):
        total += np.bincount(route[hop], weight if where is None else weight * where[hop], links + 1)
    return total


def merge(paths: Paths, *keys: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Flows equal in path and in every key: (index of one of each kind, kind of each flow, how many of each)."""
    flows = paths.shape[1]
    if not flows:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    # A fixed pseudo-random sum of the columns sorts equal ones together; equality is then checked in full.
    rng = np.random.default_rng(0)
    digest = np.zeros(flows, np.uint64)
    rows: list[NDArray] = [*paths, *keys]
    for row in rows:
        factor = np.uint64(rng.integers(1, 2**63, dtype=np.uint64) | np.uint64(1))
        bits = np.ascontiguousarray(row, dtype=float).view(np.uint64)
        mixed = (bits ^ (bits >> np.uint64(29))) * factor
        digest = (digest ^ (mixed >> np.uint64(17))) * np.uint64(0x9E3779B97F4A7C15) + mixed
    _, first, kind, count = np.unique(digest, return_index=True, return_inverse=True, return_counts=True)
    same = all(np.array_equal(row, row[first][kind]) for row in rows)
    if not same:
        return np.arange(flows), np.arange(flows), np.ones(flows)
    return first, kind, count.astype(float)


# Above so many flows looking for implied links costs more than a few events without them.
_PRUNED = 65536


@dataclass(frozen=True, slots=True)
class Fold:
    """Flows and links that behave alike, each kind standing for all of its members.

    `first` picks one flow of every kind, `kind` tells each flow's, `weights` counts them; `paths` and `capacity` are
    those of the kinds, a kind of link having the capacity of all its members together.
    """

    first: NDArray[np.int64]
    kind: NDArray[np.int64]
    weights: Floats
    paths: Paths
    capacity: Floats


def fold(paths: Paths, capacity: Floats, *keys: Floats) -> Fold:
    """Folds symmetric traffic: the coarsest sorting of flows and links in which equals cross equals equally often.

    `keys` (sizes, entries, caps) tell flows apart to begin with. Max-min rates are the same for all flows of a kind,
    so solving the fold and spreading its rates by `kind` gives the unfolded rates.
    """
    links, flows = len(capacity), paths.shape[1]
    flow_kind, first = np.zeros(flows, np.int64), np.zeros(min(flows, 1), np.int64)
    link_kind, sample = np.zeros(links + 1, np.int64), np.zeros(1, np.int64)
    for key in keys:
        flow_kind, first = _split(flow_kind, first, np.asarray(key, dtype=float))
    # The padding link is alone in its kind: no capacity is negative.
    link_kind, sample = _split(link_kind, sample, np.append(capacity, -1.0))
    rng = np.random.default_rng(0)
    known = 0
    while len(first) + len(sample) > known:
        known = len(first) + len(sample)
        # Sums of 32-bit random numbers are exact in a float up to two million terms.
        label = rng.integers(1, 2**32, len(sample)).astype(float)[link_kind]
        flow_kind, first = _split(flow_kind, first, label[paths].sum(axis=0))
        label = rng.integers(1, 2**32, len(first)).astype(float)[flow_kind]
        link_kind, sample = _split(link_kind, sample, _sums(paths, label, links))
    used = link_kind[:links] != link_kind[links]
    width = len(sample)
    total = np.bincount(link_kind[:links][used], capacity[used], width) if links else np.zeros(width)
    # The unlimited link keeps its meaning by moving to the end.
    place = np.where(np.arange(width) > link_kind[links], np.arange(width) - 1, np.arange(width))
    place[link_kind[links]] = width - 1
    folded = place[link_kind][paths[:, first]].astype(np.int32)
    return Fold(first, flow_kind, np.bincount(flow_kind).astype(float), folded, np.delete(total, link_kind[links]))


def _split(
    kind: NDArray[np.int64], first: NDArray[np.int64], value: Floats
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Kinds divided so that all members have one value: (kind of each, one member of each kind)."""
    if np.array_equal(value, value[first][kind]):
        return kind, first
    _, number = np.unique(value, return_inverse=True)
    both = kind * (int(number.max()) + 1) + number
    _, first, kind = np.unique(both, return_index=True, return_inverse=True)
    return kind.astype(np.int64), first


def without_idle_limits(paths: Paths, capacity: Floats) -> Paths:
    """The paths without the links that can never be full before others are; rates stay exactly as they were.

    A link is implied by others if all its flows pass, at one other place of their paths, links that together carry no
    more than it does: a leaf's uplinks behind its hosts' ports, say.
    """
    links = len(capacity)
    room = np.append(capacity, np.inf)
    kept = paths.astype(np.int64)
    for hop in range(len(paths)):
        for other in range(len(paths)):
            if other == hop:
                continue
            pair = np.unique(kept[hop] * (links + 1) + kept[other])
            link, through = np.divmod(pair, links + 1)
            implied = np.bincount(link, room[through], links + 1) <= room * (1 + _EQUAL)
            # A link that other places of paths also cross is more than this hop shows.
            elsewhere = np.bincount(np.delete(kept, hop, axis=0).ravel(), minlength=links + 1) > 0
            implied &= ~elsewhere
            implied[links] = False
            kept[hop] = np.where(implied[kept[hop]], links, kept[hop])
    # Move what is left to the top and drop the rows that are empty.
    order = np.argsort(kept == links, axis=0, kind="stable")
    kept = np.take_along_axis(kept, order, axis=0)
    return kept[: max(1, int((kept < links).any(axis=1).sum()))].astype(np.int32)


def components(paths: Paths, links: int) -> NDArray[np.int64]:
    """A label per flow; flows with different labels share no link, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hops, flows = paths.shape
    real = paths < links
    row = np.broadcast_to(np.arange(flows), (hops, flows))[real]
    joined = coo_array((np.ones(len(row), np.int8), (row, flows + paths[real])), shape=(flows + links, flows + links))
    return connected_components(joined, directed=False)[1][:flows].astype(np.int64)


class _Active:
    """The flows in flight, compacted as they finish; lives for one simulation."""

    def __init__(self, paths: Paths, size: Floats, weight: Floats, caps: Floats, part: NDArray[np.int64]) -> None:
        self.paths, self.size, self.weight, self.caps, self.part = paths, size, weight, caps, part
        self.index = np.empty(0, np.int64)
        self.left = np.empty(0)
        self.rate = np.empty(0)

    def add(self, new: NDArray[np.int64]) -> None:
        self.index = np.concatenate([self.index, new])
        self.left = np.concatenate([self.left, self.size[new]])
        self.rate = np.concatenate([self.rate, np.zeros(len(new))])

    def solve(self, capacity: Floats, changed: NDArray[np.int64] | None) -> None:
        """New rates for the components in `changed` (None: all)."""
        mine = slice(None) if changed is None else np.isin(self.part[self.index], changed)
        index = self.index[mine]
        self.rate[mine] = max_min_rates(self.paths[:, index], capacity, self.weight[index], self.caps[index])

    def keep(self, stay: NDArray[np.bool_]) -> None:
        self.index, self.left, self.rate = self.index[stay], self.left[stay], self.rate[stay]


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
    finish, solves = _run(distinct, capacity, size[first], entry[first], cap[first], count, changes, tolerance)
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


def _run(
    paths: Paths,
    capacity: Floats,
    size: Floats,
    entry: Floats,
    cap: Floats,
    count: Floats,
    changes: Sequence[CapacityChange],
    tolerance: float,
) -> tuple[Floats, int]:
    """The event loop over distinct flows: (finish times, number of solves)."""
    part = components(paths, len(capacity))
    flight = _Active(paths, size, count, cap, part)
    capacity = capacity.astype(float).copy()
    finish = np.full(len(size), np.nan)
    arrivals = np.argsort(entry, kind="stable")
    pending = sorted(changes, key=lambda change: change.time_s)
    arrived = changed_links = solves = 0
    now = 0.0
    while arrived < len(arrivals) or len(flight.index):
        next_entry = entry[arrivals[arrived]] if arrived < len(arrivals) else np.inf
        next_change = pending[changed_links].time_s if changed_links < len(pending) else np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = now + np.where(flight.left > 0, flight.left / flight.rate, 0.0)
        soonest = ends.min() if len(ends) else np.inf
        outside = min(next_entry, next_change)
        if np.isinf(min(soonest, outside)):
            raise ValueError(f"{len(flight.index)} flows can never finish: a link on their path has no capacity")
        # Finishes close together are one event, unless something from outside comes between.
        until = min(max(soonest, soonest * (1 + tolerance)), outside)
        over = ends <= until
        finish[flight.index[over]] = ends[over]
        with np.errstate(invalid="ignore"):
            flight.left = np.maximum(flight.left - np.where(np.isinf(flight.rate), 0, flight.rate) * (until - now), 0.0)
        now = until
        touched = part[flight.index[over]]
        flight.keep(~over)
        if next_entry <= now:
            many = int(np.searchsorted(entry[arrivals], now, side="right"))
            new = arrivals[arrived:many]
            flight.add(new)
            touched, arrived = np.concatenate([touched, part[new]]), many
        everything = False
        while changed_links < len(pending) and pending[changed_links].time_s <= now:
            capacity[pending[changed_links].links] = pending[changed_links].capacity
            changed_links, everything = changed_links + 1, True
        if len(flight.index) and (everything or len(touched)):
            flight.solve(capacity, None if everything else np.unique(touched))
            solves += 1
    return finish, solves
