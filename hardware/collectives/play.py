"""Plays collectives as flows on a network: one alone, many groups at once, beside a second job, on degrading links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats, Ints, Number
from hardware.collectives.algorithms import ALGORITHMS
from hardware.collectives.closed_form import hop_latency_s
from hardware.collectives.group import Group
from hardware.collectives.links import Links
from hardware.collectives.transfers import NETWORK, PHASES, SWITCH, TransferPhase
from hardware.flows import CapacityChange, fold, simulate
from hardware.routing import NO_CLASS, Routes, route
from hardware.topology.clos import link_ranges
from hardware.topology.network import Network

# Flows whose routes are held in memory at once when only their bytes are added up.
_ROUTED_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Played:
    """How long a collective took on the network, and how far it used each class of links.

    `utilisation` is by class: bytes carried over bytes that its busiest link could have carried in `seconds`.
    `bottleneck` is the class of the busiest link; `group_s` the time of each group of its own.
    """

    seconds: float
    latency_s: float
    utilisation: dict[str, float]
    bottleneck: str
    group_s: Floats
    flows: int
    kinds: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a collective is played under.

    `policy` and `seed` route its flows; `beside` is another job's traffic, present in every phase; at `changes` (times
    from the start of a phase) links change capacity. `folded` solves one flow of each symmetric kind, otherwise every
    flow is simulated. `tolerance` is `simulate`'s. `flows_per_pair`: flows, each hashed by itself, over which a GPU
    spreads what it sends to one peer, where only bytes are added up.
    """

    policy: str = "adaptive"
    seed: int = 0
    flows_per_pair: int = 1
    beside: TransferPhase | None = None
    changes: tuple[CapacityChange, ...] = ()
    folded: bool = True
    tolerance: float = 0.0


IDLE = Conditions()


def ideal_s(operation: str, algorithm: str, size_bytes: float, group: Group, links: Links) -> float:
    """The closed form at full link speed: steps times their latency, and the busiest link's bytes over its capacity."""
    demand = ALGORITHMS[algorithm](operation, group.ranks, group.ranks_per_domain, group.domains)
    hop_s = hop_latency_s(algorithm, group, links)
    latency_s = demand.scale_up_steps * links.scale_up_latency_s + demand.network_steps * hop_s
    inside_s = size_bytes * demand.scale_up / links.scale_up(group.ranks_per_domain)
    across_s = size_bytes * demand.network / links.injection(group)
    # The levels of hierarchical algorithms follow each other; every other keeps both kinds of link busy at once.
    transfer_s = inside_s + across_s if algorithm == "hierarchical" else np.maximum(inside_s, across_s)
    return float(latency_s + transfer_s)


def check_groups(network: Network, groups: Sequence[Ints]) -> None:
    """ValueError for unknown GPUs, a GPU twice in one group, or the same group listed twice."""
    seen: dict[bytes, int] = {}
    for number, ranks in enumerate(groups):
        if not len(ranks):
            raise ValueError(f"group {number}: is empty")
        if ranks.min() < 0 or ranks.max() >= network.gpus:
            raise ValueError(
                f"group {number}: names GPU {ranks.max()}; {network.name} has {network.gpus}, 0..{network.gpus - 1}"
            )
        members = np.sort(ranks)
        if (members[1:] == members[:-1]).any():
            twice = int(members[1:][members[1:] == members[:-1]][0])
            raise ValueError(f"group {number}: lists GPU {twice} twice")
        first = seen.setdefault(members.tobytes(), number)
        if first != number:
            raise ValueError(f"group {number}: is group {first} listed twice")


