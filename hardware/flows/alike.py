"""Flows and links that behave alike, solved as one: equal flows, symmetric kinds, links that never matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats, Ints
from hardware.flows.max_min import EQUAL, Paths, link_sums


def merge(paths: Paths, *keys: Floats) -> tuple[Ints, Ints, Floats]:
    """Flows equal in path and in every key: (index of one of each kind, kind of each flow, how many of each)."""
    flows = paths.shape[1]
    if not flows:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    # A fixed pseudo-random sum of the columns sorts equal ones together; equality is then checked in full.
    rng = np.random.default_rng(0)
    digest = np.zeros(flows, np.uint64)
    rows: list[NDArray[Any]] = [*paths, *keys]
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


@dataclass(frozen=True, slots=True)
class Fold:
    """Flows and links that behave alike, each kind standing for all of its members.

    `first` picks one flow of every kind, `kind` tells each flow's, `weights` counts them; `paths` and `capacity` are
    those of the kinds, a kind of link having the capacity of all its members together.
    """

    first: Ints
    kind: Ints
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
    kinds_before = 0
    while len(first) + len(sample) > kinds_before:
        kinds_before = len(first) + len(sample)
        # Sums of 32-bit random numbers are exact in a float up to two million terms.
        label = rng.integers(1, 2**32, len(sample)).astype(float)[link_kind]
        flow_kind, first = _split(flow_kind, first, label[paths].sum(axis=0))
        label = rng.integers(1, 2**32, len(first)).astype(float)[flow_kind]
        link_kind, sample = _split(link_kind, sample, link_sums(paths, label, links))
    unlimited = link_kind[links]
    folded_paths = _unlimited_last(link_kind, unlimited, len(sample))[paths[:, first]].astype(np.int32)
    return Fold(
        first=first,
        kind=flow_kind,
        weights=np.bincount(flow_kind).astype(float),
        paths=folded_paths,
        capacity=np.delete(_kind_capacity(link_kind, capacity, len(sample)), unlimited),
    )


def _unlimited_last(link_kind: Ints, unlimited: np.int64, kinds: int) -> Ints:
    """The kinds of links numbered anew, so that the unlimited one, which pads paths, comes last."""
    number = np.arange(kinds)
    place = np.where(number > unlimited, number - 1, number)
    place[unlimited] = kinds - 1
    renumbered: Ints = place[link_kind]
    return renumbered


def _kind_capacity(link_kind: Ints, capacity: Floats, kinds: int) -> Floats:
    """Capacity of all links of each kind together, but for those of the unlimited link's kind."""
    links = len(capacity)
    if not links:
        return np.zeros(kinds)
    limited = link_kind[:links] != link_kind[links]
    return np.bincount(link_kind[:links][limited], capacity[limited], kinds).astype(float)


def _split(kind: Ints, first: Ints, value: Floats) -> tuple[Ints, Ints]:
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
            implied = np.bincount(link, room[through], links + 1) <= room * (1 + EQUAL)
            # A link that other places of paths also cross is more than this hop shows.
            elsewhere = np.bincount(np.delete(kept, hop, axis=0).ravel(), minlength=links + 1) > 0
            implied &= ~elsewhere
            implied[links] = False
            kept[hop] = np.where(implied[kept[hop]], links, kept[hop])
    # Move what is left to the top and drop the rows that are empty.
    order = np.argsort(kept == links, axis=0, kind="stable")
    kept = np.take_along_axis(kept, order, axis=0)
    return kept[: max(1, int((kept < links).any(axis=1).sum()))].astype(np.int32)


def components(paths: Paths, links: int) -> Ints:
    """A label per flow; flows with different labels share no link, directly or through others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    hops, flows = paths.shape
    real = paths < links
    row = np.broadcast_to(np.arange(flows), (hops, flows))[real]
    nodes = flows + links
    crossing = (row, flows + paths[real])
    joined = coo_array((np.ones(len(row), np.int8), crossing), shape=(nodes, nodes))
    label_of_node: Ints = connected_components(joined, directed=False)[1].astype(np.int64)
    return label_of_node[:flows]
