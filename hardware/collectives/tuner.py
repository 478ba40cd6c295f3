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

from hardware.collectives.algorithms import PROTOCOLS
from hardware.collectives.group import Group, Links, Number

DATA = Path(__file__).parent.parent / "data" / "collectives"
_US, _GB = 1e-6, 1e9


class Estimate(NamedTuple):
    """`latency_s` + size x `s_per_byte`; `legal` False where NCCL would not offer the pair on this hardware."""

    latency_s: Number
    s_per_byte: Number
    legal: Number


@cache
def constants() -> dict[str, Any]:
    return json.loads((DATA / "nccl_tuner.json").read_text())


def generation_of(links: Links) -> dict[str, Any]:
    """The tuner's row of a GPU generation; parts it does not know are tuned as Hopper, as NCCL forks do."""
    rows = constants()["generations"]
    return rows.get(links.generation, rows["hopper"])


def _by_nodes(row: list[float], k: Number) -> Number:
    return np.where(k > 2, row[2], np.where(k > 1, row[1], row[0]))


def _latencies(algorithm: str, p: int, k: Number, g: Number, links: Links, hop_s: Number) -> tuple[Number, Number]:
    """Per-hop latency inside a domain and between domains, seconds."""
    table = constants()
    overhead = table["post_overhead_us"][links.cpu_vendor] * (3.0 if PROTOCOLS[p] == "Simple" else 1.0)
    inside = table["scale_up_hop_us"][algorithm][p]
    if algorithm == "ring":
        inside = np.where(k > 1, np.maximum(inside, overhead), inside)
    across = np.where(g == 1, table["network_hop_us"]["tree"][p], table["network_hop_us"][algorithm][p])
    flush = 2.0 if PROTOCOLS[p] == "Simple" else 1.0
    return inside * _US, across * _US + hop_s * flush


def _latency_s(operation: str, algorithm: str, p: int, group: Group, links: Links) -> Number:
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    hop_s = np.asarray(links.tier_latencies_s)[group.tier]
    inside, across = _latencies(algorithm, p, k, g, links, hop_s)
    base = constants()["base_us"][algorithm][p] * _US
    depth = np.ceil(np.log2(k))
    if algorithm == "ring":
        passes = 2.0 if operation == "all_reduce" else 1.0
        chain = operation in ("broadcast", "reduce")
        steps = n * 1.0 if chain else passes * (n - 1)
        network_steps = np.where(k > 1, k if chain else passes * (k - 1), 0.0)
        return base + (steps - network_steps) * inside + network_steps * across
    if algorithm == "tree":
        return base + 2.0 * ((g - 1) * inside + depth * across)
    if algorithm == "pat":
        return base + np.log2(n) * across / 3.5 + 2.8 * n * _US
    if algorithm == "collnet":
        return 2.0 * np.minimum(1.0, g - 1.0) * inside + 0.8 * (g - 1.0) * _US + across
    return inside + np.where(k > 1, (2.0 * depth if algorithm == "nvls_tree" else 1.0) * across, 0.0)


def _ring_gbs(p: int, k: Number, bus: Number, channels: Number, links: Links) -> Number:
    row, table = generation_of(links), constants()["ll_max_network_gbs"][links.cpu_vendor]
    if PROTOCOLS[p] == "LL":
        return np.minimum(0.5 * bus, np.where(k > 2, table[1], np.where(k > 1, table[0], row["ll_max_gbs"])))
    if PROTOCOLS[p] == "LL128":
        return np.minimum(0.92 * bus, channels * row["ring_ll128_per_channel_gbs"])
    return bus


def _tree_gbs(p: int, k: Number, bus: Number, channels: Number, links: Links) -> Number:
    row, table = generation_of(links), constants()["ll_max_network_gbs"][links.cpu_vendor]
    bus = np.minimum(0.92 * bus, channels * _by_nodes(row["tree_simple_per_channel_gbs"], k))
    if PROTOCOLS[p] == "LL":
        bus = np.minimum(bus / 3.8, np.where(k > 2, table[1], np.where(k > 1, table[0], row["ll_max_gbs"])))
    if PROTOCOLS[p] == "LL128":
        cap = channels * _by_nodes(row["tree_ll128_per_channel_gbs"], k)
        bus = np.minimum(bus * np.where(k > 1, 120.0 / 128.0, 7.0 / 9.0), cap)
    return bus * (0.85 if links.generation not in ("volta", "ampere") else 1.0)


