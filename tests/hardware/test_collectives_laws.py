"""Terms of the collective formulas one by one: each has a value worked out by hand that changes when the term does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import ExpertExchange, Group, collective_s, combine_s, dispatch_s, links_of
from hardware.collectives.closed_form import MEASURED_LINK_S, curve, efficiencies, hop_latency_s, network
from hardware.collectives.compression import Compressed, compressed_all_reduce
from hardware.collectives.experts import constants as exchange_constants
from hardware.collectives.gradients import exposed_s, in_turn, parameter_server_s
from hardware.collectives.group import strided_group
from hardware.collectives.transfers import NETWORK, PHASES, SWITCH, expert_exchange, matrix_exchange, push_pull
from hardware.collectives.uplinks import uplink_slowdown
from hardware.kernels import streaming_s
from hardware.specs import SwitchTier
from tests.hardware.links import EIGHT_GPUS, EIGHT_NODES, NVL, links

US = 1e-6


H100 = links()


def scale_up_of(operation: str, pair: str) -> list[float]:
    coefficients: list[float] = efficiencies()["scale_up"]["hopper"][operation][pair]
    return coefficients


# ---- where a group lies


def test_oversubscription_of_stacked_tiers_multiplies() -> None:
    """2:1 above the leaves and 3:1 above the spines: what goes through the core has a sixth. Hops add up."""
    h100 = catalogue.cluster(64, "hgx-h100", "ndr-rail-2tier")
    tiers = tuple(
        SwitchTier(f"tier {i}", 64, 50e9, over, latency_s, reach)
        for i, (over, latency_s, reach) in enumerate(((2.0, 1e-6, 16), (3.0, 2e-6, 32), (5.0, 4e-6, 64)))
    )
    found = links_of(replace(h100, fabric=replace(h100.fabric, tiers=tiers)))
    nic_s = h100.node.nic.latency_s
    assert found.tier_oversubscription == (1.0, 2.0, 6.0)
    assert found.tier_latencies_s == pytest.approx((nic_s + 1e-6, nic_s + 3e-6, nic_s + 7e-6))
    bare = links_of(replace(h100, fabric=replace(h100.fabric, tiers=())))
    assert (bare.tier_oversubscription, bare.tier_latencies_s) == ((1.0,), (nic_s,))
    assert links_of(found) is found


def test_members_of_a_domain_come_in_whole_shares() -> None:
    """12 of 64 GPUs lie as 6 + 6; every third one as at most two in a domain of eight."""
    gpus = catalogue.cluster(64, "hgx-h100", "ndr-rail-2tier")
    assert (strided_group(gpus, 12).ranks_per_domain, strided_group(gpus, 12).domains) == (6.0, 2.0)
    third = strided_group(gpus, 4, 3)
    assert (third.ranks_per_domain, third.domains) == (2.0, 2.0)
    assert strided_group(gpus, 64).domains == 8.0
    with pytest.raises(ValueError, match="does not fit its 64 GPUs"):
        strided_group(gpus, 3, 33)
    assert strided_group(gpus, 2, 63).ranks == 2


def test_a_mesh_gives_a_group_the_links_to_its_members() -> None:
    mesh = links(scale_up_bytes_per_s=448e9, mesh_gpus=8)
    assert [mesh.scale_up(g) for g in (1, 2, 5, 8)] == pytest.approx([64e9, 64e9, 256e9, 448e9])
    assert H100.scale_up(2) == 450e9


@pytest.mark.parametrize(
    ("operation", "below", "slowdown"),
    [("all_to_all", 1.0, 4.0), ("all_to_all", 2.0, 4 * 6 / 7), ("all_reduce", 2.0, 2.0), ("all_reduce", 8.0, 1.0)],
)
def test_what_crosses_oversubscribed_uplinks(operation: str, below: float, slowdown: float) -> None:
    """8 domains under uplinks of 4:1, so many to a leaf: of seven peers six lie beyond; a ring leaves a leaf once."""
    assert uplink_slowdown(operation, Group(64.0, 8.0, 1, below), H100) == pytest.approx(slowdown)


def test_a_ring_climbs_once_for_each_block() -> None:
    """0.9 us more than the leaf's 2.8 for one step of four; a tree goes all the way."""
    group = Group(64.0, 8.0, 1, 4.0)
    assert hop_latency_s("ring", group, H100) == pytest.approx(2.8e-6 + 0.9e-6 / 4)
    assert hop_latency_s("hierarchical", group, H100) == pytest.approx(2.8e-6 + 0.9e-6 / 4)
    assert hop_latency_s("tree", group, H100) == pytest.approx(3.7e-6)
    assert hop_latency_s("ring", EIGHT_NODES, H100) == pytest.approx(2.8e-6)


