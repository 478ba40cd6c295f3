"""The fabric decides: port speeds, tiers, hashing, tori, dragonflies and graphs act on collectives as flows say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import (
    DISPATCHERS,
    OPERATIONS,
    ExpertExchange,
    Group,
    collective_s,
    combine_s,
    dispatch_s,
    links_of,
    strided_group,
)
from hardware.collectives.direct import Dragonfly, all_pairs_load, shift_load
from hardware.collectives.graph import pattern_steps
from hardware.collectives.group import across_shards, leading_shard
from hardware.collectives.hashing import expected_fullest
from hardware.collectives.play import Conditions, carried_bytes, play, strided_groups
from hardware.collectives.transfers import PHASES
from hardware.collectives.uplinks import uplink_slowdown
from hardware.problems import InputError
from hardware.specs import Cluster, Fabric
from hardware.topology.build import build_network
from hardware.wiring import idle_keys, injection_bytes_per_s, leaf_reach_gpus, mismatches

GIB = 2.0**30


def h100(gpus: int, fabric: str | dict | Fabric) -> Cluster:
    return catalogue.cluster(gpus, "hgx-h100", fabric)


def with_port(fabric: str, number: int, bytes_per_s: float) -> Fabric:
    base = catalogue.fabric(fabric)
    tiers = list(base.tiers)
    tiers[number] = replace(tiers[number], port_bandwidth_bytes_per_s=bytes_per_s)
    return replace(base, tiers=tuple(tiers))


# --- ports ---------------------------------------------------------------------------------------------------------


def test_the_slower_of_nic_and_port_sets_the_pace() -> None:
    """64 B300 with NICs of 100 GB/s behind ports of 12.5 GB/s: no rank gets more than 8 x 12.5 GB/s out of its node."""
    node = catalogue.node("hgx-b300")
    slow = catalogue.cluster(64, node, with_port("xdr-rail-2tier", 0, 12.5e9))
    assert injection_bytes_per_s(node, slow.fabric) == 12.5e9
    group = strided_group(slow, 64)
    time = collective_s("all_reduce", GIB, group, slow)
    assert GIB * 2 * 63 / 64 / time.seconds <= 2 * 8 * 12.5e9
    fast = catalogue.cluster(64, node, "xdr-rail-2tier")
    ring = [collective_s("all_gather", 16 * GIB, group, each, "ring", "Simple").seconds for each in (slow, fast)]
    assert ring[0] / ring[1] > 5


def test_ports_of_another_speed_are_told() -> None:
    node = catalogue.node("hgx-b300")
    assert not mismatches(node, catalogue.fabric("xdr-rail-2tier"))
    (message,) = mismatches(node, with_port("xdr-rail-2tier", 0, 12.5e9))
    assert "12.5 GB/s" in message
    assert "100 GB/s" in message
    slow_spine = mismatches(catalogue.node("hgx-h100"), with_port("ndr-rail-2tier", 1, 25e9))
    assert slow_spine
    assert "spine" in slow_spine[0]


def test_every_catalogue_node_on_its_usual_fabric_fits_its_ports() -> None:
    for name in catalogue.names("nodes"):
        node = catalogue.node(name)
        try:
            fabric = catalogue.usual_fabric(node, 256)
        except InputError:
            continue
        assert not mismatches(node, fabric), name


def test_a_slow_spine_port_acts_like_oversubscription_and_as_flows_say() -> None:
    """Ports of a quarter of the leaf's speed: an all-to-all over 512 GPUs leaves 1 - 31/63 of its bytes to them."""
    cluster = h100(512, with_port("ndr-rail-2tier", 1, 12.5e9))
    network = build_network(cluster)
    group = strided_group(cluster, 512)
    expected = 4.0 * (64 - 32) / 63
    assert uplink_slowdown("all_to_all", group, links_of(cluster)) == pytest.approx(expected)
    slow = play(network, "all_to_all", [np.arange(512)], 1e9, "pairwise").seconds
    full = play(build_network(h100(512, "ndr-rail-2tier")), "all_to_all", [np.arange(512)], 1e9, "pairwise").seconds
    assert slow / full == pytest.approx(expected, rel=0.05)


