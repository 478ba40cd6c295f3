"""Topologies: exact counts, wiring against networkx, bisection, files of other tools, refusals by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from hardware import catalogue
from hardware.problems import InputError
from hardware.specs import Cluster, Fabric, SwitchTier
from hardware.topology import build_network
from hardware.topology.clos import plan_clos, switch_counts
from hardware.topology.custom import read_network
from hardware.topology.direct import torus_shape
from hardware.topology.nccl_xml import read_nccl_topology
from hardware.topology.network import check, degrade, fail_switch, to_graph
from hardware.topology.slurm import expand_hostlist, read_slurm_topology
from hardware.topology.summary import summarise_cluster, summarise_network
from hardware.topology.topo_matrix import parse_topo_matrix, read_topo_matrix


def cluster(gpus: int, node: str, fabric: str, **changes: object) -> Cluster:
    return replace(catalogue.cluster(gpus, node, fabric), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fabric", "node", "endpoints", "switches"),
    [
        # arXiv 2505.09343 Table 3: multi-plane two-tier, three-tier and dragonfly of radix 64.
        ("deepseek-8plane", "hgx-h800", 16384, 768),
        ("clos-400g-3tier", "hgx-h100", 65536, 5120),
        ("dragonfly-400g", "hgx-h100", 261632, 16352),
        # Radix 144 in two tiers joins 144 x 72 NICs by 144 leaves and 72 spines.
        ("xdr-rail-2tier", "hgx-b300", 10368, 216),
    ],
)
def test_published_switch_counts(fabric: str, node: str, endpoints: int, switches: int) -> None:
    network = build_network(cluster(endpoints, node, fabric))
    assert (network.gpus, network.switches) == (endpoints, switches)


def test_meta_fabric_has_eight_pods_of_192_racks_and_a_seventh_of_the_bandwidth_above() -> None:
    whole = cluster(24576, "hgx-h100-roce", "meta-24k-roce")
    layout = plan_clos(whole)
    assert (layout.pods, layout.leaves_per_pod, layout.segment_gpus) == (8, 192, 16)
    assert layout.pods * layout.leaves_per_pod * layout.segment_gpus == 24576
    summary = summarise_cluster(whole)
    assert summary.bisection_fraction == pytest.approx(1 / 7)


KINDS = [
    ("hgx-h100", "ndr-rail-2tier", 512),
    ("hgx-h100", "ndr-rail-3tier", 2304),
    ("hgx-h800", "deepseek-8plane", 768),
    ("hgx-h100-roce", "meta-24k-roce", 512),
    ("hgx-h100", "clos-400g-3tier-4to1", 2304),
    ("hgx-h100", "dragonfly-400g", 1024),
    ("hgx-h100", "torus-3d", 512),
    ("mi300x-platform", "clos-400g-2tier", 64),
    ("dgx-v100", "edr-2tier", 64),
    ("gb200-nvl72", "nvl72-400g-2tier", 288),
    ("hgx-b300", "azure-mrc", 512),
    ("hgx-h100", "single-switch", 64),
    ("hgx-h100", "none", 8),
    ("hgx-h100-roce", "alibaba-hpn7", 2048),
]


@pytest.mark.parametrize(("node", "fabric", "gpus"), KINDS)
def test_every_kind_is_connected_two_way_and_within_its_radix(node: str, fabric: str, gpus: int) -> None:
    whole = cluster(gpus, node, fabric)
    network = build_network(whole)
    check(network)
    forth = np.sort(network.source.astype(np.int64) * network.nodes + network.target)
    back = np.sort(network.target.astype(np.int64) * network.nodes + network.source)
    assert (forth == back).all()
    # A NIC that serves several GPUs has one port in common: ports are counted by what they carry.
    port = max((tier.port_bandwidth_bytes_per_s for tier in whole.fabric.tiers), default=1.0)
    ports = np.minimum(1.0, network.capacity_bytes_per_s / port)
    degree = np.bincount(network.source, ports, network.nodes)[network.gpus :]
    switch = network.node_kind[network.gpus :] >= 5
    if whole.fabric.tiers and whole.fabric.kind != "torus":
        assert degree[switch].max() <= max(tier.radix for tier in whole.fabric.tiers)
    out = network.source < network.gpus
    nic = np.array([name.startswith("nic") for name in network.classes])[network.link_class] & out
    per_gpu = np.bincount(network.source[nic], network.capacity_bytes_per_s[nic], network.gpus)
    if whole.fabric.tiers:
        assert per_gpu == pytest.approx(np.full(network.gpus, whole.node.nic.bandwidth_bytes_per_s))


@pytest.mark.parametrize("fabric", ["ndr-rail-3tier", "meta-24k-roce", "clos-400g-3tier-4to1"])
def test_oversubscription_holds_at_every_switch(fabric: str) -> None:
    node = "hgx-h100-roce" if fabric.startswith("meta") else "hgx-h100"
    whole = cluster(6144, node, fabric)
    network, tiers = build_network(whole), whole.fabric.tiers
    for kind, up, down, tier in ((5, "leaf_up", "nic_in", tiers[0]), (6, "spine_up", "leaf_down", tiers[1])):
        into = network.class_of(down)
        below = np.bincount(network.source[into], network.capacity_bytes_per_s[into], network.nodes)
        out = network.class_of(up)
        above = np.bincount(network.source[out], network.capacity_bytes_per_s[out], network.nodes)
        full = (network.node_kind == kind) & (below >= below[network.node_kind == kind].max())
        assert below[full] / above[full] == pytest.approx(np.full(full.sum(), tier.oversubscription))


def test_bisection_equals_the_smallest_cut() -> None:
    """The formula for folded Clos against max-flow of networkx between the halves."""
    whole = cluster(512, "hgx-h100", "clos-400g-2tier")
    network = build_network(whole)
    graph = nx.DiGraph()
    for a, b, c in zip(
        network.source.tolist(), network.target.tolist(), network.capacity_bytes_per_s.tolist(), strict=True
    ):
        graph.add_edge(a, b, capacity=graph.get_edge_data(a, b, {"capacity": 0})["capacity"] + c / 1e9)
    for gpu in range(512):
        graph.add_edge(*(("from", gpu) if gpu < 256 else (gpu, "to")), capacity=1e6)
    assert summarise_cluster(whole).bisection_bytes_per_s == pytest.approx(
        nx.maximum_flow_value(graph, "from", "to") * 1e9
    )


def test_torus_bisection_and_diameter_are_the_textbook_ones() -> None:
    """8 x 8 x 8 servers: two cuts of 64 links each; 4 + 4 + 4 hops and two NIC links."""
    summary = summarise_cluster(cluster(4096, "hgx-h100", "torus-3d"))
    assert summary.bisection_bytes_per_s == pytest.approx(128 * 50e9, rel=1e-3)
    assert summary.diameter_hops == 14
    assert torus_shape(512, 3) == (8, 8, 8)
    assert torus_shape(48, 2) == (8, 6)
    with pytest.raises(ValueError, match="7 servers fill no 2-dimensional torus"):
        torus_shape(7, 2)


def test_dragonfly_reaches_any_switch_in_three_hops_and_plus_has_spines() -> None:
    """Radix 8: 2 endpoints, 3 neighbours, 3 global cables; 4 switches make a group, 13 groups have one cable each."""
    sizes = (("switch", 2), ("group", 8), ("global", 104))
    small = tuple(SwitchTier(name, 8, 50e9, 1.0, 5e-7, reach) for name, reach in sizes)
    whole = cluster(104, "hgx-h100", "dragonfly-400g")
    balanced = replace(whole, fabric=replace(whole.fabric, tiers=small))
    network = build_network(balanced)
    assert len(network.class_of("global")) == 13 * 12
    assert summarise_network(network).diameter_hops == 5
    with pytest.raises(ValueError, match="14 groups need 13 per group"):
        build_network(replace(balanced, gpus=112))
    whole = cluster(2048, "hgx-h100", "dragonfly-400g")
    tiers = (
        SwitchTier("leaf", 64, 50e9, 1.0, 5e-7, 32),
        SwitchTier("spine", 64, 50e9, 1.0, 5e-7, 512),
        SwitchTier("global", 64, 50e9, 1.0, 1e-6, 8192),
    )
    plus = build_network(replace(whole, fabric=replace(whole.fabric, tiers=tiers)))
    check(plus)
    assert summarise_network(plus).switches_by_tier == {"leaf": 64, "spine": 128}


def test_summary_of_the_published_multi_plane_network() -> None:
    """arXiv 2505.09343: 16,384 endpoints at 4,390 USD, 72 million in all."""
    summary = summarise_cluster(cluster(16384, "hgx-h800", "deepseek-8plane"))
    assert summary.cost_usd == pytest.approx(72e6, rel=0.01)
    assert summary.switches_by_tier == {"leaf": 512, "spine": 256}
    assert (summary.diameter_hops, summary.bisection_fraction) == (4, 1.0)
    assert {c.name: c.links for c in summary.link_classes}["leaf_up"] == 512 * 32
    assert json.dumps(summary.to_dict())


@pytest.mark.parametrize(
    ("tiers", "gpus", "message"),
    [
        (
            (SwitchTier("leaf", 64, 50e9, 1.0, 0.0, 512), SwitchTier("spine", 64, 50e9, 1.0, 0.0, 4096)),
            4096,
            "leaf of radix 64 has no 64 ports",
        ),
        (
            (SwitchTier("leaf", 64, 50e9, 1.0, 0.0, 256), SwitchTier("spine", 32, 50e9, 1.0, 0.0, 4096)),
            4096,
            "spine of radix 32 cannot join 128 leaves",
        ),
        ((SwitchTier("leaf", 64, 50e9, 1.0, 0.0, 256),), 4096, "leaf joins 256 GPUs, 4096 are wanted"),
        ((), 4096, "has no switches, yet 4096 GPUs"),
    ],
)
def test_more_ranks_than_the_switches_can_join_is_refused(tiers: tuple, gpus: int, message: str) -> None:
    base = cluster(8, "hgx-h100", "none")
    fabric = Fabric("small", "rail_optimized", tiers, True, 1, True, False)
    with pytest.raises(ValueError, match=message):
        build_network(replace(base, gpus=gpus, fabric=fabric))


def test_failed_and_degraded_links() -> None:
    network = build_network(cluster(512, "hgx-h100", "ndr-rail-2tier"))
    up = network.class_of("leaf_up")
    half = degrade(network, up[:3], 0.5)
    assert half.capacity_bytes_per_s[up[:4]].tolist() == [25e9, 25e9, 25e9, 50e9]
    assert half.pool_capacity()[half.pool[up[0]]] == pytest.approx(network.pool_capacity()[network.pool[up[0]]] - 75e9)
    spine = int(network.target[up[0]])
    gone = fail_switch(network, spine)
    assert (gone.capacity_bytes_per_s == 0).sum() == 2 * np.count_nonzero(network.source == spine)
    with pytest.raises(ValueError, match="must be above zero"):
        check(gone)
    with pytest.raises(ValueError, match=r"fraction of its capacity in 0\.\.1"):
        degrade(network, up, 1.5)


def test_graph_carries_what_the_arrays_say() -> None:
    network = build_network(cluster(64, "hgx-h100", "clos-400g-2tier"))
    graph = to_graph(network)
    assert graph.number_of_nodes() == network.nodes
    assert graph.number_of_edges() == network.links
    assert graph.nodes[0]["kind"] == "gpu"
    assert sum(d["capacity_bytes_per_s"] for *_, d in graph.edges(data=True)) == pytest.approx(
        network.capacity_bytes_per_s.sum()
    )
    assert switch_counts(plan_clos(cluster(64, "hgx-h100", "clos-400g-2tier"))) == {"leaf": 2, "spine": 1}


# --- files ---------------------------------------------------------------------------------------------------------

SMALL = {
    "nodes": [{"id": "a", "kind": "gpu"}, {"id": "b", "kind": "gpu"}, {"id": "s", "kind": "switch"}],
    "links": [
        {"source": "a", "target": "s", "bandwidth": "400 Gb/s", "latency": "1 us"},
        {"source": "s", "target": "b", "bandwidth": 25e9},
    ],
}


def test_custom_network_from_json_and_graphml(tmp_path: Path) -> None:
    file = tmp_path / "pair.json"
    file.write_text(json.dumps(SMALL))
    network = read_network(file)
    assert (network.gpus, network.links, network.node_names) == (2, 4, ("a", "b", "s"))
    assert sorted(network.capacity_bytes_per_s.tolist()) == [25e9, 25e9, 50e9, 50e9]
    graph = nx.Graph()
    for node in SMALL["nodes"]:
        graph.add_node(node["id"], kind=node["kind"])
    for link in SMALL["links"]:
        graph.add_edge(link["source"], link["target"], bandwidth=str(link["bandwidth"]))
    nx.write_graphml(graph, tmp_path / "pair.graphml")
    same = read_network(tmp_path / "pair.graphml")
    assert sorted(same.capacity_bytes_per_s.tolist()) == sorted(network.capacity_bytes_per_s.tolist())
    assert summarise_network(network).bisection_bytes_per_s == pytest.approx(25e9, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"links": SMALL["links"][:1]}, "not connected: b cannot reach a"),
        ({"links": [{**SMALL["links"][0], "bandwidth": 0}, SMALL["links"][1]]}, "links.0.bandwidth: is zero"),
        ({"links": [{**SMALL["links"][0], "bandwidth": "fast"}]}, "links.0.bandwidth: 'fast'"),
        ({"links": [{**SMALL["links"][0], "target": "z"}]}, "links.0.target: 'z' is not among the nodes"),
        ({"links": [{**SMALL["links"][0], "colour": 1}]}, "links.0.colour: 'colour' is not known"),
        ({"nodes": [*SMALL["nodes"], SMALL["nodes"][0]]}, "nodes.3: node 'a' is listed twice"),
        ({"nodes": [{"id": "a", "kind": "toaster"}]}, "nodes.0.kind: 'toaster' is not known"),
        ({"nodes": [SMALL["nodes"][2]], "links": []}, "has no node of kind gpu"),
        ({"wires": []}, "wires: 'wires' is not known"),
    ],
)
def test_broken_networks_are_refused_by_name(tmp_path: Path, change: dict, message: str) -> None:
    file = tmp_path / "broken.json"
    file.write_text(json.dumps(SMALL | change))
    with pytest.raises(InputError) as refusal:
        read_network(file)
    assert message in str(refusal.value)


def test_graphml_with_entities_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.graphml"
    file.write_text('<!DOCTYPE x [<!ENTITY a "aaaa">]><graphml>&a;</graphml>')
    with pytest.raises(InputError, match="declares a document type"):
        read_network(file)


NCCL = """<system version="1"><cpu numaid="0" arch="x86_64" vendor="GenuineIntel">
<pci busid="0000:10:00.0" class="0x060400" link_speed="32.0 GT/s PCIe" link_width="16">
<pci busid="0000:11:00.0" class="0x030200" link_speed="32.0 GT/s PCIe" link_width="16">
<gpu dev="0" sm="90" rank="0" gdr="1">
<nvlink target="0000:aa:00.0" count="18" tclass="0x068000"/></gpu></pci>
<pci busid="0000:12:00.0" class="0x020700" link_speed="32.0 GT/s PCIe" link_width="16">
<nic><net name="mlx5_0" dev="0" speed="400000" port="1" latency="0.000000"/></nic></pci></pci></cpu>
<cpu numaid="1" arch="x86_64" vendor="GenuineIntel">
<pci busid="0000:21:00.0" class="0x030200" link_speed="16.0 GT/s PCIe" link_width="16">
<gpu dev="1" sm="90" rank="1" gdr="1">
<nvlink target="0000:aa:00.0" count="18" tclass="0x068000"/></gpu></pci></cpu></system>"""


def test_nccl_topology_xml(tmp_path: Path) -> None:
    file = tmp_path / "topo.xml"
    file.write_text(NCCL)
    network = read_nccl_topology(file)
    assert network.gpus == 2
    names = {name: i for i, name in enumerate(network.node_names or ())}
    capacity = {
        (int(a), int(b)): float(c)
        for a, b, c in zip(network.source, network.target, network.capacity_bytes_per_s, strict=True)
    }
    assert capacity[names["0000:11:00.0"], names["nvswitch"]] == 18 * 25e9
    assert capacity[names["0000:10:00.0"], names["0000:11:00.0"]] == pytest.approx(63e9, rel=1e-3)
    assert capacity[names["0000:12:00.0"], names["net mlx5_0"]] == 50e9
    file.write_text(NCCL.replace('link_speed="16.0 GT/s PCIe"', 'link_speed="warp"'))
    with pytest.raises(InputError, match=r"0000:21:00.0: link 'warp' x '16'"):
        read_nccl_topology(file)
    file.write_text("<graphs/>")
    with pytest.raises(InputError, match="starts with <graphs>"):
        read_nccl_topology(file)


MATRIX = """\t\x1b[4mGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV18\tNV18\tPIX\t0-55\t0\t\tN/A
GPU1\tNV18\t X \tNV18\tNODE\t0-55\t0\t\tN/A
GPU2\tNV18\tNV18\t X \tSYS\t56-111\t1\t\tN/A
NIC0\tPIX\tNODE\tSYS\t X \t\t\t

Legend:
  NIC0: mlx5_0
"""


def test_nvidia_smi_topo_matrix(tmp_path: Path) -> None:
    pairs = parse_topo_matrix(MATRIX)
    assert (pairs["GPU0", "GPU2"], pairs["NIC0", "GPU1"]) == ("NV18", "NODE")
    file = tmp_path / "topo.txt"
    file.write_text(MATRIX)
    network = read_topo_matrix(file)
    assert network.gpus == 3
    assert np.count_nonzero(network.capacity_bytes_per_s == 450e9) == 6, (
        "one port of 18 links per GPU, into the switches"
    )
    file.write_text(MATRIX.replace("NV18\tNV18\tPIX", "NV12\tNV18\tPIX").replace("GPU1\tNV18", "GPU1\tNV12"))
    direct = read_topo_matrix(file)
    assert np.count_nonzero(direct.capacity_bytes_per_s == 300e9) == 2
    with pytest.raises(ValueError, match="no header line"):
        parse_topo_matrix("nothing here")
    with pytest.raises(ValueError, match="GPU0 to GPU1 is 'QQ'"):
        parse_topo_matrix(MATRIX.replace("NV18", "QQ"))


def test_host_lists() -> None:
    assert expand_hostlist("tux[0-2,7],login") == ["tux0", "tux1", "tux2", "tux7", "login"]
    assert expand_hostlist("r[1-2]n[08-10]") == ["r1n08", "r1n09", "r1n10", "r2n08", "r2n09", "r2n10"]
    for broken in ("tux[0-", "tux[5-2]", "tux[a-b]", ""):
        with pytest.raises(ValueError, match="host list"):
            expand_hostlist(broken)


CONF = """# two leaves
SwitchName=s0 Nodes=tux[0-3]
SwitchName=s1 Nodes=tux[4-7]
SwitchName=top Switches=s[0-1]
"""
YAML = """
- topology: main
  cluster_default: true
  tree:
    switches:
      - {switch: top, children: "s[0-1]"}
      - {switch: s0, nodes: "tux[0-3]"}
      - {switch: s1, nodes: "tux[4-7]"}
"""


@pytest.mark.parametrize(("name", "text"), [("topology.conf", CONF), ("topology.yaml", YAML)])
def test_slurm_topologies(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    network = read_slurm_topology(file, 8, 50e9, 450e9, oversubscription=2.0)
    assert network.gpus == 64
    summary = summarise_network(network)
    assert summary.switches_by_tier == {"leaf": 2, "spine": 1}
    assert summary.bisection_fraction == pytest.approx(0.5, rel=1e-3)


def test_slurm_blocks_meet_above(tmp_path: Path) -> None:
    file = tmp_path / "topology.conf"
    file.write_text("BlockName=b1 Nodes=n[0-17]\nBlockName=b2 Nodes=n[18-35]\nBlockSizes=18\n")
    assert read_slurm_topology(file, 4, 50e9, 900e9).gpus == 144


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CONF + "SwitchName=s2 Nodes=tux[0-1]\nSwitchName=x Switches=s2,top", "puts a host below two switches"),
        (CONF.replace("s[0-1]", "s[0-2]"), r"switches \['s2'\] are not defined"),
        (CONF.replace("SwitchName=top Switches=s[0-1]", ""), "has 2 top switches"),
        (CONF + "SwitchName=s0 Nodes=b", "line 5: s0 is defined twice"),
        ("Nodes=a", "SwitchName= or BlockName= is wanted"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a", "names no hosts"),
    ],
)
def test_broken_slurm_topologies_are_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "topology.conf"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_slurm_topology(file, 8, 50e9, 450e9)


@pytest.mark.parametrize("name", catalogue.names("fabrics"))
def test_every_switched_fabric_has_cost_and_power_with_their_source(name: str) -> None:
    """Whatever the catalogue offers for some server; what is not stated is assumed and says so."""
    fabric = catalogue.fabric(name)
    nodes = [catalogue.node(each) for each in catalogue.names("nodes")]
    for node in nodes if fabric.tiers else ():
        try:
            summary = summarise_cluster(catalogue.cluster(node.scale_up.domain_gpus * 2, node, name))
        except (InputError, ValueError):
            continue
        assert summary.cost_usd is not None
        assert summary.power_w is not None
        assert min(summary.cost_usd, summary.power_w) > 0
        stated = fabric.cost_usd_per_endpoint is not None
        assert summary.cost_source.startswith("assumed") != stated
        assert summary.power_source.startswith(("assumed", "derived"))


def test_the_assumed_price_of_a_port_gives_the_published_fabrics() -> None:
    """arXiv 2505.09343, Table 3: 16,384 endpoints of two tiers cost 72 million USD, 65,536 of three tiers 491."""
    node = catalogue.node("hgx-h100")
    for name, gpus, published in (("ndr-rail-2tier", 2048, 72e6 / 8), ("clos-400g-3tier", 65536, 491e6)):
        summary = summarise_cluster(catalogue.cluster(gpus, node, name))
        assert summary.cost_source.startswith("assumed")
        assert summary.cost_usd == pytest.approx(published, rel=0.03)


def test_counted_ports_draw_what_is_stated_per_endpoint() -> None:
    """78 W per endpoint of two tiers (3 ports, 4 optical ends), 124 W of three (5 and 6)."""
    node = catalogue.node("hgx-h100")
    for name, gpus in (("ndr-rail-2tier", 2048), ("ndr-rail-3tier", 10240)):
        cluster = catalogue.cluster(gpus, node, name)
        unstated = replace(cluster, fabric=replace(cluster.fabric, power_w_per_endpoint=0.0))
        assert summarise_cluster(unstated).power_w == pytest.approx(summarise_cluster(cluster).power_w, rel=0.01)


@pytest.mark.parametrize("name", catalogue.names("nodes"))
def test_the_usual_fabric_of_every_node_can_be_wired(name: str) -> None:
    """Nodes whose NICs are shared, or fit no catalogue switch, ask for a fabric by name."""
    node = catalogue.node(name)
    for domains in (1, 2, 14):
        gpus = domains * node.scale_up.domain_gpus
        if domains > 1 and name in ("aws-p4de", "dgx-a100-80-omnipath", "dgx-v100", "gcp-a3-high"):
            with pytest.raises(InputError, match="reaches"):
                catalogue.usual_fabric(node, gpus)
            continue
        fabric = catalogue.usual_fabric(node, gpus)
        assert summarise_cluster(catalogue.cluster(gpus, node, fabric.name)).gpus == gpus
