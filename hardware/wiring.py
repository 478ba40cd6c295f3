"""How fast GPUs reach their leaf switches, and how many of them a leaf can join: what node and fabric give together."""

from __future__ import annotations

from dataclasses import replace

from hardware.specs import FLOWS_PER_PORT, Cluster, Fabric, Failed, Node, SwitchTier
from hardware.units import format_rate


def planes_of_nic(node: Node, fabric: Fabric) -> int:
    """Planes into which one GPU's NIC has a port of its own; 1 where each GPU lies in the plane of its rail."""
    if not fabric.tiers:
        return 1
    ports = max(1, round(node.nic.bandwidth_bytes_per_s / fabric.tiers[0].port_bandwidth_bytes_per_s))
    return fabric.planes if ports >= fabric.planes else 1


def port_bytes_per_s(node: Node, fabric: Fabric) -> float:
    """What one GPU sends into one plane: the slower of its NIC's port and the leaf's."""
    nic = node.nic.bandwidth_bytes_per_s
    if not fabric.tiers:
        return nic
    return min(nic / planes_of_nic(node, fabric), fabric.tiers[0].port_bandwidth_bytes_per_s)


def injection_bytes_per_s(node: Node, fabric: Fabric) -> float:
    """What one GPU can send into the fabric over all planes."""
    if fabric.kind in ("torus", "custom"):
        # A torus has no leaf: its port speed is that of the links between servers, and a graph states its own links.
        return node.nic.bandwidth_bytes_per_s
    return planes_of_nic(node, fabric) * port_bytes_per_s(node, fabric)


def with_sending_at(cluster: Cluster, fraction: float) -> Cluster:
    """The cluster whose GPUs send into the fabric at this fraction of what they do, NIC and leaf port together."""
    node = cluster.node
    sent = fraction * injection_bytes_per_s(node, cluster.fabric)
    return replace(cluster, node=replace(node, nic=replace(node.nic, bandwidth_bytes_per_s=sent)))


def leaf_reach_gpus(node: Node, fabric: Fabric) -> int:
    """GPUs that meet under the leaves of one segment: as the fabric states it, but no more than its ports join.

    With rails every GPU of a server has its own leaf, so that a segment holds as many servers as one leaf has ports.
    """
    leaf = fabric.tiers[0]
    if fabric.kind not in ("clos", "rail_optimized", "multi_plane") or len(fabric.tiers) < 2:
        return leaf.reach_gpus
    gpus_per_port = max(1, round(leaf.port_bandwidth_bytes_per_s / port_bytes_per_s(node, fabric)))
    rails = node.gpus if fabric.rails else 1
    return min(leaf.reach_gpus, max(1, down_ports(leaf)) * gpus_per_port * rails)


def down_ports(tier: SwitchTier) -> int:
    """Ports of a switch that lead down, where ports of one speed share out by the oversubscription."""
    share = tier.oversubscription / (1.0 + tier.oversubscription)
    return int(tier.radix * share + 1e-9)


def uplinks(leaf: SwitchTier) -> int:
    """Ports of a leaf that lead up, each to a switch of its own."""
    return leaf.radix - down_ports(leaf)


def surviving_spines_fraction(fabric: Fabric, failed: Failed) -> float:
    """Share of each leaf's uplinks whose upper end still works."""
    if not failed.spines:
        return 1.0
    whole = uplinks(fabric.tiers[0])
    return (whole - failed.spines) / whole


def impossible_failures(cluster: Cluster) -> list[tuple[str, str]]:
    """(key, what is wrong) of failed parts that the cluster's network does not have, or cannot lose."""
    failed, node, fabric = cluster.failed, cluster.node, cluster.fabric
    found = []
    if (failed.links or failed.rails) and not fabric.tiers and not fabric.graph:
        found.append(("links" if failed.links else "rails", "needs a fabric between servers, and there is none"))
    elif failed.rails and not fabric.rails:
        found.append(("rails", f"is {failed.rails}, and {fabric.name} has no rails: its leaves take whole servers"))
    elif failed.lost_nics >= node.gpus:
        key = "rails" if failed.rails else "links"
        found.append((key, f"leaves servers of {node.gpus} GPUs without a NIC. Write less than {node.gpus}"))
    if failed.links > cluster.nodes:
        found.append(("links", f"is {failed.links}, each on a server of its own, and there are {cluster.nodes}"))
    if failed.spines:
        found += _impossible_spines(fabric, failed)
    return found


