"""Builds the network of a cluster: scale-up domains and any fabric kind, as compact arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from hardware.arrays import Floats, Ints, Number
from hardware.specs import Cluster, ScaleUp
from hardware.topology.clos import Clos, link_ranges, plan_clos, switch_counts
from hardware.topology.custom import read_network
from hardware.topology.direct import dragonfly, torus
from hardware.topology.network import NODE_KINDS, Network

# GPU pairs of the V100 hybrid cube mesh and their NVLinks of six (DGX-1V, from memory of nvidia-smi topo -m).
_CUBE_LINKS = 6
_CUBE = {(0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 1, (2, 6): 2, (3, 7): 2,
         (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 1}  # fmt: skip


def build_network(cluster: Cluster) -> Network:
    """The cluster's network. ValueError names what the fabric cannot join, or a kind that must be read from a file."""
    if cluster.fabric.graph:
        return read_network(cluster.fabric.graph)
    builder = BUILDERS.get(cluster.fabric.kind)
    if builder is None:
        raise ValueError(f"fabric {cluster.fabric.name}: kind custom has no rule; read it with read_network(file)")
    return builder(cluster)


def _mesh_capacity(scale_up: ScaleUp, gpus: int, domain: int) -> Floats:
    """Capacity of each GPU's link to the next, second next ... GPU of its domain, (gpus, domain - 1)."""
    bandwidth = scale_up.bandwidth_bytes_per_s
    if scale_up.kind == "mesh":
        return np.full((gpus, domain - 1), bandwidth / max(1, domain - 1))
    if domain > 8:
        raise ValueError(f"a cube mesh joins 8 GPUs, not {domain}")
    links = np.zeros((8, 8))
    for (one, other), count in _CUBE.items():
        links[one, other] = links[other, one] = count * bandwidth / _CUBE_LINKS
    # Pairs without a link of their own go through a third GPU; what is modelled is one such path at half a link.
    unlinked = (links == 0) & ~np.eye(8, dtype=bool)
    links[unlinked] = bandwidth / _CUBE_LINKS / 2
    slot = np.arange(gpus)[:, None] % domain
    neighbour = (slot + 1 + np.arange(domain - 1)) % domain
    capacity: Floats = links[slot, neighbour]
    return capacity


class _Ends(NamedTuple):
    """The links of one class, in order; links of one pool share what ideal spraying sends over them."""

    source: Ints
    target: Ints
    pool: Ints


def clos_network(cluster: Cluster) -> Network:
    """Rail-optimised, Clos, multi-plane and single-switch fabrics."""
    layout = plan_clos(cluster)
    ranges = link_ranges(layout)
    links = max(end for _, end in ranges.values())
    source, target, pool = (np.zeros(links, np.int32) for _ in range(3))
    capacity, latency = np.zeros(links), np.zeros(links)
    kind = np.zeros(links, np.int8)
    first = _first_nodes(layout)
    for number, (name, (start, end)) in enumerate(ranges.items()):
        if start == end:
            continue
        part = slice(start, end)
        ends = _ends(layout, name, first, end - start)
        source[part], target[part] = ends.source, ends.target
        # Pools are numbered from the first link of their class, so that no two classes share a number.
        pool[part] = start + ends.pool
        kind[part] = number
        capacity[part], latency[part] = _speed(cluster, layout, name)
    return Network(
        name=cluster.name,
        gpus=layout.gpus,
        node_kind=_node_kinds(layout),
        source=source,
        target=target,
        capacity_bytes_per_s=capacity,
        latency_s=latency,
        link_class=kind,
        classes=tuple(ranges),
        pool=pool,
        layout=layout,
    )