def test_the_lower_of_two_crossed_tiers_may_be_the_narrow_one() -> None:
    """Leaves 4:1 below a full core: a group over the core pays at the leaf, where more of it crosses."""
    base = catalogue.fabric("clos-400g-3tier")
    leaf = replace(base.tiers[0], oversubscription=4.0)
    cluster = h100(8192, replace(base, tiers=(leaf, *base.tiers[1:]), adaptive_routing=True))
    group = strided_group(cluster, 8192)
    assert uplink_slowdown("all_gather", group, links_of(cluster)) == pytest.approx(1.0)
    assert uplink_slowdown("all_to_all", group, links_of(cluster)) == pytest.approx(4 * (1024 - 4) / 1023)


def test_rails_let_more_gpus_meet_under_a_leaf() -> None:
    node, rails = catalogue.node("hgx-h100"), catalogue.fabric("ndr-rail-2tier")
    assert leaf_reach_gpus(node, rails) == 256
    plain = replace(rails, rails=False)
    assert leaf_reach_gpus(node, plain) == 32
    assert strided_group(h100(512, rails), 8, 8).tier == 0
    assert strided_group(h100(512, plain), 8, 8).tier == 1


def test_every_tier_counts_what_of_the_group_lies_below_it() -> None:
    """40 ranks 32 GPUs apart: eight below a leaf's 256 GPUs, so that rings over leaves 8:1 are not held up."""
    base = catalogue.fabric("ndr-rail-3tier")
    leaf = replace(base.tiers[0], oversubscription=8.0)
    cluster = h100(10240, replace(base, tiers=(leaf, *base.tiers[1:])))
    links = links_of(cluster)
    group = strided_group(cluster, 320, 32)
    assert (group.tier, group.domains_per_block, group.lower_blocks) == (2, 64.0, (8.0,))
    assert uplink_slowdown("all_gather", group, links) == pytest.approx(1.0)
    # What goes up from a leaf: all but the 7 others of 319 peers.
    assert uplink_slowdown("all_to_all", group, links) == pytest.approx(8.0 * 312 / 319)


def test_many_groups_are_counted_like_one() -> None:
    base = catalogue.fabric("clos-400g-3tier-4to1")
    cluster = h100(8192, base)
    ranks, strides = np.array([8, 64, 512, 4096]), np.array([1, 8, 16, 2])
    together = uplink_slowdown("all_gather", strided_group(cluster, ranks, strides), links_of(cluster))
    for slowdown, rank, stride in zip(np.broadcast_to(together, 4), ranks, strides, strict=True):
        alone = uplink_slowdown("all_gather", strided_group(cluster, int(rank), int(stride)), links_of(cluster))
        assert slowdown == pytest.approx(float(alone))


def test_shards_of_a_group_lie_closer_than_their_replicas() -> None:
    """128 ranks 16 GPUs apart, 16 to a leaf's block: shards of 16 stay below it, of 32 and replicas do not."""
    cluster = h100(2048, "ndr-rail-2tier")
    group = strided_group(cluster, 128, 16)
    assert (group.tier, group.domains_per_block) == (1, 16.0)
    near, wide = leading_shard(group, 16), leading_shard(group, 32)
    assert (near.ranks, near.tier) == (16.0, 0)
    assert (wide.ranks, wide.tier, wide.domains_per_block) == (32.0, 1, 16.0)
    apart = across_shards(group, leading_shard(group, 4))
    assert (apart.ranks, apart.tier, apart.domains_per_block) == (32.0, 1, 4.0)


# --- hashing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "links"), [(0.5, 64), (4.0, 1000), (16.0, 2048), (200.0, 500)])
def test_the_fullest_link_is_what_throwing_flows_at_random_gives(mean: float, links: int) -> None:
    thrown = np.random.default_rng(0).poisson(mean, (2000, links)).max(axis=1).mean()
    assert expected_fullest(mean, links) == pytest.approx(thrown, rel=0.02)


