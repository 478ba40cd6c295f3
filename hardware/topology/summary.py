"""What a network amounts to: switches and links by tier, bisection, diameter, cost and power."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardware.specs import Cluster, Fabric
from hardware.topology.build import build_network
from hardware.topology.clos import switch_counts
from hardware.topology.network import NODE_KINDS, Network, degrade

# Above so many switches with GPUs the diameter is sought from evenly spaced ones only.
_ALL_SOURCES = 1024
_SOME_SOURCES = 128
# Above so many links the bisection is the cut between the halves as they lie, not the smallest there could be.
_CUT_LINKS = 200_000
# A switch port of 400 Gb/s with its share of cables and optics: 491 million USD over 5,120 switches of 64 ports
# (three-tier fat tree; arXiv 2505.09343, Table 3, read second-hand; its 768-switch fabric of 72 million: 1,465).
_PORT_USD = 491e6 / (5120 * 64)
_PORT_W = 940 / 64  # a switch of 64 such ports draws 940 W, from memory
_OPTICAL_END_W = 17 / 2  # half of NVIDIA MMS4X00-NS, 2 x 400 Gb/s (data sheet)
_PORT_BYTES_PER_S = 50e9
ASSUMED_COST = "assumed: 1,498 USD per switch port of 400 Gb/s, as arXiv 2505.09343 has it, by bandwidth"
ASSUMED_POWER = "assumed: 14.7 W per switch port and 8.5 W per optical end of 400 Gb/s, by bandwidth"


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
class Bill:
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


def bill(network: Network, fabric: Fabric, gpus: int) -> Bill:
    """Per endpoint as the fabric states it, else by its ports; nothing where there are no switches."""
    ports, ends = _ports(network)
    if not ports:
        return Bill()
    cost, power = fabric.cost_usd_per_endpoint, fabric.power_w_per_endpoint
    said = [fabric.sources.get(key, "the fabric's entry") for key in ("cost_per_endpoint", "power_per_endpoint")]
    return Bill(
        ports * _PORT_USD if cost is None else cost * gpus,
        power * gpus if power else ports * _PORT_W + ends * _OPTICAL_END_W,
        ASSUMED_COST if cost is None else said[0],
        said[1] if power else ASSUMED_POWER,
    )


def _ports(network: Network) -> tuple[float, float]:
    """(switch ports, optical ends) in units of 400 Gb/s: a cable to a GPU takes one port, one between switches two."""
    leaf = NODE_KINDS.index("leaf")
    at_switch = [network.node_kind[end] >= leaf for end in (network.source, network.target)]
    # Every cable is two directed links.
    width = network.capacity_bytes_per_s / _PORT_BYTES_PER_S / 2
    outside = at_switch[0] | at_switch[1]
    ports = float(width[at_switch[0]].sum() + width[at_switch[1]].sum())
    return ports, float(2 * width[outside].sum())


def summarise_network(network: Network, nodes: int = 0, costs: Bill = Bill()) -> NetworkSummary:
    """Any network summed up; `nodes` servers and its bill, where those are known."""
    classes = []
    for number, name in enumerate(network.classes):
        capacity = network.capacity_bytes_per_s[network.link_class == number]
        if len(capacity):
            classes.append(LinkClass(name, len(capacity), float(np.median(capacity)), float(capacity.sum())))
    tiers = switch_counts(network.layout) if network.layout else _counted(network)
    bisection, injected = _bisection(network)
    hops, latency_s = _diameter(network)
    return NetworkSummary(
        network.name, network.gpus, nodes, network.switches, tiers, tuple(classes), bisection,
        bisection / injected if injected else 0.0, hops, latency_s, costs.cost_usd, costs.power_w,
        costs.cost_source, costs.power_source,
    )  # fmt: skip


def _counted(network: Network) -> dict[str, int]:
    counts = np.bincount(network.node_kind, minlength=len(NODE_KINDS))
    first = NODE_KINDS.index("leaf")
    return {name: int(counts[i]) for i, name in enumerate(NODE_KINDS) if i >= first and counts[i]}


def _bisection(network: Network) -> tuple[float, float]:
    """(capacity between the first and the second half of the GPUs, what a half can inject), one way."""
    layout, total = network.layout, network.capacity_bytes_per_s
    if layout is not None:
        injected = total[network.class_of("nic_out")].sum() / 2
        if layout.tiers == 0:
            return _cut(network), _cut(network)
        above = [total[network.class_of(name)].sum() / 2 for name in ("leaf_up", "spine_up")[: layout.tiers - 1]]
        return float(min([injected, *above])), float(injected)
    if "nic" in network.classes:
        # What stays inside a domain does not load the network, even where the halves part one.
        inside = [network.class_of(name) for name in network.classes if name.startswith("scale_up")]
        network = degrade(network, np.concatenate([*inside, np.zeros(0, np.int64)]), 0.0)
    ends = network.class_of("nic") if "nic" in network.classes else np.flatnonzero(network.source < network.gpus)
    out = ends[network.source[ends] < network.gpus]
    return _cut(network), float(total[out].sum() / 2)


def _cut(network: Network) -> float:
    """Largest flow from the first half of the GPUs to the second (equals the smallest cut between them)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import maximum_flow

    half, nodes = network.gpus // 2, network.nodes
    if half == 0:
        return 0.0
    if network.links > _CUT_LINKS:
        # Each switch goes with the GPUs attached to it; one without any stays in the second half.
        low = np.arange(nodes) < half
        low[network.target[(network.source < half) & (network.target >= network.gpus)]] = True
        crosses = low[network.source] & ~low[network.target]
        return float(network.capacity_bytes_per_s[crosses].sum())
    unit = network.capacity_bytes_per_s.max() / 1e4
    whole = np.rint(network.capacity_bytes_per_s / unit).astype(np.int32)
    gpus = np.arange(network.gpus)
    ample = np.full(network.gpus, np.int32(2**30 // max(1, network.gpus)), np.int32)
    source = np.concatenate([network.source, np.full(half, nodes), gpus[half:]])
    target = np.concatenate([network.target, gpus[:half], np.full(network.gpus - half, nodes + 1)])
    table = coo_array((np.concatenate([whole, ample]), (source, target)), shape=(nodes + 2, nodes + 2)).tocsr()
    return float(maximum_flow(table.astype(np.int32), nodes, nodes + 1).flow_value * unit)


def _diameter(network: Network) -> tuple[int, float]:
    """(links, latency) between the GPUs farthest apart."""
    layout = network.layout
    if layout is not None:
        if layout.tiers == 0:
            return (1 if layout.mesh else 2), float(
                network.latency_s.sum() if network.links < 2 else 2 * network.latency_s[0]
            )
        names = ["nic_out", "leaf_up", "spine_up"][: layout.tiers]
        climbs = [name for name in names if len(network.class_of(name))]
        latency = sum(float(network.latency_s[network.class_of(name)[0]]) for name in [*climbs, "nic_in"])
        return 2 * len(climbs), latency
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import dijkstra

    first = network.gpus
    inner = (network.source >= first) & (network.target >= first) & (network.capacity_bytes_per_s > 0)
    ends = (network.source[inner], network.target[inner])
    attached = np.unique(
        network.target[(network.source < first) & (network.node_kind[network.target] >= NODE_KINDS.index("leaf"))]
    )
    if not len(attached):
        return 2, float(network.latency_s.max() * 2)
    sources = attached if len(attached) <= _ALL_SOURCES else attached[:: len(attached) // _SOME_SOURCES]
    shape = (network.nodes, network.nodes)
    hops = dijkstra(coo_array((np.ones(len(ends[0])), ends), shape=shape).tocsr(), indices=sources, unweighted=True)
    slowest = dijkstra(coo_array((network.latency_s[inner] + 1e-15, ends), shape=shape).tocsr(), indices=sources)
    into = float(network.latency_s[network.source < first].max())
    return int(hops[:, attached].max()) + 2, float(slowest[:, attached].max()) + 2 * into