# ---- how long it takes


def test_a_ring_inside_a_domain_by_its_terms() -> None:
    """14 steps; 7/4 of the size, and some copies of it over 8 ranks at the achieved rate; four SMs give 120 GB/s."""
    fixed_s, step_s, efficiency, copies, sharpness = scale_up_of("all_reduce", "ring/Simple")
    assert sharpness == 1.0
    size, latency_s = 1e9, fixed_s + 14 * step_s
    found = collective_s("all_reduce", size, NVL, H100, "ring", "Simple")
    assert found.seconds == pytest.approx(latency_s + size * (1.75 + copies / 8) / (efficiency * 450e9))
    assert found.bound_s == pytest.approx(size * 1.75 / 450e9)
    slow_links = links(scale_up_latency_s=MEASURED_LINK_S + 1e-6)
    slow = collective_s("all_reduce", size, NVL, slow_links, "ring", "Simple")
    assert slow.seconds - found.seconds == pytest.approx(14e-6)
    few = collective_s("all_reduce", size, NVL, H100, "ring", "Simple", sms=4)
    assert few.seconds == pytest.approx(latency_s + size * (1.75 + copies / 8) / 120e9)


@pytest.mark.parametrize(("vendor", "post_us"), [("intel", 1.0), ("amd", 2.0)])
def test_an_all_to_all_across_domains_by_its_terms(vendor: str, post_us: float) -> None:
    """7 steps inside and one across, 56 messages posted by the proxy at a microsecond or two each; of the size 7/64
    inside and 56/64 over half a NIC, whichever takes longer."""
    fixed_s, step_s, efficiency, copies, _ = scale_up_of("all_to_all", "pairwise/Simple")
    wire, size = network("infiniband"), 1e7
    group = replace(EIGHT_NODES, nic_share=0.5)
    latency_s = fixed_s + 7 * step_s + wire["fixed_s"]["Simple"] + wire["step_s"]["Simple"] + 2.8e-6 + 56 * post_us * US
    across_s = size * 56 / 64 / (wire["efficiency"]["Simple"] * 25e9)
    assert size * (7 + copies) / 64 / (efficiency * 450e9) < across_s
    p = wire["sharpness"]
    machine = links(cpu_vendor=vendor)
    found = collective_s("all_to_all", size, group, machine, "pairwise", "Simple")
    assert found.seconds == pytest.approx((latency_s**p + across_s**p) ** (1 / p))
    assert found.bound_s == pytest.approx(size * 56 / 64 / 25e9)
    # A NIC that is fast enough leaves the part inside.
    fast = collective_s("all_to_all", size, group, links(cpu_vendor=vendor, nic_bytes_per_s=1e15), "pairwise", "Simple")
    inside_s = size * (7 + copies) / 64 / (efficiency * 450e9)
    assert fast.seconds == pytest.approx((latency_s**p + inside_s**p) ** (1 / p))


