"""Closed-form time of one collective: the pair that NCCL's tuner would run, at its calibrated speed on these links.

seconds = ((fixed + steps x per-step)^p + (bytes over the busiest link / achieved bandwidth)^p)^(1/p)

p = 1 adds latency and transfer, larger p lets them overlap (chunks in flight). Coefficients are fitted per GPU
generation, operation, algorithm and protocol on published sweeps and lie in data/collectives/efficiencies.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardware.collectives.algorithms import ALGORITHMS, asked_for, candidates
from hardware.collectives.group import Group, Links, Number, links_of
from hardware.collectives.tuner import DATA, constants, estimate, generation_of, plateau, tree_correction
from hardware.specs import Cluster


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
    return json.loads((DATA / "efficiencies.json").read_text())


@cache
def measured_efficiencies(path: str) -> dict[str, Any]:
    """The shipped coefficients under those of a profile's collectives.json, pair by pair and NIC by NIC."""
    own, shipped = json.loads(Path(path).read_text(encoding="utf-8")), efficiencies()
    scale_up = {generation: dict(table) for generation, table in shipped["scale_up"].items()}
    for generation, operations in own["scale_up"].items():
        known = scale_up.setdefault(generation, {})
        for operation, curves in operations.items():
            known[operation] = {**known.get(operation, {}), **curves}
    beside = {key: own.get(key, {}) for key in ("contention", "measured_range")}
    return {**shipped, **beside, "scale_up": scale_up, "network": {**shipped["network"], **own["network"]}}


def tables_of(path: str) -> dict[str, Any]:
    """The coefficients in a profile's file; the shipped ones for an empty path."""
    return measured_efficiencies(path) if path else efficiencies()


_LIKE = {"nvls_tree": "nvls"}
_SAME_AS = {"broadcast": "all_gather", "reduce": "reduce_scatter", "send_recv": "all_to_all"}


def _measured(table: dict[str, Any], operation: str, pair: str) -> list[float] | None:
    """Coefficients of a pair, for this operation or its closest relative; None where no sweep ran it."""
    for name in (operation, _SAME_AS.get(operation, operation), "all_reduce"):
        if pair in table.get(name, {}):
            return table[name][pair]
    return None


def _curve(coefficients: list[float], evidence: str) -> Curve:
    fixed_s, step_s, efficiency, copies, sharpness = coefficients
    return Curve(fixed_s, step_s, efficiency, copies, sharpness, evidence)


@cache
def curve(generation: str, operation: str, algorithm: str, protocol: str, path: str = "") -> Curve:
    """Coefficients for one pair; where nothing was measured, those of the closest relative, marked assumed."""
    tables = tables_of(path)["scale_up"]
    table = tables.get(generation, tables["hopper"])
    exact = table.get(operation, {}).get(f"{algorithm}/{protocol}")
    if exact:
        return _curve(exact, "fitted" if generation in tables else "assumed")
    like = _measured(table, operation, f"{_LIKE.get(algorithm, 'ring')}/{protocol}")
    simple = _measured(table, operation, "ring/Simple") or _measured(table, operation, "pairwise/Simple")
    if like is None and protocol == "LL128":
        # Flags ride with the data as in LL, and 120 of 128 bytes are payload: LL's latency, most of Simple's rate.
        quick = _measured(table, operation, "ring/LL")
        like = quick and simple and [*quick[:2], simple[2] * 120 / 128, *simple[3:]]
    like = like or simple
    if like is None:
        raise ValueError(f"efficiencies.json: no curve for {generation} {operation} {algorithm}/{protocol}")
    return _curve(like, "assumed")


@cache
def network(technology: str, path: str = "") -> dict[str, Any]:
    table = tables_of(path)["network"]
    return table.get(technology, table["infiniband"])


def evidence(operation: str, algorithm: str, protocol: str, group: Group, cluster: Cluster | Links) -> str:
    """What a time of this pair rests on: "fitted" to sweeps of this GPU generation (and, across domains, of this NIC
    technology), or "assumed" from a relative."""
    links = cluster if isinstance(cluster, Links) else links_of(cluster)
    if algorithm == "none":
        return "fitted"
    inside = curve(links.generation, operation, algorithm, protocol, links.efficiencies).evidence
    wire = network(links.nic_technology, links.efficiencies)
    known = links.nic_technology in tables_of(links.efficiencies)["network"] and wire["evidence"] == "fitted"
    crosses = bool(np.any(np.asarray(group.domains) > 1))
    return "fitted" if inside == "fitted" and (known or not crosses) else "assumed"


