"""A fabric drawn as a graph: what a group's routes over it carry, measured link by link."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from hardware.arrays import Ints
from hardware.routing import route
from hardware.topology.custom import read_network
from hardware.topology.network import Network

# Peers of an all-to-all whose routes are laid: evenly spaced ones stand for all.
_PEERS = 64


@lru_cache(maxsize=8)
def network_at(path: str) -> Network:
    """The graph of a file, read once."""
    return read_network(path)


def graph_latency_s(path: str, gpus: int, domain_gpus: int) -> float:
    """Median one-way latency from the first GPU to those of other domains. ValueError for another number of GPUs."""
    network = network_at(path)
    if network.gpus != gpus:
        raise ValueError(f"cluster.fabric.graph: {path} has {network.gpus} nodes of kind gpu, the cluster {gpus}")
    others = np.arange(min(domain_gpus, network.gpus - 1), network.gpus)
    routes = route(network, np.zeros_like(others), others)
    return float(np.median(routes.latency_s))


@lru_cache(maxsize=1024)
def graph_load(path: str, pattern: str, domains: int, spacing_gpus: int, adaptive: bool) -> float:
    """Seconds of the busiest link outside scale-up domains while every GPU sends one byte over its NIC."""
    network = network_at(path)
    steps = pattern_steps(pattern, domains)
    block = domains * spacing_gpus
    gpus = np.arange(network.gpus - network.gpus % block)
    load = np.zeros(network.links)
    for step, share in steps.items():
        target = gpus - gpus % block + (gpus % block + step * spacing_gpus) % block
        load += share * _carried(network, gpus, target, adaptive)
    inside = np.array([name.startswith("scale_up") for name in network.classes])[network.link_class]
    return float((load / network.capacity_bytes_per_s)[~inside].max(initial=0.0))


def pattern_steps(pattern: str, domains: int) -> dict[int, float]:
    """How many domains on each GPU sends, and which part of its byte."""
    if pattern == "neighbours" or domains == 2:
        return {1: 1.0}
    if pattern == "all_pairs":
        peers = np.unique(np.linspace(1, domains - 1, min(_PEERS, domains - 1)).round().astype(int))
        return {int(peer): 1.0 / len(peers) for peer in peers}
    doublings = range(int(np.ceil(np.log2(domains))))
    shares = [0.5 ** (i + 1) for i in doublings]
    return {2**i: share / sum(shares) for i, share in zip(doublings, shares, strict=True)}


def _carried(network: Network, source: Ints, target: Ints, adaptive: bool) -> np.ndarray:
    """Bytes over each link, one byte per flow."""
    routes = route(network, source, target, "adaptive" if adaptive else "ecmp")
    spread = np.broadcast_to(routes.share, routes.paths.shape).ravel()
    return np.bincount(routes.paths.ravel(), spread, network.links + 1)[:-1]
