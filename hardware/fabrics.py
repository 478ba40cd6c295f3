"""Networks of the catalogue and the user's own, and the usual one of a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from hardware.entries import INLINE, entry, names, read_name
from hardware.problems import InputError, Place
from hardware.sections import Section
from hardware.specs import FLOWS_PER_PORT, Fabric, FabricKind, Node, SwitchTier
from hardware.wiring import idle_keys


def fabric(what: str | Mapping[str, Any], at: Place = INLINE) -> Fabric:
    """A scale-out network by catalogue name, file or mapping."""
    return _read_fabric(entry("fabrics", what, at))


def usual_fabric(node: Node, gpus: int, at: Place = INLINE) -> Fabric:
    """The plainest catalogue fabric whose ports match the node's NICs and which reaches `gpus`: none inside one
    scale-up domain, then rails before Clos, fewest tiers, reducing switches with InfiniBand.

    Raises InputError where none fits, or the GPUs fill no servers.
    """
    if words := unfilled(gpus, node):
        raise InputError([at.under("gpus").problem(words)])
    if gpus <= node.scale_up.domain_gpus:
        return fabric("none")
    known = [fabric(name) for name in names("fabrics")]
    fitting = [each for each in known if each.tiers and not misfits(gpus, node, each) and _ports_match(each, node)]
    if not fitting:
        message = f"is missing, and no catalogue fabric with ports of {node.name}'s NICs reaches {gpus} GPUs; name one"
        raise InputError([at.under("fabric").problem(message)])
    infiniband = node.nic.technology == "infiniband"
    return min(
        fitting,
        key=lambda each: (
            each.planes, not each.rails, len(each.tiers), each.in_network_reduction != infiniband, each.name
        ),
    )  # fmt: skip


def _ports_match(network: Fabric, node: Node) -> bool:
    """The NIC's speed is the leaf's, and a leaf has ports for its share of such servers' GPUs beside its uplinks."""
    leaf, rails = network.tiers[0], node.gpus if network.rails else 1
    down = leaf.reach_gpus / rails
    up = down / leaf.oversubscription if len(network.tiers) > 1 else 0.0
    # With one port per GPU the planes are dealt out by rail.
    if down + up > leaf.radix or rails % network.planes:
        return False
    return abs(network.tiers[0].port_bandwidth_bytes_per_s / node.nic.bandwidth_bytes_per_s - 1) < 1e-6


def unfilled(gpus: int, server: Node) -> str:
    """What is wrong with GPUs that do not fill servers; empty where they do."""
    whole = gpus - gpus % server.gpus
    if whole in (0, gpus):
        return ""
    return f"{gpus} do not fill servers of {server.gpus}; {whole} or {whole + server.gpus} would"


def misfits(gpus: int, server: Node, network: Fabric) -> list[tuple[str, str]]:
    """What keeps a node and a fabric from making a cluster of so many GPUs, as (key, words)."""
    if words := unfilled(gpus, server):
        return [("gpus", words)]
    if network.graph:
        # How many GPUs a graph holds is checked where it is read.
        return []
    reach = network.tiers[-1].reach_gpus if network.tiers else server.scale_up.domain_gpus
    if gpus > reach:
        return [("fabric", f"{network.name} joins at most {reach} GPUs of {server.name}, {gpus} are wanted; take one "
                 f"with more tiers, or planes")]  # fmt: skip
    return []


def _read_fabric(section: Section) -> Fabric:
    name = read_name(section)
    kind = section.choice("kind", get_args(FabricKind))
    parts = section.sections("tiers")
    tiers = tuple(_read_tier(part) for part in parts)
    found = Fabric(
        name=name,
        kind=kind,
        tiers=tiers,
        rails=section.flag("rails", False),
        planes=section.count("planes", 1),
        adaptive_routing=section.flag("adaptive_routing", False),
        in_network_reduction=section.flag("in_network_reduction", False),
        cost_usd_per_endpoint=section.quantity("cost_per_endpoint", "usd", None, zero=True),
        power_w_per_endpoint=section.quantity("power_per_endpoint", "w", 0.0, zero=True),
        sources=section.sources,
        flows_per_port=section.count("flows_per_port", FLOWS_PER_PORT),
        collnet=section.flag("collnet", False),
        graph=_read_graph(section, kind),
    )
    if found.collnet and not found.in_network_reduction:
        section.report("collnet", "needs switches that reduce: write in_network_reduction: true, or leave collnet out")
    for key, message in [] if section.problems else idle_keys(found):
        section.report(key, message)
    reaches = [tier.reach_gpus for tier in tiers if tier.reach_gpus]
    if reaches != sorted(reaches):
        section.report("tiers", f"must be listed lowest first, reaching ever more GPUs, not {reaches}")
    section.done()
    section.raise_problems()
    return found


def _read_graph(section: Section, kind: str) -> str:
    """The path of a custom fabric's graph, beside the entry's own file; empty without one."""
    name = section.text("graph", None)
    if name is None:
        return ""
    if kind != "custom":
        section.report("graph", f"goes with kind: custom, not {kind}")
    path = (Path(section.place.file).parent / name).resolve()
    if not path.is_file():
        section.report("graph", f"there is no file {path}")
        return ""
    return str(path)


def _read_tier(part: Section) -> SwitchTier:
    tier = SwitchTier(
        name=part.text("name"),
        radix=part.count("radix"),
        port_bandwidth_bytes_per_s=part.quantity("port_bandwidth", "bytes_per_s"),
        oversubscription=part.quantity("oversubscription", "fraction", 1.0),
        latency_s=part.quantity("latency", "s", zero=True),
        reach_gpus=part.count("reach_gpus"),
    )
    part.done()
    return tier
