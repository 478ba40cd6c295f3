"""Every checkpoint policy keeps the contract of its seam, and costs what its bytes and bandwidths say."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulator.run.checkpoint_interval import settle_intervals
from simulator.run.checkpoints import EVERYTHING, POLICIES, CheckpointPolicy, PolicyName, sharded_write_s
from tests.simulator.run_specs import STATE_BYTES, paths

MTBF_S = 3 * 3600.0
PATHS = paths(2048)


@pytest.mark.parametrize("name", sorted(POLICIES))
@pytest.mark.parametrize("every_s", [None, 1000.0, 1.0])
def test_contract(name: PolicyName, every_s: float | None) -> None:
    """Storage comes last and survives everything; intervals are whole steps, nested, no shorter than their write."""
    if name == "none":
        every_s = None
    saving = settle_intervals(CheckpointPolicy(name, every_s), PATHS, MTBF_S, 1e7, 7.0)
    assert saving.tiers[-1].name == "storage"
    assert saving.tiers[-1].survives_nodes == EVERYTHING
    assert saving.final_save_s == pytest.approx(sharded_write_s(PATHS))
    unit = 7.0
    for tier in saving.tiers:
        assert tier.stall_s >= 0
        assert tier.lag_s >= 0
        assert tier.restore_s > 0
        assert tier.every_s is not None
        if math.isfinite(tier.every_s):
            assert tier.every_s / unit == pytest.approx(round(tier.every_s / unit), abs=1e-9)
            assert tier.every_s >= tier.lag_s
            unit = tier.every_s
    told = any("takes" in warning for warning in saving.warnings)
    assert told == (every_s == 1.0 and saving.tiers[-1].lag_s > 1.0)


def test_costs_follow_from_bytes_and_bandwidths() -> None:
    tiers = {name: POLICIES[name](CheckpointPolicy(overhead_s=0.0), PATHS) for name in POLICIES}
    assert tiers["sync"][0].stall_s == pytest.approx(STATE_BYTES / (16 * 2e9))  # 16 writers of 2 GB/s
    assert tiers["sharded"][0].stall_s == pytest.approx(STATE_BYTES / 100e9)  # the storage is the limit
    share = STATE_BYTES / 2048
    assert tiers["async"][0].stall_s == pytest.approx(share / 50e9)
    assert tiers["async"][0].lag_s == pytest.approx(STATE_BYTES / 100e9)
    assert tiers["in-memory"][0].lag_s == pytest.approx(share / 50e9)
    assert tiers["in-memory"][0].restore_s == pytest.approx(2 * share / 50e9)
    assert tiers["tiered"][0].lag_s == pytest.approx(share / 3e9)
    assert tiers["async"][0].restore_s == pytest.approx(STATE_BYTES / 200e9)


def test_a_slow_network_limits_what_storage_could_take() -> None:
    slow = replace(PATHS, nic_bytes_per_s=1e6)
    assert sharded_write_s(slow) == pytest.approx(STATE_BYTES / (2048 * 1e6))


def test_what_survives_what() -> None:
    """In memory: one node, or as many as the peer is away; local drives: the process only."""
    near, far = (POLICIES["in-memory"](CheckpointPolicy(peer_distance_nodes=d), PATHS)[0] for d in (1, 8))
    assert (near.survives_nodes, far.survives_nodes) == (1, 8)
    assert POLICIES["tiered"](CheckpointPolicy(), PATHS)[0].survives_nodes == 0