def test_a_send_is_an_all_to_all_with_one_peer() -> None:
    """One step of NCCL's all-to-all inside a domain, all bytes to one peer and no copy to itself; across domains one
    hop of the network instead."""
    fixed_s, step_s, efficiency, _, _ = scale_up_of("all_to_all", "pairwise/Simple")
    pair, size = Group(2.0, 2.0), 1e8
    inside = collective_s("send_recv", size, pair, H100, "pairwise", "Simple")
    assert inside.seconds == pytest.approx(fixed_s + step_s + size / (efficiency * 450e9))
    wire = network("infiniband")
    latency_s = fixed_s + wire["fixed_s"]["Simple"] + wire["step_s"]["Simple"] + 2.8e-6
    across_s, p = size / (wire["efficiency"]["Simple"] * 50e9), wire["sharpness"]
    across = collective_s("send_recv", size, Group(2.0, 1.0), H100, "pairwise", "Simple")
    assert across.seconds == pytest.approx((latency_s**p + across_s**p) ** (1 / p))


def test_a_ring_across_domains_by_its_terms() -> None:
    """126 steps, 14 of them across; the NIC carries 126/64 of the size over 8 rails, through uplinks of 4:1 for four
    domains to a leaf: at full rate."""
    fixed_s, step_s, _, _, _ = scale_up_of("all_reduce", "ring/LL")
    wire, size, group = network("infiniband"), 1e4, Group(64.0, 8.0, 1, 4.0)
    hop_s = wire["step_s"]["LL"] + 2.8e-6 + 0.9e-6 / 4
    latency_s = fixed_s + 112 * step_s + wire["fixed_s"]["LL"] + 14 * hop_s
    across_s = size * 126 / 64 / 8 / (wire["efficiency"]["LL"] * 50e9)
    inside_s = size * (126 / 64 * 7 / 8 + scale_up_of("all_reduce", "ring/LL")[3] / 64)
    inside_s /= scale_up_of("all_reduce", "ring/LL")[2] * 450e9
    p = wire["sharpness"]
    found = collective_s("all_reduce", size, group, H100, "ring", "LL")
    assert found.seconds == pytest.approx((latency_s**p + max(inside_s, across_s) ** p) ** (1 / p))


def test_many_domains_take_no_less_than_one() -> None:
    """NICs that cost nothing leave the part inside a domain, for what is reduced or handed to all; an all-to-all of
    eight times as many ranks sends an eighth to its own."""
    free = links(nic_bytes_per_s=1e15)
    for operation in ("all_reduce", "all_gather", "reduce_scatter"):
        one, many = (collective_s(operation, 1e9, group, free) for group in (NVL, EIGHT_NODES))
        assert many.seconds >= one.seconds, operation
    one, many = (collective_s("all_to_all", 1e9, group, free) for group in (NVL, EIGHT_NODES))
    assert many.seconds < one.seconds


def test_levels_of_a_hierarchical_exchange_add_up() -> None:
    """All-reduce: 7/4 inside, then 7/4 of an eighth across."""
    found = collective_s("all_reduce", 1e9, EIGHT_NODES, H100, "hierarchical")
    wire = network("infiniband")
    terms = curve("hopper", "all_reduce", "hierarchical", "Simple")
    latency_s = terms.fixed_s + 14 * terms.step_s + wire["fixed_s"]["Simple"] + 14 * (wire["step_s"]["Simple"] + 2.8e-6)
    inside_s = 1e9 * (1.75 + terms.copies / 64) / (terms.efficiency * 450e9)
    across_s = 1e9 * 1.75 / 8 / (wire["efficiency"]["Simple"] * 50e9)
    p = wire["sharpness"]
    assert found.seconds == pytest.approx((latency_s**p + (inside_s + across_s) ** p) ** (1 / p))


