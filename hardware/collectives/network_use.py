"""How far the traffic of a whole step uses each class of links: all groups of a plan laid on the real network at once.

No times are simulated. Every flow of every group is routed, its bytes are added up link by link, and divided by what
the links could have carried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np

from hardware.arrays import Floats, Ints
from hardware.collectives.play import Conditions, carried_bytes
from hardware.collectives.transfers import SENT_PHASES, TransferPhase, expert_exchange
from hardware.specs import Cluster, Fabric, Failed, SwitchTier
from hardware.topology.build import build_network
from hardware.topology.network import Network
from hardware.wiring import injection_bytes_per_s, surviving_spines_fraction

# Links that a GPU sends through; the others are their opposite directions.
SENDING = ("scale_up_out", "scale_up_mesh", "nic_out", "leaf_up", "spine_up")
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
    of SENT_PHASES, or "experts": then `size_bytes` is what each rank sends over its NIC and `scale_up_bytes` inside.
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
    `busiest_fraction` on the busiest link; `bytes_by_cause` are summed over the links. `gpu_bytes_per_s`: what they let
    each GPU send, all sending at once."""

    name: str
    links: int
    capacity_bytes_per_s: float
    gpu_bytes_per_s: float
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
    routing = _routing(cluster.fabric)
    domain_gpus = cluster.node.scale_up.domain_gpus
    capacity, link_class = network.capacity_bytes_per_s, network.link_class.astype(np.uint8)
    surviving = surviving_fractions(cluster)
    loads: dict[str, Floats] = {}
    for stream in streams:
        carried = carried_bytes(network, stream_phases(stream, domain_gpus), routing)
        capacity, link_class = carried.capacity, carried.link_class
        loads[stream.cause] = loads.get(stream.cause, 0.0) + carried.size_bytes
    total = sum(loads.values(), np.zeros(len(capacity)))
    uses = []
    for name, directions in LINK_CLASSES.items():
        numbers = [i for i, known in enumerate(network.classes) if known in directions]
        cables = np.isin(network.link_class, numbers)
        if not cables.any():
            continue
        mine = np.isin(link_class, numbers) & (capacity > 0)
        left = surviving.get(name, 1.0)
        can_carry = left * float(network.capacity_bytes_per_s[cables].sum())
        sending = np.isin(network.link_class, [i for i in numbers if network.classes[i] in SENDING])
        can_send = left * float(network.capacity_bytes_per_s[sending].sum())
        busiest = float((total[mine] / capacity[mine]).max(initial=0.0)) / (left * seconds)
        by_cause = {cause: float(load[mine].sum()) for cause, load in loads.items()}
        use = ClassUse(
            name=name,
            links=int(cables.sum()),
            capacity_bytes_per_s=can_carry,
            gpu_bytes_per_s=can_send / cluster.gpus,
            mean_fraction=float(total[mine].sum()) / (can_carry * seconds),
            busiest_fraction=busiest,
            bytes_by_cause={cause: size for cause, size in by_cause.items() if size > 0},
        )
        uses.append(use)
    top = max(uses, key=lambda use: use.busiest_fraction, default=None)
    bottleneck = top.name if top and top.busiest_fraction > 0 else "none"
    return NetworkUse(tuple(uses), bottleneck, note)


def surviving_fractions(cluster: Cluster) -> dict[str, float]:
    """Share of the bandwidth of each class of links that failed parts leave, in the mean; all of it where not named."""
    failed, nics = cluster.failed, cluster.gpus
    if failed == Failed():
        return {}
    lost_nics = failed.rails * cluster.nodes + failed.links
    leaf = surviving_spines_fraction(cluster.fabric, failed) if failed.spines else 1.0
    return {"nic": 1 - lost_nics / nics, "leaf": leaf}


def _routing(fabric: Fabric) -> Conditions:
    """Packets sprayed over equal paths, or so many flows of each pair hashed onto them as their time counts."""
    if fabric.adaptive_routing:
        return Conditions(policy="adaptive")
    return Conditions(policy="ecmp", flows_per_pair=max(1, round(fabric.flows_per_port)))


def wired(cluster: Cluster) -> tuple[Network, str]:
    """The cluster's network where routes are a formula; else the same with one switch behind all NICs, and why."""
    if cluster.fabric.kind in ("dragonfly", "torus", "custom"):
        note = f"links between switches are not counted on a {cluster.fabric.kind} fabric"
    else:
        try:
            return build_network(cluster), ""
        except ValueError as error:
            note = f"links between switches are not counted: {error}"
    fabric, port = cluster.fabric, injection_bytes_per_s(cluster.node, cluster.fabric)
    switch = SwitchTier(
        name="one switch",
        radix=2 * cluster.gpus,
        port_bandwidth_bytes_per_s=port,
        oversubscription=1.0,
        latency_s=0.0,
        reach_gpus=cluster.gpus,
    )
    one = Fabric(
        name=fabric.name,
        kind="single_switch",
        tiers=(switch,),
        rails=False,
        planes=1,
        adaptive_routing=True,
        in_network_reduction=fabric.in_network_reduction,
    )
    return build_network(replace(cluster, fabric=one)), note


def stream_phases(stream: Stream, domain_gpus: int) -> list[TransferPhase]:
    """The phases of all groups of a stream, groups that are shifts of each other done at once."""
    sent = stream.size_bytes
    if stream.scale_up_bytes is not None:
        sent = sent + stream.scale_up_bytes
    rows = np.flatnonzero(sent > 0)
    if not len(rows) or stream.groups.shape[1] < 2:
        return []
    groups = stream.groups[rows]
    offsets = groups - groups[:, :1]
    if not (offsets == offsets[0]).all():
        return [phase for row in rows.tolist() for phase in stream_phases(_row(stream, row), domain_gpus)]
    first = groups[0]
    shift = groups[:, 0] - first[0]
    _, members = np.unique(first // domain_gpus, return_counts=True)
    per_domain = gcd(int(members.min()), len(first))
    if stream.scale_up_bytes is None:
        unit = SENT_PHASES[stream.algorithm](stream.operation, first, per_domain, 1.0)
        return [_shifted(phase, shift, phase.size_bytes * stream.size_bytes[rows, None]) for phase in unit]
    across = expert_exchange(first, per_domain, 1.0, 0.0)
    inside = expert_exchange(first, per_domain, 0.0, 1.0)
    return [
        _shifted(phase, shift, phase.size_bytes * size[rows, None])
        for unit, size in ((across, stream.size_bytes), (inside, stream.scale_up_bytes))
        for phase in unit
    ]


def _row(stream: Stream, row: int) -> Stream:
    """One group of a stream."""
    inside = None if stream.scale_up_bytes is None else stream.scale_up_bytes[[row]]
    return replace(stream, groups=stream.groups[[row]], size_bytes=stream.size_bytes[[row]], scale_up_bytes=inside)


def _shifted(phase: TransferPhase, shift: Ints, size: Floats) -> TransferPhase:
    """The phase done by every group; ends that are switches (below zero) stay what they are."""
    sent = size.ravel() > 0

    def shifted(end: Ints) -> Ints:
        of_groups: Ints = np.where(end < 0, end, end + shift[:, None]).ravel()[sent]
        return of_groups

    return replace(phase, source=shifted(phase.source), target=shifted(phase.target), size_bytes=size.ravel()[sent])
