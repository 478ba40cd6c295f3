"""Tori and dragonflies in closed form: the load of the busiest link between servers or switches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

import numpy as np

from hardware.arrays import Floats, Ints
from hardware.specs import Cluster
from hardware.topology.direct import dragonfly_counts, torus_shape


@dataclass(frozen=True, slots=True)
class Torus:
    """Servers of `gpus` on a grid; every link between neighbours carries `link_bytes_per_s` each way."""

    gpus: int
    shape: tuple[int, ...]
    link_bytes_per_s: float

    def load(self, pattern: str, domains: float, spacing_gpus: float) -> float:
        """Seconds of the busiest link while every GPU sends one byte over its NIC."""
        step = max(1, round(spacing_gpus / self.gpus))
        members = max(2, round(domains))
        if pattern == "all_pairs":
            per_node = all_pairs_load(self.shape, members, step)
        elif pattern == "neighbours":
            per_node = shift_load(self.shape, members, step)
        else:
            per_node = doubling_load(self.shape, members, step)
        return self.gpus * per_node / self.link_bytes_per_s


@dataclass(frozen=True, slots=True)
class Dragonfly:
    """Groups of `switches` with `gpus` each, joined pairwise by `cables`; inside a group all to all.

    `spines`: of dragonfly+, whose leaves reach each other over so many spines (0: a plain dragonfly). `adaptive`:
    traffic may also take a detour over a third switch or group (Valiant), at twice the hops.
    """

    gpus: int
    switches: int
    groups: int
    cables: int
    spines: int
    local_bytes_per_s: float
    global_bytes_per_s: float
    adaptive: bool

    def load(self, pattern: str, domains: float, spacing_gpus: float) -> float:
        """Seconds of the busiest link while every GPU sends one byte over its NIC."""
        span = max(domains * spacing_gpus, 2.0)
        if pattern == "all_pairs":
            local, across = self._all_pairs(span)
        else:
            local, across = self._neighbours(span, spacing_gpus)
        return max(local / self.local_bytes_per_s, across / self.global_bytes_per_s)

    def _all_pairs(self, span: float) -> tuple[float, float]:
        per_group = self.gpus * self.switches
        touched = max(1, ceil(span / per_group - 1e-9))
        sending = min(span, per_group)
        outside = (touched - 1) / touched
        across = sending / touched / self.cables if touched > 1 else 0.0
        if self.adaptive and touched > 1:
            across = min(across, 2.0 * sending * outside / (self.cables * (self.groups - 1)))
        if self.spines:
            return self.gpus / self.spines, across
        inside = min(self.switches, max(1, ceil(span / self.gpus - 1e-9)))
        direct = self.gpus * (1.0 - outside) / inside if inside > 1 else 0.0
        if self.adaptive and inside > 1:
            direct = min(direct, 2.0 * self.gpus * (1.0 - outside) / max(1, self.switches - 1))
        # To the switch with the cable, and from the one where it ends.
        through = 2.0 * self.gpus * outside / self.switches
        return direct + through, across

    def _neighbours(self, span: float, spacing_gpus: float) -> tuple[float, float]:
        per_group = self.gpus * self.switches
        local = min(self.gpus, spacing_gpus) if span > self.gpus else 0.0
        across = min(per_group, spacing_gpus) / self.cables if span > per_group else 0.0
        if self.adaptive:
            local = min(local, 2.0 * local / max(1, self.switches - 1))
            across = min(across, 2.0 * across / max(1, self.groups - 1))
        if self.spines:
            local = min(self.gpus, spacing_gpus) / self.spines if span > self.gpus else 0.0
        return local, across


def direct_wiring(cluster: Cluster) -> Torus | Dragonfly | None:
    """How servers or switches are joined on a torus or dragonfly; None on fabrics with tiers.

    ValueError for servers that fill no torus, or switches with too few ports.
    """
    fabric = cluster.fabric
    if fabric.kind == "torus":
        tier = fabric.tiers[0]
        shape = torus_shape(cluster.nodes, tier.radix // 2)
        return Torus(cluster.node.gpus, shape, tier.port_bandwidth_bytes_per_s)
    if fabric.kind != "dragonfly":
        return None
    switch, group, top = fabric.tiers
    counts = dragonfly_counts(cluster)
    return Dragonfly(
        gpus=switch.reach_gpus,
        switches=counts.switches,
        groups=counts.groups,
        cables=counts.cables,
        spines=counts.spines,
        local_bytes_per_s=group.port_bandwidth_bytes_per_s,
        global_bytes_per_s=top.port_bandwidth_bytes_per_s,
        adaptive=fabric.adaptive_routing,
    )


def pattern_of(operation: str, algorithm: str) -> str:
    """Who sends to whom: all_pairs, neighbours (rings), or doubling (trees: one half to the next, a quarter to ...)."""
    if operation == "all_to_all":
        return "all_pairs"
    return "neighbours" if algorithm in ("ring", "hierarchical", "pairwise") else "doubling"


@lru_cache(maxsize=4096)
def direct_load(wiring: Torus | Dragonfly, pattern: str, domains: float, spacing_gpus: float) -> float:
    return wiring.load(pattern, domains, spacing_gpus)


# --- torus ---------------------------------------------------------------------------------------------------------


def shift_load(shape: tuple[int, ...], members: int, step: int) -> float:
    """Bytes over the busiest directed link, every node sending one to the next of its group, `step` nodes on.

    Routes go axis after axis, the shorter way round.
    """
    nodes = int(np.prod(shape))
    block = members * step
    source = np.arange(nodes - nodes % block if block <= nodes else nodes)
    base = source - source % block
    target = np.minimum(base + (source - base + step) % block, nodes - 1)
    at = np.array(np.unravel_index(source, shape))
    to = np.array(np.unravel_index(target, shape))
    busiest = 0.0
    for axis, side in enumerate(shape):
        busiest = max(busiest, _axis_load(at, to, axis, side, shape))
        at[axis] = to[axis]
    return busiest


def _axis_load(at: Ints, to: Ints, axis: int, side: int, shape: tuple[int, ...]) -> float:
    """Bytes over the busiest link of one axis while the other coordinates stay; two ways round count half each."""
    ahead = (to[axis] - at[axis]) % side
    loads: Floats = np.zeros((2, *shape))
    for forward in (True, False):
        hops = ahead if forward else (side - ahead) % side
        part = np.where(2 * hops < side, 1.0, np.where(2 * hops == side, 0.5, 0.0))
        for hop in range(side // 2):
            place = at.copy()
            place[axis] = (at[axis] + (hop if forward else -hop)) % side
            moving = hops > hop
            np.add.at(loads[int(forward)], tuple(place[:, moving]), part[moving])
    # In a ring of two both neighbours are the same server, reached by two cables.
    return float(loads.max())


def doubling_load(shape: tuple[int, ...], members: int, step: int) -> float:
    """Trees: half of the edges join neighbours, a quarter members two apart, and so on."""
    load, share, reach = 0.0, 0.5, 1
    while reach < members:
        load += share * shift_load(shape, members, step * reach)
        share, reach = share / 2, reach * 2
    return load


def all_pairs_load(shape: tuple[int, ...], members: int, step: int) -> float:
    """Bytes over the busiest directed link, every node sending one byte in all, evenly to the members of its group.

    On a full torus of even sides this is a quarter of the longest side halved: side / 8, the bisection bound.
    """
    at = np.unravel_index((np.arange(members) * step) % int(np.prod(shape)), shape)
    busiest = 0.0
    for places, side in zip(at, shape, strict=True):
        share = np.bincount(places, minlength=side) / members
        extent = int(places.max() - places.min()) + 1
        busiest = max(busiest, extent * _line_load(share, side))
    return busiest


def _line_load(share: Floats, side: int) -> float:
    """Part of all bytes that crosses the busiest link of a ring, ends chosen by `share`, the shorter way round."""
    loads = np.zeros(side)
    for hops in range(1, side // 2 + 1):
        part = 0.5 if 2 * hops == side else 1.0
        flow = part * share * np.roll(share, -hops)
        for hop in range(hops):
            loads += np.roll(flow, hop)
    return float(loads.max())
