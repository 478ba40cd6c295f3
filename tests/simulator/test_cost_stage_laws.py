"""Terms of whole layers and stages one by one: each has a value worked out by hand that changes when the term does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.catalogue import cluster
from simulator.cost.blocks import BlockCost, Exchanges
from simulator.cost.constants import NEUTRAL
from simulator.cost.groups import plan_groups
from simulator.cost.launches import hosted_s
from simulator.cost.layers import Beside, LayerCost, forward, input_gradient, pair
from simulator.cost.price import Prices
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.cost.stages import Lost, StageCost, forward_wait_s, pair_wait_s, paired_stages, stage_cost, with_host
from simulator.plans.spec import Overlap, Plan

GPUS = cluster(64, "hgx-h100", "ndr-rail-2tier")
PLAN = Plan(dp=64, ep=64, micro_batch_size=1, global_batch_size=64, dispatcher="deepep")

AHEAD = LayerCost(
    BlockCost(forward=Seconds(compute_s=1.0)),
    BlockCost(forward=Seconds(compute_s=4.0), routing_forward=Exchanges(14.0, 7.0), shared_s=(2.0, 0.0)),
)
BACK = LayerCost(
    BlockCost(input=Seconds(compute_s=2.0), weight=Seconds(compute_s=3.0)),
    BlockCost(
        input=Seconds(compute_s=5.0),
        weight=Seconds(compute_s=6.0),
        routing_backward=Exchanges(8.0, 0.25),
        routing_recompute_s=0.125,
        shared_s=(0.0, 6.0),
    ),
)


def test_a_layer_hides_traffic_behind_its_shared_expert() -> None:
    """21 s of traffic forward behind 2 s, 8.25 s backward behind 6 s; what runs again stands open."""
    hiding = replace(PLAN, overlap=Overlap(shared_experts=True))
    assert forward(AHEAD, PLAN) == Seconds(compute_s=5.0, ep_s=21.0)
    assert forward(AHEAD, hiding) == Seconds(compute_s=5.0, ep_s=19.0)
    assert input_gradient(BACK, PLAN) == Seconds(compute_s=7.0, ep_s=8.25 + 0.125)
    assert input_gradient(BACK, hiding) == Seconds(compute_s=7.0, ep_s=2.25 + 0.125)


@pytest.mark.parametrize(("put_off", "experts_s"), [(True, 0.0), (False, 14.0 - 11.0)])
def test_an_overlapped_pair_by_hand(put_off: bool, experts_s: float) -> None:
    """1 s of mixer beside 8 s out; experts back (11 s) and forward (4 s) beside 14 s out and 0.25 s home, together or
    one by one; 5 s of mixer beside 7 s home. Hand-overs cost 4.7/114 of the shorter stream, 21 s of computing."""
    found = pair(AHEAD, BACK, Beside(weights_put_off=put_off))
    assert found.compute_s == 1 + 11 + 4 + 5
    assert found.ep_s == pytest.approx(7 + experts_s + 2 + 21 * 4.7 / 114 + 0.125)


def test_what_two_streams_take_from_each_other() -> None:
    """10 s of computing beside 4 s of traffic at 4/5 of its speed, which leaves it 3/4: 5 s of it last 5/4 s longer.
    Traffic that outlasts 2 s / (3/4) of computing by far goes on at full speed: a fifth of those seconds more."""
    beside = Beside(0.75, 0.8)
    short = beside.phase((Seconds(compute_s=6.0), Seconds(tp_s=4.0)), (3.0, 1.0))
    assert short.computing_s == pytest.approx(11.25)
    assert short.computing[1].tp_s == pytest.approx(4.5)
    assert short.moving == pytest.approx((3.75, 1.25))
    assert short.moving_s == pytest.approx(5.0)
    long = beside.phase((Seconds(compute_s=2.0),), (10.0,))
    assert long.computing_s == pytest.approx(2 / 0.75)
    assert long.moving_s == pytest.approx(10 + 0.2 * 2 / 0.75)
    idle = beside.phase((Seconds(),), (0.0,))
    assert (idle.computing_s, idle.moving_s) == (0.0, 0.0)


# ---- whole stages


def launching() -> Prices:
    return Prices(GPUS, PLAN, plan_groups(PLAN, GPUS), replace(NEUTRAL, host_s_per_kernel=0.2))


def test_the_host_bounds_a_stage() -> None:
    """10 kernels at 0.2 s for 1 s of forward; 40 for 2 s of input and 3 s of weight gradient."""
    layer = LayerCost(
        BlockCost(
            Seconds(compute_s=1.0), Seconds(compute_s=2.0), Seconds(compute_s=3.0), forward_kernels=10,
            backward_kernels=40, evidence_s=(("fitted", 4.0), ("assumed", 2.0)),
        )
    )  # fmt: skip
    found = stage_cost([layer], PLAN, launching())
    assert found.forward == Seconds(compute_s=1.0, host_s=1.0)
    assert found.input == Seconds(compute_s=2.0, host_s=3.0)
    assert found.weight == Seconds(compute_s=3.0)
    assert found.evidence_s == {"fitted": 4.0, "assumed": 2.0}
    twice = stage_cost([layer, layer], PLAN, launching())
    assert (twice.forward.total_s, twice.input.total_s, twice.weight.total_s) == (4.0, 10.0, 6.0)
    moving = stage_cost([layer], PLAN, launching(), moved_s=9.0)
    assert (moving.forward.total_s, moving.input.total_s) == (9.0, 6.0)
    assert with_host(Seconds(compute_s=3.0, host_s=1.0), 7.0, 2.0) == Seconds(compute_s=3.0, host_s=2.0)


def test_host_and_gpu_that_need_equally_long_take_longer_than_either() -> None:
    """A loss of a quarter: (1^k + 1^k)^(1/k) = 1.25, so k = 1 / log2(1.25) = 3.106; 2 s beside 1 s then take 2.0724."""
    assert hosted_s(1.0, 1.0, 0.25) == pytest.approx(1.25)
    assert hosted_s(2.0, 1.0, 0.25) == hosted_s(1.0, 2.0, 0.25) == pytest.approx(2 * (1 + 2**-3.10628) ** (1 / 3.10628))
    assert hosted_s(2.0, 1.0, 0.0) == 2.0
    assert hosted_s(0.0, 3.0, 0.25) == pytest.approx(3.0)
    assert hosted_s(0.0, 0.0, 0.25) == pytest.approx(0.0, abs=1e-12)
    found = hosted_s(np.array([1.0, 2.0]), 1.0, 0.25)
    assert found == pytest.approx([1.25, hosted_s(2.0, 1.0, 0.25)])


def test_what_host_and_gpu_lose_to_each_other_is_shown_as_host_time() -> None:
    """5 kernels at 0.2 s beside 1 s of forward lose a quarter; 25 beside 2 + 3 s of backward the same."""
    prices = launching()
    prices = replace(prices, constants=replace(prices.constants, host_overlap_loss=0.25))
    layer = LayerCost(
        BlockCost(
            Seconds(compute_s=1.0), Seconds(compute_s=2.0), Seconds(compute_s=3.0), forward_kernels=5,
            backward_kernels=25,
        )
    )  # fmt: skip
    found = stage_cost([layer], PLAN, prices)
    assert found.forward.host_s == pytest.approx(0.25)
    assert found.input.host_s == pytest.approx(1.25)
    assert found.weight.host_s == 0.0
    assert stage_cost([layer] * 3, PLAN, prices).forward.host_s == pytest.approx(0.75)


def test_a_forward_that_reads_its_routing_waits_for_the_later_of_two_launches() -> None:
    """Experts' 30 kernels at 0.1 s follow what runs ahead of them; all 130 of a layer take 13 s beside its 3."""
    mixer = BlockCost(forward=Seconds(compute_s=1.0), forward_kernels=100)
    experts = BlockCost(forward=Seconds(compute_s=2.0), forward_kernels=30, waiting_kernels=30, ahead_s=0.5)
    assert forward_wait_s([LayerCost(mixer, experts)], PLAN, 0.1) == pytest.approx(13 - 3)
    few = replace(mixer, forward_kernels=1)
    assert forward_wait_s([LayerCost(few, experts)], PLAN, 0.1) == pytest.approx(3 - 1.5)


