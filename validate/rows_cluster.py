"""Which machines a published row ran on: server and fabric by accelerator, network and number of GPUs."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

from hardware import catalogue
from hardware.specs import Cluster, Fabric, Node
from validate.rows import Row, Unsupported
from validate.rows_tables import node_of


@cache
def node_named(name: str) -> Node:
    return catalogue.node(name)


@cache
def fabric_named(name: str) -> Fabric:
    return catalogue.fabric(name)


def cluster_of(row: Row) -> tuple[Cluster, list[str]]:
    """The cluster of a row and what was assumed. Raises Unsupported for an accelerator that is not known."""
    gpus, entry = row.need("n_gpus"), node_of(row)
    if entry is None:
        raise Unsupported(f"no server known for the accelerator {row.text('gpu_type')!r}")
    node, assumed = node_named(entry["node"]), []
    listed = row.count("gpus_per_node")
    if listed and listed != node.gpus:
        node = replace(node, gpus=listed)
        assumed.append(f"{listed} GPUs to a server, as the row says")
    fabric_name = entry["fabric"]
    if gpus <= node.scale_up.domain_gpus:
        fabric_name = "none"
    elif "large_fabric" in entry and gpus > fabric_named(fabric_name).tiers[-1].reach_gpus:
        fabric_name = entry["large_fabric"]
    if not row.text("internode_network") and fabric_name != "none":
        assumed.append(f"network {fabric_name} (the source does not say)")
    if re.search("power limited", row.text("gpu_type")):
        assumed.append("the power limit of the part is not modelled")
    return Cluster(entry["node"], gpus, node, fabric_named(fabric_name)), assumed
