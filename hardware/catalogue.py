"""The hardware that ships with the project and the user's own: accelerators, nodes, fabrics and whole clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from hardware import fabrics, nodes
from hardware.accelerators import KERNEL_SETS, accelerator
from hardware.entries import CHANGED, DATA, GIVEN, INLINE, PREMISES, Kind, aliases, catalogue_name, names
from hardware.fabrics import fabric, misfits, usual_fabric
from hardware.nodes import node
from hardware.problems import InputError, Place, Problem
from hardware.specs import Cluster, Fabric, Node

__all__ = [
    "CHANGED",
    "DATA",
    "GIVEN",
    "KERNEL_SETS",
    "PREMISES",
    "Kind",
    "accelerator",
    "aliases",
    "catalogue_name",
    "cluster",
    "fabric",
    "names",
    "node",
    "usual_fabric",
]


def cluster(
    gpus: int,
    node: str | Mapping[str, Any] | Node,
    fabric: str | Mapping[str, Any] | Fabric | None,
    storage_write_bytes_per_s: float | None = None,
    storage_read_bytes_per_s: float | None = None,
    pue: float | None = None,
    name: str | None = None,
    at: Place = INLINE,
) -> Cluster:
    """`gpus` GPUs in servers of one kind on one fabric, None: the usual one. Raises InputError where they do not go
    together."""
    problems: list[Problem] = []
    server: Node | None = None
    network: Fabric | None = None
    try:
        server = node if isinstance(node, Node) else nodes.node(node, at.under("node"))
    except InputError as error:
        problems += error.problems
    counted = isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 1
    try:
        if isinstance(fabric, Fabric):
            network = fabric
        elif fabric is not None:
            network = fabrics.fabric(fabric, at.under("fabric"))
        elif server and counted:
            network = usual_fabric(server, gpus, at)
    except InputError as error:
        problems += error.problems
    if not counted:
        problems.append(at.under("gpus").problem(f"must be a whole number above zero, not {gpus!r}"))
    elif server and network:
        problems += [at.under(key).problem(text) for key, text in misfits(gpus, server, network)]
    if pue is not None and not pue >= 1.0:
        problems.append(at.under("pue").problem(f"is total over IT power and cannot be below 1, not {pue!r}"))
    if problems:
        raise InputError(problems)
    server, network = cast(Node, server), cast(Fabric, network)
    title = name or f"{gpus} x {server.accelerator.name}"
    return Cluster(title, gpus, server, network, storage_write_bytes_per_s, storage_read_bytes_per_s, pue)
