"""Routes: walks from end to end, seeded hashing, spraying, rails and PXN, failures, diversity against networkx."""

from __future__ import annotations

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest

from hardware import catalogue
from hardware.flows import max_min_rates
from hardware.routing import Routes, path_diversity, route
from hardware.topology import Network, build_network
from hardware.topology.network import degrade, fail_switch

CLUSTERS = [
    ("hgx-h100", "ndr-rail-2tier", 512),
    ("hgx-h100", "ndr-rail-3tier", 2304),
    ("hgx-h800", "deepseek-8plane", 768),
    ("hgx-h100-roce", "meta-24k-roce", 6144),
    ("hgx-h100", "dragonfly-400g", 1024),
    ("hgx-h100", "torus-3d", 512),
    ("mi300x-platform", "clos-400g-2tier", 64),
    ("gb200-nvl72", "nvl72-400g-2tier", 288),
    ("hgx-b300", "azure-mrc", 512),
    ("hgx-h100", "none", 8),
    ("dgx-v100", "edr-2tier", 64),
]


def network(node: str, fabric: str, gpus: int) -> Network:
    return build_network(catalogue.cluster(gpus, node, fabric))


def pairs(gpus: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.random.default_rng(seed).integers(0, gpus, (2, count))
    return source, target


def walks(net: Network, routes: Routes, source: np.ndarray, target: np.ndarray) -> None:
    """Every path is a chain of links from its source to its target."""
    at = source[routes.owner].copy()
    for row in routes.paths:
        on = row != net.links
        assert (net.source[row[on]] == at[on]).all()
        at[on] = net.target[row[on]]
    assert (at == target[routes.owner]).all()


@pytest.mark.parametrize(("node", "fabric", "gpus"), CLUSTERS)
def test_every_route_leads_from_its_source_to_its_target(node: str, fabric: str, gpus: int) -> None:
    net = network(node, fabric, gpus)
    source, target = pairs(gpus, 300)
    routes = route(net, source, target, seed=3)
    walks(net, routes, source, target)
    spread = route(net, source, target, "adaptive")
    assert (np.bincount(spread.owner, spread.share) == pytest.approx(np.ones(300))) is True
    assert routes.latency_s[source != target].min() > 0
    if net.layout and not net.layout.tied:
        walks(net, route(net, source, target, pxn=False), source, target)


def test_hashing_is_seeded() -> None:
    net = network("hgx-h100", "ndr-rail-3tier", 2304)
    source, target = pairs(2304, 500)
    first, again, other = (route(net, source, target, seed=s).paths for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    ports = route(net, np.full(64, 0), np.full(64, 2303), entropy=np.arange(64)).paths
    assert len(np.unique(ports, axis=1).T) > 32, "flows of one pair with different ports take different paths"


def test_collisions_are_real_and_spraying_has_none() -> None:
    """A permutation on a non-blocking fat tree: spraying reaches the NIC's rate, hashing what balls in bins leave."""
    net = network("hgx-h100", "clos-400g-2tier", 1024)
    source = np.arange(1024)
    target = (source + 512) % 1024
    hashed = route(net, source, target)
    rates = max_min_rates(hashed.paths, hashed.capacity)
    load = np.bincount(hashed.paths.ravel(), minlength=net.links + 1)[net.class_of("leaf_up")]
    assert load.max() >= 3
    assert rates.min() <= 50e9 / 3
    sprayed = route(net, source, target, "adaptive")
    assert max_min_rates(sprayed.paths, sprayed.capacity) == pytest.approx(np.full(1024, 50e9))
    # Expected share of idle uplinks is 1/e when as many flows as links are thrown at random.
    assert (load == 0).mean() == pytest.approx(np.exp(-1), abs=0.04)


def test_pxn_keeps_to_the_rail() -> None:
    net = network("hgx-h100", "ndr-rail-2tier", 512)
    source, target = np.array([0]), np.array([8 * 5 + 3])
    along = route(net, source, target).paths[:, 0]
    classes = [net.classes[net.link_class[link]] for link in along if link < net.links]
    assert classes == ["scale_up_out", "scale_up_in", "nic_out", "nic_in"], "one leaf only, after a hop to GPU 3"
    across = route(net, source, target, pxn=False).paths[:, 0]
    assert [net.classes[net.link_class[link]] for link in across if link < net.links] == [
        "nic_out",
        "leaf_up",
        "leaf_down",
        "nic_in",
    ]
    tied = network("hgx-h800", "deepseek-8plane", 768)
    with pytest.raises(ValueError, match="rails that no switch joins"):
        route(tied, source, target, pxn=False)


def test_failed_cables_are_avoided() -> None:
    net = network("hgx-h100", "clos-400g-2tier", 512)
    source = np.arange(256)
    target = source + 256
    broken = fail_switch(net, int(net.target[net.class_of("leaf_up")[0]]))
    routes = route(broken, source, target)
    walks(net, routes, source, target)
    assert (np.append(broken.capacity_bytes_per_s, 1.0)[routes.paths] > 0).all()
    sprayed = route(broken, source, target, "adaptive")
    lost = len(net.class_of("leaf_up")) - np.count_nonzero(broken.capacity_bytes_per_s[net.class_of("leaf_up")])
    kept = 1 - lost / len(net.class_of("leaf_up"))
    assert max_min_rates(sprayed.paths, sprayed.capacity) == pytest.approx(np.full(256, 50e9 * kept))
    dead = degrade(net, net.class_of("leaf_up"), 0.0)
    for policy, message in (("ecmp", "no path from GPU 0 to GPU 256"), ("adaptive", "256 flows have no path left")):
        with pytest.raises(ValueError, match=message):
            route(dead, source, target, policy)


@pytest.mark.parametrize(("node", "fabric", "gpus"), [c for c in CLUSTERS if c[1] not in ("torus-3d", "none")])
def test_path_diversity_equals_enumeration(node: str, fabric: str, gpus: int) -> None:
    net = network(node, fabric, gpus)
    graph = nx.DiGraph()
    parallel: dict[tuple[int, int], int] = {}
    inside = net.class_of("scale_up_out") if "scale_up_out" in net.classes else np.array([], int)
    keep = np.ones(net.links, bool)
    keep[inside] = False
    for a, b in zip(net.source[keep].tolist(), net.target[keep].tolist(), strict=True):
        parallel[a, b] = parallel.get((a, b), 0) + 1
    graph.add_edges_from(parallel)
    domain = catalogue.node(node).scale_up.domain_gpus
    for target in (domain, domain * 2 + 1, gpus - 1):
        if target // domain == 0 or target >= gpus:
            continue
        # GPUs other than the two ends do not forward.
        view = graph.subgraph([n for n in graph if n >= net.gpus or n in (0, target)])
        if not nx.has_path(view, 0, target):
            assert path_diversity(net, np.array([0]), np.array([target])).tolist() == [0]
            continue
        count = sum(
            np.prod([parallel[hop] for hop in nx.utils.pairwise(path)])
            for path in nx.all_shortest_paths(view, 0, target)
        )
        assert path_diversity(net, np.array([0]), np.array([target])).tolist() == [count]


def test_search_and_formula_give_equal_lengths() -> None:
    """The same Clos without its layout is routed by search: same latencies, same rates when sprayed pairwise."""
    net = network("hgx-h100", "clos-400g-3tier", 2304)
    source, target = pairs(2304, 200)
    apart = source // 8 != target // 8
    source, target = source[apart], target[apart]
    searched = route(replace(net, layout=None), source, target)
    walks(net, searched, source, target)
    assert searched.latency_s == pytest.approx(route(net, source, target).latency_s)


def test_broken_input_is_refused() -> None:
    net = network("hgx-h100", "ndr-rail-2tier", 512)
    with pytest.raises(ValueError, match=r"has GPUs 0\.\.511"):
        route(net, np.array([0]), np.array([512]))
    with pytest.raises(ValueError, match="choose one of ecmp, adaptive"):
        route(net, np.array([0]), np.array([1]), "teleport")
    cut = replace(degrade(net, net.class_of("nic_in"), 0.0), layout=None)
    with pytest.raises(ValueError, match="no path from gpu 0 to gpu 8"):
        route(cut, np.array([0]), np.array([8]))
