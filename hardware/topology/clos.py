"""Folded Clos networks: leaf, spine and core switches with rails, planes and oversubscription, wired by arithmetic.

Per plane, leaf l sends cable j (of `leaf_cables`) to spine j mod `spines` of its pod. Spine s sends cable i (of
`spine_cables`) to core (s x spine_cables + i) mod `cores`. Every path follows from these two rules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from hardware.arrays import Ints
from hardware.specs import Cluster, Fabric
from hardware.wiring import cable_bytes_per_s, planes_of_nic, port_bytes_per_s


@dataclass(frozen=True, slots=True)
class Clos:
    """The regular wiring. Counts are per plane unless they say otherwise; capacities per cable and direction.

    `tied`: every GPU's NIC lies in the plane of its rail; otherwise its NIC has a port in each plane. A segment is
    the GPUs below one leaf of each rail; a block is the segments whose leaves may share spines; a pod is the leaves
    of a block that do. With two tiers the whole plane is one pod and its spines are the top.
    """

    gpus: int
    gpus_per_node: int
    domain_gpus: int
    mesh: bool
    tiers: int = 0
    rails: int = 1
    planes: int = 1
    tied: bool = False
    port_bytes_per_s: float = 0.0
    segment_gpus: int = 1
    segments: int = 1
    segments_per_block: int = 1
    leaf_cables: int = 0
    leaf_cable_bytes_per_s: float = 0.0
    leaves_per_pod: int = 1
    pods: int = 1
    spines: int = 0
    spine_cables: int = 0
    spine_cable_bytes_per_s: float = 0.0
    cores: int = 0

    @property
    def ports(self) -> int:
        """Network ports of one GPU."""
        return 1 if self.tied else self.planes

    @property
    def rails_per_plane(self) -> int:
        return self.rails // self.planes if self.tied else self.rails

    @property
    def leaves(self) -> int:
        """Leaf switches of one plane."""
        return self.segments * self.rails_per_plane if self.tiers else 0

    def rail(self, gpu: Ints) -> Ints:
        return gpu % self.gpus_per_node if self.rails > 1 else gpu * 0

    def leaf(self, gpu: Ints, plane: Ints) -> Ints:
        """Global leaf number (plane by plane) of a GPU's port in a plane."""
        column = self.rail(gpu) // self.planes if self.tied else self.rail(gpu)
        return plane * self.leaves + (gpu // self.segment_gpus) * self.rails_per_plane + column

    def pod(self, leaf: Ints) -> Ints:
        """Global pod number of a leaf: the leaves of a block, rail by rail, in runs of `leaves_per_pod`."""
        plane, local = np.divmod(leaf, self.leaves)
        segment, column = np.divmod(local, self.rails_per_plane)
        block, within = np.divmod(segment, self.segments_per_block)
        leaves_per_block = self.segments_per_block * self.rails_per_plane
        pods_per_block = -(-leaves_per_block // self.leaves_per_pod)
        place = column * self.segments_per_block + within
        pod: Ints = plane * self.pods + block * pods_per_block + place // self.leaves_per_pod
        return pod


def switch_counts(layout: Clos) -> dict[str, int]:
    """Switches of the whole scale-out network by tier."""
    per_plane = {"leaf": layout.leaves, "spine": layout.pods * layout.spines, "core": layout.cores}
    return {tier: layout.planes * count for tier, count in per_plane.items() if count}


@lru_cache(maxsize=64)
def link_ranges(layout: Clos) -> dict[str, tuple[int, int]]:
    """(first link, end) of every class of links, in the order in which they are numbered."""
    gpus = layout.gpus
    ports = gpus * layout.ports if layout.tiers else 0
    leaf_cables = spine_cables = 0
    if layout.tiers > 1:
        leaf_cables = layout.planes * layout.leaves * layout.leaf_cables
    if layout.tiers > 2:
        spine_cables = layout.planes * layout.pods * layout.spines * layout.spine_cables
    if layout.mesh:
        sizes = {"scale_up_mesh": gpus * (layout.domain_gpus - 1)}
    else:
        sizes = {"scale_up_out": gpus, "scale_up_in": gpus}
    sizes |= {"nic_out": ports, "nic_in": ports}
    sizes |= {"leaf_up": leaf_cables, "leaf_down": leaf_cables}
    sizes |= {"spine_up": spine_cables, "spine_down": spine_cables}
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: (end - size, end) for (name, size), end in zip(sizes.items(), ends, strict=True)}


def _divisor_from(number: int, at_least: float) -> int:
    """The smallest divisor of `number` not below `at_least` (`number` itself at most)."""
    first = max(1, int(np.ceil(at_least - 1e-9)))
    return next((d for d in range(first, number) if number % d == 0), number)


def _uplinks(down_bytes_per_s: float, fabric: Fabric, to_tier: int) -> tuple[int, float]:
    """Cables up from one switch, and their capacity such that the oversubscription holds exactly; slow ports of the
    tier above slow them down."""
    tier = fabric.tiers[to_tier - 1]
    slower_end = cable_bytes_per_s(fabric, to_tier) / tier.port_bandwidth_bytes_per_s
    total = down_bytes_per_s / tier.oversubscription
    cables = max(1, round(total / tier.port_bandwidth_bytes_per_s))
    return cables, total / cables * slower_end


def plan_clos(cluster: Cluster) -> Clos:
    """Switch and cable counts for a cluster on a single-switch, rail-optimised, Clos or multi-plane fabric.

    ValueError, naming the fabric and the tier, where the switches have too few ports for so many GPUs.
    """
    scale_up, fabric = cluster.node.scale_up, cluster.fabric
    bare = Clos(
        gpus=cluster.gpus,
        gpus_per_node=cluster.node.gpus,
        domain_gpus=min(scale_up.domain_gpus, cluster.gpus),
        mesh=scale_up.kind != "nvswitch",
    )
    if not fabric.tiers:
        if cluster.gpus > scale_up.domain_gpus:
            raise ValueError(
                f"fabric {fabric.name}: has no switches, yet {cluster.gpus} GPUs need more than one domain"
            )
        return bare
    if len(fabric.tiers) > 3:
        raise ValueError(f"fabric {fabric.name}: has {len(fabric.tiers)} tiers; up to three can be wired")
    layout = _with_leaves(bare, cluster)
    if layout.tiers == 2:
        return _with_top_spines(layout, fabric)
    return _with_pods(layout, fabric) if layout.tiers == 3 else layout


def _with_leaves(bare: Clos, cluster: Cluster) -> Clos:
    node, fabric, leaf = cluster.node, cluster.fabric, cluster.fabric.tiers[0]
    rails = node.gpus if fabric.rails else 1
    tied = fabric.planes > 1 and planes_of_nic(node, fabric) == 1
    if tied and rails % fabric.planes:
        raise ValueError(
            f"fabric {fabric.name}: {fabric.planes} planes of one port per GPU need so many rails, not {rails}"
        )
    port = port_bytes_per_s(node, fabric)
    segments = -(-cluster.gpus // leaf.reach_gpus)
    top = len(fabric.tiers) == 1
    if top and segments > 1:
        raise ValueError(f"fabric {fabric.name}: {leaf.name} joins {leaf.reach_gpus} GPUs, {cluster.gpus} are wanted")
    down_bytes_per_s = max(1, leaf.reach_gpus // rails) * port
    cables, capacity = (0, 0.0) if top else _uplinks(down_bytes_per_s, fabric, 1)
    # Where a NIC serves several GPUs, each has its share of one port.
    down_ports = math.ceil(down_bytes_per_s / leaf.port_bandwidth_bytes_per_s - 1e-9)
    if down_ports + cables > leaf.radix:
        raise ValueError(
            f"fabric {fabric.name}: {leaf.name} of radix {leaf.radix} has no {down_ports} ports for GPUs beside "
            f"{cables} uplinks"
        )
    rails_per_plane = rails // fabric.planes if tied else rails
    return replace(
        bare,
        tiers=len(fabric.tiers),
        rails=rails,
        planes=fabric.planes,
        tied=tied,
        port_bytes_per_s=port,
        segment_gpus=leaf.reach_gpus,
        segments=segments,
        segments_per_block=segments,
        leaves_per_pod=segments * rails_per_plane,
        leaf_cables=cables,
        leaf_cable_bytes_per_s=capacity,
    )


def _with_top_spines(layout: Clos, fabric: Fabric) -> Clos:
    spine = fabric.tiers[1]
    if layout.leaves > spine.radix:
        raise ValueError(
            f"fabric {fabric.name}: {spine.name} of radix {spine.radix} cannot join {layout.leaves} leaves"
        )
    cables = layout.leaves * layout.leaf_cables
    return replace(layout, spines=_divisor_from(layout.leaf_cables, cables / spine.radix))


def _with_pods(layout: Clos, fabric: Fabric) -> Clos:
    """Spines in pods, cores on top. A block with more leaves than a spine has ports falls into several pods."""
    _, spine, core = fabric.tiers
    per_block = min(layout.segments, max(1, spine.reach_gpus // layout.segment_gpus))
    leaves = per_block * layout.rails_per_plane
    down_ports = max(1, int(spine.radix * spine.oversubscription / (1 + spine.oversubscription)))
    pods_per_block = -(-leaves // down_ports)
    leaves_per_pod = -(-leaves // pods_per_block)
    cables_into_pod = leaves_per_pod * layout.leaf_cables
    spines = _divisor_from(layout.leaf_cables, cables_into_pod / down_ports)
    below_bytes_per_s = cables_into_pod / spines * layout.leaf_cable_bytes_per_s
    cables, capacity = _uplinks(below_bytes_per_s, fabric, 2)
    blocks = -(-layout.segments // per_block)
    pods = blocks * -(-leaves // leaves_per_pod)
    if pods > core.radix:
        raise ValueError(f"fabric {fabric.name}: {core.name} of radix {core.radix} cannot join {pods} pods")
    cables_up = spines * cables
    return replace(
        layout,
        segments_per_block=per_block,
        leaves_per_pod=leaves_per_pod,
        pods=pods,
        spines=spines,
        spine_cables=cables,
        spine_cable_bytes_per_s=capacity,
        cores=_divisor_from(cables_up, pods * cables_up / core.radix),
    )
