"""How far the traffic of a whole step uses each class of links: all groups of a plan laid on the real network at once.

No times are simulated. Every flow of every group is routed, its bytes are added up link by link, and divided by what
the links could have carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
from numpy.typing import NDArray

from hardware.collectives.play import Conditions, carried_bytes
from hardware.collectives.transfers import PHASES, TransferPhase, expert_exchange
from hardware.specs import Cluster, Fabric, SwitchTier
from hardware.topology.build import build_network
from hardware.topology.network import Network

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
# Both directions of a class of links under one name, with what joins them in a folded Clos network.
LINK_CLASSES = {
    "scale_up": ("scale_up_out", "scale_up_in", "scale_up_mesh"),
    "nic": ("nic_out", "nic_in"),
    "leaf": ("leaf_up", "leaf_down"),
    "spine": ("spine_up", "spine_down"),
}


@dataclass(frozen=True, slots=True)
class Stream:
    """One collective that all groups of a kind do, over a whole step.

    `groups` [groups, ranks]; `size_bytes` [groups] by nccl-tests' convention for the operation. `algorithm` is a key
    of PHASES, or "experts": then `size_bytes` is what each rank sends over its NIC and `scale_up_bytes` inside.
    """

    cause: str
    operation: str
    algorithm: str
    groups: Ints
    size_bytes: Floats
    scale_up_bytes: Floats | None = None


@dataclass(frozen=True, slots=True)
class ClassUse:
    """One class of links over a step, both directions: `mean_fraction` of what all of them can carry is used, and
    `busiest_fraction` on the busiest link; `bytes_by_cause` are summed over the links."""

    name: str
    links: int
    capacity_bytes_per_s: float
    mean_fraction: float
    busiest_fraction: float
    bytes_by_cause: dict[str, float]


@dataclass(frozen=True, slots=True)
class NetworkUse:
    """Every class of links that a cluster has; `bottleneck` is the class of the busiest link, "none" without traffic.

    `note` says why tiers above the NIC are missing where they are.
    """

    classes: tuple[ClassUse, ...]
    bottleneck: str
    note: str = ""


def network_use(cluster: Cluster, streams: Sequence[Stream], seconds: float) -> NetworkUse:
    """Use of the cluster's links by all streams within `seconds`. ValueError for a time that is not positive."""
    if not seconds > 0:
        raise ValueError(f"network use: the time must be above zero, not {seconds}")
    network, note = wired(cluster)
    policy = Conditions(policy="adaptive" if cluster.fabric.adaptive_routing else "ecmp")
    loads: dict[str, Floats] = {}
    capacity, kind = network.capacity_bytes_per_s, network.link_class.astype(np.uint8)
    for stream in streams:
        carried = carried_bytes(network, stream_phases(stream, cluster.node.scale_up.domain_gpus), policy)
        capacity, kind = carried.capacity, carried.link_class
        loads[stream.cause] = loads.get(stream.cause, 0.0) + carried.size_bytes
    total = sum(loads.values(), np.zeros(len(capacity)))
    found = []
    for name, directions in LINK_CLASSES.items():
        numbers = [i for i, known in enumerate(network.classes) if known in directions]
        cables = np.isin(network.link_class, numbers)
        mine = np.isin(kind, numbers) & (capacity > 0)
        if not cables.any():
            continue
        whole = float(network.capacity_bytes_per_s[cables].sum())
        busiest = float((total[mine] / capacity[mine]).max(initial=0.0)) / seconds
        parts = {cause: float(load[mine].sum()) for cause, load in loads.items()}
        mean = float(total[mine].sum()) / (whole * seconds)
        found.append(ClassUse(name, int(cables.sum()), whole, mean, busiest, {c: b for c, b in parts.items() if b > 0}))
    top = max(found, key=lambda use: use.busiest_fraction, default=None)
    return NetworkUse(tuple(found), top.name if top and top.busiest_fraction > 0 else "none", note)


def wired(cluster: Cluster) -> tuple[Network, str]:
    """The cluster's network where routes are a formula; else the same with one switch behind all NICs, and why."""
    if cluster.fabric.kind in ("dragonfly", "torus", "custom"):
        note = f"links between switches are not counted on a {cluster.fabric.kind} fabric"
    else:
        try:
            return build_network(cluster), ""
        except ValueError as error:
            note = f"links between switches are not counted: {error}"
    tiers = (
        SwitchTier("one switch", 2 * cluster.gpus, cluster.node.nic.bandwidth_bytes_per_s, 1.0, 0.0, cluster.gpus),
    )
    one = Fabric(cluster.fabric.name, "single_switch", tiers, False, 1, True, cluster.fabric.in_network_reduction)
    return build_network(replace(cluster, fabric=one)), note


def stream_phases(stream: Stream, domain_gpus: int) -> list[TransferPhase]:
    """The phases of all groups of a stream, groups that are shifts of each other done at once."""
    used = stream.size_bytes > 0 if stream.scale_up_bytes is None else stream.size_bytes + stream.scale_up_bytes > 0
    rows = np.flatnonzero(used)
    if not len(rows) or stream.groups.shape[1] < 2:
        return []
    groups = stream.groups[rows]
    offsets = groups - groups[:, :1]
    if not (offsets == offsets[0]).all():
        return [phase for row in rows.tolist() for phase in stream_phases(_row(stream, row), domain_gpus)]
    first, base = groups[0], groups[:, 0] - groups[0, 0]
    inside = int(np.unique(first // domain_gpus, return_counts=True)[1].min())
    inside = gcd(inside, len(first))
    if stream.scale_up_bytes is None:
        unit = PHASES[stream.algorithm](stream.operation, first, inside, 1.0)
        return [_shifted(phase, base, phase.size_bytes * stream.size_bytes[rows, None]) for phase in unit]
    parts = [expert_exchange(first, inside, 1.0, 0.0), expert_exchange(first, inside, 0.0, 1.0)]
    pairs = zip(parts, (stream.size_bytes, stream.scale_up_bytes), strict=True)
    return [_shifted(phase, base, phase.size_bytes * size[rows, None]) for part, size in pairs for phase in part]


def _row(stream: Stream, row: int) -> Stream:
    inside = None if stream.scale_up_bytes is None else stream.scale_up_bytes[[row]]
    return replace(stream, groups=stream.groups[[row]], size_bytes=stream.size_bytes[[row]], scale_up_bytes=inside)


def _shifted(phase: TransferPhase, base: Ints, size: Floats) -> TransferPhase:
    """The phase done by every group; ends that are switches (below zero) stay what they are."""
    source, target = (np.where(end < 0, end, end + base[:, None]).ravel() for end in (phase.source, phase.target))
    moved = size.ravel() > 0
    return replace(phase, source=source[moved], target=target[moved], size_bytes=size.ravel()[moved])
