"""Descriptions of machines and networks as the sections `cluster.node` and `cluster.fabric` of a scenario."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hardware import catalogue
from hardware.problems import InputError
from hardware.specs import Node
from hardware.topology.nccl_xml import read_nccl_topology
from hardware.topology.network import NODE_KINDS, Network
from hardware.topology.slurm import SlurmLevel, slurm_levels
from hardware.topology.topo_matrix import read_topo_matrix
from hardware.units import format_rate

MACHINES = Path(__file__).parent / "machines.toml"


@dataclass(frozen=True, slots=True)
class Server:
    """What a file says of one server: GPUs, scale-up bandwidth per GPU and direction, NIC bandwidth per GPU (0: none
    found), network cards (0: none found).

    `base`: the catalogue's node that is like it, with how that was told (empty: unknown)."""

    file: str
    gpus: int
    scale_up_bytes_per_s: float
    switched: bool
    nic_bytes_per_s: float
    base: str
    told_by: str
    nics: int = 0


@dataclass(frozen=True, slots=True)
class Switches:
    """What a Slurm topology says of a network."""

    file: str
    levels: tuple[SlurmLevel, ...]

    @property
    def hosts(self) -> int:
        return self.levels[-1].hosts_below


@cache
def machines() -> Mapping[str, Any]:
    """The table of words by which machines are known, as the file has it."""
    return tomllib.loads(MACHINES.read_text(encoding="utf-8"))


def read_server(path: Path, text: str) -> Server:
    """A server from NCCL's topology XML or the matrix of `nvidia-smi topo -m`."""
    if path.suffix.lower() == ".xml":
        network, base, told_by = read_nccl_topology(path), *_by_capability(text)
    else:
        network, base, told_by = read_topo_matrix(path), *_by_links(text)
    up = _per_gpu(network, "scale_up")
    if path.suffix.lower() != ".xml" and base:
        # The matrix counts links and has no speeds: those of the machine that has so many.
        up = catalogue.node(base).scale_up.bandwidth_bytes_per_s
    switched = bool((network.node_kind == NODE_KINDS.index("scale_up_switch")).any())
    nics = int((network.node_kind == NODE_KINDS.index("nic")).sum())
    return Server(path.name, network.gpus, up, switched, _nic_per_gpu(network), base, told_by, nics)


def _per_gpu(network: Network, name: str) -> float:
    """What the links of a class carry out of one GPU, one way; 0 without such links."""
    if name not in network.classes:
        return 0.0
    links = network.class_of(name)
    out = links[network.source[links] < network.gpus]
    return float(network.capacity_bytes_per_s[out].sum() / network.gpus)


def _nic_per_gpu(network: Network) -> float:
    """The NICs' bandwidth shared by the GPUs, one way; 0 where the file does not say."""
    if "nic" not in network.classes:
        return 0.0
    links = network.class_of("nic")
    cards = network.node_kind == NODE_KINDS.index("nic")
    into = links[cards[network.target[links]]]
    return float(network.capacity_bytes_per_s[into].sum() / network.gpus)


def _by_capability(text: str) -> tuple[str, str]:
    """The node that a compute capability or AMD architecture stands for."""
    for attribute in ("gcn", "sm"):
        found = re.search(rf'\b{attribute}="([\w]+)', text)
        known = machines()[attribute].get(found[1]) if found else None
        if found and known:
            return known, f'{attribute}="{found[1]}"'
    return "", ""


def _by_links(text: str) -> tuple[str, str]:
    found = re.search(r"\bNV(\d{1,3})\b", text)
    known = machines()["nvlinks"].get(found[1]) if found else None
    return (known, f"{found[1]} NVLinks a GPU") if found and known else ("", "")