def test_hashed_flows_collide_as_in_the_flow_simulation() -> None:
    """256 GPUs, rings over every second leaf: every hop climbs, one flow each."""
    fabric = replace(catalogue.fabric("clos-400g-2tier"), flows_per_port=1)
    cluster = h100(256, fabric)
    network = build_network(cluster)
    group = strided_group(cluster, 8, 32)
    expected = float(uplink_slowdown("all_gather", group, links_of(cluster)))
    groups = strided_groups(256, 8, 32)
    full = play(network, "all_gather", groups, 1e9, "ring").seconds
    hashed = [
        play(network, "all_gather", groups, 1e9, "ring", Conditions("ecmp", seed)).seconds / full for seed in range(5)
    ]
    assert float(np.mean(hashed)) == pytest.approx(expected, rel=0.2)
    assert expected > 2


def test_adaptive_routing_and_more_flows_lessen_collisions() -> None:
    base = catalogue.fabric("clos-400g-2tier")
    group = strided_group(h100(512, base), 16, 32)

    def slowdown(**changes: object) -> float:
        return float(uplink_slowdown("all_gather", group, links_of(h100(512, replace(base, **changes)))))

    assert slowdown(adaptive_routing=True) == 1.0
    assert 1.0 < slowdown(flows_per_port=64) < slowdown() < slowdown(flows_per_port=4)


def test_a_nic_with_a_port_in_every_plane_sends_over_all_of_them() -> None:
    node = catalogue.node("hgx-h100-roce")
    two = catalogue.fabric("alibaba-hpn7")
    assert injection_bytes_per_s(node, two) == 50e9
    assert injection_bytes_per_s(node, replace(two, planes=1)) == 25e9


# --- switches that reduce ------------------------------------------------------------------------------------------


def test_switches_that_reduce_act_where_jobs_ask_for_them() -> None:
    """Each node then sends its buffer once instead of twice along a tree; what reduces nothing is left as it is."""
    base = catalogue.fabric("ndr-rail-2tier")
    used = replace(base, collnet=True)
    group = strided_group(h100(512, base), 512)
    plain, reduced = (collective_s("all_reduce", 16 * GIB, group, h100(512, each)) for each in (base, used))
    assert plain.algorithm == "nvls_tree"
    assert reduced.algorithm == "nvls"
    assert reduced.seconds < 0.8 * plain.seconds
    gathered = [collective_s("all_gather", GIB, group, h100(512, each)).seconds for each in (base, used)]
    assert gathered[0] == gathered[1]


def test_reduction_that_no_switch_offers_is_refused() -> None:
    with pytest.raises(InputError, match="needs switches that reduce"):
        catalogue.fabric({"base": "clos-400g-2tier", "collnet": True})


# --- torus and dragonfly -------------------------------------------------------------------------------------------


def test_all_to_all_on_a_torus_is_bound_by_its_bisection() -> None:
    """16 x 8 x 8 servers: half of the bytes cross 2 x 64 cables, 1024 / 2 senders: 512 / 2 / 128 = side / 8 = 2."""
    assert all_pairs_load((16, 8, 8), 1024, 1) == pytest.approx(2.0)
    cluster = h100(8192, "torus-3d")
    time = collective_s("all_to_all", 1e9, strided_group(cluster, 8192), cluster)
    assert time.seconds >= 1e9 * 4096 / 2 / (128 * 50e9)


def test_ring_hops_on_a_torus_by_distance() -> None:
    """Neighbours: one byte a link along the fastest axis; eight servers on (one row): one along the next axis."""
    assert shift_load((4, 4, 4), 64, 1) <= 2
    assert shift_load((4, 4, 4), 16, 4) == pytest.approx(1.0)
    assert shift_load((4, 4, 4), 4, 16) == pytest.approx(1.0)
    assert shift_load((8, 8), 4, 2) == pytest.approx(2.0)
    assert shift_load((4, 1), 2, 2) == pytest.approx(1.0), "half goes each way round, two links far"


def test_trees_on_a_graph_send_half_as_much_twice_as_far() -> None:
    assert pattern_steps("doubling", 8) == pytest.approx({1: 4 / 7, 2: 2 / 7, 4: 1 / 7})
    assert pattern_steps("doubling", 2) == pattern_steps("neighbours", 8) == {1: 1.0}
    assert pattern_steps("all_pairs", 5) == pytest.approx(dict.fromkeys((1, 2, 3, 4), 1 / 4))


