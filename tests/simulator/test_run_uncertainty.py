"""The model's own error in a whole run: the quantiles of its laws, and that both players meet the same ones."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from simulator.run.bill import bill_of
from simulator.run.checkpoint_interval import settle_intervals
from simulator.run.checkpoints import CheckpointPolicy
from simulator.run.fault_source import fault_source
from simulator.run.money import MONTH_H, break_even_months, energy_by_part_j, energy_j
from simulator.run.montecarlo import outcomes, saving_of, simulate
from simulator.run.read_failures import failure_model, preset, presets, rate_spread
from simulator.run.specs import Power, RunPrices, Simulation
from simulator.run.uncertainty import Uncertainty, rate_factors, step_factors, step_uncertainty
from tests.simulator.run_specs import crashes, paths, quiet, stormy

RUNS = np.arange(400)


def test_the_step_has_the_quantiles_of_its_interval() -> None:
    law = step_uncertainty(10.0, (9.0, 13.0), 0.0)
    factors = step_factors(law, 0, RUNS)
    assert np.quantile(factors, (0.1, 0.5, 0.9)) == pytest.approx((0.9, 1.0, 1.3), rel=0.01)
    assert (step_factors(law, 0, RUNS[100:]) == factors[100:]).all()
    assert (step_factors(law, 1, RUNS) != factors).any()
    assert (rate_factors(law, 0, RUNS) == 1).all()


def test_an_interval_beside_the_prediction_leaves_the_prediction_within() -> None:
    assert step_uncertainty(10.0, (11.0, 13.0), 0.0).step_p10 == 1.0
    assert step_uncertainty(10.0, (7.0, 9.0), 0.0).step_p90 == 1.0


def test_step_and_rate_are_drawn_apart() -> None:
    law = Uncertainty(0.8, 1.25, 0.5)
    steps, rates = np.log(step_factors(law, 3, RUNS)), np.log(rate_factors(law, 3, RUNS))
    assert rates.std() == pytest.approx(0.5, rel=0.02)
    assert abs(np.corrcoef(steps, rates)[0, 1]) < 0.05


def test_a_quiet_run_ends_as_its_step_says() -> None:
    """Nothing fails and nothing is saved: the end's quantiles are the step's."""
    spec = replace(quiet(days=5, policy="none", every_s=None), uncertainty=Uncertainty(0.9, 1.2))
    result = simulate(replace(spec, simulation=Simulation(runs=400)))
    ends = (result.finish_s.p10, result.finish_s.p50, result.finish_s.p90)
    assert np.divide(ends, spec.work_s) == pytest.approx((0.9, 1.0, 1.2), rel=0.01)
    assert result.goodput_fraction == pytest.approx(1.0)


@pytest.mark.parametrize("policy", ["async", "tiered"])
def test_losses_of_slower_runs_add_up_and_both_players_agree(policy: str) -> None:
    from simulator.run.event_player import play_one

    spec = replace(stormy(policy), uncertainty=Uncertainty(0.85, 1.3, 0.4))
    saving = saving_of(spec)
    batch = outcomes(spec, saving)
    total_s = batch.work_s + sum(batch.lost_s.values())
    assert total_s == pytest.approx(batch.elapsed_s, rel=1e-9)
    for run in range(2):
        alone, _ = play_one(spec, saving, fault_source(spec), run)
        assert alone.finish_s[0] == pytest.approx(batch.finish_s[run], rel=1e-6)
        for cause, lost_s in alone.lost_s.items():
            assert lost_s[0] == pytest.approx(batch.lost_s[cause][run], rel=1e-6, abs=1e-3)


def test_failures_strike_as_often_as_the_runs_rate_says() -> None:
    spec = quiet(days=40)
    spec = replace(spec, failures=crashes(3600.0, spec.job_gpus), uncertainty=Uncertainty(rate_sigma=0.5))
    spec = replace(spec, simulation=Simulation(runs=30))
    counts = [len(fault_source(spec)(run, (0.0, 1e6))) for run in range(30)]
    factors = rate_factors(spec.uncertainty, 0, np.arange(30))
    assert np.corrcoef(counts, factors)[0, 1] > 0.98


def test_the_shipped_models_say_how_far_a_rate_may_be_off() -> None:
    """Standard deviation of the logarithms, summed by hand; a rate that is given is known."""
    from simulator.run.faults import mean_time_between_s

    logs = [math.log(mean_time_between_s(preset(name), 1)) for name in presets()]
    mean = sum(logs) / len(logs)
    variance = sum((each - mean) ** 2 for each in logs) / (len(logs) - 1)
    assert rate_spread() == pytest.approx(math.sqrt(variance))
    assert failure_model({"base": "rsc-1", "rate_multiplier": 2}).rate_sigma == rate_spread()
    assert failure_model({"mtbf": "3 h"}).rate_sigma == 0
    assert failure_model({"mtbf": "3 h", "rate_sigma": 0.2}).rate_sigma == 0.2


def test_storage_is_not_written_more_often_than_allowed() -> None:
    saved_s = []
    for least_s in (0.0, 900.0, 7200.0):
        policy = CheckpointPolicy("async", least_every_s=least_s)
        saved_s.append(settle_intervals(policy, paths(2048), 3600.0, 1e7, 10.0).tiers[-1].every_s)
    assert saved_s[0] < 900.0
    assert saved_s[1:] == [900.0, 7200.0]
    asked = CheckpointPolicy("async", every_s=60.0, least_every_s=900.0)
    assert settle_intervals(asked, paths(2048), 3600.0, 1e7, 10.0).tiers[-1].every_s == 60.0
    copies = settle_intervals(CheckpointPolicy("in-memory", least_every_s=900.0), paths(2048), 3600.0, 1e7, 10.0)
    assert copies.tiers[0].every_s < 900.0 <= copies.tiers[1].every_s


POWER = Power(
    900.0, 300.0, 1.25, server_w=150.0, fabric_w=50.0, step_w={"compute": 600.0, "dp": 100.0}, waiting_w=340.0
)


def test_energy_by_part_adds_up() -> None:
    """10 GPUs for 100 s of steps, 20 s unnoticed hang and 30 s of restart, 2 spares; by hand."""
    seconds = {"work": 80.0, "lost_work": 20.0, "detection": 20.0, "restart": 30.0}
    parts = energy_by_part_j(seconds, 10, 12, POWER)
    assert parts["compute"] == 10 * 100 * 600
    assert parts["dp"] == 10 * 100 * 100
    assert parts["standing"] == 10 * (20 * 140 + 30 * 100)
    assert parts["spares"] == 2 * 150 * 100
    assert parts["servers"] == 12 * 150 * 150
    assert parts["network"] == 12 * 150 * 50
    it_j = sum(joules for part, joules in parts.items() if part != "cooling")
    assert parts["cooling"] == pytest.approx(0.25 * it_j)
    whole = 10 * (100 * 900 + 20 * 340 + 30 * 300) + 2 * 150 * 300
    assert energy_j(seconds, 10, 12, POWER) == pytest.approx(1.25 * whole)


def test_rent_and_own_stand_side_by_side() -> None:
    prices = RunPrices(gpu_hour_usd=3.0, capital_usd_per_gpu=30000.0, electricity_usd_per_kwh=0.1)
    spec = replace(quiet(days=2, policy="none", every_s=None), prices=prices, power=Power(1000.0, 300.0, 1.2))
    bill = bill_of(spec, outcomes(spec, saving_of(spec)))
    hours = spec.work_s / 3600
    assert bill.rent_usd == pytest.approx(2048 * 3.0 * hours)
    assert (
        bill.owned_usd
        == bill.cost_usd
        == pytest.approx(2048 * (30000 * spec.work_s / prices.life_s + 1.2 * hours * 0.1))
    )
    assert bill.break_even_months == pytest.approx(30000 / (3.0 - 0.12) / MONTH_H)
    assert break_even_months(40_000.0, prices) is None
    assert bill.cost_quantiles_usd is not None
    assert bill.cost_quantiles_usd.p50 == pytest.approx(bill.cost_usd)


def test_unused_slots_are_paid_for_unless_spares_stand_in_them() -> None:
    spec = replace(quiet(), unused_gpus=80)
    assert spec.paid_gpus == spec.gpus + 80
    filled = replace(spec, recovery=replace(spec.recovery, hot_spares=4))
    assert filled.paid_gpus == spec.gpus + 80
    beyond = replace(spec, recovery=replace(spec.recovery, hot_spares=12))
    assert beyond.paid_gpus == spec.gpus + 96


def test_more_uncertainty_spreads_the_end_wider() -> None:
    spec = replace(quiet(days=3), simulation=Simulation(runs=100))
    widths = []
    for p90 in (1.0, 1.1, 1.3):
        ends = simulate(replace(spec, uncertainty=Uncertainty(1 / p90, p90))).finish_s
        widths.append(ends.p90 - ends.p10)
    assert all(narrow < wide for narrow, wide in pairwise(widths))