def _domains(layout: Clos) -> int:
    """Switches of scale-up domains; a mesh has none."""
    return 0 if layout.mesh else -(-layout.gpus // layout.domain_gpus)


def _node_kinds(layout: Clos) -> np.ndarray:
    counts = {"gpu": layout.gpus, "scale_up_switch": _domains(layout), **switch_counts(layout)}
    numbers = np.array([NODE_KINDS.index(name) for name in counts], np.int8)
    return np.repeat(numbers, list(counts.values()))


def _first_nodes(layout: Clos) -> dict[str, int]:
    """Number of the first switch of every tier; nodes are GPUs, then domains, then switches by tier."""
    counts = switch_counts(layout)
    starts = np.cumsum([layout.gpus, _domains(layout), *counts.values()]).tolist()
    return dict(zip(("domain", *counts), starts, strict=False))


def _ends(layout: Clos, name: str, first: dict[str, int], size: int) -> _Ends:
    """Which nodes the links of one class join."""
    index = np.arange(size)
    if name == "scale_up_mesh":
        return _mesh_ends(layout, index)
    if name.startswith("scale_up"):
        ends = _Ends(index, first["domain"] + index // layout.domain_gpus, index)
    elif name.startswith("nic"):
        ends = _nic_ends(layout, first["leaf"], index)
    elif name.startswith("leaf"):
        ends = _leaf_ends(layout, first, index)
    else:
        ends = _spine_ends(layout, first, index)
    upward = name.endswith(("_up", "_out"))
    return ends if upward else ends._replace(source=ends.target, target=ends.source)


def _mesh_ends(layout: Clos, index: Ints) -> _Ends:
    domain = layout.domain_gpus
    gpu, step = np.divmod(index, domain - 1)
    first_of_domain = gpu - gpu % domain
    neighbour = (gpu % domain + 1 + step) % domain
    return _Ends(gpu, first_of_domain + neighbour, index)


def _nic_ends(layout: Clos, first_leaf: int, index: Ints) -> _Ends:
    gpu, port = np.divmod(index, layout.ports)
    plane = layout.rail(gpu) % layout.planes if layout.tied else port
    return _Ends(gpu, first_leaf + layout.leaf(gpu, plane), gpu)


def _leaf_ends(layout: Clos, first: dict[str, int], index: Ints) -> _Ends:
    leaf, cable = np.divmod(index, layout.leaf_cables)
    spine = layout.pod(leaf) * layout.spines + cable % layout.spines
    pool = leaf if layout.tied else leaf % layout.leaves
    return _Ends(first["leaf"] + leaf, first["spine"] + spine, pool)


def _spine_ends(layout: Clos, first: dict[str, int], index: Ints) -> _Ends:
    spine, cable = np.divmod(index, layout.spine_cables)
    pod, within = np.divmod(spine, layout.spines)
    plane = pod // layout.pods
    core = plane * layout.cores + (within * layout.spine_cables + cable) % layout.cores
    pool = pod if layout.tied else pod % layout.pods
    return _Ends(first["spine"] + spine, first["core"] + core, pool)


def _speed(cluster: Cluster, layout: Clos, name: str) -> tuple[Number, float]:
    """(capacity, latency) of a class. A tier's latency stands on the way up to it, the NIC pair's half at each end."""
    scale_up, nic = cluster.node.scale_up, cluster.node.nic
    if name == "scale_up_mesh":
        return _mesh_capacity(scale_up, layout.gpus, layout.domain_gpus).ravel(), scale_up.latency_s
    if name.startswith("scale_up"):
        return scale_up.bandwidth_bytes_per_s, scale_up.latency_s / 2
    leaf_s, spine_s, core_s = (*(tier.latency_s for tier in cluster.fabric.tiers), 0.0, 0.0)[:3]
    table = {
        "nic_out": (layout.port_bytes_per_s, nic.latency_s / 2 + leaf_s),
        "nic_in": (layout.port_bytes_per_s, nic.latency_s / 2),
        "leaf_up": (layout.leaf_cable_bytes_per_s, spine_s),
        "leaf_down": (layout.leaf_cable_bytes_per_s, 0.0),
        "spine_up": (layout.spine_cable_bytes_per_s, core_s),
        "spine_down": (layout.spine_cable_bytes_per_s, 0.0),
    }
    return table[name]


BUILDERS: dict[str, Callable[[Cluster], Network]] = {
    "rail_optimized": clos_network,
    "clos": clos_network,
    "multi_plane": clos_network,
    "single_switch": clos_network,
    "dragonfly": dragonfly,
    "torus": torus,
}