@pytest.mark.parametrize(
    ("fabric", "operation", "algorithm", "gpus", "ranks", "stride"),
    [
        ("torus-3d", "all_to_all", "pairwise", 256, 256, 1),
        ("torus-3d", "all_gather", "ring", 512, 512, 1),
        ("torus-3d", "all_gather", "ring", 512, 64, 8),
        ("torus-3d", "all_to_all", "pairwise", 512, 128, 1),
        ("dragonfly", "all_gather", "ring", 512, 512, 1),
        ("dragonfly", "all_gather", "ring", 512, 64, 8),
        ("dragonfly", "all_to_all", "pairwise", 512, 64, 8),
    ],
)
def test_torus_and_dragonfly_meet_the_routed_flows(
    fabric: str, operation: str, algorithm: str, gpus: int, ranks: int, stride: int
) -> None:
    """Within 35 % of the busiest link under routed flows: hashed over shortest paths there, axis after axis here."""
    drawn = small_dragonfly() if fabric == "dragonfly" else catalogue.fabric(fabric)
    cluster = h100(gpus, drawn)
    group = strided_group(cluster, ranks, stride)
    members = int(group.ranks_per_domain)
    phases = [
        phase
        for ranks_of_group in strided_groups(gpus, ranks, stride)
        for phase in PHASES[algorithm](operation, ranks_of_group, members, 1e9)
    ]
    carried = carried_bytes(build_network(cluster), phases, Conditions("adaptive"))
    busiest_s = float((carried.size_bytes / carried.capacity).max())
    links = links_of(cluster)
    share = (ranks - group.ranks_per_domain) / ranks
    if algorithm == "ring":
        share = (ranks - 1) / ranks / group.ranks_per_domain
    slowdown = float(uplink_slowdown(operation, group, links, algorithm))
    assert busiest_s == pytest.approx(1e9 * share / 50e9 * slowdown, rel=0.35)
    assert slowdown > 1.2


def small_dragonfly() -> Fabric:
    base = catalogue.fabric("dragonfly-400g")
    switch, group, top = base.tiers
    tiers = (replace(switch, radix=24), replace(group, reach_gpus=128), top)
    return replace(base, tiers=tiers, adaptive_routing=False)


def test_a_detour_helps_a_dragonfly() -> None:
    fixed = small_dragonfly()
    group = strided_group(h100(512, fixed), 512)
    slow, fast = (
        float(uplink_slowdown("all_gather", group, links_of(h100(512, replace(fixed, adaptive_routing=adaptive)))))
        for adaptive in (False, True)
    )
    assert fast < slow


# --- graphs --------------------------------------------------------------------------------------------------------


def drawn(tmp_path: Path, trunk: str) -> str:
    """Two nodes of eight GPUs on a switch each, the switches joined by one cable."""
    nodes = [{"id": f"g{i}", "kind": "gpu"} for i in range(16)] + [{"id": f"s{i}", "kind": "leaf"} for i in range(2)]
    links = [{"source": f"g{i}", "target": f"s{i // 8}", "bandwidth": "400 Gb/s", "class": "nic"} for i in range(16)]
    links.append({"source": "s0", "target": "s1", "bandwidth": trunk, "class": "trunk"})
    path = tmp_path / f"{trunk.replace(' ', '').replace('/', '')}.json"
    path.write_text(json.dumps({"name": "two", "nodes": nodes, "links": links}), encoding="utf-8")
    return str(path)


def custom(graph: str) -> Fabric:
    return Fabric("two", "custom", (), False, 1, True, False, graph=graph)


def test_the_links_of_a_graph_decide(tmp_path: Path) -> None:
    """Eight NICs of 50 GB/s over a cable of 100 GB/s: four times slower than over one of 400 GB/s."""
    wide, narrow = (h100(16, custom(drawn(tmp_path, trunk))) for trunk in ("3200 Gb/s", "800 Gb/s"))
    group = strided_group(wide, 16)
    assert uplink_slowdown("all_gather", group, links_of(wide)) == pytest.approx(1.0)
    assert uplink_slowdown("all_gather", group, links_of(narrow)) == pytest.approx(4.0)
    slow, fast = (collective_s("all_gather", 16 * GIB, group, each, "ring").seconds for each in (narrow, wide))
    assert slow / fast > 3


