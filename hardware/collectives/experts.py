"""Expert-parallel dispatch and combine: how many copies of a token travel where, and how long the exchange takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hardware.collectives.algorithms import pairwise
from hardware.collectives.closed_form import BelowBound, collective_s, uplink_slowdown
from hardware.collectives.group import Group, Links, Number, links_of
from hardware.collectives.tuner import DATA
from hardware.specs import Cluster


@dataclass(frozen=True, slots=True)
class Exchange:
    """What one MoE layer exchanges: `tokens` on each rank, their width, and the routing.

    `domain_limit`: a token may go to experts in at most so many domains (node-limited routing; None: any).
    `imbalance`: tokens of the hottest rank over the mean, which sets the pace.
    """

    tokens: Number
    hidden: Number
    experts: Number
    topk: int
    domain_limit: Number | None = None
    imbalance: Number = 1.0


@dataclass(frozen=True, slots=True)
class ExchangeTime:
    """Time of one dispatch or combine, and bytes that each rank sends over its NIC and its scale-up port."""

    seconds: Number
    bound_s: Number
    network_bytes: Number
    scale_up_bytes: Number


@cache
def constants() -> dict[str, Any]:
    return json.loads((DATA / "expert_exchange.json").read_text())


def expected_distinct(places: Number, experts: Number, topk: int) -> Number:
    """Expected number of distinct places hit by `topk` different experts spread evenly over `places`.

    G (1 - C(E - E/G, k) / C(E, k)), uniform routing.
    """
    places, experts = np.asarray(places, dtype=float), np.asarray(experts, dtype=float)
    missed = np.ones(np.broadcast_shapes(places.shape, experts.shape))
    for i in range(topk):
        missed = missed * np.clip((experts - experts / places - i) / (experts - i), 0.0, None)
    return places * (1.0 - missed)


def copies(exchange: Exchange, group: Group) -> tuple[Number, Number]:
    """(distinct domains, distinct GPUs) that receive a token, the sender's own included."""
    domains = group.domains
    chosen = domains if exchange.domain_limit is None else np.minimum(domains, exchange.domain_limit)
    within = exchange.experts * chosen / domains
    distinct_domains = expected_distinct(chosen, within, exchange.topk)
    return distinct_domains, expected_distinct(chosen * group.ranks_per_domain, within, exchange.topk)


def token_bytes(hidden: Number, fp8: bool) -> Number:
    """Bytes of one token: bf16, or fp8 with one fp32 scale per 128 elements."""
    return hidden * (1.0 + constants()["fp8_scale_bytes_per_element"] if fp8 else 2.0)


def one_copy_per_domain(
    terms: dict[str, Any], exchange: Exchange, group: Group, cluster: Cluster | Links, fp8: bool, sms: int
) -> ExchangeTime:
    """One copy per destination domain over the NIC, then fan-out to distinct GPUs inside it (combine: reversed)."""
    links = cluster if isinstance(cluster, Links) else links_of(cluster)
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    domains, gpus = copies(exchange, group)
    load = exchange.tokens * exchange.imbalance * token_bytes(exchange.hidden, fp8)
    network_bytes, logical_bytes = load * domains * (k - 1) / k, load * gpus
    # A domain of one GPU has nothing to fan out to.
    scale_up_bytes = np.where(g > 1, load * gpus * (g - 1) / g, 0.0)
    nic = links.nic_bytes_per_s * group.nic_share / uplink_slowdown("all_to_all", group, links)
    inside = np.minimum(terms["scale_up_fraction"] * links.scale_up(g), sms * terms["sm_bytes_per_s"])
    inside = inside * (terms["fp8_rate"] if fp8 else 1.0)
    transfer_s = np.maximum(
        np.where(g > 1, logical_bytes, 0.0) / inside, network_bytes / (terms["network_fraction"] * nic)
    )
    hop_s = np.asarray(links.tier_latencies_s)[group.tier]
    fixed_s = terms["fixed_s"] + np.where(k > 1, constants()["handshake_hops"] * hop_s, 0.0)
    bound_s = np.maximum(scale_up_bytes / links.scale_up(g), network_bytes / nic)
    alone = np.asarray(n) <= 1
    seconds, bound_s = np.where(alone, 0.0, fixed_s + transfer_s), np.where(alone, 0.0, bound_s)
    if not np.all(seconds >= bound_s):
        raise BelowBound(f"expert exchange: {np.min(seconds)} s is below the bandwidth bound {np.max(bound_s)} s")
    return ExchangeTime(*(_plain(x) for x in (seconds, bound_s, network_bytes, scale_up_bytes)))


def _plain(value: Number) -> Number:
    return float(value) if np.ndim(value) == 0 else value


def by_collective(
    operation: str, exchange: Exchange, group: Group, cluster: Cluster | Links, bytes_per_token: Number
) -> ExchangeTime:
    """NCCL's own all-to-all (a copy per expert chosen) or all-gather / reduce-scatter (every token everywhere)."""
    spread = exchange.topk if operation == "all_to_all" else group.ranks
    size = exchange.tokens * exchange.imbalance * spread * bytes_per_token
    time = collective_s(operation, size, group, cluster)
    n, g = group.ranks, group.ranks_per_domain
    demand = pairwise("all_to_all", n, g, group.domains)
    return ExchangeTime(time.seconds, time.bound_s, _plain(size * demand.network), _plain(size * demand.scale_up))
