"""Owning against renting, and what cooling takes: months and use to break even, heat and water, by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from hardware.facility import COOLING
from hardware.problems import InputError
from simulator.predict.prediction import Prediction, evaluate
from simulator.run.bill import bill_of
from simulator.run.faults import FailureModel
from simulator.run.money import (
    MONTH_H,
    break_even_utilisation,
    energy_by_part_j,
    heat_by_medium_w,
    owned_usd,
    utilities_usd_per_kwh,
    water_m3,
)
from simulator.run.montecarlo import outcomes, saving_of, simulate
from simulator.run.result import RunResult
from simulator.run.specs import Power, Recovery, RunPrices
from simulator.scenario.schema import load_scenario
from tests.simulator.run_specs import crashes, quiet

SCENARIOS = Path(__file__).parents[2] / "scenarios"
DAY_S = 86400.0
# 1 kW at the machine, 1.25 kW at the meter, half a litre per kWh at the machine.
POWER = Power(1000.0, 300.0, 1.25, server_w=150.0, fabric_w=50.0, water_l_per_kwh=0.5, liquid_fraction=0.8)
PRICES = RunPrices(
    gpu_hour_usd=2.0,
    capital_usd_per_gpu=30_000.0,
    life_s=30_000 * 3600.0,
    electricity_usd_per_kwh=0.08,
    water_usd_per_m3=3.0,
)


def run_of(prediction: Prediction) -> RunResult:
    assert prediction.run is not None
    return prediction.run


def test_half_used_machines_cost_twice_the_capital() -> None:
    whole = owned_usd(3600.0, None, 10, PRICES)
    assert whole == pytest.approx(10 * 30_000 / 30_000)
    assert owned_usd(3600.0, None, 10, replace(PRICES, utilisation_fraction=0.5)) == pytest.approx(2 * whole)


def test_water_is_bought_with_the_energy_that_it_cools() -> None:
    """A kWh at the meter is 0.8 kWh of IT energy, which takes 0.4 L: 0.0012 USD."""
    assert utilities_usd_per_kwh(PRICES, POWER) == pytest.approx(0.08 + 0.0012)
    capital = owned_usd(3600.0, None, 1, PRICES)
    assert owned_usd(3600.0, 10 * 3.6e6, 1, PRICES, POWER) == pytest.approx(capital + 10 * 0.0812)


def test_owning_breaks_even_at_a_share_of_the_life() -> None:
    """30,000 USD over 2 USD/h less 1.25 kW at 0.0812 USD/kWh: 15,802 h of the 30,000 h."""
    spec = replace(quiet(days=2, policy="none", every_s=None), prices=PRICES, power=POWER)
    bill = bill_of(spec, outcomes(spec, saving_of(spec)))
    hours = 30_000 / (2.0 - 1.25 * 0.0812)
    assert bill.break_even_months == pytest.approx(hours / MONTH_H)
    assert bill.break_even_utilisation_fraction == pytest.approx(hours / 30_000)
    assert break_even_utilisation(None, PRICES) is None


def test_at_the_use_to_break_even_owning_and_renting_cost_the_same() -> None:
    spec = replace(quiet(days=2, policy="none", every_s=None), prices=PRICES, power=POWER)
    share = bill_of(spec, outcomes(spec, saving_of(spec))).break_even_utilisation_fraction
    assert share is not None
    used = replace(spec, prices=replace(PRICES, utilisation_fraction=share))
    bill = bill_of(used, outcomes(used, saving_of(used)))
    assert bill.owned_usd == pytest.approx(bill.rent_usd)


def test_all_power_leaves_as_heat_and_servers_give_theirs_to_the_liquid() -> None:
    """10 GPUs for an hour: 10 kWh of IT energy, 0.5 of them in the network; 80 % of 9.5 kW into the liquid."""
    parts = energy_by_part_j({"work": 3600.0}, 10, 10, POWER)
    heat = heat_by_medium_w(parts, 3600.0, POWER)
    assert heat["liquid"] == pytest.approx(0.8 * 9500)
    assert sum(heat.values()) == pytest.approx(12_500)
    assert water_m3(parts, POWER) == pytest.approx(10 * 0.5 / 1000)


def test_better_cooling_takes_less_energy_and_water_and_costs_less() -> None:
    found = []
    for cooling in ("air", "liquid", "immersion"):
        overrides = [
            f"cluster.node={{base: hgx-h100, cooling: {cooling}}}",
            "run.prices={capital_per_gpu: 30 kUSD, electricity: 90 USD/MWh, water: 2 USD/m3}",
            "run.failures=none",
        ]
        found.append(run_of(evaluate(load_scenario(SCENARIOS / "tiny.yaml", overrides))))
    for worse, better in pairwise(found):
        assert better.energy_j < worse.energy_j
        assert better.cost_usd < worse.cost_usd
        assert better.heat_by_medium_w["liquid"] > worse.heat_by_medium_w["liquid"]
    air, liquid, _ = found
    it_kwh = air.energy_j / COOLING["air"].pue.value / 3.6e6
    assert air.water_m3 == pytest.approx(it_kwh * 0.36 / 1000)
    assert liquid.water_m3 == 0


def test_water_of_the_site_stands_instead_of_that_of_the_cooling() -> None:
    overrides = ["cluster.water_usage=1.8 L/kWh", "run.failures=none"]
    prediction = evaluate(load_scenario(SCENARIOS / "tiny.yaml", overrides))
    assert run_of(prediction).water_m3 == pytest.approx(run_of(prediction).energy_j / 1.3 / 3.6e6 * 1.8 / 1000)
    stated = {premise.topic: premise.text for premise in prediction.stated}
    assert stated["water"] == "1.8 L per kWh of IT energy"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.water_usage=2 W", "here l_per_kwh is wanted"),
        ("cluster.node={base: hgx-h100, cooling: oil}", "cooling"),
        ("run.prices={gpu_hour: 2 USD/h, utilisation: 120%}", "must be at most 1, not 1.2"),
    ],
)
def test_wrong_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(SCENARIOS / "tiny.yaml", [override])


def test_an_owners_prices_beside_rent_alone_are_told() -> None:
    def told(prices: str) -> list[str]:
        return [text for text in load_scenario(SCENARIOS / "tiny.yaml", [f"run.prices={prices}"]).warnings
                if "acts only with run.prices.capital_per_gpu" in text]  # fmt: skip

    owners = "life: 5 years, utilisation: 80%, electricity: 80 USD/MWh, water: 2 USD/m3"
    assert [text.split()[0].rpartition(".")[2] for text in told(f"{{gpu_hour: 2 USD/h, {owners}}}")] == [
        "life", "utilisation", "electricity", "water",
    ]  # fmt: skip
    assert (
        told(f"{{capital_per_gpu: 30 kUSD, {owners}}}") == told("{gpu_hour: 2 USD/h, network_per_gpu: 1 USD/h}") == []
    )


def test_a_run_that_does_not_finish_has_no_bill() -> None:
    """What is spent until it is given up is not what it costs: of 8 crashes a day each takes a node for good."""
    spec = replace(quiet(nodes=64), prices=PRICES, power=POWER, recovery=Recovery(hot_spares=1, evict_after=1))
    spec = replace(spec, failures=crashes(3 * 3600.0, spec.job_gpus, repair_s=3600.0))
    told = simulate(spec).to_dict()
    assert told["finishes"] is False
    assert told["reason"]
    spent = ("energy_j", "water_m3", "cost_usd", "cost_error_usd", "rent_usd", "owned_usd", "carbon_kg", "mean_error_s")
    assert [told[key] for key in spent] == [None] * len(spent)
    assert set(told["cost_quantiles_usd"].values()) == {None}
    ended = simulate(replace(spec, failures=FailureModel("none", ()))).to_dict()
    assert None not in [ended[key] for key in spent if key not in ("carbon_kg",)]
