"""The network at full size: what is counted and kept to, not how long it takes (see network_speed.py)."""

from __future__ import annotations

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives.play import Conditions, play, strided_groups
from hardware.flows import max_min_rates
from hardware.routing import route
from hardware.topology import build_network

pytestmark = pytest.mark.slow


def test_a_million_hashed_flows_keep_to_capacity_and_are_pareto_optimal() -> None:
    network = build_network(catalogue.cluster(16384, "hgx-h100", "ndr-rail-3tier"))
    source, target = np.random.default_rng(0).integers(0, 16384, (2, 1_000_000))
    routes = route(network, source, target)
    rates = max_min_rates(routes.paths, routes.capacity)
    moving = np.isfinite(rates)
    assert moving.sum() == np.count_nonzero(source != target)
    paths, rates = routes.paths[:, moving], rates[moving]
    load = np.zeros(network.links + 1)
    top = np.zeros(network.links + 1)
    for row in paths:
        load += np.bincount(row, rates, network.links + 1)
        np.maximum.at(top, row, rates)
    assert (load[:-1] <= routes.capacity * (1 + 1e-6)).all()
    full = np.append(load[:-1] >= routes.capacity * (1 - 1e-6), False)
    assert (full[paths] & (rates >= top[paths] * (1 - 1e-6))).any(axis=0).all()


def test_131072_gpus_on_eight_planes() -> None:
    """Two tiers of radix 512 at 100 Gb/s: 512 leaves and 256 spines in each plane."""
    network = build_network(catalogue.cluster(131072, "hgx-b300", "azure-mrc"))
    assert network.switches == 8 * (512 + 256)
    held = (
        network.source,
        network.target,
        network.capacity_bytes_per_s,
        network.latency_s,
        network.pool,
        network.link_class,
    )
    assert sum(part.nbytes for part in held) < 3e9


def test_every_expert_group_of_ten_thousand_gpus_at_once() -> None:
    """160 groups of 64, each within its own eight nodes: all as fast as one alone, folded as unfolded."""
    network = build_network(catalogue.cluster(10240, "hgx-h100", "ndr-rail-3tier"))
    groups = strided_groups(10240, 64)
    together = play(network, "all_to_all", groups, 64e6, "pairwise")
    assert together.flows == 160 * 64 * 63
    alone = play(network, "all_to_all", groups[:1], 64e6, "pairwise")
    assert together.group_s == pytest.approx(np.full(160, alone.seconds))
    unfolded = play(network, "all_to_all", groups, 64e6, "pairwise", Conditions(folded=False))
    assert unfolded.group_s == pytest.approx(together.group_s)
    assert unfolded.kinds / together.kinds > 1000


def test_ring_over_sixteen_thousand_ranks_folded_and_unfolded() -> None:
    network = build_network(catalogue.cluster(16384, "hgx-h100", "ndr-rail-3tier"))
    ring = [np.arange(16384)]
    folded = play(network, "all_reduce", ring, 64 * 2**20, "ring")
    unfolded = play(network, "all_reduce", ring, 64 * 2**20, "ring", Conditions(folded=False))
    assert folded.seconds == pytest.approx(unfolded.seconds, rel=1e-9)
    assert folded.flows / folded.kinds > 10_000
