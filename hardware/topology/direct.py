"""Fabrics without a top: dragonfly and dragonfly+ (groups joined all to all), and tori of servers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hardware.specs import Cluster
from hardware.topology.network import NODE_KINDS, Network

Ints = NDArray[np.int64]


class _Links:
    """Directed links collected class by class; lives while one network is built."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, Ints, Ints, float, float]] = []

    def both_ways(self, name: str, a: Ints, b: Ints, capacity: float, latency_s: float) -> None:
        if len(a):
            self.parts.append((name, np.concatenate([a, b]), np.concatenate([b, a]), capacity, latency_s))

    def network(self, name: str, gpus: int, node_kind: NDArray[np.int8]) -> Network:
        classes = tuple(dict.fromkeys(part[0] for part in self.parts))
        sizes = [len(part[1]) for part in self.parts]
        source = np.concatenate([part[1] for part in self.parts]).astype(np.int32)
        target = np.concatenate([part[2] for part in self.parts]).astype(np.int32)
        capacity = np.repeat([part[3] for part in self.parts], sizes).astype(float)
        latency = np.repeat([part[4] for part in self.parts], sizes).astype(float)
        kind = np.repeat([classes.index(part[0]) for part in self.parts], sizes).astype(np.int8)
        # Parallel cables between the same two switches are one pool.
        _, pool = np.unique(source.astype(np.int64) * len(node_kind) + target, return_inverse=True)
        return Network(name, gpus, node_kind, source, target, capacity, latency, kind, classes, pool.astype(np.int32))


def _kinds(gpus: int, domains: int, switches: dict[str, int]) -> NDArray[np.int8]:
    names = ["gpu", "scale_up_switch", *switches]
    return np.repeat(np.array([NODE_KINDS.index(n) for n in names], np.int8), [gpus, domains, *switches.values()])