def _algorithm_gbs(operation: str, algorithm: str, p: int, group: Group, links: Links) -> Number:
    """Bytes of size per nanosecond, after NCCL's caps and its bus-to-algorithm ratio."""
    n, g, k = group.ranks, group.ranks_per_domain, group.domains
    row, table = generation_of(links), constants()
    inside = table["graph_scale_up_fraction"] * links.scale_up(g) / _GB
    across = table["graph_network_fraction"] * g * links.nic_bytes_per_s / _GB
    across = np.minimum(across, np.where(g > 1, inside, across))
    # A ring carries the same rate on every link. Up to two nodes NCCL rates trees by the links inside, for each
    # domain then sends every byte once; with one GPU per domain there are no such links.
    bus = np.where((k > (2 if algorithm == "tree" else 1)) | ((g == 1) & (k > 1)), across, inside)
    channels = np.where(k > 1, np.minimum(2.0 * g, row["channels"]), row["channels"] * 1.0)
    passes = 2.0 if operation == "all_reduce" else 1.0
    ratio = 1.0 if operation in ("broadcast", "reduce") else n / (passes * (n - 1))
    if algorithm == "ring":
        return _ring_gbs(p, k, bus, channels, links) * ratio
    if algorithm == "tree":
        return _tree_gbs(p, k, bus, channels, links) * 0.5
    if algorithm == "pat":
        return 0.75 * bus * ratio
    if algorithm == "collnet":
        return across * 0.5 * (0.85 if links.generation not in ("volta", "ampere") else 1.0)
    nvls = inside * row["nvls_efficiency"] * (1.0 if operation == "all_reduce" else (g - 1) / g)
    if algorithm == "nvls":
        return np.where(k > 1, np.minimum(nvls, across), nvls) * table["nvls_bus_to_algorithm"]
    both = np.minimum(2.0 * nvls, across * np.where(k <= 2, 2.0, 1.0))
    return np.minimum(both, 16 * _by_nodes(row["nvls_tree_per_channel_gbs"], k)) * ratio


def _legal(operation: str, algorithm: str, asked: bool, group: Group, links: Links) -> Number:
    g, k = group.ranks_per_domain, group.domains
    # Switches of the network reduce only where a job asks for it: NCCL_COLLNET_ENABLE is 0 by default.
    reduces = links.in_network_reduction and asked
    if algorithm == "nvls":
        # All-gather and reduce-scatter take NVLS only with registered user buffers, which must be asked for.
        offered = (
            links.multicast and generation_of(links)["nvls_efficiency"] > 0 and (operation == "all_reduce" or asked)
        )
        return offered & (g > 1) & ((k <= 1) | reduces)
    if algorithm == "nvls_tree":
        return links.multicast & (generation_of(links)["nvls_efficiency"] > 0) & (g > 1) & (k > 1)
    if algorithm == "collnet":
        return reduces & (k > 1)
    if algorithm == "pat":
        return (g == 1) & (k > 1) if not asked else k >= 1
    return k >= 1


def estimate(operation: str, algorithm: str, protocol: str, asked: bool, group: Group, links: Links) -> Estimate:
    """NCCL's estimate of one candidate for one group (or arrays of groups). `asked`: the user fixed the algorithm."""
    legal = _legal(operation, algorithm, asked, group, links)
    if algorithm == "pairwise":
        # Not an estimate of time but NCCL_P2P_LL_THRESHOLD as one: LL up to so many bytes to each peer, then Simple.
        peers = 1.0 if operation == "send_recv" else group.ranks
        limit = constants()["p2p_ll_threshold_bytes"] * peers
        return Estimate(0.0, 1.0 / limit, legal) if protocol == "LL" else Estimate(1.0, 0.0, legal)
    if algorithm == "hierarchical":
        return Estimate(0.0, 0.0, legal)
    p = PROTOCOLS.index(protocol)
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = _algorithm_gbs(operation, algorithm, p, group, links) * _GB
        return Estimate(_latency_s(operation, algorithm, p, group, links), 1.0 / np.maximum(speed, 1.0), legal)


@cache
def tree_correction(protocol: str) -> np.ndarray:
    """NCCL's static bandwidth factor for trees at 64 B, 128 B ... 256 MiB; 1.0 beyond."""
    return np.array([*constants()["tree_correction"][protocol], 1.0])


def plateau(links: Links) -> tuple[float, float]:
    """Ring Simple all-reduce across nodes: latency factor, and bytes per rank from which it holds."""
    row = constants()["ring_simple_plateau"]
    return row.get(links.generation, row["default"]), row["bytes_per_channel_rank"] * generation_of(links)["channels"]