class Tariff(NamedTuple):
    """Prices of all candidates for one group; arrays have the candidates as first axis."""

    pairs: tuple[tuple[str, str], ...]
    latency_s: np.ndarray
    s_per_byte: np.ndarray
    sharpness: np.ndarray
    bound_s_per_byte: np.ndarray
    tuner_latency_s: np.ndarray
    tuner_s_per_byte: np.ndarray
    correction: np.ndarray | None
    plateau_factor: np.ndarray
    plateau_bytes: Number


def uplink_slowdown(operation: str, group: Group, links: Links) -> Number:
    """How much longer the network part takes where uplinks are oversubscribed.

    Rings and trees leave a block once per `domains_per_block` domains, all-to-all with every peer outside it.
    """
    oversubscription = np.asarray(links.tier_oversubscription)[group.tier]
    k, inside = group.domains, group.domains_per_block
    if operation == "all_to_all":
        crossing = np.maximum(k - inside, 0.0) / np.maximum(k - 1.0, 1.0)
    else:
        crossing = 1.0 / inside
    return np.maximum(1.0, oversubscription * crossing)


def hop_latency_s(algorithm: str, group: Group, links: Links) -> Number:
    """One network step: to the farthest member, or for rings, that go from neighbour to neighbour, on the average.

    Of a ring's steps one in `domains_per_block` climbs to the group's tier; the others stay below it.
    """
    table = np.asarray(links.tier_latencies_s)
    top = table[group.tier]
    if algorithm not in ("ring", "hierarchical"):
        return top
    below = table[np.maximum(np.asarray(group.tier) - 1, 0)]
    return below + (top - below) / group.domains_per_block


def _price(
    operation: str, pair: tuple[str, str], group: Group, links: Links, sms: int | None
) -> tuple[Number, Number, Number, Number]:
    """(latency_s, seconds per byte, sharpness, bound seconds per byte) of one candidate."""
    algorithm, protocol = pair
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    demand = ALGORITHMS[algorithm](operation, n, g, k)
    terms = curve(links.generation, operation, algorithm, protocol, links.efficiencies)
    wire = network(links.nic_technology, links.efficiencies)
    hop_s = hop_latency_s(algorithm, group, links)
    latency_s = terms.fixed_s + demand.scale_up_steps * terms.step_s
    latency_s = latency_s + np.where(k > 1, wire["fixed_s"][protocol], 0.0)
    latency_s = latency_s + demand.network_steps * (wire["step_s"][protocol] + hop_s)
    latency_s = latency_s + demand.messages * constants()["post_overhead_us"][links.cpu_vendor] * 1e-6
    inside = links.scale_up(g)
    achieved = terms.efficiency * inside
    if sms is not None:
        achieved = np.minimum(achieved, sms * generation_of(links)["sm_gbs"] * 1e9)
    nic = links.nic_bytes_per_s * group.nic_share / uplink_slowdown(operation, group, links)
    scale_up = (demand.scale_up + terms.copies / n) / achieved
    across = demand.network / (wire["efficiency"][protocol] * nic)
    bound = np.maximum(demand.scale_up / inside, demand.network / nic)
    sharpness = np.where(k > 1, wire["sharpness"], terms.sharpness)
    # The levels of a hierarchical exchange follow each other; every other algorithm keeps all links busy at once.
    transfer = scale_up + across if algorithm == "hierarchical" else np.maximum(scale_up, across)
    return latency_s, transfer, sharpness, bound


# The fields that vary by group, to which sizes add their axes.
_PER_GROUP = ("latency_s", "s_per_byte", "sharpness", "bound_s_per_byte", "tuner_latency_s", "tuner_s_per_byte",
              "plateau_factor")  # fmt: skip


def _stack(values: list[Number], shape: tuple[int, ...]) -> np.ndarray:
    return np.stack([np.broadcast_to(np.asarray(value, dtype=float), shape) for value in values])