def test_a_graph_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has 16 nodes of kind gpu, the cluster 32"):
        links_of(h100(32, custom(drawn(tmp_path, "800 Gb/s"))))


# --- inside a domain -----------------------------------------------------------------------------------------------


def test_latency_inside_a_domain_acts() -> None:
    node = catalogue.node("hgx-h100")
    far = replace(node, scale_up=replace(node.scale_up, latency_s=node.scale_up.latency_s + 1e-6))
    near_s, far_s = (
        collective_s("all_gather", 1024.0, Group(8.0, 8.0), catalogue.cluster(8, each, "none"), "ring", "LL").seconds
        for each in (node, far)
    )
    assert far_s - near_s == pytest.approx(7e-6)


def test_eight_mi300x_reduce_eight_mebibytes_as_measured() -> None:
    """rccl-tests, 8 MI300X, 8 MiB: bus bandwidth 161 GB/s (crickett-hpe/hpc-ai-envs pull request 30)."""
    cluster = catalogue.cluster(8, "mi300x-platform", "none")
    size = 8 * 2.0**20
    seconds = collective_s("all_reduce", size, strided_group(cluster, 8), cluster).seconds
    assert size * 2 * 7 / 8 / seconds == pytest.approx(161e9, rel=0.2)


@pytest.mark.parametrize("operation", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("size", [1e4, 1e6, 1e7, 1e8, 1e9, 1e10])
def test_a_second_mesh_makes_no_collective_cheaper(operation: str, size: float) -> None:
    cluster = catalogue.cluster(64, "mi300x-platform", "clos-400g-2tier")
    one = collective_s(operation, size, Group(4.0, 4.0), cluster).seconds
    two = collective_s(operation, size, Group(8.0, 4.0), cluster).seconds
    assert two >= one * (1 - 1e-9)


def test_a_rack_of_72_is_one_domain() -> None:
    cluster = catalogue.cluster(144, "gb200-nvl72", "nvl72-400g-2tier")
    assert strided_group(cluster, 72).domains == 1
    assert strided_group(cluster, 144).domains == 2


# --- from one server to two ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "fabric"),
    [
        ("hgx-h100", "ndr-rail-2tier"),
        ("hgx-h800", "ndr-rail-2tier"),
        ("dgx-a100-80", "hdr-rail-2tier"),
        ("hgx-b300", "xdr-rail-2tier"),
        ("mi300x-platform", "clos-400g-2tier"),
    ],
)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_second_server_makes_no_collective_cheaper(operation: str, node: str, fabric: str) -> None:
    """The same size over as many GPUs again, behind NICs slower than the links inside, at every power of two."""
    cluster = catalogue.cluster(64, node, fabric)
    sizes = 2.0 ** np.arange(10, 35)
    for inside in (2.0, 4.0, 8.0):
        one = collective_s(operation, sizes, Group(inside, inside), cluster).seconds
        two = collective_s(operation, sizes, Group(2 * inside, inside), cluster).seconds
        assert np.all(two >= one * (1 - 1e-9)), (inside, sizes[two < one])


def test_a_send_from_server_to_server_goes_over_the_nic() -> None:
    """Sixteen ranks, each sending 1 GB to the next: the eighth does so at 50 GB/s."""
    cluster = h100(64, "ndr-rail-2tier")
    assert collective_s("send_recv", 1e9, strided_group(cluster, 8), cluster).seconds < 1e9 / 50e9
    assert collective_s("send_recv", 1e9, strided_group(cluster, 16), cluster).seconds >= 1e9 / 50e9


