"""Files of other tools and of hands: links of every kind are read, what is not understood is named, nothing breaks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware import catalogue
from hardware.problems import InputError
from hardware.topology.custom import read_network
from hardware.topology.nccl_xml import read_nccl_topology
from hardware.topology.network import Network
from hardware.topology.slurm import read_slurm_topology
from hardware.topology.summary import summarise_network
from hardware.topology.topo_matrix import read_topo_matrix

TWO_GPUS = """<system version="2">
  <cpu numaid="0" arch="x86_64" vendor="AuthenticAMD">
    <pci busid="0000:05:00.0" class="0x038000" link_speed="32.0 GT/s PCIe" link_width="16">
      <gpu dev="0" sm="94" gcn="gfx942" rank="0"><xgmi target="0000:06:00.0" count="2" tclass="0x038000"/></gpu>
    </pci>
    <pci busid="0000:06:00.0" class="0x038000" link_speed="32.0 GT/s PCIe" link_width="16">
      <gpu dev="1" sm="94" gcn="gfx942" rank="1"><xgmi target="0000:05:00.0" count="1" tclass="0x038000"/></gpu>
      <nic><net name="mlx5_0" speed="400000" latency="1.5"/></nic>
    </pci>
  </cpu>
</system>"""
MATRIX = (
    "\tGPU0\tGPU1\tGPU2\tNIC0\tCPU Affinity\n"
    "GPU0\t X \tNV18\tNV18\tPIX\t0-55\nGPU1\tNV18\t X \tNV18\tNODE\t0-55\n"
    "GPU2\tNV18\tNV18\t X \tSYS\t56-111\nNIC0\tPIX\tNODE\tSYS\t X \n"
)
CONF = "SwitchName=s0 Nodes=tux[0-3]\nSwitchName=s1 Nodes=tux[4-7]\nSwitchName=top Switches=s[0-1]\n"
TREE = """- topology: main
  cluster_default: true
  tree:
    switches:
      - {switch: top, children: "s[0-1]"}
      - {switch: s0, nodes: "tux[0-3]"}
      - {switch: s1, nodes: "tux[4-7]"}
"""
BLOCKS = """topology: main
block:
  blocks:
    - {block: b0, nodes: "n[0-3]"}
    - {block: b1, nodes: "n[4-7]"}
