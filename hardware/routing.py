"""Routes of flows through a network: hashed over equal paths, or sprayed over them, along rails or across.

A route is a column of link indices as `hardware.flows` takes them. On folded Clos wiring it is computed by formula;
on any other graph shortest paths are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.topology.clos import Clos, link_ranges
from hardware.topology.network import Network, node_name

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
POLICIES = ("ecmp", "adaptive")
# Spraying on graphs without a layout sends each flow as so many parts over hashed shortest paths.
WAYS = 8
_TRIES = 64
# Distances held at once while routes are searched (8 bytes each).
_DISTANCES = 30_000_000


@dataclass(frozen=True, slots=True)
class Routes:
    """Paths of flows, ready to be solved: `paths` (hops, columns) index `capacity`, padded with len(capacity).

    Column c carries `share[c]` of flow `owner[c]`. `latency_s` is one way, per column. `link_class` gives each
    index its class in `classes` (255: an index that stands for no link).
    """

    paths: NDArray[np.int32]
    capacity: Floats
    latency_s: Floats
    owner: Ints
    share: Floats
    link_class: NDArray[np.uint8]
    classes: tuple[str, ...]


def route(
    network: Network,
    source: Ints,
    target: Ints,
    policy: str = "ecmp",
    seed: int = 0,
    pxn: bool = True,
    entropy: Ints | None = None,
) -> Routes:
    """Routes of flows from GPU `source[i]` to GPU `target[i]`.

    "ecmp" hashes each flow onto one of its equal paths (`entropy` tells flows of one pair apart, as ports do);
    "adaptive" spreads it evenly over all. `pxn` forwards inside the source's domain to the GPU on the target's rail.
    A flow to oneself crosses nothing. ValueError for unknown GPUs, an unknown policy, or pairs without a path.
    """
    source, target = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    if policy not in POLICIES:
        raise ValueError(f"routing {policy!r}: choose one of {', '.join(POLICIES)}")
    for name, ends in (("source", source), ("target", target)):
        if ends.size and (ends.min() < 0 or ends.max() >= network.gpus):
            raise ValueError(
                f"{network.name}: has GPUs 0..{network.gpus - 1}; {name} {ends.min()}..{ends.max()} is not among them"
            )
    key = np.zeros(len(source), np.int64) if entropy is None else np.asarray(entropy, dtype=np.int64)
    if network.layout is None:
        return _searched(network, source, target, policy, seed, key)
    if policy == "adaptive":
        paths = _clos_paths(network, source, target, None, pxn, key)
        return _pooled(network, paths)
    paths = _around_failures(network, source, target, seed, pxn, key)
    return _columns(network, paths)


def hashed(seed: int, stage: int, *values: Ints) -> Ints:
    """Non-negative pseudo-random integers from integer columns: one multiply-xorshift round per column."""
    mixed = np.full(len(values[0]), (seed * 0x9E3779B97F4A7C15 + stage * 0xD1B54A32D192ED03) % 2**64, dtype=np.uint64)
    for column in values:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(32)
    return (mixed >> np.uint64(1)).astype(np.int64)


def _latency(network: Network, paths: NDArray[np.int32]) -> Floats:
    return np.append(network.latency_s, 0.0)[paths].sum(axis=0)


def _columns(network: Network, paths: NDArray[np.int32]) -> Routes:
    flows = paths.shape[1]
    return Routes(paths, network.capacity_bytes_per_s, _latency(network, paths), np.arange(flows), np.ones(flows),
                  network.link_class.astype(np.uint8), network.classes)  # fmt: skip


def _pooled(network: Network, paths: NDArray[np.int32]) -> Routes:
    """The same paths over pools: every cable is replaced by the bundle over which spraying spreads."""
    capacity = network.pool_capacity()
    kind = np.full(len(capacity), 255, np.uint8)
    kind[network.pool] = network.link_class
    flows = paths.shape[1]
    pooled = np.append(network.pool, np.int32(len(capacity)))[paths].astype(np.int32)
    dead = np.append(capacity, np.inf)[pooled] <= 0
    if dead.any():
        raise ValueError(
            f"{network.name}: {int(dead.any(axis=0).sum())} flows have no path left: every equal link has failed"
        )
    return Routes(pooled, capacity, _latency(network, paths), np.arange(flows), np.ones(flows), kind, network.classes)


def _around_failures(
    network: Network, source: Ints, target: Ints, seed: int, pxn: bool, key: Ints
) -> NDArray[np.int32]:
    """Hashed paths; flows that fell on a failed link are hashed again, as switches do once it is withdrawn."""
    paths = _clos_paths(network, source, target, seed, pxn, key)
    up = np.append(network.capacity_bytes_per_s > 0, True)
    if up.all():
        return paths
    for attempt in range(1, _TRIES):
        stuck = np.flatnonzero(~up[paths].all(axis=0))
        if not len(stuck):
            return paths
        again = _clos_paths(network, source[stuck], target[stuck], seed + attempt * 7919, pxn, key[stuck])
        height = max(len(paths), len(again))
        paths, again = (_tall(part, height, network.links) for part in (paths, again))
        paths[:, stuck] = again
    i = int(stuck[0])
    raise ValueError(f"{network.name}: no path from GPU {source[i]} to GPU {target[i]} avoids the failed links")


def _tall(paths: NDArray[np.int32], height: int, pad: int) -> NDArray[np.int32]:
    return np.vstack([paths, np.full((height - len(paths), paths.shape[1]), pad, np.int32)])


def _clos_paths(
    network: Network, source: Ints, target: Ints, seed: int | None, pxn: bool, key: Ints
) -> NDArray[np.int32]:
    """Link columns on folded Clos wiring, padded with the number of links; no seed: the first of all equal paths."""
    layout = network.layout
    assert layout is not None
    first = {name: start for name, (start, _) in link_ranges(layout).items()}
    pad = network.links
    apart = source // layout.domain_gpus != target // layout.domain_gpus
    across = np.flatnonzero(apart)
    rows = [np.full(len(source), pad, np.int64) for _ in range(8)]
    relay = target.copy()
    if len(across):
        relay[across] = _exit_gpu(network, layout, source[across], target[across], pxn)
    _scale_up_hops(layout, first, source, relay, rows)
    if len(across):
        columns = _network_hops(
            layout, first, relay[across], target[across], hashed_by(seed, source, target, key, across)
        )
        for row, column in zip(rows[2:], columns, strict=True):
            row[across] = np.where(column < 0, pad, column)
    used = [row for row in rows if (row != pad).any()] or rows[:1]
    return np.stack(used).astype(np.int32)


def hashed_by(seed: int | None, source: Ints, target: Ints, key: Ints, some: Ints) -> list[Ints]:
    """Five independent hash columns of the given flows: plane, leaf cable, spine cable, and the two on the way down.

    Without a seed all zeros: the first of equal paths, for who takes it for all of them.
    """
    if seed is None:
        return [np.zeros(len(some), np.int64)] * 5
    return [hashed(seed, stage, source[some], target[some], key[some]) for stage in range(5)]


def _exit_gpu(network: Network, layout: Clos, source: Ints, target: Ints, pxn: bool) -> Ints:
    """The GPU whose NIC a flow leaves by: the source's own, or with PXN its neighbour on the target's rail."""
    if layout.tiers == 0:
        raise ValueError(f"{network.name}: has no scale-out network between GPU {source[0]} and GPU {target[0]}")
    if layout.rails == 1:
        return source
    same = layout.rail(source) == layout.rail(target)
    if pxn:
        return source - source % layout.gpus_per_node + target % layout.gpus_per_node
    if (layout.tied or layout.tiers == 1) and not same.all():
        i = int(np.flatnonzero(~same)[0])
        raise ValueError(
            f"{network.name}: GPU {source[i]} and GPU {target[i]} are on rails that no switch joins; forwarding inside "
            f"the node (PXN) is needed"
        )
    return source


def _scale_up_hops(layout: Clos, first: dict[str, int], source: Ints, relay: Ints, rows: list[Ints]) -> None:
    """Fills the first two rows for flows that move inside a domain."""
    move = np.flatnonzero(source != relay)
    if layout.mesh:
        step = (relay[move] - source[move]) % layout.domain_gpus
        rows[0][move] = first["scale_up_mesh"] + source[move] * (layout.domain_gpus - 1) + step - 1
    else:
        rows[0][move] = first["scale_up_out"] + source[move]
        rows[1][move] = first["scale_up_in"] + relay[move]


def _network_hops(layout: Clos, first: dict[str, int], a: Ints, b: Ints, hashes: list[Ints]) -> list[Ints]:
    """Rows nic_out, leaf_up, spine_up, spine_down, leaf_down, nic_in between GPUs of different domains; -1: none."""
    plane = layout.rail(a) % layout.planes if layout.tied else hashes[0] % layout.planes
    port = plane * 0 if layout.tied else plane
    nic_out, nic_in = first["nic_out"] + a * layout.ports + port, first["nic_in"] + b * layout.ports + port
    leaf_a, leaf_b = layout.leaf(a, plane), layout.leaf(b, plane)
    none = np.full(len(a), -1)
    if layout.tiers < 2:
        return [nic_out, none, none, none, none, nic_in]
    climbs = leaf_a != leaf_b
    cable = hashes[1] % layout.leaf_cables
    spine = cable % layout.spines
    spine_up = spine_down = none
    if layout.tiers == 3:
        pod_a, pod_b = layout.pod(leaf_a), layout.pod(leaf_b)
        high = pod_a != pod_b
        out = hashes[2] % layout.spine_cables
        core = (spine * layout.spine_cables + out) % layout.cores
        back = core + layout.cores * (hashes[3] % (layout.spines * layout.spine_cables // layout.cores))
        per_pod = layout.spines * layout.spine_cables
        spine_up = np.where(high, first["spine_up"] + pod_a * per_pod + spine * layout.spine_cables + out, -1)
        spine_down = np.where(high, first["spine_down"] + pod_b * per_pod + back, -1)
        spine = np.where(high, back // layout.spine_cables, spine)
    down = spine + layout.spines * (hashes[4] % (layout.leaf_cables // layout.spines))
    leaf_up = np.where(climbs, first["leaf_up"] + leaf_a * layout.leaf_cables + cable, -1)
    leaf_down = np.where(climbs, first["leaf_down"] + leaf_b * layout.leaf_cables + down, -1)
    return [nic_out, leaf_up, spine_up, spine_down, leaf_down, nic_in]


def path_diversity(network: Network, source: Ints, target: Ints) -> Ints:
    """Number of different shortest paths between pairs, cables counted singly, without forwarding through GPUs."""
    source, target = np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)
    layout = network.layout
    if layout is None:
        return _count_searched(network, source, target)
    ways = np.ones(len(source), np.int64)
    apart = source // layout.domain_gpus != target // layout.domain_gpus
    planes = 1 if layout.tied else layout.planes
    zero = np.zeros(len(source), np.int64)
    plane = layout.rail(source) % layout.planes if layout.tied else zero
    ways = np.where(apart, planes, ways)
    if layout.tiers > 1:
        leaf_a, leaf_b = layout.leaf(source, plane), layout.leaf(target, plane)
        climbs = apart & (leaf_a != leaf_b)
        ways = np.where(climbs, ways * layout.leaf_cables * (layout.leaf_cables // layout.spines), ways)
        if layout.tiers > 2:
            high = climbs & (layout.pod(leaf_a) != layout.pod(leaf_b))
            total = layout.spines * layout.spine_cables
            ways = np.where(high, ways * layout.spine_cables * (total // layout.cores), ways)
    reachable = ~apart | (layout.rail(source) == layout.rail(target)) | ~np.array(layout.tied or layout.tiers == 1)
    return np.where(reachable, ways, 0)


# --- graphs without a layout -------------------------------------------------------------------------------------


class _Search:
    """Out-links and distances of one graph; lives for one call. Scale-up links are shorter than any other, and GPUs
    do not forward unless nothing else joins the pair."""

    def __init__(self, network: Network, destinations: Ints) -> None:
        self.network = network
        up = np.flatnonzero(network.capacity_bytes_per_s > 0)
        self.up = up[np.argsort(network.source[up], kind="stable")]
        source = network.source[self.up]
        self.start = np.searchsorted(source, np.arange(network.nodes + 1))
        self.degree = np.diff(self.start)
        inside = np.array([name.startswith("scale_up") for name in network.classes])
        self.length = np.where(inside[network.link_class], 0.25, 1.0)
        self.destinations, self.row = np.unique(destinations, return_inverse=True)
        self.distance = self._distances(transit=False)

    def _distances(self, transit: bool) -> Floats:
        """(destinations, nodes) shortest lengths; the first hop out of a GPU is always allowed."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import dijkstra

        network, links = self.network, self.up
        inner = links if transit else links[network.source[links] >= network.gpus]
        shape = (network.nodes, network.nodes)
        ends = (network.target[inner], network.source[inner])
        # Parallel links must not add up: keep the shortest of each pair.
        order = np.lexsort((self.length[inner], ends[1], ends[0]))
        pair = ends[0][order].astype(np.int64) * network.nodes + ends[1][order]
        kept = order[np.concatenate([[True], pair[1:] != pair[:-1]])] if len(order) else order
        back = coo_array((self.length[inner[kept]], (ends[0][kept], ends[1][kept])), shape=shape).tocsr()
        distance = dijkstra(back, directed=True, indices=self.destinations)
        if not transit:
            out = links[network.source[links] < network.gpus]
            via = self.length[out][None] + distance[:, network.target[out]]
            for i in range(len(self.destinations)):
                np.minimum.at(distance[i], network.source[out], via[i])
            if not np.isfinite(distance[:, : network.gpus]).all():
                return self._distances(transit=True)
        return distance

    def choices(self, node: Ints, row: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """(out-links, which of them lie on a shortest path), (flows, widest degree)."""
        width = int(self.degree[node].max())
        place = self.start[node][:, None] + np.arange(width)
        inside = np.arange(width) < self.degree[node][:, None]
        link = self.up[np.minimum(place, len(self.up) - 1)]
        onward = self.distance[row[:, None], self.network.target[link]] + self.length[link]
        return link, inside & (np.abs(onward - self.distance[row, node][:, None]) < 1e-9)


def _searched(network: Network, source: Ints, target: Ints, policy: str, seed: int, key: Ints) -> Routes:
    ways = WAYS if policy == "adaptive" else 1
    owner = np.repeat(np.arange(len(source)), ways)
    entropy = key[owner] * WAYS + np.tile(np.arange(ways), len(source))
    paths = _walk(network, source[owner], target[owner], seed, entropy)
    routes = _columns(network, paths)
    return Routes(paths, routes.capacity, routes.latency_s, owner, np.full(len(owner), 1.0 / ways), routes.link_class,
                  routes.classes)  # fmt: skip


def _walk(network: Network, source: Ints, target: Ints, seed: int, key: Ints) -> NDArray[np.int32]:
    """Searched paths, so many targets at a time that their distances fit in memory."""
    if not len(source):
        return np.zeros((1, 0), np.int32)
    parts = [_walk_some(network, source[some], target[some], seed, key[some]) for some in _by_targets(network, target)]
    height = max(len(part) for part in parts)
    paths = np.full((height, len(source)), network.links, np.int32)
    for some, part in zip(_by_targets(network, target), parts, strict=True):
        paths[: len(part), some] = part
    return paths


def _by_targets(network: Network, target: Ints) -> list[Ints]:
    """Indices of flows in portions with few different targets each."""
    different, number = np.unique(target, return_inverse=True)
    portion = number // max(1, _DISTANCES // network.nodes)
    return [np.flatnonzero(portion == i) for i in range(-(-len(different) // max(1, _DISTANCES // network.nodes)))]


def _walk_some(network: Network, source: Ints, target: Ints, seed: int, key: Ints) -> NDArray[np.int32]:
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
        pick = hashed(seed, len(hops), source[moving], target[moving], key[moving]) % good.sum(axis=1)
        nth = (np.cumsum(good, axis=1) - 1 == pick[:, None]) & good
        step = np.full(len(source), network.links)
        step[moving] = link[np.arange(len(moving)), nth.argmax(axis=1)]
        at[moving] = network.target[step[moving]]
        hops.append(step)
    return np.stack(hops or [np.full(len(source), network.links)]).astype(np.int32)


def _count_searched(network: Network, source: Ints, target: Ints) -> Ints:
    """Shortest paths between pairs, so many targets at a time that their distances fit in memory."""
    counts = np.zeros(len(source), np.int64)
    for some in _by_targets(network, target):
        counts[some] = _count_some(network, source[some], target[some])
    return counts


def _count_some(network: Network, source: Ints, target: Ints) -> Ints:
    """Shortest paths counted outward from each target, nearest nodes first."""
    search = _Search(network, target)
    counts = np.zeros(len(source), np.int64)
    for row, destination in enumerate(search.destinations.tolist()):
        ways = np.zeros(network.nodes, np.int64)
        ways[destination] = 1
        links = search.up
        distance = search.distance[row]
        near = np.abs(distance[network.target[links]] + search.length[links] - distance[network.source[links]]) < 1e-9
        useful = links[near & np.isfinite(distance[network.source[links]])]
        useful = useful[(network.target[useful] >= network.gpus) | (network.target[useful] == destination)]
        for link in useful[np.argsort(distance[network.source[useful]], kind="stable")].tolist():
            ways[network.source[link]] += ways[network.target[link]]
        mine = search.row == row
        counts[mine] = ways[source[mine]]
    return counts