def tariff(
    operation: str, group: Group, links: Links, algorithm: str | None, protocol: str | None, sms: int | None
) -> Tariff:
    """All candidates of an operation priced for a group. ValueError where the asked one cannot run there."""
    pairs = candidates(operation, algorithm, protocol)
    estimates = [estimate(operation, a, p, asked_for(algorithm), group, links) for a, p in pairs]
    prices = [_price(operation, pair, group, links, sms) for pair in pairs]
    fields = (group.ranks, group.ranks_per_domain, group.tier, group.domains_per_block, group.nic_share)
    shape = np.broadcast_shapes(*(np.shape(field) for field in fields))
    legal = _stack([e.legal for e in estimates], shape) > 0
    runs = legal.any(axis=0) | (np.asarray(group.ranks) <= 1)
    if not np.all(runs):
        raise ValueError(
            f"{operation} by {algorithm}: cannot run on this group (it needs in-switch reduction on the links it "
            f"crosses, or several GPUs per scale-up domain); leave the algorithm open or ask for ring"
        )
    keep = [i for i in range(len(pairs)) if legal[i].any()] or [0]
    tree = np.array([tree_correction(p) if a == "tree" else np.ones(24) for a, p in (pairs[i] for i in keep)])
    factor, bytes_per_rank = plateau(links)
    plateaus = [factor if (a, p) == ("ring", "Simple") and operation == "all_reduce" else 1.0 for a, p in pairs]
    tuner_latency = np.where(legal, _stack([e.latency_s for e in estimates], shape), np.inf)
    return Tariff(
        tuple(pairs[i] for i in keep),
        _stack([prices[i][0] for i in keep], shape),
        _stack([prices[i][1] for i in keep], shape),
        _stack([prices[i][2] for i in keep], shape),
        _stack([prices[i][3] for i in keep], shape),
        tuner_latency[keep],
        _stack([e.s_per_byte for e in estimates], shape)[keep],
        tree if any(a == "tree" for a, _ in pairs) else None,
        np.array([plateaus[i] for i in keep]).reshape(-1, *(1,) * len(shape)),
        np.where(group.domains > 1, bytes_per_rank * group.ranks, np.inf),
    )


_cached_tariff = lru_cache(maxsize=4096)(tariff)


def forget() -> None:
    """Drops what was derived from the efficiencies, after they changed in memory."""
    for cached in (curve, network, _cached_tariff):
        cached.cache_clear()


def _tuner_s(prices: Tariff, size: Number) -> np.ndarray:
    """NCCL's estimate of each candidate at each size, first axis candidates."""
    latency, transfer = prices.tuner_latency_s, size * prices.tuner_s_per_byte
    if prices.correction is not None:
        step = np.clip(np.log2(np.maximum(size, 64.0) / 64.0).astype(int), 0, 23)
        factor = prices.correction[:, step]
        transfer = transfer / factor.reshape(factor.shape + (1,) * (np.ndim(transfer) - factor.ndim))
    return np.where(size >= prices.plateau_bytes, prices.plateau_factor, 1.0) * latency + transfer


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
    move data. One rank takes no time. ValueError for what does not exist or cannot run; BelowBound is a bug.
    """
    links = cluster if isinstance(cluster, Links) else links_of(cluster)
    if group.is_scalar:
        if group.ranks <= 1:
            zero = np.zeros(np.shape(size_bytes)) if isinstance(size_bytes, np.ndarray) else 0.0
            return CollectiveTime(zero, "none", "none", zero)
        prices = _cached_tariff(operation, group, links, algorithm, protocol, sms)
    else:
        prices = tariff(operation, group, links, algorithm, protocol, sms)
    size = np.asarray(size_bytes, dtype=float)
    axes = (slice(None), *(None,) * size.ndim) if group.is_scalar else (Ellipsis,)
    widened = {name: getattr(prices, name)[axes] for name in _PER_GROUP}
    prices = prices._replace(**widened)
    chosen = np.argmin(_tuner_s(prices, size), axis=0)
    return _at(prices, size, chosen, np.asarray(group.ranks) <= 1)


def _take(table: np.ndarray, chosen: np.ndarray) -> Number:
    if chosen.ndim == 0:
        return table[int(chosen)] if table.ndim == 1 else table.reshape(len(table))[int(chosen)]
    full = np.broadcast_to(table, (len(table), *chosen.shape))
    return np.take_along_axis(full, chosen[None], axis=0)[0]


def _at(prices: Tariff, size: np.ndarray, chosen: np.ndarray, alone: np.ndarray) -> CollectiveTime:
    """The chosen candidate's time and bound, checked against each other."""
    p = _take(prices.sharpness, chosen)
    transfer = size * _take(prices.s_per_byte, chosen)
    seconds = (_take(prices.latency_s, chosen) ** p + transfer**p) ** (1.0 / p)
    bound_s = size * _take(prices.bound_s_per_byte, chosen)
    if chosen.ndim == 0:
        if not seconds >= bound_s * (1 - 1e-9):
            raise BelowBound(f"{prices.pairs[int(chosen)]}: {seconds} s is below the bandwidth bound {bound_s} s")
        return CollectiveTime(float(seconds), *prices.pairs[int(chosen)], float(bound_s))
    seconds, bound_s = np.where(alone, 0.0, seconds), np.where(alone, 0.0, bound_s)
    if not np.all(seconds >= bound_s * (1 - 1e-9)):
        raise BelowBound(f"{np.sum(seconds < bound_s)} times are below their bandwidth bound")
    names = np.array(prices.pairs)
    return CollectiveTime(seconds, names[chosen, 0], names[chosen, 1], bound_s)
