"""What collectives that run once a step take from the computing beside them, and how intervals know thin evidence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.cost.constants import NEUTRAL
from simulator.cost.seconds import Seconds
from simulator.cost.stages import StageCost
from simulator.cost.step_times import UpdateTimes, with_contention
from simulator.plan.spec import Overlap, Plan
from simulator.predict import confidence, residuals

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


def test_little_work_widens_the_interval() -> None:
    known = residuals.residuals()
    much = residuals.Case("hopper", "dense", "megatron-core", 512, work_flops=1e16)
    little = replace(much, work_flops=1e13)
    widths = [high - low for low, high in (confidence.log_interval(case, known) for case in (much, little))]
    assert widths[1] == pytest.approx(confidence.LITTLE_WORK * widths[0])


def test_hardware_that_no_run_used_is_named() -> None:
    known = residuals.residuals()
    measured = known.cases[0]
    assert confidence.unmeasured(measured, known) == {}
    assert confidence.unmeasured(replace(measured, part="Voodoo2"), known) == {"part": "Voodoo2"}


def test_thin_evidence_adds_in_quadrature() -> None:
    from hardware import catalogue

    part = catalogue.node("hgx-h100").accelerator
    assert confidence.widened((-0.1, 0.1), part) == pytest.approx((-0.1, 0.1))
    beyond = confidence.STANDARD_DEVIATIONS * confidence.ASSUMED_SPREAD * 0.5
    assert confidence.widened((-0.1, 0.1), part, 1.0, 0.5)[1] == pytest.approx((0.1**2 + beyond**2) ** 0.5)
    assert confidence.widened((-0.1, 0.1), part, 2.0)[1] == pytest.approx(0.2)
