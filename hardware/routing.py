"""Routes of flows through a network: hashed over equal paths, or sprayed over them, along rails or across.

A route is a column of link indices as `hardware.flows` takes them. On folded Clos wiring it is computed by formula;
on any other graph shortest paths are searched.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats, Ints
from hardware.shortest_paths import count_paths, hashed, walk
from hardware.topology.clos import Clos, link_ranges
from hardware.topology.network import Network

Paths = NDArray[np.int32]
POLICIES = ("ecmp", "adaptive")
# Spraying on graphs without a layout sends each flow as so many parts over hashed shortest paths.
WAYS = 8
NO_CLASS = 255
_TRIES = 64


@dataclass(frozen=True, slots=True)
class Routes:
    """Paths of flows, ready to be solved: `paths` (hops, columns) index `capacity`, padded with len(capacity).

    Column c carries `share[c]` of flow `owner[c]`. `latency_s` is one way, per column. `link_class` gives each
    index its class in `classes` (255: an index that stands for no link).
    """

    paths: Paths
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
    source = np.asarray(source, dtype=np.int64)
    target = np.asarray(target, dtype=np.int64)
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
        return _pooled(network, _clos_paths(network, source, target, None, pxn, key))
    return _columns(network, _around_failures(network, source, target, seed, pxn, key))


# --- what every route has -----------------------------------------------------------------------------------------


def _latency(network: Network, paths: Paths) -> Floats:
    link_or_none = np.append(network.latency_s, 0.0)
    total: Floats = link_or_none[paths].sum(axis=0)
    return total


def _columns(network: Network, paths: Paths) -> Routes:
    """Every flow whole on one path of links."""
    flows = paths.shape[1]
    return Routes(
        paths=paths,
        capacity=network.capacity_bytes_per_s,
        latency_s=_latency(network, paths),
        owner=np.arange(flows),
        share=np.ones(flows),
        link_class=network.link_class.astype(np.uint8),
        classes=network.classes,
    )


def _pooled(network: Network, paths: Paths) -> Routes:
    """The same paths over pools: every cable is replaced by the bundle over which spraying spreads."""
    capacity = network.pool_capacity()
    link_class = np.full(len(capacity), NO_CLASS, np.uint8)
    link_class[network.pool] = network.link_class
    flows = paths.shape[1]
    pool_or_none = np.append(network.pool, np.int32(len(capacity)))
    pooled = pool_or_none[paths].astype(np.int32)
    failed = np.append(capacity, np.inf)[pooled] <= 0
    if failed.any():
        cut_off = int(failed.any(axis=0).sum())
        raise ValueError(f"{network.name}: {cut_off} flows have no path left: every equal link has failed")
    return Routes(
        paths=pooled,
        capacity=capacity,
        latency_s=_latency(network, paths),
        owner=np.arange(flows),
        share=np.ones(flows),
        link_class=link_class,
        classes=network.classes,
    )


# --- folded Clos wiring -------------------------------------------------------------------------------------------


def _around_failures(network: Network, source: Ints, target: Ints, seed: int, pxn: bool, key: Ints) -> Paths:
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
        paths = _padded(paths, height, network.links)
        paths[:, stuck] = _padded(again, height, network.links)
    i = int(stuck[0])
    raise ValueError(f"{network.name}: no path from GPU {source[i]} to GPU {target[i]} avoids the failed links")


def _padded(paths: Paths, height: int, pad: int) -> Paths:
    missing = np.full((height - len(paths), paths.shape[1]), pad, np.int32)
    return np.vstack([paths, missing])


def _clos_paths(network: Network, source: Ints, target: Ints, seed: int | None, pxn: bool, key: Ints) -> Paths:
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
        hashes = hashed_by(seed, source, target, key, across)
        hops = _network_hops(layout, first, relay[across], target[across], hashes)
        for row, hop in zip(rows[2:], hops, strict=True):
            row[across] = np.where(hop < 0, pad, hop)
    used = [row for row in rows if (row != pad).any()] or rows[:1]
    return np.stack(used).astype(np.int32)


def hashed_by(seed: int | None, source: Ints, target: Ints, key: Ints, some: Ints) -> list[Ints]:
    """Five independent hash columns of the given flows: plane, leaf cable, spine cable, and the two on the way down.

    Flows of one pair take the ports of a NIC in turn: libraries open as many connections on each.
    Without a seed all zeros: the first of equal paths, for who takes it for all of them.
    """
    if seed is None:
        return [np.zeros(len(some), np.int64)] * 5
    plane = hashed(seed, 0, source[some], target[some], np.zeros_like(key[some])) + key[some]
    above = [hashed(seed, stage, source[some], target[some], key[some]) for stage in range(1, 5)]
    return [plane, *above]


def _exit_gpu(network: Network, layout: Clos, source: Ints, target: Ints, pxn: bool) -> Ints:
    """The GPU whose NIC a flow leaves by: the source's own, or with PXN its neighbour on the target's rail."""
    if layout.tiers == 0:
        raise ValueError(f"{network.name}: has no scale-out network between GPU {source[0]} and GPU {target[0]}")
    if layout.rails == 1:
        return source
    if pxn:
        first_of_node = source - source % layout.gpus_per_node
        return first_of_node + target % layout.gpus_per_node
    same_rail = layout.rail(source) == layout.rail(target)
    rails_apart = layout.tied or layout.tiers == 1
    if rails_apart and not same_rail.all():
        i = int(np.flatnonzero(~same_rail)[0])
        raise ValueError(
            f"{network.name}: GPU {source[i]} and GPU {target[i]} are on rails that no switch joins; forwarding inside "
            f"the node (PXN) is needed"
        )
    return source


def _scale_up_hops(layout: Clos, first: dict[str, int], source: Ints, relay: Ints, rows: list[Ints]) -> None:
    """Fills the first two rows for flows that move inside a domain."""
    inside = np.flatnonzero(source != relay)
    sender, receiver = source[inside], relay[inside]
    if layout.mesh:
        step = (receiver - sender) % layout.domain_gpus
        rows[0][inside] = first["scale_up_mesh"] + sender * (layout.domain_gpus - 1) + step - 1
    else:
        rows[0][inside] = first["scale_up_out"] + sender
        rows[1][inside] = first["scale_up_in"] + receiver


def _network_hops(layout: Clos, first: dict[str, int], a: Ints, b: Ints, hashes: list[Ints]) -> list[Ints]:
    """Rows nic_out, leaf_up, spine_up, spine_down, leaf_down, nic_in between GPUs of different domains; -1: none."""
    plane = (layout.rail(a) if layout.tied else hashes[0]) % layout.planes
    port = plane * 0 if layout.tied else plane
    nic_out = first["nic_out"] + a * layout.ports + port
    nic_in = first["nic_in"] + b * layout.ports + port
    none = np.full(len(a), -1)
    if layout.tiers < 2:
        return [nic_out, none, none, none, none, nic_in]
    leaf_a, leaf_b = layout.leaf(a, plane), layout.leaf(b, plane)
    climbs = leaf_a != leaf_b
    up_cable = hashes[1] % layout.leaf_cables
    spine = up_cable % layout.spines
    spine_up = spine_down = none
    if layout.tiers == 3:
        pod_a, pod_b = layout.pod(leaf_a), layout.pod(leaf_b)
        spine_up, spine_down, spine = _core_hops(layout, first, pod_a, pod_b, spine, hashes)
    cables_to_spine = layout.leaf_cables // layout.spines
    down_cable = spine + layout.spines * (hashes[4] % cables_to_spine)
    leaf_up = np.where(climbs, first["leaf_up"] + leaf_a * layout.leaf_cables + up_cable, -1)
    leaf_down = np.where(climbs, first["leaf_down"] + leaf_b * layout.leaf_cables + down_cable, -1)
    return [nic_out, leaf_up, spine_up, spine_down, leaf_down, nic_in]


def _core_hops(
    layout: Clos, first: dict[str, int], pod_a: Ints, pod_b: Ints, spine: Ints, hashes: list[Ints]
) -> tuple[Ints, Ints, Ints]:
    """(spine_up, spine_down, the spine by which a flow comes down), of flows that reach pod a's `spine`."""
    cables_per_pod = layout.spines * layout.spine_cables
    cables_to_core = cables_per_pod // layout.cores
    other_pod = pod_a != pod_b
    up_cable = spine * layout.spine_cables + hashes[2] % layout.spine_cables
    core = up_cable % layout.cores
    down_cable = core + layout.cores * (hashes[3] % cables_to_core)
    spine_up = np.where(other_pod, first["spine_up"] + pod_a * cables_per_pod + up_cable, -1)
    spine_down = np.where(other_pod, first["spine_down"] + pod_b * cables_per_pod + down_cable, -1)
    return spine_up, spine_down, np.where(other_pod, down_cable // layout.spine_cables, spine)


def path_diversity(network: Network, source: Ints, target: Ints) -> Ints:
    """Number of different shortest paths between pairs, cables counted singly, without forwarding through GPUs."""
    source = np.asarray(source, dtype=np.int64)
    target = np.asarray(target, dtype=np.int64)
    layout = network.layout
    if layout is None:
        return count_paths(network, source, target)
    apart = source // layout.domain_gpus != target // layout.domain_gpus
    planes = 1 if layout.tied else layout.planes
    ways = np.where(apart, planes, 1)
    if layout.tiers > 1:
        plane = layout.rail(source) % layout.planes if layout.tied else source * 0
        leaf_a, leaf_b = layout.leaf(source, plane), layout.leaf(target, plane)
        climbs = apart & (leaf_a != leaf_b)
        cables_to_spine = layout.leaf_cables // layout.spines
        ways = np.where(climbs, ways * layout.leaf_cables * cables_to_spine, ways)
        if layout.tiers > 2:
            other_pod = climbs & (layout.pod(leaf_a) != layout.pod(leaf_b))
            cables_to_core = layout.spines * layout.spine_cables // layout.cores
            ways = np.where(other_pod, ways * layout.spine_cables * cables_to_core, ways)
    rails_apart = layout.tied or layout.tiers == 1
    same_rail = layout.rail(source) == layout.rail(target)
    reachable = ~apart | same_rail | np.array(not rails_apart)
    return np.where(reachable, ways, 0)


# --- graphs without a layout -------------------------------------------------------------------------------------


def _searched(network: Network, source: Ints, target: Ints, policy: str, seed: int, key: Ints) -> Routes:
    ways = WAYS if policy == "adaptive" else 1
    owner = np.repeat(np.arange(len(source)), ways)
    way = np.tile(np.arange(ways), len(source))
    paths = walk(network, source[owner], target[owner], seed, key[owner] * WAYS + way)
    routes = _columns(network, paths)
    return Routes(
        paths=paths,
        capacity=routes.capacity,
        latency_s=routes.latency_s,
        owner=owner,
        share=np.full(len(owner), 1.0 / ways),
        link_class=routes.link_class,
        classes=routes.classes,
    )
