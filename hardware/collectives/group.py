"""How one communicator lies in a cluster."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hardware.arrays import Index, Number
from hardware.collectives.direct import direct_wiring
from hardware.specs import Cluster
from hardware.wiring import reaches_gpus


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
