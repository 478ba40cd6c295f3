"""What collectives see of a cluster: the few link numbers that their times depend on."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from hardware.arrays import Number
from hardware.collectives.direct import Dragonfly, Torus, direct_wiring
from hardware.collectives.graph import graph_latency_s
from hardware.collectives.group import Group
from hardware.specs import FLOWS_PER_PORT, Cluster, Fabric, Failed
from hardware.wiring import cable_bytes_per_s, injection_bytes_per_s, reaches_gpus, surviving_spines_fraction


@dataclass(frozen=True, slots=True)
class Links:
    """What collectives see of a cluster: link speeds per GPU and direction, latencies, and what reduces.

    `efficiencies` is the file of a profile with this cluster's measured coefficients (empty: the shipped ones).
    `nic_bytes_per_s` is what a GPU sends through its NIC and the leaf's ports. `tier_cable_share` is the speed of one
    cable into a tier over that; `direct` and `graph` say how switches are joined where there are no tiers. Of the
    `rails` NICs of a server `lost_nics` are broken.
    """

    generation: str
    cpu_vendor: str
    scale_up_bytes_per_s: float
    scale_up_latency_s: float
    multicast: bool
    nic_bytes_per_s: float
    nic_technology: str
    tier_latencies_s: tuple[float, ...]
    tier_oversubscription: tuple[float, ...]
    in_network_reduction: bool
    mesh_gpus: int = 0
    efficiencies: str = ""
    tier_reach_gpus: tuple[float, ...] = ()
    tier_cable_share: tuple[float, ...] = ()
    adaptive_routing: bool = True
    flows_per_port: float = FLOWS_PER_PORT
    collnet: bool = False
    direct: Torus | Dragonfly | None = None
    graph: str = ""
    rails: int = 1
    lost_nics: int = 0

    def injection(self, group: Group) -> Number:
        """Bytes/s that each rank sends through NICs while other groups of the plan send, and some NICs are broken."""
        return self.nic_bytes_per_s * self.surviving_fraction(group.ranks_per_domain) * group.nic_share

    def surviving_fraction(self, ranks_per_domain: Number) -> Number:
        """Share of its NIC's bandwidth that the worst rank of a group keeps; 1 where nothing is broken.

        What a GPU without a NIC sends leaves through others of its server (NCCL's PXN). The group's own m NICs there
        share it, (m - k) / m; a group without others doubles up with a neighbour: one NIC carries R / (R - k) GPUs,
        rounded up.
        """
        if not self.lost_nics:
            return 1.0
        own = np.minimum(np.maximum(ranks_per_domain, 1.0), self.rails)
        doubled_up = 1.0 / ceil(self.rails / (self.rails - self.lost_nics))
        return np.maximum(doubled_up, (own - self.lost_nics) / own)

    def scale_up(self, ranks_per_domain: Number) -> Number:
        """Bytes/s that one GPU can send to the other members of a group in its domain.

        Behind switches all of it; in a mesh of `mesh_gpus` every pair has its own share, and a group that leaves
        members of the domain out leaves their links idle.
        """
        if not self.mesh_gpus:
            return self.scale_up_bytes_per_s
        peers = self.mesh_gpus - 1.0
        reached = np.clip((ranks_per_domain - 1.0) / peers, 1.0 / peers, 1.0)
        return self.scale_up_bytes_per_s * reached


def links_of(cluster: Cluster | Links) -> Links:
    """The links of a cluster; links as they are.

    `tier_latencies_s[t]` is one way between NICs that meet at tier t; oversubscription is of the way there.
    """
    if isinstance(cluster, Links):
        return cluster
    node, fabric = cluster.node, cluster.fabric
    scale_up = node.scale_up
    nic = injection_bytes_per_s(node, fabric)
    return Links(
        generation=node.accelerator.generation.lower(),
        cpu_vendor=node.cpu_vendor,
        scale_up_bytes_per_s=scale_up.bandwidth_bytes_per_s,
        scale_up_latency_s=scale_up.latency_s,
        multicast=scale_up.multicast,
        nic_bytes_per_s=nic,
        nic_technology=node.nic.technology,
        tier_latencies_s=_latencies(cluster),
        tier_oversubscription=_oversubscription(fabric, cluster.failed),
        in_network_reduction=fabric.in_network_reduction,
        mesh_gpus=0 if scale_up.kind == "nvswitch" else scale_up.domain_gpus,
        efficiencies=cluster.efficiencies,
        tier_reach_gpus=tuple(float(reach) for reach in reaches_gpus(node, fabric)),
        tier_cable_share=_cable_shares(fabric, nic),
        adaptive_routing=fabric.adaptive_routing,
        flows_per_port=fabric.flows_per_port,
        collnet=fabric.collnet,
        direct=direct_wiring(cluster),
        graph=fabric.graph,
        rails=node.gpus,
        lost_nics=cluster.failed.lost_nics,
    )


def _latencies(cluster: Cluster) -> tuple[float, ...]:
    """One way between NICs that meet at each tier."""
    latency_s = cluster.node.nic.latency_s
    if cluster.fabric.graph:
        return (latency_s + graph_latency_s(cluster.fabric.graph, cluster.gpus, cluster.node.scale_up.domain_gpus),)
    found = []
    for tier in cluster.fabric.tiers:
        latency_s += tier.latency_s
        found.append(latency_s)
    return tuple(found) or (latency_s,)


def _oversubscription(fabric: Fabric, failed: Failed) -> tuple[float, ...]:
    """What the GPUs below can send over what the cables into each tier carry, slow ports of the tier included, and the
    switches above the leaves that have failed."""
    slowdown, found = 1.0, [1.0]
    for number, tier in enumerate(fabric.tiers[:-1], start=1):
        slower_end = tier.port_bandwidth_bytes_per_s / cable_bytes_per_s(fabric, number)
        through_fewer = 1 / surviving_spines_fraction(fabric, failed) if number == 1 else 1.0
        slowdown *= tier.oversubscription * slower_end * through_fewer
        found.append(slowdown)
    return tuple(found)


def _cable_shares(fabric: Fabric, nic_bytes_per_s: float) -> tuple[float, ...]:
    """Speed of a cable into each tier over what a GPU sends; the lowest tier has GPUs below it."""
    above = [cable_bytes_per_s(fabric, tier) / nic_bytes_per_s for tier in range(1, len(fabric.tiers))]
    return (1.0, *above)