def test_pairs_that_no_sweep_ran_take_their_relatives() -> None:
    """LL128 has the latency of LL and 120/128 of Simple's rate; broadcast is like all-gather, a tree like a ring."""
    quick, simple = scale_up_of("all_reduce", "ring/LL"), scale_up_of("all_reduce", "ring/Simple")
    found = curve("hopper", "all_reduce", "ring", "LL128")
    assert found[:5] == (quick[0], quick[1], pytest.approx(simple[2] * 120 / 128), simple[3], simple[4])
    assert found.evidence == "assumed"
    assert list(curve("hopper", "broadcast", "ring", "Simple")[:5]) == scale_up_of("all_gather", "ring/Simple")
    assert list(curve("hopper", "reduce", "ring", "LL")[:5]) == scale_up_of("reduce_scatter", "ring/LL")
    assert list(curve("hopper", "all_reduce", "tree", "LL")[:5]) == quick
    assert list(curve("hopper", "all_reduce", "nvls_tree", "Simple")[:5]) == scale_up_of("all_reduce", "nvls/Simple")
    assert curve("hopper", "all_reduce", "ring", "Simple").evidence == "fitted"


# ---- experts

H800 = links(scale_up_bytes_per_s=200e9)
MOVED = ExpertExchange(4096, 7168, 256, 8, 4)


@pytest.mark.parametrize("name", ["deepep", "hybridep"])
def test_one_copy_for_each_domain_by_its_terms(name: str) -> None:
    """Of 4 of 8 domains 3.63 are hit, 7/8 of the copies leave over the NIC; then 7.36 GPUs inside, FP8 at its rate;
    two round trips of hand-shakes before data across domains."""
    domains, gpus = 4 * (1 - np.prod([(96 - i) / (128 - i) for i in range(8)])), 0.0
    gpus = 32 * (1 - np.prod([(124 - i) / (128 - i) for i in range(8)]))
    for way, fp8, element in (("dispatch", True, 1 + 4 / 128), ("dispatch", False, 2.0), ("combine", False, 2.0)):
        terms, load = exchange_constants()[name][way], 4096 * 1.5 * 7168 * element
        exchange = replace(MOVED, imbalance=1.5)
        if way == "dispatch":
            found = dispatch_s(exchange, EIGHT_NODES, H800, name, fp8)
        else:
            found = combine_s(exchange, EIGHT_NODES, H800, name)
        inside = min(terms["scale_up_fraction"] * 200e9, 20 * terms["sm_bytes_per_s"])
        inside *= terms["fp8_rate"] if fp8 else 1.0
        sent = load * domains * 7 / 8
        transfer_s = max(load * gpus / inside, sent / (terms["network_fraction"] * 50e9))
        assert found.network_bytes == pytest.approx(sent)
        assert found.scale_up_bytes == pytest.approx(load * gpus * 7 / 8)
        assert found.seconds == pytest.approx(terms["fixed_s"] + 4 * 2.8e-6 + transfer_s)
        assert found.bound_s == pytest.approx(max(load * gpus * 7 / 8 / 200e9, sent / 50e9))


def test_inside_a_domain_nothing_is_sent_over_the_nic_and_few_sms_are_the_limit() -> None:
    terms = exchange_constants()["deepep"]["dispatch"]
    exchange = ExpertExchange(4096, 7168, 256, 8)
    gpus = 8 * (1 - np.prod([(224 - i) / (256 - i) for i in range(8)]))
    found = dispatch_s(exchange, NVL, H800, "deepep", fp8=False, sms=4)
    assert found.network_bytes == 0
    assert found.seconds == pytest.approx(
        terms["fixed_s"] + 4096 * 14336 * gpus / min(terms["scale_up_fraction"] * 200e9, 4 * terms["sm_bytes_per_s"])
    )
    lone = dispatch_s(exchange, EIGHT_GPUS, H800, "deepep", fp8=False)
    assert lone.scale_up_bytes == 0
    assert lone.network_bytes == pytest.approx(4096 * 14336 * gpus * 7 / 8)
    assert dispatch_s(exchange, Group(1.0, 1.0), H800, "deepep").seconds == 0


