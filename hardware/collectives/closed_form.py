"""Closed-form time of one collective: the pair that NCCL's tuner would run, at its calibrated speed on these links.

seconds = ((fixed + steps x per-step)^p + (bytes over the busiest link / achieved bandwidth)^p)^(1/p)

p = 1 adds latency and transfer, larger p lets them overlap (chunks in flight). Coefficients are fitted per GPU
generation, operation, algorithm and protocol on published sweeps and lie in data/collectives/efficiencies.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardware.arrays import Floats, Number, plain
from hardware.collectives.algorithms import ALGORITHMS, asked_for, candidates
from hardware.collectives.group import Group
from hardware.collectives.links import Links, links_of
from hardware.collectives.tuner import DATA, constants, estimate, generation_of, plateau, tree_correction
from hardware.collectives.uplinks import uplink_slowdown
from hardware.specs import Cluster, priced_as


@dataclass(frozen=True, slots=True)
class CollectiveTime:
    """Time of one collective (or arrays of them); `algorithm` and `protocol` are strings, or arrays of strings.

    `bound_s`: what the busiest link alone needs at its full rated bandwidth; `seconds` is never below it.
    """

    seconds: Number
    algorithm: Any
    protocol: Any
    bound_s: Number


class BelowBound(AssertionError):
    """A time came out shorter than the links could carry the bytes: a fault of the model, never an answer."""


# Latency of a link inside a domain on the measured machines, as the hardware catalogue has it.
MEASURED_LINK_S = 936e-9


class Curve(NamedTuple):
    """Calibrated coefficients of one algorithm and protocol. `evidence`: fitted or assumed."""

    fixed_s: float
    step_s: float
    efficiency: float
    copies: float
    sharpness: float
    evidence: str


@cache
def efficiencies() -> dict[str, Any]:
    """The shipped coefficients."""
    table: dict[str, Any] = json.loads((DATA / "efficiencies.json").read_text(encoding="utf-8"))
    return table


@cache
def measured_efficiencies(path: str) -> dict[str, Any]:
    """The shipped coefficients under those of a profile's collectives.json, pair by pair and NIC by NIC."""
    own = json.loads(Path(path).read_text(encoding="utf-8"))
    shipped = efficiencies()
    scale_up = {generation: dict(table) for generation, table in shipped["scale_up"].items()}
    for generation, operations in own["scale_up"].items():
        known = scale_up.setdefault(generation, {})
        for operation, curves in operations.items():
            known[operation] = {**known.get(operation, {}), **curves}
    network = {**shipped["network"], **own["network"]}
    assumed = [generation for generation in shipped["assumed"] if generation not in own["scale_up"]]
    extras = {key: own.get(key, {}) for key in ("contention", "measured_range")}
    return {**shipped, **extras, "scale_up": scale_up, "network": network, "assumed": assumed}


def tables_of(path: str) -> dict[str, Any]:
    """The coefficients in a profile's file; the shipped ones for an empty path."""
    return measured_efficiencies(path) if path else efficiencies()


_LIKE = {"nvls_tree": "nvls"}
_SAME_AS = {"broadcast": "all_gather", "reduce": "reduce_scatter"}


def _measured(table: dict[str, Any], operation: str, pair: str) -> list[float] | None:
    """Coefficients of a pair, for this operation or its closest relative; None where no sweep ran it."""
    for name in (operation, _SAME_AS.get(operation, operation), "all_reduce"):
        coefficients: list[float] | None = table.get(name, {}).get(pair)
        if coefficients is not None:
            return coefficients
    return None


def _curve(coefficients: list[float], evidence: str) -> Curve:
    fixed_s, step_s, efficiency, copies, sharpness = coefficients
    return Curve(fixed_s, step_s, efficiency, copies, sharpness, evidence)


