"""Builds the network of a cluster: scale-up domains and any fabric kind, as compact arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hardware.specs import Cluster, ScaleUp
from hardware.topology.clos import Clos, link_ranges, plan_clos, switch_counts
from hardware.topology.direct import dragonfly, torus
from hardware.topology.network import NODE_KINDS, Network

# GPU pairs of the V100 hybrid cube mesh and their NVLinks of six (DGX-1V, from memory of nvidia-smi topo -m).
_CUBE = {(0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 1, (2, 6): 2, (3, 7): 2,
         (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 1}  # fmt: skip


def build_network(cluster: Cluster) -> Network:
    """The cluster's network. ValueError names what the fabric cannot join, or a kind that must be read from a file."""
    builder = BUILDERS.get(cluster.fabric.kind)
    if builder is None:
        raise ValueError(f"fabric {cluster.fabric.name}: kind custom has no rule; read it with read_network(file)")
    return builder(cluster)


def _mesh_capacity(scale_up: ScaleUp, gpus: int, domain: int) -> NDArray[np.float64]:
    """Capacity of each GPU's link to the next, second next ... GPU of its domain, (gpus, domain - 1)."""
    if scale_up.kind == "mesh":
        return np.full((gpus, domain - 1), scale_up.bandwidth_bytes_per_s / max(1, domain - 1))
    if domain > 8:
        raise ValueError(f"a cube mesh joins 8 GPUs, not {domain}")
    links = np.zeros((8, 8))
    for (a, b), count in _CUBE.items():
        links[a, b] = links[b, a] = count * scale_up.bandwidth_bytes_per_s / 6
    # Pairs without a link of their own go through a third GPU; what is modelled is one such path at half a link.
    links[(links == 0) & ~np.eye(8, dtype=bool)] = scale_up.bandwidth_bytes_per_s / 12
    slot = np.arange(gpus) % domain
    return links[slot[:, None], (slot[:, None] + 1 + np.arange(domain - 1)) % domain]


def clos_network(cluster: Cluster) -> Network:
    """Rail-optimised, Clos, multi-plane and single-switch fabrics."""
    layout = plan_clos(cluster)
    ranges = link_ranges(layout)
    links = max(end for _, end in ranges.values())
    source, target = np.zeros(links, np.int32), np.zeros(links, np.int32)
    capacity, latency = np.zeros(links), np.zeros(links)
    kind, pool = np.zeros(links, np.int8), np.zeros(links, np.int32)
    counts = switch_counts(layout)
    domains = 0 if layout.mesh else -(-layout.gpus // layout.domain_gpus)
    first = dict(zip(("domain", *counts), np.cumsum([layout.gpus, domains, *counts.values()]).tolist(), strict=False))
    for number, (name, (start, end)) in enumerate(ranges.items()):
        if start == end:
            continue
        part = slice(start, end)
        ends = _ends(layout, name, first, end - start)
        source[part], target[part] = ends[:2]
        # Pools are numbered from the first link of their class, so that no two classes share a number.
        pool[part] = start + ends[2]
        kind[part] = number
        capacity[part], latency[part] = _speed(cluster, layout, name)
    node_kind = np.repeat(
        np.array([NODE_KINDS.index(name) for name in ("gpu", "scale_up_switch", *counts)], np.int8),
        [layout.gpus, domains, *counts.values()],
    )
    return Network(
        cluster.name, layout.gpus, node_kind, source, target, capacity, latency, kind, tuple(ranges), pool, layout
    )


def _ends(layout: Clos, name: str, first: dict[str, int], size: int) -> tuple[NDArray, NDArray, NDArray]:
    """(source nodes, target nodes, pool) of the links of one class, in order."""
    index = np.arange(size)
    up = name.endswith(("_up", "_out"))
    if name == "scale_up_mesh":
        gpu, step = np.divmod(index, layout.domain_gpus - 1)
        base = gpu - gpu % layout.domain_gpus
        return gpu, base + (gpu % layout.domain_gpus + 1 + step) % layout.domain_gpus, index
    if name.startswith("scale_up"):
        low, high, pool = index, first["domain"] + index // layout.domain_gpus, index
    elif name.startswith("nic"):
        gpu, port = np.divmod(index, layout.ports)
        plane = layout.rail(gpu) % layout.planes if layout.tied else port
        low, high, pool = gpu, first["leaf"] + layout.leaf(gpu, plane), gpu
    elif name.startswith("leaf"):
        leaf, cable = np.divmod(index, layout.leaf_cables)
        low, high = first["leaf"] + leaf, first["spine"] + layout.pod(leaf) * layout.spines + cable % layout.spines
        pool = leaf if layout.tied else leaf % layout.leaves
    else:
        spine, cable = np.divmod(index, layout.spine_cables)
        pod, within = np.divmod(spine, layout.spines)
        core = pod // layout.pods * layout.cores + (within * layout.spine_cables + cable) % layout.cores
        low, high = first["spine"] + spine, first["core"] + core
        pool = pod if layout.tied else pod % layout.pods
    return (low, high, pool) if up else (high, low, pool)


def _speed(cluster: Cluster, layout: Clos, name: str) -> tuple[NDArray | float, float]:
    """(capacity, latency) of a class. A tier's latency stands on the way up to it, the NIC pair's half at each end."""
    node, tiers = cluster.node, cluster.fabric.tiers
    if name == "scale_up_mesh":
        return _mesh_capacity(node.scale_up, layout.gpus, layout.domain_gpus).ravel(), node.scale_up.latency_s
    half = {"scale_up_out": node.scale_up.latency_s / 2, "scale_up_in": node.scale_up.latency_s / 2}
    if name in half:
        return node.scale_up.bandwidth_bytes_per_s, half[name]
    table = {
        "nic_out": (layout.port_bytes_per_s, node.nic.latency_s / 2 + tiers[0].latency_s),
        "nic_in": (layout.port_bytes_per_s, node.nic.latency_s / 2),
        "leaf_up": (layout.leaf_cable_bytes_per_s, tiers[1].latency_s if layout.tiers > 1 else 0.0),
        "leaf_down": (layout.leaf_cable_bytes_per_s, 0.0),
        "spine_up": (layout.spine_cable_bytes_per_s, tiers[2].latency_s if layout.tiers > 2 else 0.0),
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
