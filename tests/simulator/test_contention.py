"""What collectives that run once a step take from the computing beside them, and how intervals know thin evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware import catalogue
from simulator.cost.constants import NEUTRAL
from simulator.cost.seconds import Seconds
from simulator.cost.stages import StageCost
from simulator.cost.step_times import (
    UpdateTimes,
    causes_on_shared_links,
    with_contention,
    with_lost,
    with_shared_links,
)
from simulator.plans.spec import Overlap, Plan
from simulator.predict import confidence, residuals
from simulator.schedules import make_schedule
from simulator.step.build import build_graph
from simulator.step.contention import Contention
from simulator.step.player import play
from simulator.step.times import DataParallel, StageTimes

LOSING = replace(NEUTRAL, lost_beside_dp=0.3)
UPDATES = UpdateTimes(gather_s=((0.2, 0.1),), reduce_s=((0.5, 0.2),), optimizer_s=(0.01,), barrier_s=0.001)
PLAN = Plan(dp=8, micro_batch_size=1, global_batch_size=64)


def stage(forward_s: float, backward_s: float) -> StageCost:
    return StageCost((), Seconds(forward_s), Seconds(backward_s / 2), Seconds(backward_s / 2), {}, 0.0)


def lost_s(plan: Plan, held: StageCost) -> float:
    return with_contention(UPDATES, [held], plan, LOSING).barrier_s - UPDATES.barrier_s


def test_computing_loses_its_share_of_gathers_and_reductions() -> None:
    """0.1 s of gathers and 0.5 s of reductions beside long slots: 0.3 of them is lost; first and last stand alone."""
    assert lost_s(PLAN, stage(1.0, 2.0)) == pytest.approx(0.3 * (0.1 + 0.5))


def test_no_more_is_lost_than_is_computed_beside_them() -> None:
    assert lost_s(PLAN, stage(0.05, 0.2)) == pytest.approx(0.3 * (0.05 + 0.2))


def test_nothing_is_lost_beside_collectives_that_stand_alone() -> None:
    alone = replace(PLAN, overlap=Overlap(grad_reduce=False, param_gather=False))
    assert lost_s(alone, stage(1.0, 2.0)) == 0
    assert lost_s(replace(PLAN, sharding="full"), stage(1.0, 2.0)) == 0


# ---- links that exchanges within layers share with data parallelism

SHARED = frozenset({"ep"})
# Of forward and backward 0.4 are exchanged between experts.
EXCHANGING = StageCost((), Seconds(0.5, tp_s=0.1, ep_s=0.4), Seconds(0.6, ep_s=0.4), Seconds(0.6, ep_s=0.4), {}, 0.0)


def test_transfers_on_one_link_share_it_as_flows_do() -> None:
    """0.3 s of gathers and of reductions beside slots that hold the link for 0.4 of their time: both go at 1 / 1.4
    meanwhile, as the player of events plays them, so that 0.12 s are lost to each."""
    updates = UpdateTimes(gather_s=((0.0, 0.3),), reduce_s=((0.3, 0.0),), optimizer_s=(0.0,), barrier_s=0.0)
    slowed = with_contention(updates, [EXCHANGING], PLAN, NEUTRAL, SHARED)
    assert slowed.barrier_s == pytest.approx(2 * 0.4 * 0.3)
    halves = {name: {"compute": np.array([s])} for name, s in (("forward_s", 1.0), ("input_backward_s", 1.0))}
    none = np.zeros(1)
    times = StageTimes(
        **halves,
        weight_backward_s={"compute": np.array([1.0])},
        send_forward_s=none,
        send_backward_s=none,
        data_parallel=DataParallel(gather_s=updates.gather_s, reduce_s=updates.reduce_s),
    )
    graph = build_graph(make_schedule("1f1b", 1, 1, 1), times)
    fluid = play(graph, Contention({("compute", "dp"): 1.4, ("dp", "compute"): 1.4}))
    assert fluid.step_time_s - play(graph).step_time_s == pytest.approx(slowed.barrier_s)


def test_sharded_layers_and_exchanges_lengthen_each_other() -> None:
    """2 s of gathers beside a forward of 1 s: all of its 0.4 s are met, on both sides. 0.5 s of reductions and the
    gathers beside a backward of 2 s meet its 0.8 s whole; reductions alone a quarter of it."""
    updates = UpdateTimes(gather_s=((0.5, 1.5),), reduce_s=((0.5,),), optimizer_s=(0.0,), barrier_s=0.0)
    plan = replace(PLAN, sharding="full")
    alone, together = [EXCHANGING], with_shared_links(updates, [EXCHANGING], plan, SHARED)
    (slowed,) = with_lost(alone, updates, plan, NEUTRAL, SHARED)
    assert (slowed.forward.ep_s, slowed.forward.compute_s) == pytest.approx((0.8, 0.5))
    assert slowed.lost.input.total_s == pytest.approx(0.8)
    assert together.gather_s[0] == pytest.approx((0.6, 1.8))
    assert together.reduce_s[0] == pytest.approx((0.5 * 1.4,))
    apart = replace(plan, overlap=Overlap(grad_reduce=False, param_gather=False))
    assert with_shared_links(updates, alone, apart, SHARED) == updates
    assert with_shared_links(updates, alone, PLAN, SHARED) == updates
    assert with_lost(alone, updates, plan, NEUTRAL) == alone


@pytest.mark.parametrize(
    ("changes", "gpus", "shared"),
    [
        ({"dp": 64, "ep": 64}, 64, {"ep"}),
        ({"dp": 64, "ep": 8}, 64, set()),
        ({"dp": 8, "tp": 8}, 64, set()),
        ({"dp": 4, "tp": 2}, 8, {"tp"}),
        ({"dp": 2, "cp": 32}, 64, {"cp"}),
        ({"dp": 1, "tp": 8}, 8, set()),
    ],
)
def test_exchanges_share_the_kind_of_link_that_they_use(changes: dict[str, int], gpus: int, shared: set[str]) -> None:
    """Servers of eight: groups beyond one meet on NICs, those within one inside it."""
    plan = replace(PLAN, **changes)
    cluster = catalogue.cluster(gpus, "hgx-h100", "ndr-rail-2tier")
    assert causes_on_shared_links(plan, cluster) == shared


def test_a_step_of_few_micro_batches_on_many_gpus_has_a_wider_interval() -> None:
    known = residuals.residuals()
    many = residuals.Case("hopper", "dense", "megatron-core", 512, microbatches=3)

    def width(case: residuals.Case) -> float:
        low, high = confidence.log_interval(case, known)
        return high - low

    assert width(replace(many, microbatches=2)) == pytest.approx(confidence.ONCE * width(many))
    small = replace(many, gpus=63)
    assert width(replace(small, microbatches=2)) == width(small), "what a step costs once is small on few GPUs"


def test_a_part_that_nobody_else_measured_is_known_half_as_well() -> None:
    """With the only source that ran on a part left out, its interval is that of a part without published runs."""
    family, case = next(
        (family, case)
        for family, case in zip(residuals.residuals().families, residuals.residuals().cases, strict=True)
        if case.part == "H100-SXM-96GB"
    )
    known, source = residuals.residuals(), residuals.source_of(family)
    assert confidence.unmeasured(case, known) == {}
    assert "part" in confidence.unmeasured(case, known, source)
    low, high = confidence.log_interval(case, known, source)
    wide_low, wide_high = confidence.interval_of(case, known, source)
    factor = confidence.UNMEASURED["part"] * confidence.UNMEASURED["node"]
    assert (wide_high - wide_low) / (high - low) == pytest.approx(factor)
    assert wide_low + wide_high == pytest.approx(low + high), "about the same middle"


def test_hardware_that_no_run_used_is_named() -> None:
    known = residuals.residuals()
    measured = known.cases[0]
    assert confidence.unmeasured(measured, known) == {}
    assert confidence.unmeasured(replace(measured, part="Voodoo2"), known) == {"part": "Voodoo2"}


def test_thin_evidence_adds_in_quadrature() -> None:
    part = catalogue.node("hgx-h100").accelerator
    assert confidence.widened((-0.1, 0.1), part, ("bf16",)) == pytest.approx((-0.1, 0.1))
    beyond = confidence.STANDARD_DEVIATIONS * confidence.ASSUMED_SPREAD * 0.5
    assert confidence.widened((-0.1, 0.1), part, ("bf16",), 1.0, 0.5)[1] == pytest.approx((0.1**2 + beyond**2) ** 0.5)
    assert confidence.widened((-0.1, 0.1), part, ("bf16",), 2.0)[1] == pytest.approx(0.2)