"""
GRAPH = json.dumps(
    {
        "name": "pair",
        "nodes": [{"id": "g0", "kind": "gpu"}, {"id": "g1", "kind": "gpu"}, {"id": "s0", "kind": "leaf"}],
        "links": [
            {"source": "g0", "target": "s0", "bandwidth": "400 Gb/s", "latency": "1 us", "class": "nic"},
            {"source": "g1", "target": "s0", "bandwidth": 5e10, "directed": False},
        ],
    },
    indent=1,
)
GRAPHML = """<?xml version="1.0" encoding="utf-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="k" for="node" attr.name="kind" attr.type="string"/>
<key id="b" for="edge" attr.name="bandwidth" attr.type="string"/>
<graph edgedefault="undirected">
<node id="g0"><data key="k">gpu</data></node>
<node id="g1"><data key="k">gpu</data></node>
<node id="s0"><data key="k">leaf</data></node>
<edge source="g0" target="s0"><data key="b">400 Gb/s</data></edge>
<edge source="g1" target="s0"><data key="b">400 Gb/s</data></edge>
</graph></graphml>"""


def read_slurm(path: Path) -> Network:
    return read_slurm_topology(path, 2, 50e9, 450e9)


FILES: dict[str, tuple[str, Callable[[Path], Network]]] = {
    "topology.xml": (TWO_GPUS, read_nccl_topology),
    "matrix.txt": (MATRIX, read_topo_matrix),
    "topology.conf": (CONF, read_slurm),
    "topology.yaml": (TREE, read_slurm),
    "blocks.yaml": (BLOCKS, read_slurm),
    "graph.json": (GRAPH, read_network),
    "graph.graphml": (GRAPHML, read_network),
}
VALUES = (
    "inf", "nan", "-1", "fast", "1e300", "9" * 400, "{}", "[1]", "true", "null", "\u0662", "\u00b2", "[0-", "x" * 99
)  # fmt: skip


def mutated(text: str, rng: random.Random) -> bytes:
    """The text cut short, with bytes changed, with values of other types, or with lines lost, doubled or swapped."""
    raw = text.encode()
    kind = rng.randrange(5)
    if kind == 0:
        return raw[: rng.randrange(len(raw))]
    if kind == 1:
        broken = bytearray(raw)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        return bytes(broken)
    if kind == 2:
        words = text.replace('"', ' " ').split(" ")
        words[rng.randrange(len(words))] = rng.choice(VALUES)
        return " ".join(words).replace(' " ', '"').encode()
    lines = text.split("\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    if kind == 3:
        lines[one], lines[other] = lines[other], lines[one]
        return "\n".join(lines).encode()
    return "\n".join([*lines[:one], *lines[other:]]).encode()


@pytest.mark.parametrize("name", FILES)
def test_broken_files_give_a_network_or_say_what_is_wrong_and_where(tmp_path: Path, name: str) -> None:
    text, read = FILES[name]
    file = tmp_path / name
    file.write_text(text)
    assert summarise_network(read(file)).gpus >= 2
    rng = random.Random(name)
    problems = []
    for _ in range(300):
        file.write_bytes(mutated(text, rng))
        try:
            summarise_network(read(file))
        except InputError as error:
            problems += error.problems
    assert len(problems) > 30, "most damage is seen"
    assert {problem.file for problem in problems} == {str(file)}
    assert all(problem.message for problem in problems)


def test_xgmi_links_are_read_at_the_speed_of_the_architecture(tmp_path: Path) -> None:
    file = tmp_path / "two.xml"
    file.write_text(TWO_GPUS)
    scale_up = {link.name: link for link in summarise_network(read_nccl_topology(file)).link_classes}["scale_up"]
    # 64 GB/s per direction and link on gfx942: two links one way as the file counts them, one the other way.
    assert (scale_up.links, scale_up.total_bytes_per_s) == (2, 3 * 64e9)
    file.write_text(TWO_GPUS.replace("gfx942", "gfx90a:sramecc+:xnack-"))
    scale_up = {link.name: link for link in summarise_network(read_nccl_topology(file)).link_classes}["scale_up"]
    assert scale_up.total_bytes_per_s == 3 * 50e9
    file.write_text(TWO_GPUS.replace("gfx942", "gfx1"))
    with pytest.raises(InputError, match=r"gcn='gfx1'.*xGMI speed is not known; known are gfx906"):
        read_nccl_topology(file)


def test_links_to_processors_and_between_switches_are_read(tmp_path: Path) -> None:
    file = tmp_path / "topo.xml"
    grace = TWO_GPUS.replace('<xgmi target="0000:06:00.0" count="2" tclass="0x038000"/>', '<c2c count="2" bw="32000"/>')
    file.write_text(grace.replace("<nic>", '<pcilink target="0000:05:00.0"/><nic>'))
    links = {link.name: link for link in summarise_network(read_nccl_topology(file)).link_classes}
    assert links["cpu_link"].link_bytes_per_s == 64e9
    assert links["pcie"].links == 2 * 2 + 1


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "<nic>",
            '<ualink count="2"/><nic>',
            "0000:06:00.0: <ualink> is not understood; below <pci> stand <pci>",
        ),
        ("xgmi target", "warp target", "<warp> is not understood; below <gpu> stand <nvlink>, <xgmi>, <c2c>"),
        ('speed="400000"', 'speed="fast"', "net mlx5_0: <net speed='fast'>: speed must be a number"),
        ('speed="400000"', 'speed="inf"', "net mlx5_0: <net speed='inf'>"),
        ('speed="400000"', 'speed="nan"', "net mlx5_0: <net speed='nan'>"),
        ('speed="400000"', 'speed="-7"', "speed must be a number of at least 0, or -1"),
        ('speed="400000"', 'speed="1e300"', "more or less than any machine has; write a value between 1 kB/s and"),
        ('latency="1.5"', 'latency="-1"', "<net latency='-1'>: latency must be a number of at least 0"),
        ('latency="1.5"', 'latency="1e9"', "than any machine has"),
        ('count="2"', 'count="-2"', "0000:05:00.0: <xgmi count='-2'>"),
        ('count="2"', 'count="0"', "has no bandwidth"),
        ('link_width="16"', 'link_width="\u00b2"', "is no PCIe speed and width"),
        ('link_speed="32.0 GT/s PCIe"', 'link_speed="1.2.3"', "'1.2.3' x '16' is no PCIe speed"),
        ("0000:06:00.0", "0000:05:00.0", "0000:05:00.0: is listed twice"),
        ("<xgmi", '<nvlink target="a" tclass="0x99"/><xgmi', "<nvlink tclass='0x99'> is not understood"),
    ],
)
def test_what_an_nccl_topology_holds_is_understood_or_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "topo.xml"
    file.write_text(TWO_GPUS.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_nccl_topology(file)


def test_a_nic_of_unknown_speed_is_taken_as_nccl_takes_it(tmp_path: Path) -> None:
    file = tmp_path / "topo.xml"
    file.write_text(TWO_GPUS.replace('speed="400000"', 'speed="-1"'))
    links = {link.name: link for link in summarise_network(read_nccl_topology(file)).link_classes}
    assert links["nic"].link_bytes_per_s == 1.25e9


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("400 Gb/s", "1e300 B/s", "links.0.bandwidth: 1e.300 is more or less than any machine has"),
        ("1 us", "1 h", "links.0.latency: 3600 is more or less"),
        ('"directed": false', '"directed": "no"', "links.1.directed: must be true or false"),
        ('"kind": "leaf"', '"kind": ["leaf"]', "nodes.2.kind"),
    ],
)
def test_values_that_no_machine_has_are_refused_in_a_graph(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = tmp_path / "graph.json"
    file.write_text(GRAPH.replace(old, new))
    with pytest.raises(InputError, match=words):
        read_network(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("memory_bandwidth: 1e300 B/s", "memory_bandwidth: 1e.300 is more or less.*between 1 kB/s and 10 PB/s"),
        ("memory_capacity: 1 B", "memory_capacity: 1 is more or less.*between 1 MB and 1 PB"),
        ("tdp: 1e20 W", "tdp: 1e.20 is more or less"),
        ("sm_count: 10000000000", "sm_count: 1e.10 is more or less"),
        ("generation: rubin", "generation: 'rubin' is not known; choose from ampere, .*nearest"),
        ("generation: hoper", "generation: 'hoper' is not known; did you mean hopper"),
    ],
)
def test_a_part_that_no_machine_has_is_refused_by_key(tmp_path: Path, change: str, words: str) -> None:
    file = tmp_path / "gpu.yaml"
    file.write_text(f"base: h100-sxm-80gb\n{change}\n")
    with pytest.raises(InputError, match=words):
        catalogue.accelerator(str(file))


def test_every_shipped_entry_is_within_what_machines_have() -> None:
    assert [catalogue.node(name).name for name in catalogue.names("nodes")]
    assert [catalogue.fabric(name).name for name in catalogue.names("fabrics")]
    assert [catalogue.accelerator(name).name for name in catalogue.names("accelerators")]
