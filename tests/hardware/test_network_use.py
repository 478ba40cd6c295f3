"""The traffic of a step on its links: each algorithm's bytes, groups laid at once, other fabrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import collective_s, strided_group
from hardware.collectives.algorithms import ALGORITHMS
from hardware.collectives.network_use import LINK_CLASSES, ClassUse, NetworkUse, Stream, network_use, wired
from hardware.collectives.play import Conditions, link_use, per_domain, strided_groups
from hardware.collectives.transfers import PHASES, SENT_PHASES
from hardware.specs import Cluster
from hardware.topology.build import build_network


def h100(gpus: int, fabric: str | None = None) -> Cluster:
    node = catalogue.node("hgx-h100")
    return catalogue.cluster(gpus, node, fabric or catalogue.usual_fabric(node, gpus).name)


def stream(ranks: int, stride: int, gpus: int, algorithm: str, operation: str, size: float) -> Stream:
    groups = np.array(strided_groups(gpus, ranks, stride))
    cause = {"all_reduce": "tp", "all_to_all": "ep"}.get(operation, "dp")
    return Stream(cause, operation, algorithm, groups, np.full(len(groups), size))


def named(use: NetworkUse) -> dict[str, ClassUse]:
    return {one.name: one for one in use.classes}


@pytest.mark.parametrize(
    ("algorithm", "operation", "ranks", "stride"),
    [("ring", "all_reduce", 64, 1), ("ring", "all_gather", 64, 1), ("ring", "all_gather", 16, 8),
     ("hierarchical", "all_gather", 64, 1), ("pairwise", "all_to_all", 16, 8), ("pairwise", "all_to_all", 64, 1),
     ("pat", "reduce_scatter", 16, 8), ("nvls", "all_gather", 8, 1)],
)  # fmt: skip
def test_the_links_carry_what_the_closed_form_says(algorithm: str, operation: str, ranks: int, stride: int) -> None:
    """Every GPU sends alike, so that its links carry the demand of the busiest GPU."""
    cluster, size, seconds = h100(256, "ndr-rail-2tier"), 3e9, 2.0
    use = named(network_use(cluster, [stream(ranks, stride, 256, algorithm, operation, size)], seconds))
    inside = 8 // stride
    demand = ALGORITHMS[algorithm](operation, ranks, inside, ranks / inside)
    assert float(demand.network + demand.scale_up) > 0
    nic, scale_up = cluster.node.nic.bandwidth_bytes_per_s, cluster.node.scale_up.bandwidth_bytes_per_s
    assert use["nic"].mean_fraction == pytest.approx(float(demand.network) * size / seconds / nic, rel=1e-6)
    # All-to-all to other rails is forwarded inside the domain first, 7 of 8 of what leaves it.
    forwarded = float(demand.network) * 7 / 8 if (algorithm, stride) == ("pairwise", 1) else 0.0
    near = (float(demand.scale_up) + forwarded) * size / seconds / scale_up
    # NVLS gathers by multicast: a GPU sends its own share only, and receives all of them.
    assert use["scale_up"].busiest_fraction == pytest.approx(near, rel=1e-6)
    sent = {"nvls": (1 / 8 + 1) / 2}.get(algorithm, 1.0)
    assert use["scale_up"].mean_fraction == pytest.approx(near * sent, rel=1e-6)


@pytest.mark.parametrize("fabric", ["ndr-rail-2tier", "clos-400g-2tier"])
def test_groups_laid_at_once_are_the_groups_laid_one_by_one(fabric: str) -> None:
    """The sum over streams is what `link_use` finds for the single schedules, in the mean and on the busiest link."""
    cluster = h100(256, fabric)
    network = build_network(cluster)
    sprayed = cluster.fabric.adaptive_routing
    policy = Conditions("adaptive") if sprayed else Conditions("ecmp", flows_per_pair=16)
    streams = [
        stream(8, 1, 256, "nvls", "all_reduce", 1e9),
        stream(64, 1, 256, "pairwise", "all_to_all", 2e9),
        stream(32, 8, 256, "ring", "reduce_scatter", 5e9),
    ]
    schedules = [
        PHASES[one.algorithm](one.operation, ranks, per_domain(network, ranks), float(size))
        for one in streams
        for ranks, size in zip(one.groups, one.size_bytes, strict=True)
    ]
    alone, use = link_use(network, schedules, 0.5, policy), network_use(cluster, streams, 0.5)
    for one in use.classes:
        both = [name for name in LINK_CLASSES[one.name] if name in alone.mean]
        assert one.mean_fraction == pytest.approx(np.mean([alone.mean[name] for name in both] or [0]))
        assert one.busiest_fraction == pytest.approx(max([alone.peak[name] for name in both], default=0))
    assert alone.bottleneck in LINK_CLASSES[use.bottleneck]
    assert set(named(use)["nic"].bytes_by_cause) == {"ep", "dp"}


def test_the_tiers_of_a_ring_by_hand() -> None:
    """One GPU per server, 64 servers, two leaves of 32 servers: of 64 hops two climb, one each way."""
    cluster = h100(512, "ndr-rail-2tier")
    use = named(network_use(cluster, [stream(64, 8, 512, "ring", "all_gather", 64e9)], 1.0))
    assert cluster.fabric.tiers[0].reach_gpus == 256
    assert use["nic"].bytes_by_cause["dp"] == pytest.approx(2 * 512 * 63e9)
    assert use["leaf"].bytes_by_cause["dp"] == pytest.approx(2 * 2 * 8 * 63e9)


def test_doubling_exchanges_with_partners_ever_farther_away() -> None:
    """Rank 5 of 16 in domains of 4: with 4 and 7 inside its domain, with 1 and 13 across, all of it each time."""
    phases = SENT_PHASES["recursive_doubling"]("all_reduce", np.arange(100, 116), 4, 7.0)
    partners = [int(phase.target[phase.source == 105][0]) - 100 for phase in phases]
    assert partners == [4, 7, 1, 13]
    assert [(phase.scale_up_steps, phase.network_steps) for phase in phases] == 2 * [(1, 0)] + 2 * [(0, 1)]
    assert all((phase.size_bytes == 7.0).all() and len(phase.source) == 16 for phase in phases)


def test_groups_that_are_no_shifts_of_each_other_are_laid_one_by_one() -> None:
    cluster = h100(16)
    groups = np.array([[0, 1], [2, 9]])
    use = named(network_use(cluster, [Stream("pp", "send_recv", "pairwise", groups, np.array([1e9, 2e9]))], 1.0))
    assert use["nic"].bytes_by_cause["pp"] == pytest.approx(2 * 2e9)


def test_oversubscription_makes_the_uplinks_the_bottleneck() -> None:
    node = catalogue.node("hgx-h100")
    exchange = stream(4096, 1, 4096, "ring", "all_gather", 1e9), stream(64, 64, 4096, "pairwise", "all_to_all", 1e9)
    full = network_use(catalogue.cluster(4096, node, "clos-400g-3tier"), exchange, 1.0)
    thin = network_use(catalogue.cluster(4096, node, "clos-400g-3tier-4to1"), exchange, 1.0)
    assert thin.bottleneck in ("leaf", "spine")
    assert named(thin)[thin.bottleneck].mean_fraction > 2 * named(full)[thin.bottleneck].mean_fraction
    assert named(thin)["nic"] == named(full)["nic"]


def test_the_flows_of_a_pair_fill_both_ports_of_its_nic_alike() -> None:
    """Two ports of 25 GB/s send 50 GB each; a single flow would leave one of them idle. Inside a server none is cut."""
    cluster = h100(64, "alibaba-hpn7")
    exchange = stream(8, 8, 64, "ring", "all_gather", 8 / 7 * 100e9)
    nic = named(network_use(cluster, [exchange], 2.0))["nic"]
    assert (nic.mean_fraction, nic.busiest_fraction) == pytest.approx((1.0, 1.0))
    assert nic.bytes_by_cause["dp"] == pytest.approx(2 * 64 * 100e9)


@pytest.mark.parametrize("fabric", ["clos-400g-2tier", "clos-400g-3tier-4to1", "megascale-3tier"])
@pytest.mark.parametrize(("ranks", "stride"), [(32, 8), (16, 16), (2, 128)])
@pytest.mark.parametrize(("operation", "algorithm"), [("all_gather", "ring"), ("all_to_all", "pairwise")])
def test_no_hashed_link_carries_more_than_it_can(
    fabric: str, ranks: int, stride: int, operation: str, algorithm: str
) -> None:
    """A collective takes at least what the fullest link needs where flows collide, and hardly longer."""
    cluster, size = h100(256, fabric), 1e9
    seconds = collective_s(operation, size, strided_group(cluster, ranks, stride), cluster, algorithm, "Simple").seconds
    use = network_use(cluster, [stream(ranks, stride, 256, algorithm, operation, size)], seconds)
    assert 0.8 < max(each.busiest_fraction for each in use.classes) <= 1


@pytest.mark.parametrize("fabric", ["dragonfly-400g", "torus-3d"])
def test_other_fabrics_count_the_links_of_the_gpus_and_say_so(fabric: str) -> None:
    cluster = h100(512, fabric)
    use = network_use(cluster, [stream(64, 8, 512, "ring", "all_gather", 64e9)], 1.0)
    assert set(named(use)) == {"scale_up", "nic"}
    assert cluster.fabric.kind in use.note
    assert named(use)["nic"].mean_fraction == pytest.approx(63e9 / cluster.node.nic.bandwidth_bytes_per_s)


def test_a_fabric_too_small_is_named() -> None:
    cluster = replace(h100(256, "ndr-rail-2tier"), gpus=10**6)
    assert "ndr-rail-2tier" in wired(cluster)[1]


def test_an_idle_network_has_no_bottleneck() -> None:
    use = network_use(h100(16), [], 1.0)
    assert use.bottleneck == "none"
    assert all(one.mean_fraction == one.busiest_fraction == 0 for one in use.classes)
    with pytest.raises(ValueError, match="above zero"):
        network_use(h100(16), [], 0.0)