def _scale_up(links: _Links, cluster: Cluster) -> int:
    """GPU to domain switch; a mesh is taken as a switch of the same bandwidth. Returns the number of domains."""
    scale_up = cluster.node.scale_up
    gpu = np.arange(cluster.gpus)
    links.both_ways("scale_up", gpu, cluster.gpus + gpu // scale_up.domain_gpus, scale_up.bandwidth_bytes_per_s,
                    scale_up.latency_s / 2)  # fmt: skip
    return -(-cluster.gpus // scale_up.domain_gpus)


def dragonfly(cluster: Cluster) -> Network:
    """Tiers: switch (its endpoints), group (its switches), global. Groups are joined pairwise.

    Within a group switches are joined all to all; where the first tier is named leaf, a group is a leaf-spine tree
    instead (dragonfly+). ValueError where a switch has too few ports.
    """
    fabric, node = cluster.fabric, cluster.node
    if len(fabric.tiers) != 3:
        raise ValueError(f"fabric {fabric.name}: a dragonfly has the tiers switch (or leaf), group and global")
    if fabric.tiers[0].name == "leaf":
        return dragonfly_plus(cluster)
    switch, group, top = fabric.tiers
    per_switch, per_group = switch.reach_gpus, group.reach_gpus // switch.reach_gpus
    switches = -(-cluster.gpus // per_switch)
    groups = -(-switches // per_group)
    globals_per_switch = switch.radix - per_switch - (per_group - 1)
    if globals_per_switch * per_group < groups - 1:
        raise ValueError(
            f"fabric {fabric.name}: {switch.name} of radix {switch.radix} leaves {max(globals_per_switch, 0)} global "
            f"ports beside {per_switch} endpoints and {per_group - 1} switches; {groups} groups need {groups - 1} "
            f"per group"
        )
    links = _Links()
    domains = _scale_up(links, cluster)
    first = cluster.gpus + domains
    total = groups * per_group
    gpu = np.arange(cluster.gpus)
    links.both_ways("nic", gpu, first + gpu // per_switch, node.nic.bandwidth_bytes_per_s,
                    (node.nic.latency_s + switch.latency_s) / 2)  # fmt: skip
    a, b = np.triu_indices(per_group, 1)
    base = np.repeat(np.arange(groups) * per_group, len(a))
    links.both_ways("local", first + base + np.tile(a, groups), first + base + np.tile(b, groups),
                    group.port_bandwidth_bytes_per_s, group.latency_s)  # fmt: skip
    g, h = np.triu_indices(groups, 1)
    # Every global port of a group that is left over makes one more parallel cable to each other group.
    parallel = max(1, (globals_per_switch * per_group) // max(1, groups - 1)) if groups > 1 else 0
    for cable in range(parallel):
        # Group g's port towards h: the ports are dealt to its switches in turn.
        out, back = (h - 1) * parallel + cable, g * parallel + cable
        links.both_ways("global", first + g * per_group + out % per_group, first + h * per_group + back % per_group,
                        top.port_bandwidth_bytes_per_s, top.latency_s)  # fmt: skip
    return links.network(cluster.name, cluster.gpus, _kinds(cluster.gpus, domains, {"switch": total}))


def dragonfly_plus(cluster: Cluster) -> Network:
    """Groups are leaf-spine trees (reach of the first two tiers); spines of different groups are joined pairwise."""
    fabric, node = cluster.fabric, cluster.node
    leaf, group, top = fabric.tiers
    leaves_per_group = group.reach_gpus // leaf.reach_gpus
    groups = -(-cluster.gpus // group.reach_gpus)
    spines_per_group = leaf.radix - leaf.reach_gpus
    links = _Links()
    domains = _scale_up(links, cluster)
    first_leaf = cluster.gpus + domains
    first_spine = first_leaf + groups * leaves_per_group
    free = group.radix - leaves_per_group
    if spines_per_group < 1 or free * spines_per_group < groups - 1:
        raise ValueError(
            f"fabric {fabric.name}: radix {group.radix} cannot join {groups} groups of {leaves_per_group} leaves"
        )
    gpu = np.arange(cluster.gpus)
    links.both_ways("nic", gpu, first_leaf + gpu // leaf.reach_gpus, node.nic.bandwidth_bytes_per_s,
                    (node.nic.latency_s + leaf.latency_s) / 2)  # fmt: skip
    g, a, s = (x.ravel() for x in np.indices((groups, leaves_per_group, spines_per_group)))
    links.both_ways("local", first_leaf + g * leaves_per_group + a, first_spine + g * spines_per_group + s,
                    group.port_bandwidth_bytes_per_s, group.latency_s)  # fmt: skip
    g, h = np.triu_indices(groups, 1)
    parallel = (free * spines_per_group) // max(1, groups - 1)
    for cable in range(parallel if groups > 1 else 0):
        out, back = (h - 1) * parallel + cable, g * parallel + cable
        links.both_ways("global", first_spine + g * spines_per_group + out % spines_per_group,
                        first_spine + h * spines_per_group + back % spines_per_group,
                        top.port_bandwidth_bytes_per_s, top.latency_s)  # fmt: skip
    kinds = _kinds(cluster.gpus, domains, {"leaf": groups * leaves_per_group, "spine": groups * spines_per_group})
    return links.network(cluster.name, cluster.gpus, kinds)


def torus_shape(nodes: int, dimensions: int) -> tuple[int, ...]:
    """The most cubic grid of exactly so many nodes; ValueError where the most cubic one is a line."""
    shape: list[int] = []
    left = nodes
    for remaining in range(dimensions, 1, -1):
        side = next(d for d in range(max(1, round(left ** (1 / remaining))), 0, -1) if left % d == 0)
        shape.append(side)
        left //= side
    shape.append(left)
    if min(shape) == 1 and nodes > 3:
        raise ValueError(
            f"{nodes} servers fill no {dimensions}-dimensional torus; a product of {dimensions} sides does"
        )
    return tuple(sorted(shape, reverse=True))


def torus(cluster: Cluster) -> Network:
    """Servers on a 2D or 3D torus: the one tier's radix counts neighbours; the server's router is a switch."""
    fabric, node = cluster.fabric, cluster.node
    tier = fabric.tiers[0]
    if tier.radix not in (4, 6):
        raise ValueError(f"fabric {fabric.name}: a torus has radix 4 (2D) or 6 (3D), not {tier.radix}")
    shape = torus_shape(cluster.nodes, tier.radix // 2)
    links = _Links()
    domains = _scale_up(links, cluster)
    first = cluster.gpus + domains
    gpu = np.arange(cluster.gpus)
    links.both_ways("nic", gpu, first + gpu // node.gpus, node.nic.bandwidth_bytes_per_s, node.nic.latency_s / 2)
    place = np.arange(cluster.nodes).reshape(shape)
    for axis, side in enumerate(shape):
        ahead = np.roll(place, -1, axis)
        # In a ring of two, both neighbours are the same server, reached by two cables.
        if side > 1:
            ends = (first + place.ravel(), first + ahead.ravel())
            links.both_ways(f"ring {axis}", *ends, tier.port_bandwidth_bytes_per_s, tier.latency_s)
    return links.network(cluster.name, cluster.gpus, _kinds(cluster.gpus, domains, {"switch": cluster.nodes}))
