"""How much longer a group's network part takes than its NICs need, for the links above them that its routes cross."""

from __future__ import annotations

import numpy as np

from hardware.arrays import Number
from hardware.collectives.direct import direct_load, pattern_of
from hardware.collectives.graph import graph_load
from hardware.collectives.group import Group
from hardware.collectives.hashing import expected_fullest
from hardware.collectives.links import Links

# Switches reduce on the way up: one stream leaves a block whatever the number of GPUs below it.
REDUCED_ON_THE_WAY = ("nvls", "collnet")


def uplink_slowdown(operation: str, group: Group, links: Links, algorithm: str = "ring") -> Number:
    """Seconds on the network over what the NICs alone need, at least 1.

    Clos: the worst tier of those that the group crosses, by its oversubscription and, without adaptive routing, by
    flows that collide. Torus and dragonfly: the busiest link between servers or switches. A graph of its own: the
    routes as they are.
    """
    if links.graph or links.direct is not None:
        return _without_tiers(operation, algorithm, group, links)
    slowdown: Number = 1.0
    if algorithm in REDUCED_ON_THE_WAY:
        return slowdown
    for tier in range(1, len(links.tier_oversubscription)):
        inside = domains_below(tier, group, links)
        crossing = crossing_fraction(operation, group.domains, inside)
        load = links.tier_oversubscription[tier] * crossing
        if not links.adaptive_routing:
            load = np.maximum(load, collision_slowdown(operation, algorithm, tier, crossing, group, links))
        slowdown = np.maximum(slowdown, np.where(np.asarray(group.tier) >= tier, load, 1.0))
    if len(links.tier_oversubscription) == 1:
        return np.maximum(slowdown, links.tier_oversubscription[0])
    return slowdown


def _without_tiers(operation: str, algorithm: str, group: Group, links: Links) -> Number:
    """The busiest link's time over the NIC's, at least 1; groups of the same kind fill the cluster."""
    pattern = pattern_of(operation, algorithm)

    def one(domains: float, spacing_gpus: float) -> float:
        if domains <= 1:
            return 1.0
        return max(1.0, links.nic_bytes_per_s * _busiest_link_s(pattern, domains, spacing_gpus, links))

    slowdown: Number = np.vectorize(one, otypes=[float])(group.domains, group.spacing_gpus)[()]
    return slowdown


def _busiest_link_s(pattern: str, domains: float, spacing_gpus: float, links: Links) -> float:
    """Seconds of the busiest link while every GPU sends one byte over its NIC."""
    if links.direct is not None:
        return direct_load(links.direct, pattern, domains, spacing_gpus)
    return graph_load(links.graph, pattern, round(domains), round(spacing_gpus), links.adaptive_routing)


def domains_below(tier: int, group: Group, links: Links) -> Number:
    """Domains of the group below one block of the tier underneath `tier`, which the group crosses."""
    top = np.maximum(np.asarray(group.tier), 1)
    if tier <= len(group.lower_blocks):
        below: Number = np.where(top == tier, group.domains_per_block, group.lower_blocks[tier - 1])
        return below
    reach = np.asarray(links.tier_reach_gpus or (1.0,) * len(links.tier_oversubscription), dtype=float)
    scale = reach[tier - 1] / reach[np.minimum(top - 1, len(reach) - 1)]
    in_proportion: Number = np.maximum(1.0, np.floor(group.domains_per_block * scale + 1e-9))
    return in_proportion


def crossing_fraction(operation: str, domains: Number, inside: Number) -> Number:
    """Part of the network's bytes that leaves a block with `inside` of the group's domains.

    Rings and trees leave a block once per `inside` domains, all-to-all with every peer outside it.
    """
    if operation == "all_to_all":
        return np.maximum(domains - inside, 0.0) / np.maximum(domains - 1.0, 1.0)
    return 1.0 / inside


def collision_slowdown(
    operation: str, algorithm: str, tier: int, crossing: Number, group: Group, links: Links
) -> Number:
    """The fullest of the cables into `tier` over what a NIC sends, flows being hashed onto cables (ECMP).

    A NIC sends `flows_per_port` flows to each peer at once. Up and down are hashed apart. Groups of a plan are taken to
    use all NICs below the blocks that one of them touches.
    """
    peers: Number = 1.0
    if operation == "all_to_all":
        hierarchical = algorithm == "hierarchical"
        peers = group.domains - 1.0 if hierarchical else group.ranks - group.ranks_per_domain
    flows_per_nic = links.flows_per_port * np.maximum(peers, 1.0)
    cable = links.tier_cable_share[tier]
    nics_per_cable = links.tier_oversubscription[tier] * cable
    blocks = group.domains / domains_below(tier, group, links)
    cables = blocks * links.tier_reach_gpus[tier - 1] / nics_per_cable
    fullest = expected_fullest(flows_per_nic * crossing * nics_per_cable, 2.0 * cables)
    return fullest / (flows_per_nic * cable)
