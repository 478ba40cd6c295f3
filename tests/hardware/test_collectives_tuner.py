"""NCCL's own estimates of each algorithm and protocol, by hand from its constants."""

from __future__ import annotations

import numpy as np
import pytest

from hardware.collectives import Group, Links
from hardware.collectives.closed_form import _tuner_s as tuner_s
from hardware.collectives.closed_form import tariff
from hardware.collectives.tuner import estimate, plateau, tree_correction
from tests.hardware.links import EIGHT_GPUS, EIGHT_NODES, NVL, links

US, GB = 1e-6, 1e9


H100 = links()


def tuned(operation: str, pair: str, group: Group, machine: Links = H100, asked: bool = True) -> tuple[float, float]:
    """Latency in microseconds and rate in GB/s of a legal pair."""
    found = estimate(operation, *pair.split("/"), asked, group, machine)  # type: ignore[call-arg]
    assert found.legal
    return float(found.latency_s) / US, 1 / float(found.s_per_byte) / GB


RING = 8 / 14  # of the bus, for 8 ranks
WIDE = 64 / 126
NICS = links(nic_bytes_per_s=400e9)
TWO_NODES = Group(16.0, 8.0)


@pytest.mark.parametrize(
    ("operation", "pair", "group", "machine", "latency_us", "rate_gbs"),
    [
        # Rings: 0.8 of NVLink, 0.96 of the NICs where they are slower; 126 steps, of which 14 across, two latencies
        # of the wire for Simple.
        ("all_reduce", "ring/Simple", NVL, H100, 8.4 + 14 * 3.4, 360 * RING),
        ("all_reduce", "ring/Simple", EIGHT_NODES, H100, 8.4 + 112 * 3.4 + 14 * (14 + 5.6), 360 * WIDE),
        ("all_reduce", "ring/Simple", EIGHT_NODES, links(cpu_vendor="amd"), 8.4 + 112 * 6 + 14 * 19.6, 360 * WIDE),
        ("all_reduce", "ring/Simple", EIGHT_GPUS, H100, 8.4 + 14 * (14 + 5.6), 48 * RING),
        ("all_gather", "ring/Simple", NVL, H100, 8.4 + 7 * 3.4, 360 * 8 / 7),
        ("broadcast", "ring/Simple", EIGHT_NODES, H100, 8.4 + 56 * 3.4 + 8 * 19.6, 360),
        ("broadcast", "ring/Simple", NVL, H100, 8.4 + 8 * 3.4, 360),
        ("all_reduce", "ring/LL", NVL, H100, 6.6 + 14 * 0.6, 141 * RING),
        ("all_reduce", "ring/LL", TWO_NODES, H100, 6.6 + 28 * 1.0 + 2 * (2.7 + 2.8), 39 * 16 / 30),
        ("all_reduce", "ring/LL", EIGHT_NODES, H100, 6.6 + 112 * 1.0 + 14 * (2.7 + 2.8), 20.4 * WIDE),
        ("all_reduce", "ring/LL", EIGHT_GPUS, H100, 6.6 + 14 * (5.0 + 2.8), 20.4 * RING),
        ("all_reduce", "ring/LL128", NVL, H100, 14 + 14 * 1.9, 0.92 * 360 * RING),
        ("all_reduce", "ring/LL128", Group(16.0, 2.0), NICS, 14 + 16 * 1.9 + 14 * (4 + 2.8), 4 * 36.7 * 16 / 30),
        # Trees: twice the chain inside and the depth across; halves of both trees, 0.85 of it since Hopper.
        ("all_reduce", "tree/Simple", TWO_NODES, H100, 8.4 + 2 * (7 * 4 + 19.6), 0.92 * 360 * 0.85 / 2),
        ("all_reduce", "tree/Simple", EIGHT_NODES, H100, 8.4 + 2 * (7 * 4 + 3 * 19.6), 0.92 * 360 * 0.85 / 2),
        ("all_reduce", "tree/Simple", EIGHT_GPUS, NICS, 8.4 + 2 * 3 * 19.6, 2 * 36 * 0.85 / 2),
        ("all_reduce", "tree/LL", EIGHT_NODES, H100, 6.8 + 2 * (7 * 0.6 + 3 * (5 + 2.8)), 20.4 * 0.85 / 2),
        ("all_reduce", "tree/LL", Group(2.0, 1.0), H100, 6.8 + 2 * (5 + 2.8), 0.92 * 48 / 3.8 * 0.85 / 2),
        ("all_reduce", "tree/LL128", EIGHT_NODES, H100, 14 + 2 * (7 * 1.25 + 3 * 11.3), 331.2 * 120 / 128 * 0.85 / 2),
        ("all_reduce", "tree/LL128", EIGHT_GPUS, NICS, 14 + 2 * 3 * 11.3, 2 * 29 * 0.85 / 2),
        ("all_reduce", "tree/Simple", EIGHT_GPUS, links("ampere"), 8.4 + 2 * 3 * 19.6, 2 * 17.8 / 2),
        # Switches that reduce: NVLS at 0.797 of the bus and 5/6 of that; across no faster than the NICs.
        ("all_reduce", "nvls/Simple", NVL, H100, 25, 360 * 0.796875 * 5 / 6),
        ("all_gather", "nvls/Simple", NVL, H100, 25, 360 * 0.796875 * 7 / 8 * 5 / 6),
        ("all_reduce", "nvls/Simple", EIGHT_NODES, links(nic_bytes_per_s=10e9), 25 + 18 + 5.6, 76.8 * 5 / 6),
        ("all_reduce", "nvls_tree/Simple", TWO_NODES, H100, 25 + 2 * 26.5, 2 * 360 * 0.796875 * 16 / 30),
        ("all_reduce", "nvls_tree/Simple", EIGHT_NODES, H100, 25 + 6 * 26.5, 360 * WIDE),
        ("all_reduce", "nvls_tree/Simple", TWO_NODES, links(nic_bytes_per_s=10e9), 25 + 2 * 26.5, 2 * 76.8 * 16 / 30),
        ("all_reduce", "collnet/Simple", EIGHT_NODES, H100, 2 * 3.7 + 0.8 * 7 + 31 + 5.6, 360 * 0.85 / 2),
        ("all_reduce", "collnet/Simple", EIGHT_GPUS, H100, 14 + 5.6, 48 * 0.85 / 2),
        ("all_gather", "pat/Simple", EIGHT_GPUS, H100, 8 + 3 * 19.6 / 3.5 + 2.8 * 8, 0.75 * 48 * 8 / 7),
    ],
)  # fmt: skip
def test_estimates_of_nccls_tuner_by_hand(
    operation: str, pair: str, group: Group, machine: Links, latency_us: float, rate_gbs: float
) -> None:
    assert tuned(operation, pair, group, machine) == pytest.approx((latency_us, rate_gbs))