@pytest.mark.parametrize(("name", "copies"), [("alltoall", 8), ("allgather", 64)])
def test_collectives_move_a_copy_for_each_expert_or_rank(name: str, copies: int) -> None:
    found = combine_s(replace(MOVED, imbalance=2.0), EIGHT_NODES, H800, name)
    size = 2 * 4096 * copies * 7168 * 2
    assert found.network_bytes == pytest.approx(size * 56 / 64)
    assert found.scale_up_bytes == pytest.approx(size * 7 / 64)
    operation = "all_to_all" if name == "alltoall" else "reduce_scatter"
    assert found.seconds == pytest.approx(collective_s(operation, size, EIGHT_NODES, H800).seconds)


# ---- gradients

CLUSTER = catalogue.cluster(512, "hgx-h100", "ndr-rail-2tier")
GROUP = strided_group(CLUSTER, 64)


def test_kernels_of_compression_by_the_bytes_they_move() -> None:
    """fp32 gradients of S bytes on 64 ranks; q = 33/32 of S/4 in one byte with scales. FP8: in a
    domain of 8 read S, write q; read q, write S/8 of sums; between 8 domains the same of an eighth, S/64 of sums;
    quantise that part; read q, write S. Top 1 %: three passes, 64 shares of S/50 read, S written.
    PowerSGD: three passes; two factors of rank 4 on a matrix of sqrt(S/4) squared."""
    s = 4e9
    q = s / 4 * 33 / 32
    side = 4 * 4 * np.sqrt(s / 4)

    def moved_s(size: float) -> float:
        return float(streaming_s(CLUSTER.accelerator, size, "elementwise"))

    def exchanged_s(operation: str, size: float) -> float:
        return float(collective_s(operation, size, GROUP, CLUSTER).seconds)

    inside, between = Group(8.0, 8.0), replace(GROUP, ranks=8.0, ranks_per_domain=1.0)
    scattered_s = float(
        collective_s("all_to_all", q, inside, CLUSTER).seconds
        + collective_s("all_to_all", q / 8, between, CLUSTER).seconds
    )
    expected = {
        "fp8": (
            moved_s(s + 2 * s / 8 + s / 64 + 2 * q + 2 * q / 8) + moved_s(s / 64 + q / 64 + q + s),
            scattered_s + exchanged_s("all_gather", q),
        ),
        "topk": (moved_s(4 * s + 64 * s / 50), exchanged_s("all_gather", 64 * s / 50)),
        "powersgd": (moved_s(3 * s), 2 * exchanged_s("all_reduce", side)),
    }
    for name, (compress_s, exchange_s) in expected.items():
        found = compressed_all_reduce(s, name, GROUP, CLUSTER)
        assert found.compress_s == pytest.approx(compress_s), name
        assert found.exchange_s == pytest.approx(exchange_s), name
    plain = compressed_all_reduce(s, "none", GROUP, CLUSTER)
    assert (plain.compress_s, plain.exchange_s) == (0, pytest.approx(exchanged_s("all_reduce", s)))


def test_buckets_take_turns() -> None:
    """Ready after 1, 2 and 5 s, they take 0.5, 4 and 1 s: the second ends at 6 s, a second after backward, the third
    waits for it."""
    times = Compressed(np.array([0.25, 1.0, 0.0]), np.array([0.25, 3.0, 1.0]), np.array([5.0, 12.0, 3.0]))
    rows = in_turn(np.array([0.5, 1.0, 2.0, 5.0]), np.array([7.0, 8.0, 9.0]), np.array([0, 0, 1, 2]), times)
    assert [(row.ready_s, row.start_s, row.end_s, row.exposed_s) for row in rows] == [
        (1.0, 1.0, 1.5, 0.0),
        (2.0, 2.0, 6.0, 1.0),
        (5.0, 6.0, 7.0, 1.0),
    ]
    held = [(row.tensors, row.size_bytes, row.sent_bytes) for row in rows]
    assert held == [(2, 7.0, 5.0), (1, 8.0, 12.0), (1, 9.0, 3.0)]
    assert [row.busbw_bytes_per_s for row in rows] == [20.0, 4.0, 3.0]
    assert exposed_s(rows) == 2.0