@cache
def curve(generation: str, operation: str, algorithm: str, protocol: str, path: str = "") -> Curve:
    """Coefficients for one pair; where nothing was measured, those of the closest relative, marked assumed.

    ValueError for a generation that is not known at all.
    """
    coefficients = tables_of(path)
    tables = coefficients["scale_up"]
    table = tables[priced_as(generation, tables)]
    exact = table.get(operation, {}).get(f"{algorithm}/{protocol}")
    if exact:
        swept = generation in tables and generation not in coefficients["assumed"]
        return _curve(exact, "fitted" if swept else "assumed")
    relative = _relative(table, operation, algorithm, protocol)
    if relative is None:
        raise ValueError(f"efficiencies.json: no curve for {generation} {operation} {algorithm}/{protocol}")
    return _curve(relative, "assumed")


def _relative(table: dict[str, Any], operation: str, algorithm: str, protocol: str) -> list[float] | None:
    """Coefficients of the pair that is most like one that no sweep ran."""
    if operation == "send_recv":
        exchange = _one_peer(table, protocol)
        if exchange is not None:
            return exchange
    like = _measured(table, operation, f"{_LIKE.get(algorithm, 'ring')}/{protocol}")
    simple = _measured(table, operation, "ring/Simple") or _measured(table, operation, "pairwise/Simple")
    if like is None and protocol == "LL128":
        quick = _measured(table, operation, "ring/LL")
        if quick and simple:
            # Flags ride with the data as in LL, and 120 of 128 bytes are payload: LL's latency, most of Simple's rate.
            fixed_s, step_s = quick[:2]
            like = [fixed_s, step_s, simple[2] * 120 / 128, *simple[3:]]
    return like or simple


def _one_peer(table: dict[str, Any], protocol: str) -> list[float] | None:
    """Coefficients of a send to one peer: NCCL's all-to-all is made of such sends, and of a rank's copy to itself,
    which a send does not have. None where no all-to-all was measured."""
    exchange: list[float] | None = table.get("all_to_all", {}).get(f"pairwise/{protocol}")
    if exchange is None:
        return None
    fixed_s, step_s, efficiency, _, sharpness = exchange
    return [fixed_s, step_s, efficiency, 0.0, sharpness]


@cache
def network(technology: str, path: str = "") -> dict[str, Any]:
    """Coefficients of a NIC technology; InfiniBand's where it was not measured."""
    table = tables_of(path)["network"]
    entry: dict[str, Any] = table.get(technology, table["infiniband"])
    return entry


def evidence(operation: str, algorithm: str, protocol: str, group: Group, cluster: Cluster | Links) -> str:
    """What a time of this pair rests on: "fitted" to sweeps of this GPU generation (and, across domains, of this NIC
    technology), or "assumed" from a relative."""
    if algorithm == "none":
        return "fitted"
    links = links_of(cluster)
    inside = curve(links.generation, operation, algorithm, protocol, links.efficiencies).evidence
    crosses = bool(np.any(np.asarray(group.domains) > 1))
    if inside != "fitted" or not crosses:
        return inside
    wire = network(links.nic_technology, links.efficiencies)
    measured = links.nic_technology in tables_of(links.efficiencies)["network"]
    return "fitted" if measured and wire["evidence"] == "fitted" else "assumed"


class Tariff(NamedTuple):
    """Prices of all candidates for one group; arrays have the candidates as first axis."""

    pairs: tuple[tuple[str, str], ...]
    latency_s: Floats
    s_per_byte: Floats
    sharpness: Floats
    bound_s_per_byte: Floats
    tuner_latency_s: Floats
    tuner_s_per_byte: Floats
    correction: Floats | None
    plateau_factor: Floats
    plateau_bytes: Number


def hop_latency_s(algorithm: str, group: Group, links: Links) -> Number:
    """One network step: to the farthest member, or for rings, that go from neighbour to neighbour, on the average.

    Of a ring's steps one in `domains_per_block` climbs to the group's tier; the others stay below it.
    """
    latencies = np.asarray(links.tier_latencies_s)
    top: Number = latencies[group.tier]
    if algorithm not in ("ring", "hierarchical"):
        return top
    below: Number = latencies[np.maximum(np.asarray(group.tier) - 1, 0)]
    return below + (top - below) / group.domains_per_block