@pytest.mark.parametrize("name", ["deepep", "hybridep"])
def test_an_exchange_is_priced_with_the_sms_that_it_holds(name: str) -> None:
    """On one domain with links of no limit the SMs set the pace."""
    cluster = h100(8, "none")
    links = replace(links_of(cluster), scale_up_bytes_per_s=1e13)
    exchange = ExpertExchange(8192, 7168, 256, 8)
    held = DISPATCHERS[name].sms
    for price in (dispatch_s, combine_s):
        own = price(exchange, Group(8.0, 8.0), links, name).seconds
        assert own == price(exchange, Group(8.0, 8.0), links, name, sms=held).seconds
        assert own > price(exchange, Group(8.0, 8.0), links, name, sms=2 * held).seconds


# --- keys that could not act ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"base": "torus-3d", "rails": True}, "rails: acts on leaf switches, and kind torus has none"),
        ({"base": "dragonfly-400g", "planes": 2}, "planes: are separate trees"),
        ({"base": "torus-3d", "adaptive_routing": True}, "adaptive_routing: chooses among routes"),
        ({"base": "torus-3d", "in_network_reduction": True}, "in_network_reduction: is priced in trees of switches"),
        ({"base": "ndr-rail-2tier", "flows_per_port": 4}, "flows_per_port: counts flows that are hashed"),
    ],
)
def test_keys_that_nothing_would_act_on_are_refused(written: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        catalogue.fabric(written)


def test_oversubscription_where_there_are_no_uplinks_is_refused() -> None:
    fabric = with_port("ndr-rail-2tier", 0, 50e9)
    spine = replace(fabric.tiers[1], oversubscription=2.0)
    assert not idle_keys(fabric)
    ((key, message),) = idle_keys(replace(fabric, tiers=(fabric.tiers[0], spine)))
    assert key == "tiers"
    assert "spine: oversubscription is of uplinks" in message


SMALL = Dragonfly(4, 4, 17, cables=2, spines=0, local_bytes_per_s=1.0, global_bytes_per_s=1.0, adaptive=False)


@pytest.mark.parametrize(
    ("changes", "pattern", "span", "spacing", "local", "across"),
    [
        # Three groups of 16 GPUs, a third of the bytes to each over 2 cables; inside, a third of a switch's 4 bytes to
        # each of 4 switches, and two thirds to the switch with the cable and from the one where it ends.
        ({}, "all_pairs", 48, 1, 1 / 3 + 2 * 4 * (2 / 3) / 4, 16 / 3 / 2),
        # Half of 16 bytes leave the group: over all 16 x 2 cables, twice, instead of over 2.
        ({}, "all_pairs", 32, 1, 0.5 + 1.0, 4.0),
        ({"adaptive": True}, "all_pairs", 32, 1, 0.5 + 1.0, 0.5),
        # Two of 8 switches: a detour over the others is twice 4 bytes on 7 links.
        ({"switches": 8}, "all_pairs", 8, 1, 2.0, 0.0),
        ({"switches": 8, "adaptive": True}, "all_pairs", 8, 1, 8 / 7, 0.0),
        ({"adaptive": True}, "all_pairs", 4, 1, 0.0, 0.0),
        ({"spines": 2}, "all_pairs", 32, 1, 2.0, 4.0),
        # The last GPU before a border sends across it; with strides, as many as a switch or a group has.
        ({}, "neighbours", 48, 1, 1.0, 0.5),
        ({}, "neighbours", 4, 1, 0.0, 0.0),
        ({}, "neighbours", 6, 8, 4.0, 4.0),
        ({}, "neighbours", 2, 4, 4.0, 0.0),
        ({}, "neighbours", 2, 32, 4.0, 8.0),
        ({"adaptive": True}, "neighbours", 2, 32, 8 / 3, 1.0),
        ({"spines": 2}, "neighbours", 2, 32, 2.0, 8.0),
    ],
)
def test_the_busiest_link_of_a_small_dragonfly(
    changes: dict, pattern: str, span: float, spacing: float, local: float, across: float
) -> None:
    """Seconds for a byte of every GPU, by links inside groups and between them."""
    wiring = replace(SMALL, **changes)
    for name, expected in (("local", across), ("global", local)):
        other = replace(wiring, **{f"{name}_bytes_per_s": 1e12})
        assert other.load(pattern, span, spacing) == pytest.approx(expected, abs=1e-9)
