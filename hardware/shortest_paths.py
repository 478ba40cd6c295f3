"""Shortest paths of flows through any graph, hashed among equal ones; for networks without a regular wiring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats, Ints
from hardware.topology.network import Network, node_name

Paths = NDArray[np.int32]
# Distances held at once while paths are searched (8 bytes each).
_DISTANCES = 30_000_000
# Scale-up links are shorter than any other.
_SCALE_UP_LENGTH = 0.25


def hashed(seed: int, stage: int, *values: Ints) -> Ints:
    """Non-negative pseudo-random integers from integer columns: one multiply-xorshift round per column."""
    start = (seed * 0x9E3779B97F4A7C15 + stage * 0xD1B54A32D192ED03) % 2**64
    mixed = np.full(len(values[0]), start, dtype=np.uint64)
    for column in values:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(1)).astype(np.int64)


class _Search:
    """Out-links and distances of one graph; lives for one call. GPUs do not forward unless nothing else joins a pair.

    `up`: the links that work, by source; `start` and `degree`: each node's run of them. `distance[row]` is the way of
    every node to `destinations[row]`, and `row` the row of each flow.
    """

    def __init__(self, network: Network, destinations: Ints) -> None:
        self.network = network
        up = np.flatnonzero(network.capacity_bytes_per_s > 0)
        self.up = up[np.argsort(network.source[up], kind="stable")]
        source = network.source[self.up]
        self.start = np.searchsorted(source, np.arange(network.nodes + 1))
        self.degree = np.diff(self.start)
        inside = np.array([name.startswith("scale_up") for name in network.classes])
        self.length = np.where(inside[network.link_class], _SCALE_UP_LENGTH, 1.0)
        self.destinations, self.row = np.unique(destinations, return_inverse=True)
        self.distance = self._distances(transit=False)

    def _distances(self, transit: bool) -> Floats:
        """(destinations, nodes) shortest lengths; the first hop out of a GPU is always allowed."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import dijkstra

        network, links = self.network, self.up
        inner = links if transit else links[network.source[links] >= network.gpus]
        inner = self._shortest_of_parallel(inner)
        # Turned round: distances are wanted to a destination, not from it.
        ends = (network.target[inner], network.source[inner])
        reverse = coo_array((self.length[inner], ends), shape=(network.nodes, network.nodes)).tocsr()
        distance: Floats = dijkstra(reverse, directed=True, indices=self.destinations)
        if transit:
            return distance
        out = links[network.source[links] < network.gpus]
        through_first_hop = self.length[out][None] + distance[:, network.target[out]]
        for row, lengths in enumerate(through_first_hop):
            np.minimum.at(distance[row], network.source[out], lengths)
        if not np.isfinite(distance[:, : network.gpus]).all():
            return self._distances(transit=True)
        return distance

    def _shortest_of_parallel(self, links: Ints) -> Ints:
        """One link for each pair of nodes, the shortest: a sparse matrix would add parallel ones up."""
        if not len(links):
            return links
        source, target = self.network.source[links], self.network.target[links]
        order = np.lexsort((self.length[links], source, target))
        pair = target[order].astype(np.int64) * self.network.nodes + source[order]
        first_of_pair = np.concatenate([[True], pair[1:] != pair[:-1]])
        shortest: Ints = links[order[first_of_pair]]
        return shortest

    def choices(self, node: Ints, row: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """(out-links, which of them lie on a shortest path), (flows, widest degree)."""
        place = np.arange(int(self.degree[node].max()))
        exists = place < self.degree[node][:, None]
        number = self.start[node][:, None] + place
        link = self.up[np.minimum(number, len(self.up) - 1)]
        onward = self.distance[row[:, None], self.network.target[link]] + self.length[link]
        shortest = np.abs(onward - self.distance[row, node][:, None]) < 1e-9
        return link, exists & shortest


def walk(network: Network, source: Ints, target: Ints, seed: int, key: Ints) -> Paths:
    """A shortest path of each flow, (hops, flows) link indices padded with the number of links.

    `seed` and `key` choose among equal paths. ValueError for a pair that nothing joins.
    """
    if not len(source):
        return np.zeros((1, 0), np.int32)
    portions = list(_by_targets(network, target))
    parts = [_walk_some(network, source[some], target[some], seed, key[some]) for some in portions]
    height = max(len(part) for part in parts)
    paths = np.full((height, len(source)), network.links, np.int32)
    for some, part in zip(portions, parts, strict=True):
        paths[: len(part), some] = part
    return paths


def _by_targets(network: Network, target: Ints) -> Iterator[Ints]:
    """Indices of flows in portions of so few different targets that their distances fit in memory."""
    different, number = np.unique(target, return_inverse=True)
    targets_at_once = max(1, _DISTANCES // network.nodes)
    portion = number // targets_at_once
    for i in range(-(-len(different) // targets_at_once)):
        yield np.flatnonzero(portion == i)


def _walk_some(network: Network, source: Ints, target: Ints, seed: int, key: Ints) -> Paths:
    """Every flow goes one hop nearer to its target at a time, hashed among the links that do."""
    search = _Search(network, target)
    lost = np.flatnonzero(~np.isfinite(search.distance[search.row, source]))
    if len(lost):
        i = int(lost[0])
        raise ValueError(
            f"{network.name}: is not connected: no path from {node_name(network, source[i])} "
            f"to {node_name(network, target[i])}"
        )
    at = source.copy()
    hops: list[Ints] = []
    while (moving := np.flatnonzero(at != target)).size:
        link, good = search.choices(at[moving], search.row[moving])
        hashes = hashed(seed, len(hops), source[moving], target[moving], key[moving])
        pick = hashes % good.sum(axis=1)
        rank_among_good = np.cumsum(good, axis=1) - 1
        picked = (rank_among_good == pick[:, None]) & good
        step = np.full(len(source), network.links)
        step[moving] = link[np.arange(len(moving)), picked.argmax(axis=1)]
        at[moving] = network.target[step[moving]]
        hops.append(step)
    return np.stack(hops or [np.full(len(source), network.links)]).astype(np.int32)


def count_paths(network: Network, source: Ints, target: Ints) -> Ints:
    """How many shortest paths there are between each pair, parallel links counted singly."""
    counts = np.zeros(len(source), np.int64)
    for some in _by_targets(network, target):
        counts[some] = _count_some(network, source[some], target[some])
    return counts


def _count_some(network: Network, source: Ints, target: Ints) -> Ints:
    """Shortest paths counted outward from each target, nearest nodes first."""
    search = _Search(network, target)
    links = search.up
    starts, ends = network.source[links], network.target[links]
    counts = np.zeros(len(source), np.int64)
    for row, destination in enumerate(search.destinations.tolist()):
        distance = search.distance[row]
        detour = np.abs(distance[ends] + search.length[links] - distance[starts])
        shortest = (detour < 1e-9) & np.isfinite(distance[starts])
        forwarded = (ends >= network.gpus) | (ends == destination)
        useful = links[shortest & forwarded]
        ways = np.zeros(network.nodes, np.int64)
        ways[destination] = 1
        for link in useful[np.argsort(distance[network.source[useful]], kind="stable")].tolist():
            ways[network.source[link]] += ways[network.target[link]]
        mine = search.row == row
        counts[mine] = ways[source[mine]]
    return counts
