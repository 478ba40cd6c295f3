"""A network as compact arrays of directed links between typed nodes, and what may be changed or asked about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hardware.topology.clos import Clos

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]
NODE_KINDS = ("gpu", "scale_up_switch", "pci", "cpu", "nic", "leaf", "spine", "core", "switch")


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Directed links `source[i]` -> `target[i]`; nodes 0..gpus-1 are the GPUs (the endpoints of all traffic).

    `link_class` indexes `classes`, the kinds of link by which utilisation is reported. `pool` numbers the groups of
    links over which ideal spraying spreads a flow evenly (equal ends seen from the flow). `layout` is the regular
    wiring, where there is one: it makes routing a formula; without it routes are searched for.
    """

    name: str
    gpus: int
    node_kind: NDArray[np.int8]
    source: Ints
    target: Ints
    capacity_bytes_per_s: Floats
    latency_s: Floats
    link_class: NDArray[np.int8]
    classes: tuple[str, ...]
    pool: Ints
    layout: Clos | None = None
    node_names: tuple[str, ...] | None = None

    @property
    def links(self) -> int:
        return len(self.source)

    @property
    def nodes(self) -> int:
        return len(self.node_kind)

    @property
    def switches(self) -> int:
        """Switches of the scale-out network: what is neither a GPU nor inside a server or scale-up domain."""
        return int(np.count_nonzero(self.node_kind >= NODE_KINDS.index("leaf")))

    def pool_capacity(self) -> Floats:
        """Capacity of each pool: the sum over its links, so that a failed cable takes only its share."""
        return np.bincount(self.pool, self.capacity_bytes_per_s).astype(float)

    def class_of(self, name: str) -> NDArray[np.int64]:
        """Indices of all links of a class. ValueError lists the classes there are."""
        if name not in self.classes:
            raise ValueError(f"{self.name}: link class {name!r} is none of {', '.join(self.classes)}")
        return np.flatnonzero(self.link_class == self.classes.index(name))


def degrade(network: Network, links: NDArray[np.int64], fraction: float) -> Network:
    """The network with the given links at `fraction` of their capacity (0: failed). ValueError outside [0, 1]."""
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"{network.name}: a degraded link keeps a fraction of its capacity in 0..1, not {fraction}")
    links = np.asarray(links)
    if links.size and (links.min() < 0 or links.max() >= network.links):
        raise ValueError(f"{network.name}: has links 0..{network.links - 1}, not {links.min()}..{links.max()}")
    capacity = network.capacity_bytes_per_s.copy()
    capacity[links] *= fraction
    return replace(network, capacity_bytes_per_s=capacity)


def fail_switch(network: Network, node: int) -> Network:
    """The network with every link of one switch down."""
    return degrade(network, np.flatnonzero((network.source == node) | (network.target == node)), 0.0)


def check(network: Network) -> None:
    """ValueError for what no traffic could be carried on: zero capacity, loops, GPUs out of reach of the others."""
    bad = np.flatnonzero(~(network.capacity_bytes_per_s > 0))
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"{network.name}: link {i} ({node_name(network, network.source[i])} -> "
            f"{node_name(network, network.target[i])}) has capacity {network.capacity_bytes_per_s[i]:g}; "
            f"it must be above zero ({len(bad)} such links)"
        )
    loops = np.flatnonzero(network.source == network.target)
    if len(loops):
        raise ValueError(f"{network.name}: {node_name(network, network.source[loops[0]])} is joined to itself")
    parts = _islands(network)
    if parts.max(initial=0):
        stray = int(np.flatnonzero(parts)[0])
        raise ValueError(
            f"{network.name}: is not connected: {node_name(network, stray)} cannot reach {node_name(network, 0)} "
            f"({parts.max() + 1} separate parts hold GPUs)"
        )


def _islands(network: Network) -> NDArray[np.int64]:
    """Part of each GPU, the part of GPU 0 being 0."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    up = network.capacity_bytes_per_s > 0
    table = coo_array((np.ones(int(up.sum()), np.int8), (network.source[up], network.target[up])),
                      shape=(network.nodes, network.nodes))  # fmt: skip
    labels = connected_components(table, directed=True, connection="strong")[1][: network.gpus]
    order = {int(label): i for i, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([order[int(label)] for label in labels.tolist()])


def node_name(network: Network, node: int) -> str:
    if network.node_names is not None:
        return network.node_names[int(node)]
    return f"{NODE_KINDS[network.node_kind[int(node)]]} {int(node)}"


def to_graph(network: Network) -> Any:
    """The same as a networkx MultiDiGraph: nodes with `kind`, links with capacity_bytes_per_s, latency_s and class."""
    import networkx as nx

    graph = nx.MultiDiGraph(name=network.name)
    for node, kind in enumerate(network.node_kind.tolist()):
        graph.add_node(node, kind=NODE_KINDS[kind], name=node_name(network, node))
    columns = (network.source, network.target, network.capacity_bytes_per_s, network.latency_s, network.link_class)
    for source, target, capacity, latency, kind in zip(*(column.tolist() for column in columns), strict=True):
        graph.add_edge(
            source, target, capacity_bytes_per_s=capacity, latency_s=latency, link_class=network.classes[kind]
        )
    return graph
