"""NCCL's own estimate of every (algorithm, protocol) pair, by which it chooses: latency and bandwidth per candidate.

The model and its constants are NVIDIA/nccl src/graph/tuning.cc; the constants lie in data/collectives/nccl_tuner.json.
The estimate decides which pair runs; how long that pair really takes is calibrated apart (see closed_form).
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hardware.arrays import Floats, Number
from hardware.collectives.algorithms import PROTOCOLS
from hardware.collectives.group import Group
from hardware.collectives.links import Links
from hardware.specs import priced_as

DATA = Path(__file__).parent.parent / "data" / "collectives"
_US, _GB = 1e-6, 1e9
# What NCCL's tree and collnet reach of their rate on generations after Ampere.
_NEWER_TREE_RATE = 0.85


class Estimate(NamedTuple):
    """`latency_s` + size x `s_per_byte`; `legal` False where NCCL would not offer the pair on this hardware."""

    latency_s: Number
    s_per_byte: Number
    legal: Number


class Generation(NamedTuple):
    """NCCL's constants of one GPU generation; lists are for one, two, and more domains."""

    sm_gbs: float
    channels: float
    nvls_efficiency: float
    ll_max_gbs: float
    ring_ll128_per_channel_gbs: float
    tree_ll128_per_channel_gbs: list[float]
    tree_simple_per_channel_gbs: list[float]
    nvls_tree_per_channel_gbs: list[float]


@cache
def constants() -> dict[str, Any]:
    table: dict[str, Any] = json.loads((DATA / "nccl_tuner.json").read_text(encoding="utf-8"))
    return table


def generation_of(links: Links) -> Generation:
    """The tuner's constants of a GPU generation, or of the one that stands in for one that NCCL does not know.

    ValueError for a generation that is not known at all.
    """
    rows = constants()["generations"]
    return Generation(**rows[priced_as(links.generation, rows)])


def _by_nodes(row: list[float], k: Number) -> Number:
    """The value for one, two, or more domains."""
    several = np.where(k > 1, row[1], row[0])
    return np.where(k > 2, row[2], several)


def _cross_node(links: Links, k: Number, inside_gbs: float) -> Number:
    """NCCL's cap on LL: the part's own inside a domain, the CPU vendor's across two, or more."""
    two, more = constants()["ll_max_network_gbs"][links.cpu_vendor]
    return _by_nodes([inside_gbs, two, more], k)


def _newer_rate(links: Links) -> float:
    return 1.0 if links.generation in ("volta", "ampere") else _NEWER_TREE_RATE


def _passes(operation: str) -> float:
    return 2.0 if operation == "all_reduce" else 1.0


# --- latency -------------------------------------------------------------------------------------------------------


def _hop_latencies(algorithm: str, p: int, k: Number, g: Number, links: Links, wire_s: Number) -> tuple[Number, Number]:
    """Per-hop latency inside a domain and between domains, seconds."""
    table = constants()
    simple = PROTOCOLS[p] == "Simple"
    inside_us: Number = table["scale_up_hop_us"][algorithm][p]
    if algorithm == "ring":
        post_us = table["post_overhead_us"][links.cpu_vendor] * (3.0 if simple else 1.0)
        inside_us = np.where(k > 1, np.maximum(inside_us, post_us), inside_us)
    hops = table["network_hop_us"]
    across_us = np.where(g == 1, hops["tree"][p], hops[algorithm][p])
    flushes = 2.0 if simple else 1.0
    return inside_us * _US, across_us * _US + wire_s * flushes


def _latency_s(operation: str, algorithm: str, p: int, group: Group, links: Links) -> Number:
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    wire_s = np.asarray(links.tier_latencies_s)[group.tier]
    inside, across = _hop_latencies(algorithm, p, k, g, links, wire_s)
    base: float = constants()["base_us"][algorithm][p] * _US
    depth = np.ceil(np.log2(k))
    if algorithm == "ring":
        return base + _ring_hops_s(operation, n, k, inside, across)
    if algorithm == "tree":
        return base + 2.0 * ((g - 1) * inside + depth * across)
    if algorithm == "pat":
        return base + np.log2(n) * across / 3.5 + 2.8 * n * _US
    if algorithm == "collnet":
        steps_inside = 2.0 * np.minimum(1.0, g - 1.0)
        return steps_inside * inside + 0.8 * (g - 1.0) * _US + across
    network_steps = 2.0 * depth if algorithm == "nvls_tree" else 1.0
    return inside + np.where(k > 1, network_steps * across, 0.0)