def test_the_wait_of_a_pair_by_hand() -> None:
    """Of 20 s together 6 are the mixers' and 0.5 ahead of the routing. At 0.4 s the experts' 30 + 40 kernels take 28 s
    beside the other 13.5; all 85 take 34 s beside the 20."""
    first = LayerCost(
        BlockCost(forward=Seconds(compute_s=1.0), forward_kernels=10),
        BlockCost(forward_kernels=30, waiting_kernels=30, ahead_s=0.5),
    )
    last = LayerCost(
        BlockCost(input=Seconds(compute_s=2.0), weight=Seconds(compute_s=3.0), backward_kernels=5),
        BlockCost(backward_kernels=40),
    )
    assert pair_wait_s(first, last, 20.0, 0.4) == pytest.approx(28 - 13.5)
    unread = replace(first, ffn=replace(first.ffn, waiting_kernels=0))
    assert pair_wait_s(unread, last, 20.0, 0.4) == pytest.approx(34 - 20)
    assert pair_wait_s(unread, last, 40.0, 0.4) == 0.0


def stage_of(*layers: LayerCost, moved_s: float = 0.0, host_s: float = 0.0) -> StageCost:
    return StageCost(layers, NO_TIME, NO_TIME, NO_TIME, {}, host_s, moved_s)


def test_stages_pair_first_with_last() -> None:
    """Forwards of 1, 2 and 4 s beside one backward of 10 s: the first pairs, the others run alone; what moves over the
    host link moves out and home at once."""
    ahead = [
        LayerCost(BlockCost(forward=Seconds(compute_s=seconds), forward_kernels=100)) for seconds in (1.0, 2.0, 4.0)
    ]
    back = LayerCost(BlockCost(input=Seconds(compute_s=7.0), weight=Seconds(compute_s=3.0)))
    assert paired_stages(stage_of(*ahead), stage_of(back), PLAN, Beside()).total_s == 17.0
    assert paired_stages(stage_of(ahead[0]), stage_of(back, back), PLAN, Beside()).total_s == 21.0
    assert paired_stages(stage_of(*ahead, moved_s=20.0), stage_of(back, moved_s=30.0), PLAN, Beside()).host_s == 13.0
    # 100 kernels at 0.03 s: 3 s, which the forward of 2 s alone cannot hide, nor that of 1 s without a partner.
    late = paired_stages(stage_of(*ahead[:2], host_s=0.03), stage_of(back), PLAN, Beside())
    assert late == Seconds(compute_s=13.0, host_s=pytest.approx(1.0))


def test_a_stage_loses_time_in_each_direction() -> None:
    stage = StageCost((), Seconds(compute_s=1.0), Seconds(compute_s=2.0), Seconds(compute_s=3.0), {}, 0.0)
    lost = Lost(Seconds(compute_s=0.25), Seconds(compute_s=0.5), Seconds(compute_s=0.125))
    found = stage.with_lost(lost)
    assert [found.forward.total_s, found.input.total_s, found.weight.total_s] == [1.25, 2.5, 3.125]
    assert found.lost == lost
