"""Max-min fair rates of flows that share links, at one moment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats

Paths = NDArray[np.int32]
# Two fair shares this close are the same: rounding of residual capacities stays far below it.
EQUAL = 1e-9


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
    load = link_sums(route, weight, links)
    while len(active):
        share = _shares(residual, load)
        offered = share[route]
        rate = offered.min(axis=0)
        tight = offered <= rate * (1 + EQUAL)
        load_of_tight = link_sums(route, weight, links, tight)
        bottleneck = (load_of_tight >= load * (1 - EQUAL)) & np.isfinite(share)
        settled = (tight & bottleneck[route]).any(axis=0)
        if not settled.any():
            break  # what is left crosses unlimited links only
        rates[active[settled]] = rate[settled]
        taken = link_sums(route[:, settled], weight[settled] * rate[settled], links)
        residual = np.maximum(residual - taken, 0.0)
        active, route, weight = active[~settled], route[:, ~settled], weight[~settled]
        # Counted anew rather than subtracted, so that no rounding stays behind.
        load = link_sums(route, weight, links)
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
    rates = np.full(flows, np.inf)
    waiting = np.ones(flows, dtype=bool)
    share = _shares(residual, load)
    # A load below half of the lightest flow is nothing but rounding.
    least = 0.5 * weight.min()
    alike = weight.min() == weight.max()
    while True:
        link = int(share.argmin())
        level = share[link]
        if not np.isfinite(level):
            return rates
        crossing_link = crossing[starts[link] : starts[link + 1]]
        settled = crossing_link[waiting[crossing_link]]
        waiting[settled] = False
        rates[settled] = level
        touched = route[:, settled].ravel()
        amount = weight[0] if alike else np.tile(weight[settled], hops)
        np.subtract.at(load, touched, amount)
        np.subtract.at(residual, touched, amount * level)
        load_left = load[touched]
        new_share = np.maximum(residual[touched] / np.maximum(load_left, least), level)
        share[touched] = np.where(load_left > least, new_share, np.inf)
        share[link] = np.inf


def _flows_by_link(route: NDArray[np.intp], links: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(start of each link's run, flows in runs by link)."""
    from scipy.sparse import coo_array

    hops, flows = route.shape
    flow = np.broadcast_to(np.arange(flows), (hops, flows)).ravel()
    table = coo_array((np.ones(hops * flows, np.int8), (route.ravel(), flow)), shape=(links, flows)).tocsr()
    return table.indptr, table.indices


def link_sums(route: NDArray[np.integer], weight: Floats, links: int, where: NDArray[np.bool_] | None = None) -> Floats:
    """Sum of flow weights over each link (`where`: only the marked crossings)."""
    total = np.zeros(links + 1)
    for hop in range(route.shape[0]):
        total += np.bincount(route[hop], weight if where is None else weight * where[hop], links + 1)
    return total