def _ring_hops_s(operation: str, n: Number, k: Number, inside: Number, across: Number) -> Number:
    """A chain passes every rank once; a ring makes one or two rounds."""
    steps: Number
    crossing: Number
    if operation in ("broadcast", "reduce"):
        steps, crossing = n * 1.0, k
    else:
        passes = _passes(operation)
        steps, crossing = passes * (n - 1), passes * (k - 1)
    network_steps = np.where(k > 1, crossing, 0.0)
    return (steps - network_steps) * inside + network_steps * across


# --- bandwidth -----------------------------------------------------------------------------------------------------


def _ring_gbs(p: int, k: Number, bus: Number, channels: Number, links: Links) -> Number:
    row = generation_of(links)
    if PROTOCOLS[p] == "LL":
        return np.minimum(0.5 * bus, _cross_node(links, k, row.ll_max_gbs))
    if PROTOCOLS[p] == "LL128":
        return np.minimum(0.92 * bus, channels * row.ring_ll128_per_channel_gbs)
    return bus


def _tree_gbs(p: int, k: Number, bus: Number, channels: Number, links: Links) -> Number:
    row = generation_of(links)
    simple_cap = channels * _by_nodes(row.tree_simple_per_channel_gbs, k)
    rate = np.minimum(0.92 * bus, simple_cap)
    if PROTOCOLS[p] == "LL":
        rate = np.minimum(rate / 3.8, _cross_node(links, k, row.ll_max_gbs))
    if PROTOCOLS[p] == "LL128":
        cap = channels * _by_nodes(row.tree_ll128_per_channel_gbs, k)
        payload = np.where(k > 1, 120.0 / 128.0, 7.0 / 9.0)
        rate = np.minimum(rate * payload, cap)
    return rate * _newer_rate(links)


def _nvls_gbs(
    operation: str, algorithm: str, k: Number, g: Number, inside: Number, across: Number, links: Links
) -> Number:
    """Bus bandwidth of NVLS inside a domain (across: no more than its NICs), and of NVLS with trees across."""
    row = generation_of(links)
    bus_to_algorithm: float = constants()["nvls_bus_to_algorithm"]
    share = 1.0 if operation == "all_reduce" else (g - 1) / g
    nvls = inside * row.nvls_efficiency * share
    if algorithm == "nvls":
        return np.where(k > 1, np.minimum(nvls, across), nvls) * bus_to_algorithm
    network = across * np.where(k <= 2, 2.0, 1.0)
    channels_cap = 16 * _by_nodes(row.nvls_tree_per_channel_gbs, k)
    return np.minimum(np.minimum(2.0 * nvls, network), channels_cap)


def _algorithm_gbs(operation: str, algorithm: str, p: int, group: Group, links: Links) -> Number:
    """Bytes of size per nanosecond, after NCCL's caps and its bus-to-algorithm ratio."""
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    row, table = generation_of(links), constants()
    inside: Number = table["graph_scale_up_fraction"] * links.scale_up(g) / _GB
    across: Number = table["graph_network_fraction"] * g * links.nic_bytes_per_s / _GB
    across = np.minimum(across, np.where(g > 1, inside, across))
    # A ring carries the same rate on every link. Up to two nodes NCCL rates trees by the links inside, for each
    # domain then sends every byte once; with one GPU per domain there are no such links.
    nodes_inside = 2 if algorithm == "tree" else 1
    by_network = (k > nodes_inside) | ((g == 1) & (k > 1))
    bus = np.where(by_network, across, inside)
    channels = np.where(k > 1, np.minimum(2.0 * g, row.channels), row.channels * 1.0)
    chain = operation in ("broadcast", "reduce")
    bus_to_algorithm = 1.0 if chain else n / (_passes(operation) * (n - 1))
    if algorithm == "ring":
        return _ring_gbs(p, k, bus, channels, links) * bus_to_algorithm
    if algorithm == "tree":
        return _tree_gbs(p, k, bus, channels, links) * 0.5
    if algorithm == "pat":
        return 0.75 * bus * bus_to_algorithm
    if algorithm == "collnet":
        return across * 0.5 * _newer_rate(links)
    rate = _nvls_gbs(operation, algorithm, k, g, inside, across, links)
    return rate if algorithm == "nvls" else rate * bus_to_algorithm