def node_section(server: Server) -> dict[str, Any]:
    """The node that a scenario writes: the catalogue's, with what the file says otherwise."""
    known = catalogue.node(server.base)
    section: dict[str, Any] = {"base": server.base}
    if server.gpus != known.gpus:
        section["gpus"] = server.gpus
    scale_up: dict[str, Any] = {}
    if server.gpus != known.gpus and known.scale_up.domain_gpus == known.gpus:
        scale_up["domain_gpus"] = server.gpus
    if server.scale_up_bytes_per_s and _differs(server.scale_up_bytes_per_s, known.scale_up.bandwidth_bytes_per_s):
        scale_up["bandwidth"] = format_rate(server.scale_up_bytes_per_s)
    if scale_up:
        section["scale_up"] = scale_up
    nic = server.nic_bytes_per_s or _shared_nic(server, known)
    if _differs(nic, known.nic.bandwidth_bytes_per_s):
        section["nic"] = {"bandwidth": format_rate(nic)}
    return section


def _shared_nic(server: Server, known: Node) -> float:
    """A GPU's share of the catalogue's cards, of which a file without speeds counts fewer than GPUs."""
    share = min(1.0, server.nics / server.gpus) if server.nics else 1.0
    return known.nic.bandwidth_bytes_per_s * share


def same_server(one: str, other: str) -> bool:
    """Whether two nodes of the catalogue cannot be told apart by GPUs and scale-up links: siblings."""
    first, second = catalogue.node(one), catalogue.node(other)
    up, also_up = first.scale_up, second.scale_up
    same_links = not _differs(up.bandwidth_bytes_per_s, also_up.bandwidth_bytes_per_s)
    return first.gpus == second.gpus and up.domain_gpus == also_up.domain_gpus and same_links


def _differs(one: float, other: float) -> bool:
    return abs(one / other - 1) > 0.01


def fabric_section(network: Switches, node: Node) -> tuple[dict[str, Any], str]:
    """A fabric with the reach of Slurm's switches, and which catalogue fabric lends what Slurm does not say."""
    levels = network.levels
    if levels[0].blocks and levels[0].hosts_below * node.gpus <= node.scale_up.domain_gpus:
        # A block that one scale-up domain joins is no switch of the scale-out network.
        levels = levels[1:] or (replace(levels[0], blocks=False),)
    gpus = network.hosts * node.gpus
    base = _lender(node, gpus, len(levels))
    lent = catalogue.fabric(base)
    tiers = []
    for number, level in enumerate(levels):
        like = lent.tiers[min(number, len(lent.tiers) - 1)]
        tiers.append(
            {
                "name": like.name if number < len(lent.tiers) else f"tier {number + 1}",
                "radix": max(like.radix, level.links_down),
                "port_bandwidth": format_rate(node.nic.bandwidth_bytes_per_s),
                "oversubscription": 1,
                "latency": f"{like.latency_s * 1e6:g} us",
                "reach_gpus": level.hosts_below * node.gpus,
            }
        )
    return {"base": base, "name": Path(network.file).stem, "kind": "clos", "rails": False, "tiers": tiers}, base


def _lender(node: Node, gpus: int, tiers: int) -> str:
    """A catalogue fabric of the node's ports with so many tiers, else the usual one."""
    names = [name for name in catalogue.names("fabrics") if len(catalogue.fabric(name).tiers) == tiers]
    same = [
        name
        for name in names
        if not _differs(catalogue.fabric(name).tiers[0].port_bandwidth_bytes_per_s, node.nic.bandwidth_bytes_per_s)
    ]
    if same:
        return same[0]
    try:
        return catalogue.usual_fabric(node, gpus).name
    except InputError:
        return names[0] if names else "clos-400g-2tier"


def read_switches(path: Path) -> Switches:
    """The levels of switches of a Slurm topology file."""
    return Switches(path.name, slurm_levels(path))


def usual_fabric_name(node: Node, gpus: int) -> str:
    """The plainest catalogue fabric for a node, or nothing."""
    try:
        return catalogue.usual_fabric(node, gpus).name
    except InputError:
        return ""
