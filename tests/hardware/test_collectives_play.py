"""Collectives played on networks: closed form against flows, folded against unfolded, contention, what-ifs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import ALGORITHMS, OPERATIONS, ExpertExchange, dispatch_s, links_of, strided_group
from hardware.collectives.algorithms import candidates
from hardware.collectives.play import Conditions, check_groups, ideal_s, link_use, play, play_phases, strided_groups
from hardware.collectives.transfers import (
    NETWORK,
    PHASES,
    SWITCH,
    TransferPhase,
    double_tree,
    expert_exchange,
    matrix_exchange,
    paths_inside,
    push_pull,
    rings_inside,
)
from hardware.flows import CapacityChange
from hardware.specs import Cluster
from hardware.topology import Network, build_network
from hardware.topology.network import degrade


def pair(node: str, fabric: str, gpus: int) -> tuple[Cluster, Network]:
    cluster = catalogue.cluster(gpus, node, fabric)
    return cluster, build_network(cluster)


H100, H100_NET = pair("hgx-h100", "ndr-rail-2tier", 512)
CASES = [
    (operation, algorithm)
    for operation in OPERATIONS
    for algorithm in dict.fromkeys([a for a, _ in candidates(operation)] + ["hierarchical"])
    if algorithm != "hierarchical" or operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
]
PLACES = [(8, 1), (4, 2), (16, 1), (64, 1), (8, 8), (32, 16), (256, 1)]


def possible(algorithm: str, per_domain: float, domains: float) -> bool:
    if algorithm in ("nvls", "nvls_tree") and per_domain == 1:
        return False
    if algorithm in ("nvls_tree", "collnet") and domains == 1:
        return False
    return algorithm != "pat" or per_domain == 1


def test_phases_and_closed_forms_name_the_same_algorithms() -> None:
    assert set(PHASES) == set(ALGORITHMS)


@pytest.mark.parametrize(("operation", "algorithm"), CASES)
def test_played_on_an_idle_network_equals_the_closed_form(operation: str, algorithm: str) -> None:
    for ranks, stride in PLACES:
        group = strided_group(H100, ranks, stride)
        if not possible(algorithm, group.ranks_per_domain, group.domains):
            continue
        members = np.arange(ranks) * stride
        played = play(H100_NET, operation, [members], 64e6, algorithm)
        exact = ideal_s(operation, algorithm, 64e6, group, links_of(H100))
        assert played.seconds == pytest.approx(exact, rel=0.01), (ranks, stride)


@pytest.mark.parametrize(("operation", "algorithm"), CASES)
def test_phases_ask_of_the_links_what_the_closed_form_says(operation: str, algorithm: str) -> None:
    """Bytes out of the busiest GPU, by kind of link, and the steps that wait for each other."""
    for ranks, stride in PLACES:
        group = strided_group(H100, ranks, stride)
        g, k = int(group.ranks_per_domain), int(group.domains)
        if not possible(algorithm, g, k) or (operation, ranks) == ("send_recv", 1):
            continue
        members = np.arange(ranks) * stride
        phases = PHASES[algorithm](operation, members, g, 1.0)
        # The busiest port in either direction, as links are full duplex.
        inside, across = np.zeros((2, 512)), np.zeros((2, 512))
        for phase in phases:
            near = (phase.source == SWITCH) | (phase.target == SWITCH) | (phase.source // 8 == phase.target // 8)
            near &= (phase.source != NETWORK) & (phase.target != NETWORK)
            for end, gpus in enumerate((phase.source, phase.target)):
                for kind, chosen in ((inside, near), (across, ~near)):
                    some = chosen & (gpus >= 0)
                    np.add.at(kind[end], gpus[some], phase.size_bytes[some] * phase.repeats)
        demand = ALGORITHMS[algorithm](operation, float(ranks), float(g), float(k))
        assert inside.max() == pytest.approx(float(demand.scale_up), rel=1e-9), (ranks, stride, "scale-up")
        assert across.max() == pytest.approx(float(demand.network), rel=1e-9), (ranks, stride, "network")
        assert sum(phase.scale_up_steps for phase in phases) == pytest.approx(float(demand.scale_up_steps))
        assert sum(phase.network_steps for phase in phases) == pytest.approx(float(demand.network_steps))


@pytest.mark.parametrize("algorithm", ["ring", "tree", "pairwise", "hierarchical"])
def test_on_a_mesh_too_the_closed_form_is_met(algorithm: str) -> None:
    """MI300X: eight GPUs joined pairwise; rings and chains are laid so that no two share a link."""
    cluster, network = pair("mi300x-platform", "clos-400g-2tier", 64)
    operation = "all_to_all" if algorithm == "pairwise" else "all_reduce"
    for ranks in (2, 5, 8, 64):
        if algorithm == "tree" and ranks < 64:
            continue
        group = strided_group(cluster, ranks)
        played = play(network, operation, [np.arange(ranks)], 64e6, algorithm)
        assert played.seconds == pytest.approx(
            ideal_s(operation, algorithm, 64e6, group, links_of(cluster)), rel=0.03
        ), ranks


def test_rings_and_paths_of_a_domain_share_no_hop() -> None:
    for g in (3, 5, 7, 8):
        hops = [(int(a), int(b)) for ring in rings_inside(g) for a, b in zip(ring, np.roll(ring, -1), strict=True)]
        assert len(hops) == len(set(hops)) == g * (g - 1)
    for g in (2, 4, 6, 8):
        hops = [(int(a), int(b)) for path in paths_inside(g) for a, b in pairwise(path)]
        assert len(hops) == len(set(hops)) == g * (g - 1)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 8, 13, 16, 64])
def test_double_tree_is_two_spanning_trees_with_disjoint_insides(k: int) -> None:
    insides = []
    for edges in double_tree(k):
        parents = dict(edges)
        assert len(parents) == len(edges) == k - 1
        roots = set(range(k)) - set(parents)
        assert len(roots) == 1
        for node in range(k):
            steps = 0
            while node in parents:
                node, steps = parents[node], steps + 1
            assert steps <= np.ceil(np.log2(k)) + 1
        insides.append({parent for parent in parents.values() if list(parents.values()).count(parent) == 2})
    assert not insides[0] & insides[1]


def test_fold_equals_unfolded() -> None:
    groups = strided_groups(512, 64)
    for operation, algorithm in (("all_to_all", "pairwise"), ("all_reduce", "ring"), ("all_reduce", "tree")):
        for network in (H100_NET, degrade(H100_NET, H100_NET.class_of("leaf_up")[:40], 0.25)):
            folded = play(network, operation, groups, 1e7, algorithm)
            whole = play(network, operation, groups, 1e7, algorithm, Conditions(folded=False))
            assert folded.group_s == pytest.approx(whole.group_s, rel=1e-9)
            assert folded.kinds <= whole.kinds


def test_fold_of_sixteen_thousand_ranks_is_a_handful_of_kinds() -> None:
    cluster, network = pair("hgx-h100", "ndr-rail-3tier", 16384)
    played = play(network, "all_reduce", [np.arange(16384)], 64 * 2**20, "ring")
    assert played.flows == 8 * 16384
    assert played.kinds <= 10
    bound = 2 * 16383 / 16384 * 64 * 2**20 / 8 / 50e9
    exact = ideal_s("all_reduce", "ring", 64 * 2**20, strided_group(cluster, 16384), links_of(cluster))
    assert bound < played.seconds <= exact
    assert played.seconds == pytest.approx(exact, rel=0.1)


def test_expert_groups_side_by_side_do_not_disturb_each_other_on_a_full_fabric_and_do_on_a_narrow_one() -> None:
    alone = play(H100_NET, "all_to_all", strided_groups(512, 64)[:1], 1e8, "pairwise")
    together = play(H100_NET, "all_to_all", strided_groups(512, 64), 1e8, "pairwise")
    assert together.seconds == pytest.approx(alone.seconds, rel=1e-6)
    # Every second GPU in a group: the groups interleave on the same nodes, on other NICs.
    twice = play(H100_NET, "all_to_all", strided_groups(512, 64, 2), 1e8, "pairwise")
    assert twice.seconds == pytest.approx(alone.seconds * (60 / 64) / (56 / 64), rel=0.02)
    assert twice.bottleneck in ("nic_out", "nic_in")


def test_groups_of_a_plan_that_share_nics_take_the_sum_of_their_bytes() -> None:
    """EP64 all-to-alls beside the data-parallel reduce-scatters of the same GPUs, eight groups of 64 and 64 of 8."""
    experts = [PHASES["pairwise"]("all_to_all", ranks, 8, 1e8) for ranks in strided_groups(512, 64)]
    data = [PHASES["ring"]("reduce_scatter", ranks, 1, 2e8) for ranks in strided_groups(512, 8, 64)]
    apart = [play_phases(H100_NET, schedules) for schedules in (experts, data)]
    together = play_phases(H100_NET, experts + data)
    transfer = [time.seconds - time.latency_s for time in apart]
    assert transfer == pytest.approx([1e8 * 56 / 64 / 50e9, 2e8 * 7 / 8 / 50e9], rel=1e-6)
    assert together.seconds - together.latency_s == pytest.approx(sum(transfer), rel=0.01)
    assert max(time.seconds for time in apart) < together.seconds


def test_one_to_seven_oversubscription_shows_where_traffic_leaves_the_pod() -> None:
    """Pods of 3,072 GPUs at full bisection, 1:7 above: pairs in a pod keep their NICs, pairs across get 1/7."""
    cluster, network = pair("hgx-h100-roce", "meta-24k-roce", 6144)
    near = [TransferPhase(np.arange(3072), (np.arange(3072) + 1536) % 3072, np.full(3072, 1e8), 1, 0.0, 1.0)]
    far = [TransferPhase(np.arange(6144), (np.arange(6144) + 3072) % 6144, np.full(6144, 1e8), 1, 0.0, 1.0)]
    times = [play_phases(network, [schedule]) for schedule in (near, far)]
    transfer = [time.seconds - time.latency_s for time in times]
    assert transfer[0] == pytest.approx(1e8 / 50e9)
    assert transfer[1] == pytest.approx(7 * 1e8 / 50e9)
    assert times[1].bottleneck in ("spine_up", "spine_down")
    fair = replace(cluster.fabric, tiers=tuple(replace(tier, oversubscription=1.0) for tier in cluster.fabric.tiers))
    full = play_phases(build_network(replace(cluster, fabric=fair)), [far])
    assert full.seconds - full.latency_s == pytest.approx(1e8 / 50e9)


def test_ecmp_against_adaptive_on_a_rail_to_rail_pattern() -> None:
    """Every GPU to the same rail 256 GPUs on: spraying gives full rate, hashing leaves collisions."""
    source = np.arange(512)
    shift = [TransferPhase(source, (source + 256) % 512, np.full(512, 1e8), 1, 0.0, 1.0)]
    sprayed = play_phases(H100_NET, [shift])
    hashed = [play_phases(H100_NET, [shift], Conditions("ecmp", seed)) for seed in range(4)]
    assert sprayed.seconds - sprayed.latency_s == pytest.approx(1e8 / 50e9)
    for time in hashed:
        assert 2.5 < (time.seconds - time.latency_s) / (1e8 / 50e9) < 8
        assert time.bottleneck in ("leaf_up", "leaf_down")
    assert len({time.seconds for time in hashed}) > 1


def test_multi_plane_and_multi_rail_are_equal_for_expert_parallel_all_to_all() -> None:
    """arXiv 2505.09343, Figures 5 and 6, Table 4: MPFT and MRFT show no difference in NCCL and DeepSeek-V3 training."""
    rails, multi = pair("hgx-h800", "ndr-rail-2tier", 2048), pair("hgx-h800", "deepseek-8plane", 2048)
    groups = strided_groups(2048, 64)
    for operation, algorithm in (("all_to_all", "pairwise"), ("all_reduce", "ring")):
        times = [play(network, operation, groups, 1e8, algorithm).seconds for _, network in (rails, multi)]
        assert times[0] == pytest.approx(times[1], rel=0.01)


def test_experts_inside_a_scale_up_domain_against_across() -> None:
    """EP64 on NVL72 stays on NVLink at 900 GB/s, on 8-GPU nodes 56 of 64 parts cross the NICs at 50."""
    inside = play(pair("gb200-nvl72", "nvl72-400g-2tier", 576)[1], "all_to_all", [np.arange(64)], 1e8, "pairwise")
    across = play(pair("hgx-b200", "ndr-rail-2tier", 512)[1], "all_to_all", [np.arange(64)], 1e8, "pairwise")
    assert inside.bottleneck.startswith("scale_up")
    assert across.bottleneck.startswith("nic")
    assert (across.seconds - across.latency_s) / (inside.seconds - inside.latency_s) == pytest.approx(
        (56 / 64 / 50e9) / (63 / 64 / 900e9), rel=0.01
    )


def test_imbalanced_all_to_all_is_paced_by_the_hottest_port() -> None:
    rng = np.random.default_rng(4)
    ranks = np.arange(64)
    matrix = rng.lognormal(0, 0.5, (64, 64)) * 1e6
    matrix[:, 7] *= 6
    far = ranks[:, None] // 8 != ranks[None] // 8
    # PXN brings a flow onto its target's rail, so a NIC sends what its node sends to that rail.
    columns = np.add.reduceat(matrix * far, np.arange(0, 64, 8), axis=0)
    busiest = max((columns[node].reshape(8, 8).sum(axis=0)).max() for node in range(8))
    bound = max((matrix * far).sum(axis=0).max(), busiest) / 50e9
    played = play_phases(H100_NET, [matrix_exchange(ranks, matrix)], Conditions(folded=False, tolerance=5e-3))
    assert bound <= (played.seconds - played.latency_s) * (1 + 1e-9)
    assert played.seconds - played.latency_s == pytest.approx(bound, rel=0.05)
    with pytest.raises(ValueError, match="64 ranks need 64 x 64 sizes"):
        matrix_exchange(ranks, matrix[:10])


def test_second_job_on_the_same_spine() -> None:
    """Ports are free, the uplinks of an oversubscribed leaf are not: a neighbour halves what is left."""
    cluster, network = pair("hgx-h100", "clos-400g-2tier", 128)
    tiers = tuple(replace(tier, oversubscription=2.0) for tier in cluster.fabric.tiers)
    network = build_network(replace(cluster, fabric=replace(cluster.fabric, tiers=tiers)))
    mine = TransferPhase(np.arange(16), np.arange(32, 48), np.full(16, 1e9), 1, 0.0, 1.0)
    other = TransferPhase(np.arange(16, 32), np.arange(48, 64), np.full(16, 1e9), 1, 0.0, 1.0)
    alone, beside = play_phases(network, [[mine]]), play_phases(network, [[mine]], Conditions(beside=other))
    assert alone.seconds - alone.latency_s == pytest.approx(1e9 / 50e9)
    assert beside.seconds - beside.latency_s == pytest.approx(2 * 1e9 / 50e9)


def test_link_that_degrades_in_the_middle() -> None:
    network = pair("hgx-h100", "ndr-rail-2tier", 512)[1]
    send = TransferPhase(np.array([0]), np.array([256]), np.array([1e9]), 1, 0.0, 1.0)
    port = network.pool[network.class_of("nic_out")[:1]].astype(np.int64)
    slow = (CapacityChange(0.01, port, 25e9),)
    whole, degraded = play_phases(network, [[send]]), play_phases(network, [[send]], Conditions(changes=slow))
    assert whole.seconds - whole.latency_s == pytest.approx(0.02)
    assert degraded.seconds - degraded.latency_s == pytest.approx(0.03)


def test_parameter_server_incast() -> None:
    """32 workers, 4 servers: each server takes in 8 gradients' worth both ways."""
    workers, servers = np.arange(0, 256, 8), np.array([256, 264, 272, 280])
    played = play_phases(H100_NET, [push_pull(workers, servers, 1e8)])
    assert played.seconds - played.latency_s == pytest.approx(2 * 8 * 1e8 / 50e9)