# --- choice --------------------------------------------------------------------------------------------------------


def _legal(operation: str, algorithm: str, asked: bool, group: Group, links: Links) -> Number:
    """Whether NCCL offers an algorithm to a group on these links, 0 or 1."""
    g, k = group.ranks_per_domain, group.domains
    # Switches of the network reduce only where a job asks for it: NCCL_COLLNET_ENABLE is 0 by
    # default.
    network_reduces = links.in_network_reduction and (asked or links.collnet)
    multicasts = links.multicast and generation_of(links).nvls_efficiency > 0
    if algorithm == "nvls":
        # All-gather and reduce-scatter take NVLS only with registered user buffers, which must be asked for.
        offered = multicasts and (operation == "all_reduce" or asked)
        return offered & (g > 1) & ((k <= 1) | network_reduces)
    if algorithm == "nvls_tree":
        return multicasts & (g > 1) & (k > 1)
    if algorithm == "collnet":
        return network_reduces & (k > 1)
    if algorithm == "pat" and not asked:
        return (g == 1) & (k > 1)
    return k >= 1


def _rccl_offers(algorithm: str, protocol: str, group: Group) -> Number:
    """What RCCL leaves out on MI300 of its own accord: LL128 (before ROCm 7), and trees inside a node.

    ROCm/rccl src/graph/tuning.cc: the model of gfx942.
    """
    inside = np.asarray(group.domains) <= 1
    return (protocol != "LL128") & ~(inside & (algorithm == "tree"))


def estimate(operation: str, algorithm: str, protocol: str, asked: bool, group: Group, links: Links) -> Estimate:
    """NCCL's estimate of one candidate for one group (or arrays of groups). `asked`: the user fixed the algorithm."""
    legal = _legal(operation, algorithm, asked, group, links)
    if links.generation.startswith("cdna") and not asked:
        legal = np.logical_and(legal, _rccl_offers(algorithm, protocol, group))
    if algorithm == "pairwise":
        return _peer_to_peer(operation, protocol, group, legal)
    if algorithm == "hierarchical":
        return Estimate(0.0, 0.0, legal)
    p = PROTOCOLS.index(protocol)
    with np.errstate(divide="ignore", invalid="ignore"):
        bytes_per_s = _algorithm_gbs(operation, algorithm, p, group, links) * _GB
        latency_s = _latency_s(operation, algorithm, p, group, links)
        return Estimate(latency_s, 1.0 / np.maximum(bytes_per_s, 1.0), legal)


def _peer_to_peer(operation: str, protocol: str, group: Group, legal: Number) -> Estimate:
    """Not a time but NCCL_P2P_LL_THRESHOLD as one: LL up to so many bytes to each peer, then Simple."""
    if protocol != "LL":
        return Estimate(1.0, 0.0, legal)
    peers: Number = 1.0 if operation == "send_recv" else group.ranks
    limit_bytes = constants()["p2p_ll_threshold_bytes"] * peers
    return Estimate(0.0, 1.0 / limit_bytes, legal)


@cache
def tree_correction(protocol: str) -> Floats:
    """NCCL's static bandwidth factor for trees at 64 B, 128 B ... 256 MiB; 1.0 beyond."""
    return np.array([*constants()["tree_correction"][protocol], 1.0])


def plateau(links: Links) -> tuple[float, float]:
    """Ring Simple all-reduce across nodes: latency factor, and bytes per rank from which it holds."""
    row = constants()["ring_simple_plateau"]
    factor = row.get(links.generation, row["default"])
    return factor, row["bytes_per_channel_rank"] * generation_of(links).channels
