"""Expert-parallel dispatch and combine: how many copies of a token travel where, and how long the exchange takes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hardware.arrays import Number, plain
from hardware.collectives.algorithms import pairwise
from hardware.collectives.closed_form import BelowBound, collective_s
from hardware.collectives.group import Group
from hardware.collectives.links import Links, links_of
from hardware.collectives.tuner import DATA
from hardware.collectives.uplinks import uplink_slowdown
from hardware.specs import Cluster

BF16_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class ExpertExchange:
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
    table: dict[str, Any] = json.loads((DATA / "expert_exchange.json").read_text(encoding="utf-8"))
    return table


def expected_distinct(places: Number, experts: Number, topk: int) -> Number:
    """Expected number of distinct places hit by `topk` different experts spread evenly over `places`.

    G (1 - C(E - E/G, k) / C(E, k)), uniform routing.
    """
    places = np.asarray(places, dtype=float)
    experts = np.asarray(experts, dtype=float)
    elsewhere = experts - experts / places
    missed = np.ones(np.broadcast_shapes(places.shape, experts.shape))
    for chosen in range(topk):
        missed = missed * np.clip((elsewhere - chosen) / (experts - chosen), 0.0, None)
    return places * (1.0 - missed)


def copies(exchange: ExpertExchange, group: Group) -> tuple[Number, Number]:
    """(distinct domains, distinct GPUs) that receive a token, the sender's own included."""
    domains = group.domains
    chosen = domains if exchange.domain_limit is None else np.minimum(domains, exchange.domain_limit)
    experts_within = exchange.experts * chosen / domains
    gpus_within = chosen * group.ranks_per_domain
    distinct_domains = expected_distinct(chosen, experts_within, exchange.topk)
    return distinct_domains, expected_distinct(gpus_within, experts_within, exchange.topk)


def token_bytes(hidden: Number, fp8: bool) -> Number:
    """Bytes of one token: bf16, or fp8 with one fp32 scale per 128 elements."""
    element_bytes = 1.0 + constants()["fp8_scale_bytes_per_element"] if fp8 else BF16_BYTES
    return hidden * element_bytes


def one_copy_per_domain(
    terms: dict[str, Any], exchange: ExpertExchange, group: Group, cluster: Cluster | Links, fp8: bool, sms: int
) -> ExchangeTime:
    """One copy per destination domain over the NIC, then fan-out to distinct GPUs inside it (combine: reversed)."""
    links = links_of(cluster)
    g, k = group.ranks_per_domain, group.domains
    domains, gpus = copies(exchange, group)
    load = exchange.tokens * exchange.imbalance * token_bytes(exchange.hidden, fp8)
    network_bytes = load * domains * (k - 1) / k
    # A domain of one GPU has nothing to fan out to.
    logical_bytes = np.where(g > 1, load * gpus, 0.0)
    scale_up_bytes = np.where(g > 1, load * gpus * (g - 1) / g, 0.0)
    nic = links.injection(group) / uplink_slowdown("all_to_all", group, links, "hierarchical")
    inside = np.minimum(terms["scale_up_fraction"] * links.scale_up(g), sms * terms["sm_bytes_per_s"])
    inside = inside * (terms["fp8_rate"] if fp8 else 1.0)
    transfer_s = np.maximum(logical_bytes / inside, network_bytes / (terms["network_fraction"] * nic))
    hop_s = np.asarray(links.tier_latencies_s)[group.tier]
    handshake_s = np.where(k > 1, constants()["handshake_hops"] * hop_s, 0.0)
    several = np.asarray(group.ranks) > 1
    seconds = np.where(several, terms["fixed_s"] + handshake_s + transfer_s, 0.0)
    bound_s = np.maximum(scale_up_bytes / links.scale_up(g), network_bytes / nic)
    bound_s = np.where(several, bound_s, 0.0)
    if not np.all(seconds >= bound_s):
        raise BelowBound(f"expert exchange: {np.min(seconds)} s is below the bandwidth bound {np.max(bound_s)} s")
    return ExchangeTime(plain(seconds), plain(bound_s), plain(network_bytes), plain(scale_up_bytes))


def by_collective(
    operation: str, exchange: ExpertExchange, group: Group, cluster: Cluster | Links, bytes_per_token: Number
) -> ExchangeTime:
    """NCCL's own all-to-all (a copy per expert chosen) or all-gather / reduce-scatter (every token everywhere)."""
    copies_of_token = exchange.topk if operation == "all_to_all" else group.ranks
    size = exchange.tokens * exchange.imbalance * copies_of_token * bytes_per_token
    time = collective_s(operation, size, group, cluster)
    demand = pairwise("all_to_all", group.ranks, group.ranks_per_domain, group.domains)
    network_bytes = plain(size * demand.network)
    return ExchangeTime(time.seconds, time.bound_s, network_bytes, plain(size * demand.scale_up))