def _impossible_spines(fabric: Fabric, failed: Failed) -> list[tuple[str, str]]:
    if fabric.kind not in _BY_TIERS or len(fabric.tiers) < 2:
        return [("spines", f"is {failed.spines}, and {fabric.name} has no switches above its leaves")]
    whole = uplinks(fabric.tiers[0])
    if failed.spines >= whole:
        return [("spines", f"leaves no uplink of the {whole} that each leaf has. Write less than {whole}")]
    return []


def reaches_gpus(node: Node, fabric: Fabric) -> tuple[int, ...]:
    """GPUs below one block of every tier."""
    if not fabric.tiers:
        return ()
    return (leaf_reach_gpus(node, fabric), *(tier.reach_gpus for tier in fabric.tiers[1:]))


def cable_bytes_per_s(fabric: Fabric, tier: int) -> float:
    """Speed of a cable from tier - 1 to `tier`: the slower of its two ends."""
    below, above = fabric.tiers[tier - 1], fabric.tiers[tier]
    return min(below.port_bandwidth_bytes_per_s, above.port_bandwidth_bytes_per_s)


def mismatches(node: Node, fabric: Fabric) -> list[str]:
    """Where ports of different speed meet, so that one of them idles; empty where they fit."""
    if not fabric.tiers or fabric.kind in ("torus", "custom"):
        return []
    found = []
    nic, leaf = node.nic.bandwidth_bytes_per_s, fabric.tiers[0]
    per_gpu = injection_bytes_per_s(node, fabric)
    if per_gpu < nic * (1 - 1e-6):
        found.append(
            f"cluster.fabric {fabric.name}: GPUs send {format_rate(per_gpu)} through ports of "
            f"{format_rate(leaf.port_bandwidth_bytes_per_s)}, their NICs could {format_rate(nic)}"
        )
    joined = leaf_reach_gpus(node, fabric)
    if joined < leaf.reach_gpus:
        found.append(
            f"cluster.fabric {fabric.name}: {leaf.name} of radix {leaf.radix} joins {joined} GPUs of {node.name}, not "
            f"the {leaf.reach_gpus} of reach_gpus; groups beyond {joined} are taken to climb a tier"
        )
    for below, above in zip(fabric.tiers, fabric.tiers[1:], strict=False):
        if above.port_bandwidth_bytes_per_s < below.port_bandwidth_bytes_per_s * (1 - 1e-6):
            found.append(
                f"cluster.fabric {fabric.name}: ports of {above.name} "
                f"({format_rate(above.port_bandwidth_bytes_per_s)}) slow down those of {below.name} "
                f"({format_rate(below.port_bandwidth_bytes_per_s)})"
            )
    return found


# Kinds whose leaves and spines stand in planes and by rails.
_BY_TIERS = ("clos", "rail_optimized", "multi_plane")


def idle_keys(fabric: Fabric) -> list[tuple[str, str]]:
    """(key, what is wrong) of what a fabric states where nothing in it could act on that."""
    found = []
    kind, tiered = fabric.kind, fabric.kind in _BY_TIERS
    if fabric.rails and not tiered:
        found.append(("rails", f"acts on leaf switches, and kind {kind} has none. Write false"))
    if fabric.planes > 1 and not tiered:
        found.append(("planes", f"are separate trees, and kind {kind} has none. Write 1"))
    if fabric.adaptive_routing and kind in ("torus", "single_switch"):
        found.append(("adaptive_routing", f"chooses among routes, and kind {kind} has but one. Write false"))
    if fabric.in_network_reduction and kind in ("torus", "custom"):
        found.append(("in_network_reduction", f"is priced in trees of switches, not in kind {kind}. Write false"))
    if fabric.flows_per_port != FLOWS_PER_PORT and (fabric.adaptive_routing or not tiered):
        reason = "adaptive_routing spreads packets" if fabric.adaptive_routing else f"kind {kind} hashes no flows"
        found.append(("flows_per_port", f"counts flows that are hashed onto cables, but {reason}. Leave it out"))
    if fabric.graph and fabric.tiers:
        found.append(("tiers", "say nothing beside a graph, which holds all links. Write []"))
    without_uplinks = fabric.tiers[-1:] if tiered else fabric.tiers
    for tier in without_uplinks:
        if tier.oversubscription is not None and tier.oversubscription != 1.0:
            found.append(("tiers", f"{tier.name}: oversubscription is of uplinks, and it has none. Write 1"))
    return found