def test_a_parameter_server_is_pushed_to_and_pulled_from() -> None:
    """8 workers on 2 servers: four gradients into each, over its NIC and the farthest tier, twice; 8 on themselves
    keep their own shard."""
    seen = links_of(CLUSTER)
    hop_s = seen.tier_latencies_s[-1]
    found = parameter_server_s(1e9, 8, 2, CLUSTER)
    assert found == pytest.approx(2 * (4e9 / seen.nic_bytes_per_s + hop_s), rel=1e-12)
    shared = parameter_server_s(1e6, 8, 8, CLUSTER, shared=True)
    assert shared == pytest.approx(2 * (7 / 8 * 1e6 / seen.nic_bytes_per_s + hop_s), rel=1e-12)
    many = parameter_server_s(1e6, 2, 8, CLUSTER)
    assert many == pytest.approx(2 * (1e6 / seen.nic_bytes_per_s + hop_s), rel=1e-12), "a worker pushes all of it"
    for wrong in ((0, 1, False), (1, 0, False), (4, 2, True)):
        with pytest.raises(ValueError, match="parameter server"):
            parameter_server_s(1e6, wrong[0], wrong[1], CLUSTER, shared=wrong[2])


# ---- flows


@pytest.mark.parametrize(
    ("operation", "out", "back"),
    [("all_reduce", 9 / 8, 9 / 8), ("all_gather", 1 / 8, 1.0), ("reduce_scatter", 1.0, 1 / 8)],
)
def test_bytes_through_a_switch_that_reduces(operation: str, out: float, back: float) -> None:
    """It pulls everything from each GPU of an all-reduce, which multicasts its eighth; and the same the other way."""
    (phase,) = PHASES["nvls"](operation, np.arange(8), 8, 1.0)
    assert phase.size_bytes[phase.target == SWITCH] == pytest.approx(np.full(8, out))
    assert phase.size_bytes[phase.source == SWITCH] == pytest.approx(np.full(8, back))
    (wide,) = PHASES["nvls"](operation, np.arange(16), 8, 1.0)
    assert wide.size_bytes[wide.target == NETWORK] == pytest.approx(np.full(16, 1 / 8))
    assert wide.size_bytes[wide.source == NETWORK] == pytest.approx(np.full(16, 1 / 8))


def test_steps_of_exchanges_that_happen_at_once() -> None:
    """One hop across for a matrix of sizes and for parameter servers; one inside and one across for experts."""
    (matrix,) = matrix_exchange(np.arange(4), np.ones((4, 4)))
    assert (matrix.scale_up_steps, matrix.network_steps, matrix.repeats) == (0.0, 1.0, 1)
    pushed, pulled = push_pull(np.arange(3), np.arange(3, 5), 8.0)
    for phase in (pushed, pulled):
        assert (phase.scale_up_steps, phase.network_steps, phase.repeats) == (0.0, 1.0, 1)
        assert phase.size_bytes.tolist() == [4.0] * 6
    assert [(a, b) for a, b in zip(pushed.source, pushed.target, strict=True)] == [
        (a, b) for a, b in zip(pulled.target, pulled.source, strict=True)
    ]
    for ranks, steps in ((8, (1.0, 0.0)), (16, (1.0, 1.0))):
        (phase,) = expert_exchange(np.arange(ranks), 8, 2.0, 3.0)
        assert (phase.scale_up_steps, phase.network_steps) == steps
    (apart,) = expert_exchange(np.arange(4), 1, 6.0, 0.0)
    assert (apart.scale_up_steps, apart.network_steps) == (0.0, 1.0)
    assert apart.size_bytes.tolist() == [2.0] * 12