def scale_up_step_s(terms: Curve, links: Links) -> float:
    """One step inside a domain; the curves were measured on links of MEASURED_LINK_S."""
    return max(0.0, terms.step_s + links.scale_up_latency_s - MEASURED_LINK_S)


def scale_up_share(operation: str, algorithm: str, group: Group, links: Links) -> Number:
    """Bytes out of the busiest GPU over its links inside a domain, per byte of size.

    Across the domains of a mesh no less than inside one of them: a ring leaves idle the link that would close it, and
    its other links carry what they carry inside.
    """
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    share = ALGORITHMS[algorithm](operation, n, g, k).scale_up
    if not links.mesh_gpus or algorithm not in ("ring", "tree"):
        return share
    alone = ALGORITHMS[algorithm](operation, g, g, np.ones_like(np.asarray(g, dtype=float))).scale_up
    return np.where(k > 1, np.maximum(share, alone), share)


class _Price(NamedTuple):
    """One candidate for one group."""

    latency_s: Number
    s_per_byte: Number
    sharpness: Number
    bound_s_per_byte: Number


def _price(operation: str, pair: tuple[str, str], group: Group, links: Links, sms: int | None) -> _Price:
    algorithm, protocol = pair
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    demand = ALGORITHMS[algorithm](operation, n, g, k)
    terms = curve(links.generation, operation, algorithm, protocol, links.efficiencies)
    wire = network(links.nic_technology, links.efficiencies)
    post_s = constants()["post_overhead_us"][links.cpu_vendor] * 1e-6
    step_s = wire["step_s"][protocol] + hop_latency_s(algorithm, group, links)
    latency_s = terms.fixed_s + demand.scale_up_steps * scale_up_step_s(terms, links)
    latency_s = latency_s + np.where(k > 1, wire["fixed_s"][protocol], 0.0)
    latency_s = latency_s + demand.network_steps * step_s
    latency_s = latency_s + demand.messages * post_s
    inside = links.scale_up(g)
    achieved = terms.efficiency * inside
    if sms is not None:
        achieved = np.minimum(achieved, sms * generation_of(links).sm_gbs * 1e9)
    nic = links.injection(group) / uplink_slowdown(operation, group, links, algorithm)
    scale_up = (scale_up_share(operation, algorithm, group, links) + terms.copies / n) / achieved
    across = demand.network / (wire["efficiency"][protocol] * nic)
    # The levels of a hierarchical exchange follow each other; every other algorithm keeps all links busy at once.
    transfer = scale_up + across if algorithm == "hierarchical" else np.maximum(scale_up, across)
    by_network = k > 1
    if links.mesh_gpus:
        # Where the mesh is the bottleneck it overlaps steps no better than inside one domain.
        by_network = by_network & (across >= scale_up)
    return _Price(
        latency_s=latency_s,
        s_per_byte=transfer,
        sharpness=np.where(by_network, wire["sharpness"], terms.sharpness),
        bound_s_per_byte=np.maximum(demand.scale_up / inside, demand.network / nic),
    )


# The fields that vary by group, to which sizes add their axes.
_PER_GROUP = (
    "latency_s",
    "s_per_byte",
    "sharpness",
    "bound_s_per_byte",
    "tuner_latency_s",
    "tuner_s_per_byte",
    "plateau_factor",
)


