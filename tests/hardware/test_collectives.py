"""Closed-form collective times: algebra against textbook, published figures, bounds, scalar against array."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from hardware.collectives import (
    ALGORITHMS,
    DISPATCHERS,
    OPERATIONS,
    ExpertExchange,
    Group,
    Links,
    collective_s,
    combine_s,
    dispatch_s,
    evidence,
    expected_distinct,
    strided_group,
)
from hardware.collectives.algorithms import candidates
from hardware.collectives.experts import copies
from hardware.specs import Accelerator, Cluster, Fabric, Nic, Node, ScaleUp, SwitchTier


def links(generation: str = "hopper", scale_up: float = 450e9, **changes: object) -> Links:
    fields: dict = {
        "generation": generation,
        "cpu_vendor": "intel",
        "scale_up_bytes_per_s": scale_up,
        "scale_up_latency_s": 1e-6,
        "multicast": generation in ("hopper", "blackwell"),
        "nic_bytes_per_s": 50e9,
        "nic_technology": "infiniband",
        "tier_latencies_s": (2.8e-6, 3.7e-6),
        "tier_oversubscription": (1.0, 1.0),
        "in_network_reduction": False,
    }
    return Links(**{**fields, **changes})


H100, A100, B200 = links(), links("ampere", 300e9), links("blackwell", 900e9)
H800 = links(scale_up=200e9)
GROUPS = [Group(2.0, 2.0), Group(8.0, 8.0), Group(8.0, 1.0), Group(16.0, 8.0), Group(64.0, 8.0), Group(1024.0, 4.0, 1)]


@pytest.mark.parametrize(("operation", "algorithm"), [(o, a) for o in OPERATIONS for a, _ in candidates(o)])
def test_every_algorithm_respects_its_bound_and_grows_with_size(operation: str, algorithm: str) -> None:
    sizes = 2.0 ** np.arange(0, 35)
    reducing = links(in_network_reduction=True)
    for group in GROUPS:
        try:
            time = collective_s(operation, sizes, group, reducing, algorithm)
        except ValueError as refusal:
            assert "cannot run on this group" in str(refusal)  # noqa: PT017
            continue
        assert np.all(time.seconds >= time.bound_s)
        assert np.all(np.diff(time.bound_s) > 0)
        assert np.all(time.seconds > 0)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_at_large_sizes_the_bound_is_approached_from_above(operation: str) -> None:
    for group, machine in product(GROUPS, (A100, H100, B200)):
        time = collective_s(operation, 64e9, group, machine)
        assert 1.0 <= time.seconds / time.bound_s < 3.2


def test_demands_are_the_textbook_volumes() -> None:
    n, g, k = 64.0, 8.0, 8.0
    ring = ALGORITHMS["ring"]
    assert ring("all_reduce", 8.0, 8.0, 1.0)[:3] == (14.0, 0.0, 2 * 7 / 8)
    assert ring("all_gather", 8.0, 8.0, 1.0)[:3] == (7.0, 0.0, 7 / 8)
    assert ring("all_reduce", n, g, k).network == pytest.approx(2 * 63 / 64 / 8)
    # Per-NIC volume of the hierarchical all-reduce over k nodes: busbw x (k-1)/(n-1) of the ring's 2(n-1)/n.
    assert ALGORITHMS["hierarchical"]("all_reduce", n, g, k).network == pytest.approx(2 * (k - 1) / k / g)
    assert ALGORITHMS["pairwise"]("all_to_all", n, g, k).network == pytest.approx(56 / 64)
    assert ALGORITHMS["nvls"]("all_reduce", 8.0, 8.0, 1.0).scale_up == pytest.approx(9 / 8)
    # A double binary tree sends each domain's data up once and down twice at half size.
    assert ALGORITHMS["tree"]("all_reduce", n, g, k).network == pytest.approx(2 / 8)


@pytest.mark.parametrize(("machine", "ring_up_to"), [(H100, 4), (B200, 5)], ids=["hopper", "blackwell"])
def test_ring_gives_way_to_nvls_at_the_published_gpu_count(machine: Links, ring_up_to: int) -> None:
    """NVIDIA/nccl issue 1455 (5 GPUs on Hopper) and stas00/ml-engineering (6 on Blackwell), 8 GiB all-reduce."""
    for gpus in range(3, 9):
        chosen = collective_s("all_reduce", 8 * 2.0**30, Group(float(gpus), float(gpus)), machine).algorithm
        assert chosen == ("ring" if gpus <= ring_up_to else "nvls")


@pytest.mark.parametrize(
    ("operation", "ranks", "machine", "jump"),
    [("all_reduce", 2, A100, 2**20), ("all_gather", 8, B200, 2**24), ("all_gather", 4, B200, 2**23)],
)
def test_ll_gives_way_to_simple_where_the_sweeps_jump(operation: str, ranks: int, machine: Links, jump: int) -> None:
    """aiconfigurator sweeps: time doubles from the size before `jump` to `jump`."""
    group = Group(float(ranks), float(ranks))
    assert collective_s(operation, jump / 2, group, machine).protocol == "LL"
    assert collective_s(operation, jump, group, machine).protocol != "LL"


def test_published_bus_bandwidths() -> None:
    """NVLS 480 GB/s on 8 H100 and 838 on 8 B200, ring 231 on 8 A100 (nccl issue 1455, stas00, Azure)."""
    for machine, busbw in ((H100, 480e9), (B200, 838e9), (A100, 231e9)):
        seconds = collective_s("all_reduce", 8 * 2.0**30, Group(8.0, 8.0), machine).seconds
        assert 8 * 2.0**30 * 2 * 7 / 8 / seconds == pytest.approx(busbw, rel=0.12)


def test_array_of_groups_equals_one_by_one() -> None:
    sizes = np.array([1e3, 1e6, 1e9, 3e7, 5e5])
    ranks, inside = np.array([2.0, 8.0, 64.0, 64.0, 1.0]), np.array([2.0, 8.0, 8.0, 1.0, 1.0])
    share = np.array([1.0, 0.5, 0.5, 0.25, 1.0])
    for operation in OPERATIONS:
        together = collective_s(operation, sizes, Group(ranks, inside, nic_share=share), H100)
        for i in range(len(sizes)):
            group = Group(ranks[i].item(), inside[i].item(), nic_share=share[i].item())
            alone = collective_s(operation, sizes[i].item(), group, H100)
            assert together.seconds[i] == pytest.approx(alone.seconds, rel=1e-12)
            assert alone.algorithm in ("none", together.algorithm[i])


def test_evidence_says_what_was_measured() -> None:
    inside, across = Group(8.0, 8.0), Group(64.0, 8.0)
    assert evidence("all_reduce", "ring", "Simple", inside, H100) == "fitted"
    assert evidence("all_reduce", "ring", "Simple", across, H100) == "assumed"
    assert evidence("all_gather", "ring", "Simple", across, links(nic_technology="efa")) == "fitted"
    assert evidence("broadcast", "ring", "Simple", inside, H100) == "assumed"
    assert evidence("all_reduce", "ring", "Simple", inside, links("cdna3")) == "assumed"


def test_one_rank_takes_no_time() -> None:
    for operation in OPERATIONS:
        assert collective_s(operation, 1e9, Group(1.0, 1.0), H100).seconds == 0.0


def test_network_switches_reduce_only_when_asked() -> None:
    """NCCL_COLLNET_ENABLE is 0 by default, whatever the switches could do."""
    able, group = links(in_network_reduction=True), Group(64.0, 8.0)
    for size in (8.0, 1e6, 1e9):
        assert collective_s("all_reduce", size, group, able).algorithm in ("ring", "tree", "nvls_tree")
    asked = collective_s("all_reduce", 1e9, group, able, "nvls")
    assert asked.seconds < collective_s("all_reduce", 1e9, group, able).seconds
    assert collective_s("all_reduce", 1e9, group, able, "collnet").algorithm == "collnet"


def test_fixed_algorithm_and_protocol_are_kept() -> None:
    time = collective_s("all_reduce", 1e9, Group(8.0, 8.0), H100, "ring", "LL128")
    assert (time.algorithm, time.protocol) == ("ring", "LL128")
    free = collective_s("all_reduce", 1e9, Group(8.0, 8.0), H100)
    assert free.seconds < time.seconds


def test_lists_and_exclusions_as_nccl_algo_and_nccl_proto_take_them() -> None:
    group = Group(64.0, 8.0)
    sizes = 2.0 ** np.arange(3, 34)
    best = np.minimum(*(collective_s("all_reduce", sizes, group, H100, a).seconds for a in ("ring", "tree")))
    either = collective_s("all_reduce", sizes, group, H100, "ring,tree")
    assert set(either.algorithm) == {"ring", "tree"}
    assert (either.seconds >= best * (1 - 1e-12)).all()
    without = collective_s("all_reduce", sizes, group, H100, "^nvls_tree", "^LL128")
    assert "nvls_tree" not in without.algorithm
    assert "LL128" not in without.protocol
    assert "hierarchical" not in [a for a, _ in candidates("all_reduce", "^ring")]


def test_few_sms_slow_a_collective_down() -> None:
    group = Group(8.0, 8.0)
    assert (
        collective_s("all_gather", 1e9, group, H100, sms=4).seconds
        > 2 * collective_s("all_gather", 1e9, group, H100).seconds
    )


def test_a_pair_in_a_mesh_has_one_link_of_seven() -> None:
    """MI300X: 448 GB/s are seven links of 64, of which two GPUs have one between them."""
    mesh = links("cdna3", 448e9, mesh_gpus=8, multicast=False)
    pair, all_eight = (collective_s("all_reduce", 4e9, Group(n, n), mesh) for n in (2.0, 8.0))
    assert pair.bound_s == pytest.approx(4e9 / 64e9)
    assert all_eight.bound_s == pytest.approx(2 * 7 / 8 * 4e9 / 448e9)


def test_hierarchical_levels_follow_each_other() -> None:
    """stas00/ml-engineering: 4 GiB over 4 nodes of 8 B200: 16.1 ms on the NICs alone."""
    time = collective_s("all_reduce", 2.0**32, Group(32.0, 8.0), B200, "hierarchical")
    assert time.bound_s == pytest.approx(16.1e-3, rel=1e-2)
    assert time.seconds > time.bound_s + 2 * 7 / 8 * 2.0**32 / 900e9


def test_shared_nics_and_oversubscribed_uplinks_slow_the_network_part() -> None:
    whole, half = Group(64.0, 1.0, 1), Group(64.0, 1.0, 1, nic_share=0.5)
    assert collective_s("all_reduce", 4e9, half, H100).seconds == pytest.approx(
        2 * collective_s("all_reduce", 4e9, whole, H100).seconds, rel=0.05
    )
    narrow = links(tier_oversubscription=(1.0, 7.0))
    assert (
        collective_s("all_to_all", 4e9, whole, narrow).seconds
        > 6 * collective_s("all_to_all", 4e9, whole, H100).seconds
    )
    # A ring leaves a block of 32 domains once: 7:1 uplinks shared by 32 members are no bottleneck.
    wide = Group(64.0, 1.0, 1, domains_per_block=32.0)
    assert collective_s("all_reduce", 4e9, wide, narrow).seconds == collective_s("all_reduce", 4e9, wide, H100).seconds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("all_shuffle", 1.0, GROUPS[0], H100), "choose one of all_reduce"),
        (("all_gather", 1.0, GROUPS[0], H100, "tree"), "does not do all_gather"),
        (("all_reduce", 1.0, GROUPS[0], H100, None, "LL64"), "LL, LL128, Simple"),
        (("all_reduce", 1.0, GROUPS[0], H100, "nvls", "LL"), "has no protocol"),
        (("all_reduce", 1.0, GROUPS[1], A100, "nvls"), "cannot run on this group"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        collective_s(*arguments)


def cluster(gpus: int = 2048) -> Cluster:
    accelerator = Accelerator("H100", "hopper", {"bf16": 989e12}, 80e9, 3.35e12, 132, 700.0, 70.0, 55e9, "h100")
    node = Node("DGX", accelerator, 8, ScaleUp("nvswitch", 8, 450e9, 1e-6, True), Nic("infiniband", 50e9, 2e-6), 4e3)
    tiers = (SwitchTier("leaf", 64, 50e9, 1.0, 0.5e-6, 256), SwitchTier("spine", 64, 50e9, 1.0, 0.9e-6, 2048))
    return Cluster("c", gpus, node, Fabric("f", "rail_optimized", tiers, True, 1, True, False))


def test_strided_groups_lie_where_the_rank_order_puts_them() -> None:
    assert strided_group(cluster(), 8) == Group(8.0, 8.0, 0, 1.0)
    assert strided_group(cluster(), 16, 8) == Group(16.0, 1.0, 0, 1.0)
    assert strided_group(cluster(), 4, 2) == Group(4.0, 4.0, 0, 1.0)
    assert strided_group(cluster(), 512, 1) == Group(512.0, 8.0, 1, 32.0)
    assert strided_group(cluster(), 128, 16) == Group(128.0, 1.0, 1, 16.0)
    many = strided_group(cluster(), np.array([8, 512]), np.array([1, 1]))
    assert many.tier.tolist() == [0, 1]
    with pytest.raises(ValueError, match="does not fit its 2048 GPUs"):
        strided_group(cluster(), 64, 64)


def test_hops_add_the_latency_of_the_tiers_they_cross() -> None:
    near, far = (collective_s("all_reduce", 8.0, Group(16.0, 1.0, tier), cluster(), "ring", "LL") for tier in (0, 1))
    assert far.seconds - near.seconds == pytest.approx(30 * 0.9e-6)


def test_expected_distinct_is_the_hypergeometric_mean() -> None:
    assert expected_distinct(8, 256, 8) == pytest.approx(8 * (1 - comb(224, 8) / comb(256, 8)))
    assert expected_distinct(1, 256, 8) == pytest.approx(1.0)
    assert expected_distinct(256, 256, 8) == pytest.approx(8.0)
    rng = np.random.default_rng(1)
    hits = [len(set((rng.permutation(64)[:6] // 8).tolist())) for _ in range(4000)]
    assert expected_distinct(8, 64, 6) == pytest.approx(np.mean(hits), rel=0.02)


def test_deepseek_v3_routing_reaches_the_published_counts() -> None:
    """8 nodes, tokens limited to 4: 3.63 nodes, 7.36 distinct GPUs."""
    assert copies(ExpertExchange(4096, 7168, 256, 8, 4), Group(64.0, 8.0)) == pytest.approx((3.63, 7.36), rel=2e-3)


@pytest.mark.parametrize(
    ("ranks", "dispatch", "combine"), [(8, 153e9, 158e9), (16, 43e9, 43e9), (32, 58e9, 57e9), (64, 51e9, 50e9)]
)
def test_deepep_table_on_h800(ranks: int, dispatch: float, combine: float) -> None:
    """DeepEP docs/legacy.md: logical bottleneck bandwidth, 4096 tokens, hidden 7168, fp8 out and bf16 back."""
    exchange, group = ExpertExchange(4096, 7168, 256, 8, 4), Group(float(ranks), 8.0)
    domains, gpus = copies(exchange, group)
    counted = 4096 * (gpus if ranks == 8 else domains)
    out, back = dispatch_s(exchange, group, H800, sms=24), combine_s(exchange, group, H800, sms=24)
    assert counted * 7168 * (1 + 4 / 128) / out.seconds == pytest.approx(dispatch, rel=0.10)
    assert counted * 7168 * 2 / back.seconds == pytest.approx(combine, rel=0.10)
    assert out.seconds >= out.bound_s


def test_deduplication_beats_nccl_and_fp8_halves_the_way_out() -> None:
    exchange, group = ExpertExchange(4096, 7168, 256, 8, 4), Group(64.0, 8.0)
    deepep = dispatch_s(exchange, group, H800)
    assert deepep.network_bytes == pytest.approx(96e6, rel=0.01)
    nccl = dispatch_s(exchange, group, H800, "alltoall", fp8=False)
    assert nccl.network_bytes + nccl.scale_up_bytes == pytest.approx(4096 * 8 * 14336 * 63 / 64)
    assert dispatch_s(exchange, group, H800, fp8=False).network_bytes == pytest.approx(
        deepep.network_bytes * 2 / (1 + 1 / 32)
    )
    assert deepep.seconds < nccl.seconds
    with pytest.raises(ValueError, match="choose one of allgather"):
        dispatch_s(exchange, group, H800, "magic")


@pytest.mark.parametrize("name", DISPATCHERS)
def test_contract_of_dispatchers(name: str) -> None:
    """No time beats its bound, a lone rank exchanges nothing over links, and only some tokens shrink in FP8."""
    exchange, group, record = ExpertExchange(4096, 7168, 256, 8), Group(64.0, 8.0), DISPATCHERS[name]
    out, back = dispatch_s(exchange, group, H800, name, fp8=False), combine_s(exchange, group, H800, name)
    for moved in (out, back):
        assert moved.seconds >= moved.bound_s > 0
    assert dispatch_s(exchange, Group(1.0, 1.0), H800, name, fp8=False).network_bytes == 0.0
    shrunk = dispatch_s(exchange, group, H800, name, fp8=True).network_bytes / out.network_bytes
    assert shrunk == pytest.approx((1 + 4 / 128) / 2 if record.sends_fp8 else 1.0)
    wide = combine_s(exchange, group, H800, name, fp32=True).network_bytes / back.network_bytes
    assert wide == (2.0 if record.sums_in_router_dtype else 1.0)
    assert (record.out_operation is None) == (record.home_operation is None)


def test_expert_group_inside_one_domain_beats_the_network() -> None:
    exchange = ExpertExchange(4096, 7168, 256, 8)
    inside = dispatch_s(exchange, Group(64.0, 64.0), B200, "hybridep", sms=32)
    across = dispatch_s(exchange, Group(64.0, 8.0), B200, sms=32)
    assert inside.network_bytes == 0.0
    assert inside.seconds < across.seconds / 3


def test_a_generation_without_measurements_is_assumed_from_hopper_and_an_unknown_one_is_refused() -> None:
    group = Group(8.0, 8.0)
    known, processor = links("hopper"), links("cpu", multicast=True)
    assert collective_s("all_reduce", 1e8, group, processor) == collective_s("all_reduce", 1e8, group, known)
    assert evidence("all_reduce", "ring", "Simple", group, known) == "fitted"
    assert evidence("all_reduce", "ring", "Simple", group, processor) == "assumed"
    with pytest.raises(ValueError, match="generation: 'rubin' is not known; choose from ampere, blackwell"):
        collective_s("all_reduce", 1e8, group, links("rubin"))