def test_who_may_run_where() -> None:
    deaf, blind = links(multicast=False), links(in_network_reduction=False)
    for operation, algorithm, asked, group, machine, legal in (
        ("all_reduce", "nvls", False, NVL, H100, True), ("all_gather", "nvls", False, NVL, H100, False),
        ("all_gather", "nvls", True, NVL, H100, True), ("all_reduce", "nvls", True, NVL, deaf, False),
        ("all_reduce", "nvls", True, EIGHT_GPUS, H100, False), ("all_reduce", "nvls", True, EIGHT_NODES, blind, False),
        ("all_reduce", "nvls", True, EIGHT_NODES, H100, True), ("all_reduce", "nvls_tree", False, NVL, H100, False),
        ("all_reduce", "nvls_tree", False, EIGHT_GPUS, H100, False),
        ("all_reduce", "nvls_tree", False, TWO_NODES, H100, True),
        ("all_reduce", "collnet", True, NVL, H100, False), ("all_reduce", "collnet", True, EIGHT_NODES, blind, False),
        ("all_gather", "pat", False, EIGHT_GPUS, H100, True), ("all_gather", "pat", False, EIGHT_NODES, H100, False),
        ("all_gather", "pat", True, EIGHT_NODES, H100, True), ("all_reduce", "ring", False, NVL, H100, True),
    ):  # fmt: skip
        found = estimate(operation, algorithm, "Simple", asked, group, machine).legal
        assert bool(found) == legal, (operation, algorithm, asked, group)


def test_sends_change_protocol_at_16_kib_for_each_peer() -> None:
    for operation, peers in (("all_to_all", 64), ("send_recv", 1)):
        quick = estimate(operation, "pairwise", "LL", False, EIGHT_NODES, H100)
        whole = estimate(operation, "pairwise", "Simple", False, EIGHT_NODES, H100)
        assert (whole.latency_s, whole.s_per_byte, quick.latency_s) == (1.0, 0.0, 0.0)
        assert 1 / quick.s_per_byte == 16384 * peers


def test_tuner_corrects_trees_by_size_and_rings_on_a_plateau() -> None:
    """Trees of 1 MiB, 2^14 times 64 bytes, reach half their rate; a Simple ring of 24 channels takes 1.4 times its
    latency from 64 bytes for each channel and rank."""
    prices = tariff("all_reduce", EIGHT_NODES, H100, "ring,tree", "Simple", None)
    assert prices.pairs == (("ring", "Simple"), ("tree", "Simple"))
    assert plateau(H100) == (1.4, 64 * 24)
    assert tree_correction("Simple")[-1] == 1.0
    ring, tree = (estimate("all_reduce", name, "Simple", True, EIGHT_NODES, H100) for name in ("ring", "tree"))
    cases = (
        (64 * 24 * 64 - 1, 1.0, 0.6),
        (2.0**20, 1.4, 0.5),
        (2.0**40, 1.4, 1.0),
        (1.0, 1.0, 0.9),
    )
    for size, factor, share in cases:
        found = tuner_s(prices, np.asarray(size))
        assert found[0] == pytest.approx(factor * ring.latency_s + size * ring.s_per_byte)
        assert found[1] == pytest.approx(tree.latency_s + size * tree.s_per_byte / share)
    inside = tariff("all_reduce", NVL, H100, "ring", "Simple", None)
    alone = estimate("all_reduce", "ring", "Simple", True, NVL, H100)
    assert tuner_s(inside, np.asarray(1e9))[0] == pytest.approx(alone.latency_s + 1e9 * alone.s_per_byte)
