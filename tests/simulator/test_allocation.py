"""Jobs on NVL72 racks take as much of each rack as keeps their groups whole."""

from __future__ import annotations

import pytest

from hardware.catalogue import cluster
from simulator.plans.allocation import allocated, gpus_per_domain
from simulator.plans.placement import process_group
from simulator.plans.spec import Plan


@pytest.mark.parametrize(
    ("gpus", "ep", "used"), [(256, 64, 64), (256, 32, 64), (10368, 72, 72), (10368, 64, 64), (64, 8, 64), (144, 8, 72)]
)
def test_used_of_a_rack(gpus: int, ep: int, used: int) -> None:
    plan = Plan(dp=gpus, ep=ep, micro_batch_size=1, global_batch_size=gpus)
    racks = cluster(gpus, "gb200-nvl72", "nvl72-400g-3tier")
    assert gpus_per_domain(plan, racks) == used
    assert process_group(plan, "ep", allocated(plan, racks)).domains == 1


def test_a_server_is_taken_whole() -> None:
    plan = Plan(dp=16, ep=3, micro_batch_size=1, global_batch_size=16)
    servers = cluster(16, "hgx-h100", "ndr-rail-2tier")
    assert allocated(plan, servers) is servers