def tariff(
    operation: str, group: Group, links: Links, algorithm: str | None, protocol: str | None, sms: int | None
) -> Tariff:
    """All candidates of an operation priced for a group. ValueError where the asked one cannot run there."""
    pairs = candidates(operation, algorithm, protocol)
    asked = asked_for(algorithm)
    shape = np.broadcast_shapes(*(np.shape(field) for field in group.fields))

    def stack(values: list[Number]) -> Floats:
        return np.stack([np.broadcast_to(np.asarray(value, dtype=float), shape) for value in values])

    legal = stack([estimate(operation, *pair, asked, group, links).legal for pair in pairs]) > 0
    if not np.all(legal.any(axis=0) | (np.asarray(group.ranks) <= 1)):
        raise ValueError(
            f"{operation} by {algorithm}: cannot run on this group (it needs in-switch reduction on the links it "
            f"crosses, or several GPUs per scale-up domain); leave the algorithm open or ask for ring"
        )
    somewhere_legal = [i for i in range(len(pairs)) if legal[i].any()] or [0]
    legal = legal[somewhere_legal]
    pairs = [pairs[i] for i in somewhere_legal]
    estimates = [estimate(operation, *pair, asked, group, links) for pair in pairs]
    prices = [_price(operation, pair, group, links, sms) for pair in pairs]
    factors, plateau_bytes = _plateaus(operation, pairs, group, links)
    return Tariff(
        pairs=tuple(pairs),
        latency_s=stack([price.latency_s for price in prices]),
        s_per_byte=stack([price.s_per_byte for price in prices]),
        sharpness=stack([price.sharpness for price in prices]),
        bound_s_per_byte=stack([price.bound_s_per_byte for price in prices]),
        tuner_latency_s=np.where(legal, stack([each.latency_s for each in estimates]), np.inf),
        tuner_s_per_byte=stack([each.s_per_byte for each in estimates]),
        correction=_corrections(pairs),
        plateau_factor=factors.reshape(-1, *(1,) * len(shape)),
        plateau_bytes=plateau_bytes,
    )


def _corrections(pairs: list[tuple[str, str]]) -> Floats | None:
    """NCCL's factors for trees by size, 1 for other candidates; None where no candidate is a tree."""
    if not any(algorithm == "tree" for algorithm, _ in pairs):
        return None
    none = np.ones(24)
    return np.array([tree_correction(protocol) if algorithm == "tree" else none for algorithm, protocol in pairs])


def _plateaus(operation: str, pairs: list[tuple[str, str]], group: Group, links: Links) -> tuple[Floats, Number]:
    """(latency factor of every candidate on NCCL's plateau, size from which it holds)."""
    factor, bytes_per_rank = plateau(links)
    slow = ("ring", "Simple") if operation == "all_reduce" else None
    factors = np.array([factor if pair == slow else 1.0 for pair in pairs])
    return factors, np.where(group.domains > 1, bytes_per_rank * group.ranks, np.inf)


_cached_tariff = lru_cache(maxsize=4096)(tariff)


def forget() -> None:
    """Drops what was derived from the efficiencies, after they changed in memory."""
    for cached in (curve, network, _cached_tariff):
        cached.cache_clear()


def _tuner_s(prices: Tariff, size: Floats) -> Floats:
    """NCCL's estimate of each candidate at each size, first axis candidates."""
    transfer = size * prices.tuner_s_per_byte
    if prices.correction is not None:
        doublings = np.log2(np.maximum(size, 64.0) / 64.0)
        step = np.clip(doublings.astype(int), 0, 23)
        factor = prices.correction[:, step]
        trailing_axes = (1,) * (np.ndim(transfer) - factor.ndim)
        transfer = transfer / factor.reshape(factor.shape + trailing_axes)
    latency_factor = np.where(size >= prices.plateau_bytes, prices.plateau_factor, 1.0)
    estimates: Floats = latency_factor * prices.tuner_latency_s + transfer
    return estimates


