"""How one communicator lies in a cluster, and the few link numbers that its collectives depend on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import numpy as np

from hardware.arrays import Index, Number
from hardware.collectives.direct import Dragonfly, Torus, direct_wiring
from hardware.specs import FLOWS_PER_PORT, Cluster, Fabric, Failed
from hardware.wiring import cable_bytes_per_s, injection_bytes_per_s, reaches_gpus, surviving_spines_fraction


@dataclass(frozen=True, slots=True)
class Group:
    """One communicator. Every field may be a NumPy array: many groups of the same cluster, priced at once.

    `ranks_per_domain` members share one scale-up domain; `tier` is the index of the highest fabric tier that
    the group crosses; `domains_per_block` of its domains sit below one block of the tier underneath (1: every
    hop between domains climbs to `tier`); `nic_share` is the fraction of its NIC that each rank may use while
    other groups of the plan send at the same time. `spacing_gpus` is how many GPUs neighbouring domains of the group
    lie apart where distance counts (torus, dragonfly, graph), 0 on tiers, which say it all. `lower_blocks`, of a group
    that crosses more than one tier above the leaves: how many of its domains sit below one block of tier 0, 1, ... up
    to the one under that of `domains_per_block`; empty where that is not known, then in proportion to the blocks.
    """

    ranks: Number
    ranks_per_domain: Number = 1
    tier: Index = 0
    domains_per_block: Number = 1
    nic_share: Number = 1.0
    spacing_gpus: Number = 0.0
    lower_blocks: tuple[Number, ...] = ()

    @property
    def domains(self) -> Number:
        return np.maximum(self.ranks / self.ranks_per_domain, 1.0)

    @property
    def fields(self) -> tuple[Number, ...]:
        return (
            self.ranks,
            self.ranks_per_domain,
            self.tier,
            self.domains_per_block,
            self.nic_share,
            self.spacing_gpus,
            *self.lower_blocks,
        )

    @property
    def is_scalar(self) -> bool:
        return not any(isinstance(value, np.ndarray) for value in self.fields)


def strided_group(cluster: Cluster, ranks: Number, stride: Number = 1, nic_share: Number = 1.0) -> Group:
    """The group of `ranks` GPUs that are `stride` apart in the global order (Megatron's rank order).

    `stride` is the product of the degrees that vary faster. Accepts arrays. ValueError where a group reaches
    past the end of the cluster.
    """
    ranks = np.asarray(ranks, dtype=float)
    stride = np.asarray(stride)
    span = ranks * stride
    if np.any(span - stride >= cluster.gpus):
        raise ValueError(
            f"cluster {cluster.name}: a group of {np.max(ranks):g} ranks {np.max(stride):g} apart "
            f"does not fit its {cluster.gpus} GPUs"
        )
    reaches = np.array(reaches_gpus(cluster.node, cluster.fabric) or [cluster.gpus], dtype=float)
    top = len(reaches) - 1
    tier = np.minimum(np.searchsorted(reaches, np.minimum(span, reaches[-1])), top)
    most_per_domain = np.maximum(1, cluster.node.scale_up.domain_gpus // stride)
    # Members of one domain come in whole shares: 12 ranks over domains of 8 lie as 6 + 6 in the model.
    domains = np.ceil(ranks / np.minimum(ranks, most_per_domain))
    per_domain = ranks / domains
    # Domains of the group below one block of every tier under the highest.
    below = [np.maximum(1.0, np.floor(reach / (stride * per_domain))) for reach in reaches[:-1]]
    domains_per_block = np.select([tier == 0, *(tier == number + 1 for number in range(top))], [1.0, *below])
    lower_blocks = tuple(below[: max(0, int(np.max(tier)) - 1)])
    share = np.asarray(nic_share, dtype=float)
    spacing = np.asarray(spacing_gpus(cluster, per_domain, stride))
    group = Group(ranks, per_domain, tier, domains_per_block, share, spacing, lower_blocks)
    return group if any(np.ndim(field) for field in group.fields) else _as_scalars(group)


def _as_scalars(group: Group) -> Group:
    """The same group with plain numbers, which can be hashed."""
    return Group(
        ranks=np.asarray(group.ranks).item(),
        ranks_per_domain=np.asarray(group.ranks_per_domain).item(),
        tier=int(group.tier),
        domains_per_block=np.asarray(group.domains_per_block).item(),
        nic_share=np.asarray(group.nic_share).item(),
        spacing_gpus=np.asarray(group.spacing_gpus).item(),
        lower_blocks=tuple(np.asarray(below).item() for below in group.lower_blocks),
    )


def leading_shard(group: Group, ranks: int) -> Group:
    """The first `ranks` members of a group, which has as many such parts side by side; plain numbers."""
    per_domain = min(float(ranks), float(group.ranks_per_domain))
    part = replace(group, ranks=float(ranks), ranks_per_domain=per_domain)
    below = _below(group)
    if len(below) != group.tier:
        return part
    tier = next((number for number, count in enumerate(below) if count % part.domains == 0), len(below))
    return replace(
        part,
        tier=tier,
        domains_per_block=below[tier - 1] if tier else 1.0,
        lower_blocks=below[: max(0, tier - 1)],
    )


def across_shards(group: Group, shards: Group) -> Group:
    """One member of every part of `leading_shard`; plain numbers."""
    below = [max(1.0, count // shards.domains) for count in _below(group)]
    return replace(
        group,
        ranks=group.ranks / shards.ranks,
        ranks_per_domain=max(1.0, group.ranks_per_domain // shards.ranks),
        domains_per_block=below[-1] if below else 1.0,
        spacing_gpus=group.spacing_gpus * shards.domains,
        lower_blocks=tuple(below[:-1]),
    )


def _below(group: Group) -> tuple[Number, ...]:
    """Domains below one block of each tier under the highest that the group crosses, as far as known."""
    return (*group.lower_blocks, group.domains_per_block) if group.tier > 0 else ()


def spacing_gpus(cluster: Cluster, ranks_per_domain: Number, stride: Number) -> Number:
    """GPUs between neighbouring domains of a group whose members lie `stride` apart; 0 where tiers tell all."""
    if direct_wiring(cluster) is None and not cluster.fabric.graph:
        return 0.0
    domain = np.where(np.asarray(ranks_per_domain) > 1, cluster.node.scale_up.domain_gpus, 1)
    return np.maximum(stride, domain) * 1.0


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
        from hardware.collectives.graph import graph_latency_s

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
