"""The bill of a run: energy, money and carbon of the mean run, their quantiles, and each by what it went into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.money import (
    Amount,
    break_even_months,
    break_even_utilisation,
    carbon_kg,
    cost_usd,
    energy_by_part_j,
    energy_j,
    heat_by_medium_w,
    owned_usd,
    rent_usd,
    water_m3,
)
from simulator.run.outcome import Outcome, mostly_finishes
from simulator.run.quantiles import Quantiles, quantiles
from simulator.run.run_means import run_weights, standard_error
from simulator.run.specs import RunPrices, RunSpec


@dataclass(frozen=True, slots=True)
class Bill:
    """What the mean run consumes and costs, and quantiles over runs; None where power or prices are not given.

    `rent_usd` and `owned_usd` are the two ways to pay for the mean run, `cost_usd` the one that was chosen: owned where
    the machines have a price. `break_even_months`: of use, after which owning has cost less than renting, and
    `break_even_utilisation_fraction` the share of the machines' life that they are. `heat_by_medium_w`: what leaves the
    building in the mean.
    """

    energy_j: float | None = None
    energy_quantiles_j: Quantiles | None = None
    energy_by_part_j: Mapping[str, float] | None = None
    heat_by_medium_w: Mapping[str, float] | None = None
    water_m3: float | None = None
    cost_usd: float | None = None
    cost_error_usd: float | None = None
    cost_quantiles_usd: Quantiles | None = None
    rent_usd: float | None = None
    owned_usd: float | None = None
    break_even_months: float | None = None
    break_even_utilisation_fraction: float | None = None
    lost_cost_usd: Mapping[str, float] | None = None
    cost_usd_per_trillion_tokens: float | None = None
    carbon_kg: float | None = None


def bill_of(spec: RunSpec, outcome: Outcome, weights: Floats | None = None) -> Bill:
    """The bill of raw outcomes, by `weights` (runs,) in the means (None: the runs' own); a run that never ends has no
    cost, in quantiles infinity. What was spent until most runs were given up is no bill."""
    if not mostly_finishes(outcome):
        return _unfinished(spec)
    weights = run_weights(spec, outcome) if weights is None else weights
    seconds = {"work": outcome.work_s, **outcome.lost_s}
    mean_s = {name: float(weights @ values) for name, values in seconds.items()}
    energies = _energy_j(spec, seconds)
    bill = _consumed(spec, outcome, energies, mean_s)
    return bill if spec.prices is None else _priced(bill, spec, spec.prices, outcome, energies, mean_s)


def _unfinished(spec: RunSpec) -> Bill:
    """The bill where most runs are given up: nothing is known but that it has no end."""
    endless = quantiles(np.full(1, np.inf))
    return Bill(
        energy_quantiles_j=None if spec.power is None else endless,
        cost_quantiles_usd=None if spec.prices is None else endless,
    )


def _consumed(spec: RunSpec, outcome: Outcome, energies: Floats | None, mean_s: Mapping[str, float]) -> Bill:
    """The bill without its money."""
    if spec.power is None or energies is None:
        return Bill()
    parts = energy_by_part_j(mean_s, spec.job_gpus, spec.gpus, spec.power)
    return Bill(
        energy_j=sum(parts.values()),
        energy_quantiles_j=_of_finished(energies, outcome),
        energy_by_part_j=parts,
        heat_by_medium_w=heat_by_medium_w(parts, sum(mean_s.values()), spec.power),
        water_m3=water_m3(parts, spec.power),
    )


def _priced(
    bill: Bill,
    spec: RunSpec,
    prices: RunPrices,
    outcome: Outcome,
    energies: Floats | None,
    mean_s: Mapping[str, float],
) -> Bill:
    """The bill with its money; time in which GPUs stand is cheaper in electricity."""
    gpus, wall_s, energy = spec.paid_gpus, sum(mean_s.values()), bill.energy_j
    power = spec.power
    cost = cost_usd(wall_s, energy, gpus, prices, power)
    gpu_w = 0.0 if energy is None else energy / wall_s / gpus
    all_finish = bool(np.isfinite(outcome.finish_s).all())
    costs = cost_usd(outcome.elapsed_s, energies, gpus, prices, power)
    months = break_even_months(gpu_w, prices, power)
    lost_s = {cause: seconds for cause, seconds in mean_s.items() if cause != "work"}
    return replace(
        bill,
        cost_usd=cost,
        cost_error_usd=standard_error(spec, outcome, costs),
        cost_quantiles_usd=_of_finished(costs, outcome),
        rent_usd=rent_usd(wall_s, gpus, prices),
        owned_usd=owned_usd(wall_s, energy, gpus, prices, power),
        break_even_months=months,
        break_even_utilisation_fraction=break_even_utilisation(months, prices),
        lost_cost_usd={cause: _part_usd(spec, prices, cause, seconds) for cause, seconds in lost_s.items()},
        cost_usd_per_trillion_tokens=cost / (spec.tokens / 1e12) if all_finish else None,
        carbon_kg=None if energy is None else carbon_kg(energy, prices),
    )


def _part_usd(spec: RunSpec, prices: RunPrices, cause: str, seconds: float) -> float:
    """What so many seconds of one cause of loss cost."""
    energy = _energy_j(spec, {cause: seconds})
    return cost_usd(seconds, energy, spec.paid_gpus, prices, spec.power)


def _energy_j(spec: RunSpec, seconds: Mapping[str, Amount]) -> Amount | None:
    return None if spec.power is None else energy_j(seconds, spec.job_gpus, spec.gpus, spec.power)


def _of_finished(values: Floats, outcome: Outcome) -> Quantiles:
    return quantiles(np.where(np.isfinite(outcome.finish_s), values, np.inf))