@pytest.mark.parametrize("ranks", [16, 64])
def test_expert_exchange_played_takes_what_its_busiest_link_needs(ranks: int) -> None:
    """DeepSeek-V3's routing: the NIC carries one copy per domain, NVLink the copies to distinct GPUs."""
    exchange = ExpertExchange(4096, 7168, 256, 8, 4)
    moved = dispatch_s(exchange, strided_group(H100, ranks), H100)
    phases = expert_exchange(np.arange(ranks), 8, moved.network_bytes, moved.scale_up_bytes)
    played = play_phases(H100_NET, [phases])
    assert played.seconds - played.latency_s == pytest.approx(moved.bound_s, rel=1e-6)
    assert moved.seconds > played.seconds


def test_link_use_of_a_step_names_the_bottleneck_class() -> None:
    groups = strided_groups(512, 64)
    schedules = [PHASES["pairwise"]("all_to_all", ranks, 8, 1e8) for ranks in groups]
    use = link_use(H100_NET, schedules, 0.01)
    assert use.peak["nic_out"] == pytest.approx(1e8 * 56 / 64 / 50e9 / 0.01)
    assert use.mean["nic_out"] == pytest.approx(use.peak["nic_out"])
    assert use.bottleneck in ("nic_out", "nic_in")
    assert "leaf_up" not in use.peak, "groups of 64 stay below their leaves"
    with pytest.raises(ValueError, match="above zero"):
        link_use(H100_NET, schedules, 0.0)


def test_broken_groups_are_refused_by_name() -> None:
    for groups, message in (
        ([np.arange(4), np.arange(4)[::-1]], "group 1: is group 0 listed twice"),
        ([np.array([0, 1, 1])], "group 0: lists GPU 1 twice"),
        ([np.arange(600)], r"group 0: names GPU 599; .* has 512"),
        ([np.array([], dtype=int)], "group 0: is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            check_groups(H100_NET, groups)
    with pytest.raises(ValueError, match="equal shares are needed"):
        play(H100_NET, "all_reduce", [np.arange(12)], 1e6, "ring")
    with pytest.raises(ValueError, match="choose one of ring"):
        play(H100_NET, "all_reduce", [np.arange(8)], 1e6, "bogo")
    with pytest.raises(ValueError, match="do not tile 512"):
        strided_groups(512, 48)
