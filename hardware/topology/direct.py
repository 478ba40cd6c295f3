"""Fabrics without a top: dragonfly and dragonfly+ (groups joined all to all), and tori of servers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Ints
from hardware.specs import Cluster
from hardware.topology.network import NODE_KINDS, Network
from hardware.wiring import injection_bytes_per_s


class _Cables(NamedTuple):
    """Directed links of one class and one speed."""

    link_class: str
    source: Ints
    target: Ints
    bytes_per_s: float
    latency_s: float


class _Wiring:
    """Cables collected class by class, each two directed links; lives while one network is built."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cables: list[_Cables] = []
        scale_up = cluster.node.scale_up
        self.domains = -(-cluster.gpus // scale_up.domain_gpus)
        self.gpus = np.arange(cluster.gpus)
        # The first node that is neither a GPU nor the switch of a domain.
        self.first_switch = cluster.gpus + self.domains
        # A mesh is taken as a switch of the same bandwidth.
        domain_switch = cluster.gpus + self.gpus // scale_up.domain_gpus
        self.join("scale_up", self.gpus, domain_switch, scale_up.bandwidth_bytes_per_s, scale_up.latency_s / 2)

    def join(self, link_class: str, a: Ints, b: Ints, bytes_per_s: float, latency_s: float) -> None:
        """A cable from each of `a` to its partner in `b`, both ways."""
        if len(a):
            source, target = np.concatenate([a, b]), np.concatenate([b, a])
            self.cables.append(_Cables(link_class, source, target, bytes_per_s, latency_s))

    def join_gpus(self, gpus_per_switch: int, switch_latency_s: float) -> None:
        """Every GPU's NIC to the switch of its run of GPUs; half the latency stands at each end."""
        nic = self.cluster.node.nic
        bytes_per_s = injection_bytes_per_s(self.cluster.node, self.cluster.fabric)
        switch = self.first_switch + self.gpus // gpus_per_switch
        self.join("nic", self.gpus, switch, bytes_per_s, (nic.latency_s + switch_latency_s) / 2)

    def network(self, switches: dict[str, int]) -> Network:
        """The network, with so many switches by tier."""
        cluster = self.cluster
        tiers = {"gpu": cluster.gpus, "scale_up_switch": self.domains, **switches}
        tier_numbers = np.array([NODE_KINDS.index(tier) for tier in tiers], np.int8)
        node_kind = np.repeat(tier_numbers, list(tiers.values()))
        classes = tuple(dict.fromkeys(cable.link_class for cable in self.cables))
        sizes = [len(cable.source) for cable in self.cables]

        def spread(values: list[float]) -> NDArray[np.float64]:
            return np.repeat(values, sizes).astype(float)

        source = np.concatenate([cable.source for cable in self.cables]).astype(np.int32)
        target = np.concatenate([cable.target for cable in self.cables]).astype(np.int32)
        # Parallel cables between the same two switches are one pool.
        pair = source.astype(np.int64) * len(node_kind) + target
        _, pool = np.unique(pair, return_inverse=True)
        return Network(
            name=cluster.name,
            gpus=cluster.gpus,
            node_kind=node_kind,
            source=source,
            target=target,
            capacity_bytes_per_s=spread([cable.bytes_per_s for cable in self.cables]),
            latency_s=spread([cable.latency_s for cable in self.cables]),
            link_class=spread([classes.index(cable.link_class) for cable in self.cables]).astype(np.int8),
            classes=classes,
            pool=pool.astype(np.int32),
        )


def _join_groups(
    wiring: _Wiring, first: int, groups: int, members: int, parallel: int, bytes_per_s: float, latency_s: float
) -> None:
    """`parallel` cables between every two groups of `members` switches, dealt to the switches of a group in turn."""
    one, other = np.triu_indices(groups, 1)
    for cable in range(parallel):
        port_of_one = (other - 1) * parallel + cable
        port_of_other = one * parallel + cable
        source = first + one * members + port_of_one % members
        target = first + other * members + port_of_other % members
        wiring.join("global", source, target, bytes_per_s, latency_s)


class DragonflyCounts(NamedTuple):
    """Switches with GPUs per group, groups, cables between two groups, and spines per group (0: a plain dragonfly)."""

    switches: int
    groups: int
    cables: int
    spines: int = 0


def dragonfly_counts(cluster: Cluster) -> DragonflyCounts:
    """What a dragonfly of so many GPUs is made of. ValueError where a switch has too few ports."""
    fabric = cluster.fabric
    if len(fabric.tiers) != 3:
        raise ValueError(f"fabric {fabric.name}: a dragonfly has the tiers switch (or leaf), group and global")
    if fabric.tiers[0].name == "leaf":
        return _plus_counts(cluster)
    switch, group, _ = fabric.tiers
    per_switch = switch.reach_gpus
    per_group = group.reach_gpus // per_switch
    switches = -(-cluster.gpus // per_switch)
    groups = -(-switches // per_group)
    spare_ports = switch.radix - per_switch - (per_group - 1)
    global_ports = spare_ports * per_group
    if global_ports < groups - 1:
        raise ValueError(
            f"fabric {fabric.name}: {switch.name} of radix {switch.radix} leaves {max(spare_ports, 0)} global "
            f"ports beside {per_switch} endpoints and {per_group - 1} switches; {groups} groups need {groups - 1} "
            f"per group"
        )
    # Every global port of a group that is left over makes one more parallel cable to each other group.
    cables = max(1, global_ports // max(1, groups - 1)) if groups > 1 else 0
    return DragonflyCounts(per_group, groups, cables)


def _plus_counts(cluster: Cluster) -> DragonflyCounts:
    fabric = cluster.fabric
    leaf, group, _ = fabric.tiers
    leaves = group.reach_gpus // leaf.reach_gpus
    groups = -(-cluster.gpus // group.reach_gpus)
    spines = leaf.radix - leaf.reach_gpus
    global_ports = (group.radix - leaves) * spines
    if spines < 1 or global_ports < groups - 1:
        raise ValueError(f"fabric {fabric.name}: radix {group.radix} cannot join {groups} groups of {leaves} leaves")
    cables = global_ports // max(1, groups - 1) if groups > 1 else 0
    return DragonflyCounts(leaves, groups, cables, spines)


def dragonfly(cluster: Cluster) -> Network:
    """Tiers: switch (its endpoints), group (its switches), global. Groups are joined pairwise.

    Within a group switches are joined all to all; where the first tier is named leaf, a group is a leaf-spine tree
    instead (dragonfly+). ValueError where a switch has too few ports.
    """
    counts = dragonfly_counts(cluster)
    if counts.spines:
        return dragonfly_plus(cluster)
    switch, group, top = cluster.fabric.tiers
    per_switch, per_group, groups = switch.reach_gpus, counts.switches, counts.groups
    wiring = _Wiring(cluster)
    wiring.join_gpus(per_switch, switch.latency_s)
    first = wiring.first_switch
    one, other = np.triu_indices(per_group, 1)
    base = first + np.repeat(np.arange(groups) * per_group, len(one))
    ends = (base + np.tile(one, groups), base + np.tile(other, groups))
    wiring.join("local", *ends, group.port_bandwidth_bytes_per_s, group.latency_s)
    _join_groups(wiring, first, groups, per_group, counts.cables, top.port_bandwidth_bytes_per_s, top.latency_s)
    return wiring.network({"switch": groups * per_group})


def dragonfly_plus(cluster: Cluster) -> Network:
    """Groups are leaf-spine trees (reach of the first two tiers); spines of different groups are joined pairwise.

    ValueError where the spines have too few ports.
    """
    leaf, group, top = cluster.fabric.tiers
    leaves, groups, parallel, spines = dragonfly_counts(cluster)
    wiring = _Wiring(cluster)
    wiring.join_gpus(leaf.reach_gpus, leaf.latency_s)
    first_leaf = wiring.first_switch
    first_spine = first_leaf + groups * leaves
    in_group, of_leaf, of_spine = (index.ravel() for index in np.indices((groups, leaves, spines)))
    ends = (first_leaf + in_group * leaves + of_leaf, first_spine + in_group * spines + of_spine)
    wiring.join("local", *ends, group.port_bandwidth_bytes_per_s, group.latency_s)
    _join_groups(wiring, first_spine, groups, spines, parallel, top.port_bandwidth_bytes_per_s, top.latency_s)
    return wiring.network({"leaf": groups * leaves, "spine": groups * spines})


def torus_shape(nodes: int, dimensions: int) -> tuple[int, ...]:
    """The most cubic grid of exactly so many nodes; ValueError where the most cubic one is a line."""
    shape: list[int] = []
    left = nodes
    for remaining in range(dimensions, 1, -1):
        longest = max(1, round(left ** (1 / remaining)))
        side = next(length for length in range(longest, 0, -1) if left % length == 0)
        shape.append(side)
        left //= side
    shape.append(left)
    if min(shape) == 1 and nodes > 3:
        raise ValueError(
            f"{nodes} servers fill no {dimensions}-dimensional torus; a product of {dimensions} sides does"
        )
    return tuple(sorted(shape, reverse=True))


def torus(cluster: Cluster) -> Network:
    """Servers on a 2D or 3D torus: the one tier's radix counts neighbours; the server's router is a switch.

    ValueError for another radix, or servers that fill no torus.
    """
    tier = cluster.fabric.tiers[0]
    if tier.radix not in (4, 6):
        raise ValueError(f"fabric {cluster.fabric.name}: a torus has radix 4 (2D) or 6 (3D), not {tier.radix}")
    shape = torus_shape(cluster.nodes, tier.radix // 2)
    wiring = _Wiring(cluster)
    wiring.join_gpus(cluster.node.gpus, 0.0)
    router = wiring.first_switch + np.arange(cluster.nodes).reshape(shape)
    for axis, side in enumerate(shape):
        # In a ring of two, both neighbours are the same server, reached by two cables.
        if side > 1:
            neighbour = np.roll(router, -1, axis)
            ends = (router.ravel(), neighbour.ravel())
            wiring.join(f"ring {axis}", *ends, tier.port_bandwidth_bytes_per_s, tier.latency_s)
    return wiring.network({"switch": cluster.nodes})