def collective_s(
    operation: str,
    size_bytes: Number,
    group: Group,
    cluster: Cluster | Links,
    algorithm: str | None = None,
    protocol: str | None = None,
    sms: int | None = None,
) -> CollectiveTime:
    """Time of `operation` on `size_bytes` over `group`; sizes and group fields may be arrays that broadcast.

    Sizes as in nccl-tests: all-gather and reduce-scatter total buffer, all-to-all one rank's send buffer.
    `algorithm`, `protocol` fix what NCCL's tuner would choose (NCCL_ALGO, NCCL_PROTO); `sms` limits the SMs that
    move data. One rank takes no time. Where NCCL chooses, a group over several domains takes no less than its part
    inside one of them. ValueError for what does not exist or cannot run; BelowBound is a bug.
    """
    links = links_of(cluster)
    time = _chosen_s(operation, size_bytes, group, links, algorithm, protocol, sms)
    several = np.any((np.asarray(group.domains) > 1) & (np.asarray(group.ranks_per_domain) > 1))
    if algorithm is not None or operation not in CONTAINS_ITS_PART or not several:
        return time
    part = Group(group.ranks_per_domain, group.ranks_per_domain)
    least = _chosen_s(operation, size_bytes, part, links, algorithm, protocol, sms)
    return replace(time, seconds=plain(np.maximum(time.seconds, least.seconds)))


# Over several domains each of these does inside every domain what it does there alone: a domain's own buffers are
# reduced or handed to all, and with one copy of a byte into each domain, its links carry (g - 1) / g of the size.
CONTAINS_ITS_PART = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "reduce")


def _chosen_s(
    operation: str,
    size_bytes: Number,
    group: Group,
    links: Links,
    algorithm: str | None,
    protocol: str | None,
    sms: int | None,
) -> CollectiveTime:
    """The candidate that NCCL's tuner chooses, as it is priced."""
    if group.is_scalar and group.ranks <= 1:
        zero: Number = np.zeros(np.shape(size_bytes)) if isinstance(size_bytes, np.ndarray) else 0.0
        return CollectiveTime(zero, "none", "none", zero)
    price = _cached_tariff if group.is_scalar else tariff
    prices = price(operation, group, links, algorithm, protocol, sms)
    size = np.asarray(size_bytes, dtype=float)
    size_axes = (slice(None), *(None,) * size.ndim) if group.is_scalar else (Ellipsis,)
    prices = prices._replace(**{name: getattr(prices, name)[size_axes] for name in _PER_GROUP})
    chosen = np.argmin(_tuner_s(prices, size), axis=0)
    return _at(prices, size, chosen, np.asarray(group.ranks) <= 1)


def _take(table: Floats, chosen: np.ndarray) -> Any:
    """The entry of the chosen candidate, for every size and group."""
    if chosen.ndim == 0:
        return table.reshape(len(table))[int(chosen)]
    full = np.broadcast_to(table, (len(table), *chosen.shape))
    return np.take_along_axis(full, chosen[None], axis=0)[0]


def _at(prices: Tariff, size: Floats, chosen: np.ndarray, alone: np.ndarray) -> CollectiveTime:
    """The chosen candidate's time and bound, checked against each other."""
    sharpness = _take(prices.sharpness, chosen)
    latency_s = _take(prices.latency_s, chosen)
    transfer_s = size * _take(prices.s_per_byte, chosen)
    seconds = (latency_s**sharpness + transfer_s**sharpness) ** (1.0 / sharpness)
    bound_s = size * _take(prices.bound_s_per_byte, chosen)
    if chosen.ndim == 0:
        pair = prices.pairs[int(chosen)]
        if not seconds >= bound_s * (1 - 1e-9):
            raise BelowBound(f"{pair}: {seconds} s is below the bandwidth bound {bound_s} s")
        return CollectiveTime(float(seconds), *pair, float(bound_s))
    seconds = np.where(alone, 0.0, seconds)
    bound_s = np.where(alone, 0.0, bound_s)
    if not np.all(seconds >= bound_s * (1 - 1e-9)):
        raise BelowBound(f"{np.sum(seconds < bound_s)} times are below their bandwidth bound")
    names = np.array(prices.pairs)
    return CollectiveTime(seconds, names[chosen, 0], names[chosen, 1], bound_s)