def per_domain(network: Network, ranks: Ints) -> int:
    """Members of a group in each scale-up domain; ValueError where domains hold different numbers of them."""
    size = network.layout.domain_gpus if network.layout else int(network.gpus)
    _, counts = np.unique(ranks // size, return_counts=True)
    if (counts != counts[0]).any():
        raise ValueError(
            f"a group has {counts.min()} to {counts.max()} ranks per scale-up domain; equal shares are needed"
        )
    return int(counts[0])


def play(
    network: Network,
    operation: str,
    groups: Sequence[Ints],
    size_bytes: float,
    algorithm: str,
    conditions: Conditions = IDLE,
) -> Played:
    """All groups do the same collective at once; each repeat of a phase starts when the last flow of one has ended.

    ValueError for groups that are not there, or algorithms unknown.
    """
    if algorithm not in PHASES:
        raise ValueError(f"algorithm {algorithm!r}: choose one of {', '.join(PHASES)}")
    groups = [np.asarray(ranks, dtype=np.int64) for ranks in groups]
    check_groups(network, groups)
    schedules = [PHASES[algorithm](operation, ranks, per_domain(network, ranks), size_bytes) for ranks in groups]
    return play_phases(network, schedules, conditions)


def play_phases(
    network: Network, schedules: Sequence[Sequence[TransferPhase]], conditions: Conditions = IDLE
) -> Played:
    """Schedules of several groups, phase by phase side by side; they may be of different collectives.

    ValueError for links that change under schedules of several phases or repeats.
    """
    if conditions.changes and any(len(schedule) != 1 or schedule[0].repeats != 1 for schedule in schedules):
        raise ValueError("links that change under way need schedules of one phase without repeats")
    seconds = np.zeros(len(schedules))
    latency_s = np.zeros(len(schedules))
    busy_s = np.zeros(len(network.classes))
    flows = kinds = 0
    for place in range(max(len(schedule) for schedule in schedules)):
        running = [i for i, schedule in enumerate(schedules) if place < len(schedule)]
        phases = _in_step([schedules[i][place] for i in running])
        owner = np.repeat(running, [len(phase.source) for phase in phases])
        result = _play_phase(network, phases, owner, conditions)
        repeats = np.array([phase.repeats for phase in phases])
        seconds[running] += repeats * result.finish_s[running]
        latency_s[running] += result.latency_s
        busy_s += result.busy_s * repeats.max()
        flows = max(flows, len(owner))
        kinds = max(kinds, result.kinds)
    total = seconds + latency_s
    slowest = int(total.argmax())
    transfer_s = max(float(seconds[slowest]), 1e-300)
    use = {name: float(busy_s[i] / transfer_s) for i, name in enumerate(network.classes) if busy_s[i] > 0}
    return Played(
        seconds=float(total[slowest]),
        latency_s=float(latency_s[slowest]),
        utilisation=use,
        bottleneck=max(use, key=lambda name: use[name], default="none"),
        group_s=total,
        flows=flows,
        kinds=kinds,
    )


def _in_step(phases: list[TransferPhase]) -> list[TransferPhase]:
    """Phases that repeat equally often as they are; others as streams, all repeats of a flow in one, since the steps
    of one collective do not wait for those of another."""
    if len({phase.repeats for phase in phases}) == 1:
        return phases
    return [replace(phase, size_bytes=phase.size_bytes * phase.repeats, repeats=1) for phase in phases]


@dataclass(frozen=True, slots=True)
class _PhaseTime:
    """One phase once: by group when its last flow ends and what latency adds; by class how long its busiest link works.

    `kinds` of flow were simulated.
    """

    finish_s: Floats
    latency_s: Floats
    busy_s: Floats
    kinds: int


def _play_phase(network: Network, phases: Sequence[TransferPhase], owner: Ints, conditions: Conditions) -> _PhaseTime:
    """`owner`: the group of each flow of the phases. Another job's flows come behind them."""
    present = [*phases, conditions.beside] if conditions.beside else list(phases)
    source = np.concatenate([phase.source for phase in present])
    target = np.concatenate([phase.target for phase in present])
    size = np.concatenate([phase.size_bytes for phase in present])
    routes = route_ends(network, source, target, conditions.policy, conditions.seed)
    column_size = size[routes.owner] * routes.share
    finish, kinds = _finish(routes, column_size, conditions)
    mine = routes.owner < len(owner)
    last = np.zeros(int(owner.max()) + 1)
    np.maximum.at(last, owner[routes.owner[mine]], finish[mine])
    load = _carried(routes, column_size)
    with np.errstate(divide="ignore", invalid="ignore"):
        busy_s = np.nan_to_num(load / routes.capacity, posinf=0.0)
    of_class = [busy_s[routes.link_class == i].max(initial=0.0) for i in range(len(network.classes))]
    return _PhaseTime(last, _latencies(network, phases, routes, owner), np.array(of_class), kinds)


def _finish(routes: Routes, size: Floats, conditions: Conditions) -> tuple[Floats, int]:
    """Finish time of every column, and how many kinds of flow were simulated."""
    changes, tolerance = conditions.changes, conditions.tolerance
    if changes or not conditions.folded:
        # Which links change is not known to the fold: members of one kind may part.
        times = simulate(routes.paths, routes.capacity, size, changes=changes, tolerance=tolerance)
        return times.finish_s, routes.paths.shape[1]
    alike = fold(routes.paths, routes.capacity, size)
    times = simulate(alike.paths, alike.capacity, size[alike.first], tolerance=tolerance, weights=alike.weights)
    return times.finish_s[alike.kind], len(alike.first)


def _latencies(network: Network, phases: Sequence[TransferPhase], routes: Routes, owner: Ints) -> Floats:
    """Steps that wait for each other times the mean latency of their kind of path, per group."""
    across = _crosses_network(network, routes)
    own_flows = routes.owner < len(owner)
    groups = owner[np.minimum(routes.owner, len(owner) - 1)]
    latencies = []
    for number, phase in zip(dict.fromkeys(owner.tolist()), phases, strict=True):
        mine = (groups == number) & own_flows
        inside_s = _mean(routes.latency_s[mine & ~across])
        across_s = _mean(routes.latency_s[mine & across])
        latencies.append(phase.scale_up_steps * inside_s + phase.network_steps * across_s)
    return np.array(latencies)


def _crosses_network(network: Network, routes: Routes) -> NDArray[np.bool_]:
    """Which columns leave their scale-up domain."""
    inside = np.array([name.startswith("scale_up") for name in (*network.classes, "")])
    classes = np.append(routes.link_class, NO_CLASS)[routes.paths]
    outside = ~inside[np.minimum(classes, len(network.classes))]
    crosses: NDArray[np.bool_] = (outside & (classes != NO_CLASS)).any(axis=0)
    return crosses


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else 0.0


def route_ends(
    network: Network, source: Ints, target: Ints, policy: str, seed: int, entropy: Ints | None = None
) -> Routes:
    """As `route`, with ends that are switches: a GPU's own scale-up switch, or the reducing network behind its NIC."""
    special = (source < 0) | (target < 0)
    if not special.any():
        return route(network, source, target, policy, seed, entropy=entropy)
    if network.layout is None or network.layout.mesh:
        raise ValueError(f"{network.name}: has no switches that reduce")
    # A flow to or from a switch is routed from its GPU to itself, and its one link put in by hand.
    gpu = np.where(source >= 0, source, target)
    from_gpu = np.where(special, gpu, source)
    to_gpu = np.where(special, gpu, target)
    routes = route(network, from_gpu, to_gpu, policy, seed, entropy=entropy)
    ranges = link_ranges(network.layout)
    links = np.full(len(source), -1)
    for end, (out, back) in {SWITCH: ("scale_up_out", "scale_up_in"), NETWORK: ("nic_out", "nic_in")}.items():
        stride = network.layout.ports if end == NETWORK else 1
        links = np.where(target == end, ranges[out][0] + gpu * stride, links)
        links = np.where(source == end, ranges[back][0] + gpu * stride, links)
    column = network.pool[links] if policy == "adaptive" else links
    paths = routes.paths.copy()
    paths[0] = np.where(special, column, paths[0])
    paths[1:, special] = len(routes.capacity)
    # Into the switch and out again: each end adds its half of the path.
    latency = np.where(special, 2 * network.latency_s[links], routes.latency_s)
    return replace(routes, paths=paths, latency_s=latency)


@dataclass(frozen=True, slots=True)
class LinkUse:
    """How far traffic uses each class of links over a time: bytes over what they could carry, 1.0 being full.

    `mean` is over all links of the class, `peak` of its busiest; `bottleneck` is the class with the highest peak.
    """

    mean: dict[str, float]
    peak: dict[str, float]
    bottleneck: str


def link_use(
    network: Network, schedules: Sequence[Sequence[TransferPhase]], seconds: float, conditions: Conditions = IDLE
) -> LinkUse:
    """Use of the links by all schedules within `seconds` (a training step, say), without simulating when.

    ValueError for a time that is not positive.
    """
    if not seconds > 0:
        raise ValueError(f"link use: the time must be above zero, not {seconds}")
    carried = carried_bytes(network, [phase for schedule in schedules for phase in schedule], conditions)
    mean, peak = {}, {}
    for number, name in enumerate(network.classes):
        mine = (carried.link_class == number) & (carried.capacity > 0)
        load, capacity = carried.size_bytes[mine], carried.capacity[mine]
        if load.any():
            mean[name] = float(load.sum() / (capacity.sum() * seconds))
            peak[name] = float((load / capacity).max() / seconds)
    return LinkUse(mean, peak, max(peak, key=lambda name: peak[name]) if peak else "none")


@dataclass(frozen=True, slots=True)
class Carried:
    """Bytes over each link (or bundle of links over which traffic is sprayed), its capacity and class."""

    size_bytes: Floats
    capacity: Floats
    link_class: NDArray[np.uint8]


def carried_bytes(network: Network, phases: Sequence[TransferPhase], conditions: Conditions = IDLE) -> Carried:
    """What all repeats of the phases put on the links."""
    none = np.zeros(0, dtype=np.int64)
    source = np.concatenate([none, *(phase.source for phase in phases)])
    target = np.concatenate([none, *(phase.target for phase in phases)])
    size = np.concatenate([none, *(phase.size_bytes * phase.repeats for phase in phases)])
    pairs_at_once = _ROUTED_AT_ONCE // conditions.flows_per_pair
    total: Number = 0.0
    for start in range(0, max(1, len(size)), pairs_at_once):
        part = slice(start, start + pairs_at_once)
        flows = _flows_of_pairs(network, source[part], target[part], conditions.flows_per_pair)
        pair = np.repeat(np.arange(len(flows)), flows)
        entropy = np.arange(len(pair)) - np.repeat(np.cumsum(flows) - flows, flows)
        ends = source[part][pair], target[part][pair]
        routes = route_ends(network, *ends, conditions.policy, conditions.seed, entropy)
        flow_bytes = (size[part] / flows)[pair]
        total = total + _carried(routes, flow_bytes[routes.owner] * routes.share)
    return Carried(np.asarray(total), routes.capacity, routes.link_class)


def _flows_of_pairs(network: Network, source: Ints, target: Ints, flows_per_pair: int) -> Ints:
    """Flows that each pair sends: one where nothing is hashed, which is inside a domain and to a switch."""
    domain = network.layout.domain_gpus if network.layout else 1
    hashed = (source // domain != target // domain) & (source >= 0) & (target >= 0)
    return np.where(hashed, flows_per_pair, 1)


def _carried(routes: Routes, size: Floats) -> Floats:
    """Bytes over each link, `size` being those of each column."""
    spread = np.broadcast_to(size, routes.paths.shape).ravel()
    return np.bincount(routes.paths.ravel(), spread, len(routes.capacity) + 1)[:-1].astype(float)


def strided_groups(gpus: int, ranks: int, stride: int = 1) -> list[Ints]:
    """All groups of `ranks` GPUs `stride` apart that tile the first `gpus`, as the dimensions of a plan do.

    ValueError where they do not tile them.
    """
    block = ranks * stride
    if ranks < 1 or stride < 1 or gpus % block:
        raise ValueError(f"groups of {ranks} ranks {stride} apart do not tile {gpus} GPUs: {block} must divide them")
    grid = np.arange(gpus).reshape(gpus // block, ranks, stride)
    return list(grid.transpose(0, 2, 1).reshape(-1, ranks))
