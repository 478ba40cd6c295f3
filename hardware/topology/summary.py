"""What a network amounts to: switches and links by tier, bisection, diameter, cost and power."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.facility import ASSUMED_POWER, OPTICAL_END_W, PORT_BYTES_PER_S, PORT_W
from hardware.specs import Cluster, Fabric
from hardware.topology.build import build_network
from hardware.topology.clos import Clos, switch_counts
from hardware.topology.network import NODE_KINDS, Network, degrade

# Above so many switches with GPUs the diameter is sought from evenly spaced ones only.
_ALL_SOURCES = 1024
_SOME_SOURCES = 128
# Above so many links the bisection is the cut between the halves as they lie, not the smallest there could be.
_CUT_LINKS = 200_000
# A switch port of 400 Gb/s with its share of cables and optics: 491 million USD over 5,120 switches of 64 ports
# (three-tier fat tree; arXiv 2505.09343, Table 3, read second-hand; its 768-switch fabric of 72 million: 1,465).
_PORT_USD = 491e6 / (5120 * 64)
_ENTRY = "the fabric's entry"
_LEAF = NODE_KINDS.index("leaf")
ASSUMED_COST = "assumed: 1,498 USD per switch port of 400 Gb/s, as arXiv 2505.09343 has it, by bandwidth"


@dataclass(frozen=True, slots=True)
class LinkClass:
    """All links of one class, both directions apart: how many, and what one and all of them carry."""

    name: str
    links: int
    link_bytes_per_s: float
    total_bytes_per_s: float


@dataclass(frozen=True, slots=True)
class NetworkSummary:
    """Counts and figures of a network; bandwidths are one way.

    `bisection_fraction` is the bisection over what half the GPUs can inject into the scale-out network;
    `diameter_hops` counts links between the two GPUs farthest apart outside scale-up domains. Cost and power
    are those of the scale-out network, each with what it rests on; None where there is none.
    """

    name: str
    gpus: int
    nodes: int
    switches: int
    switches_by_tier: dict[str, int]
    link_classes: tuple[LinkClass, ...]
    bisection_bytes_per_s: float
    bisection_fraction: float
    diameter_hops: int
    diameter_latency_s: float
    cost_usd: float | None
    power_w: float | None
    cost_source: str = ""
    power_source: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class NetworkBill:
    """Cost and power of a scale-out network, and what each rests on."""

    cost_usd: float | None = None
    power_w: float | None = None
    cost_source: str = ""
    power_source: str = ""


def summarise_cluster(cluster: Cluster) -> NetworkSummary:
    """The network of a cluster built and summed up, with the cost and power its fabric states per endpoint; where it
    states none, those of the ports and cables that were counted. ValueError for a fabric that cannot be wired."""
    network = build_network(cluster)
    return summarise_network(network, cluster.nodes, bill(network, cluster.fabric, cluster.gpus))


def bill(network: Network, fabric: Fabric, gpus: int) -> NetworkBill:
    """Per endpoint as the fabric states it, else by its ports; nothing where there are no switches."""
    ports, ends = _ports(network)
    if not ports:
        return NetworkBill()
    cost_usd, cost_source = ports * _PORT_USD, ASSUMED_COST
    if fabric.cost_usd_per_endpoint is not None:
        cost_usd = fabric.cost_usd_per_endpoint * gpus
        cost_source = fabric.sources.get("cost_per_endpoint", _ENTRY)
    power_w, power_source = ports * PORT_W + ends * OPTICAL_END_W, ASSUMED_POWER
    if fabric.power_w_per_endpoint:
        power_w = fabric.power_w_per_endpoint * gpus
        power_source = fabric.sources.get("power_per_endpoint", _ENTRY)
    return NetworkBill(cost_usd, power_w, cost_source, power_source)


def _ports(network: Network) -> tuple[float, float]:
    """(switch ports, optical ends) in units of 400 Gb/s: a cable to a GPU takes one port, one between switches two."""
    from_switch = network.node_kind[network.source] >= _LEAF
    to_switch = network.node_kind[network.target] >= _LEAF
    # Every cable is two directed links.
    width = network.capacity_bytes_per_s / PORT_BYTES_PER_S / 2
    ports = float(width[from_switch].sum() + width[to_switch].sum())
    ends = float(2 * width[from_switch | to_switch].sum())
    return ports, ends


def summarise_network(network: Network, nodes: int = 0, costs: NetworkBill = NetworkBill()) -> NetworkSummary:
    """Any network summed up; `nodes` servers and its bill, where those are known."""
    classes = []
    for number, name in enumerate(network.classes):
        capacity = network.capacity_bytes_per_s[network.link_class == number]
        if len(capacity):
            classes.append(LinkClass(name, len(capacity), float(np.median(capacity)), float(capacity.sum())))
    bisection, injected = _bisection(network)
    hops, latency_s = _diameter(network)
    return NetworkSummary(
        name=network.name,
        gpus=network.gpus,
        nodes=nodes,
        switches=network.switches,
        switches_by_tier=switch_counts(network.layout) if network.layout else _counted(network),
        link_classes=tuple(classes),
        bisection_bytes_per_s=bisection,
        bisection_fraction=bisection / injected if injected else 0.0,
        diameter_hops=hops,
        diameter_latency_s=latency_s,
        cost_usd=costs.cost_usd,
        power_w=costs.power_w,
        cost_source=costs.cost_source,
        power_source=costs.power_source,
    )


def _counted(network: Network) -> dict[str, int]:
    """Switches by kind, those there are."""
    counts = np.bincount(network.node_kind, minlength=len(NODE_KINDS)).tolist()
    return {name: counts[i] for i, name in enumerate(NODE_KINDS) if i >= _LEAF and counts[i]}


def _bisection(network: Network) -> tuple[float, float]:
    """(capacity between the first and the second half of the GPUs, what a half can inject), one way."""
    if network.layout is not None:
        return _clos_bisection(network, network.layout)
    capacity = network.capacity_bytes_per_s
    outside = network
    if "nic" in network.classes:
        # What stays inside a domain does not load the network, even where the halves part one.
        inside = [network.class_of(name) for name in network.classes if name.startswith("scale_up")]
        outside = degrade(network, np.concatenate([*inside, np.zeros(0, np.int64)]), 0.0)
        ports = network.class_of("nic")
    else:
        ports = np.flatnonzero(network.source < network.gpus)
    out_of_gpus = ports[network.source[ports] < network.gpus]
    return _cut(outside), float(capacity[out_of_gpus].sum() / 2)


def _clos_bisection(network: Network, layout: Clos) -> tuple[float, float]:
    """The narrowest tier of a folded Clos network, of which half the GPUs have half."""
    if layout.tiers == 0:
        return _cut(network), _cut(network)

    def half(name: str) -> float:
        return float(network.capacity_bytes_per_s[network.class_of(name)].sum() / 2)

    injected = half("nic_out")
    above = [half(name) for name in ("leaf_up", "spine_up")[: layout.tiers - 1]]
    return min([injected, *above]), injected


def _cut(network: Network) -> float:
    """Largest flow from the first half of the GPUs to the second (equals the smallest cut between them)."""
    half = network.gpus // 2
    if half == 0:
        return 0.0
    return _cut_as_they_lie(network, half) if network.links > _CUT_LINKS else _largest_flow(network, half)


def _cut_as_they_lie(network: Network, half: int) -> float:
    """Each switch goes with the GPUs attached to it; one without any stays in the second half."""
    low = np.arange(network.nodes) < half
    attached = (network.source < half) & (network.target >= network.gpus)
    low[network.target[attached]] = True
    crosses = low[network.source] & ~low[network.target]
    return float(network.capacity_bytes_per_s[crosses].sum())


def _largest_flow(network: Network, half: int) -> float:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    gpus = np.arange(network.gpus)
    origin, sink = network.nodes, network.nodes + 1
    # The algorithm counts in whole units.
    unit = network.capacity_bytes_per_s.max() / 1e4
    capacity = np.rint(network.capacity_bytes_per_s / unit).astype(np.int32)
    ample = np.full(network.gpus, 2**30 // max(1, network.gpus), np.int32)
    source = np.concatenate([network.source, np.full(half, origin), gpus[half:]])
    target = np.concatenate([network.target, gpus[:half], np.full(network.gpus - half, sink)])
    shape = (network.nodes + 2, network.nodes + 2)
    table = coo_array((np.concatenate([capacity, ample]), (source, target)), shape=shape).tocsr()
    return float(maximum_flow(table.astype(np.int32), origin, sink).flow_value * unit)


def _diameter(network: Network) -> tuple[int, float]:
    """(links, latency) between the GPUs farthest apart."""
    if network.layout is not None:
        return _clos_diameter(network, network.layout)
    from_gpu = network.source < network.gpus
    to_switch = network.node_kind[network.target] >= _LEAF
    attached = np.unique(network.target[from_gpu & to_switch])
    if not len(attached):
        return 2, float(network.latency_s.max() * 2)
    hops, latency_s = _between_switches(network, attached)
    return hops + 2, latency_s + 2 * float(network.latency_s[from_gpu].max())


def _clos_diameter(network: Network, layout: Clos) -> tuple[int, float]:
    if layout.tiers == 0:
        latency_s = network.latency_s.sum() if network.links < 2 else 2 * network.latency_s[0]
        return (1 if layout.mesh else 2), float(latency_s)
    names = ["nic_out", "leaf_up", "spine_up"][: layout.tiers]
    climbs = [name for name in names if len(network.class_of(name))]
    first_links = [network.class_of(name)[0] for name in [*climbs, "nic_in"]]
    return 2 * len(climbs), sum(float(network.latency_s[link]) for link in first_links)


def _between_switches(network: Network, attached: NDArray[np.int32]) -> tuple[int, float]:
    """(links, latency) between the two switches with GPUs that are farthest apart."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    between = (network.source >= network.gpus) & (network.target >= network.gpus)
    between &= network.capacity_bytes_per_s > 0
    ends = (network.source[between], network.target[between])
    shape = (network.nodes, network.nodes)
    step = len(attached) // _SOME_SOURCES if len(attached) > _ALL_SOURCES else 1
    sources = attached[::step]

    def farthest(lengths: NDArray[np.float64], unweighted: bool) -> float:
        table = coo_array((lengths, ends), shape=shape).tocsr()
        return float(dijkstra(table, indices=sources, unweighted=unweighted)[:, attached].max())

    hops = farthest(np.ones(len(ends[0])), True)
    # Links without latency are links all the same: a zero would not be stored.
    return int(hops), farthest(network.latency_s[between] + 1e-15, False)
