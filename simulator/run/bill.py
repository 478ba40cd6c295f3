"""The bill of a run: energy, money and carbon of the mean run, their quantiles, and each by what it went into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Bools, Floats
from simulator.run.money import (
    Amount,
    break_even_months,
    carbon_kg,
    cost_usd,
    energy_by_part_j,
    energy_j,
    owned_usd,
    rent_usd,
)
from simulator.run.outcome import Outcome
from simulator.run.quantiles import Quantiles, quantiles
from simulator.run.specs import RunPrices, RunSpec


@dataclass(frozen=True, slots=True)
class Bill:
    """What the mean run consumes and costs, and quantiles over runs; None where power or prices are not given.

    `rent_usd` and `owned_usd` are the two ways to pay for the mean run, `cost_usd` the one that was chosen: owned where
    the machines have a price. `break_even_months`: of use, after which owning has cost less than renting.
    """

    energy_j: float | None = None
    energy_quantiles_j: Quantiles | None = None
    energy_by_part_j: Mapping[str, float] | None = None
    cost_usd: float | None = None
    cost_quantiles_usd: Quantiles | None = None
    rent_usd: float | None = None
    owned_usd: float | None = None
    break_even_months: float | None = None
    lost_cost_usd: Mapping[str, float] | None = None
    cost_usd_per_trillion_tokens: float | None = None
    carbon_kg: float | None = None


def bill_of(spec: RunSpec, outcome: Outcome) -> Bill:
    """The bill of raw outcomes; a run that never ends has no cost, in quantiles infinity."""
    finished = np.isfinite(outcome.finish_s)
    seconds = {"work": outcome.work_s, **outcome.lost_s}
    mean_s = {name: float(values.mean()) for name, values in seconds.items()}
    energies = _energy_j(spec, seconds)
    energy = None if energies is None else float(energies.mean())
    power_known = {} if spec.power is None else {
        "energy_j": energy,
        "energy_quantiles_j": _of_finished(energies, finished),
        "energy_by_part_j": energy_by_part_j(mean_s, spec.job_gpus, spec.gpus, spec.power),
    }
    if spec.prices is None:
        return Bill(**power_known)
    return Bill(**power_known, **_money(spec, spec.prices, outcome, energies, mean_s))


def _money(
    spec: RunSpec, prices: RunPrices, outcome: Outcome, energies: Floats | None, mean_s: Mapping[str, float]
) -> dict[str, object]:
    """The part of the bill that is paid; time in which GPUs stand is cheaper in electricity."""
    finished = np.isfinite(outcome.finish_s)
    wall_s = float(outcome.elapsed_s.mean())
    energy = None if energies is None else float(energies.mean())
    costs = cost_usd(outcome.elapsed_s, energies, spec.paid_gpus, prices)
    cost = cost_usd(wall_s, energy, spec.paid_gpus, prices)
    lost_cost = {
        cause: cost_usd(seconds, _energy_j(spec, {cause: seconds}), spec.paid_gpus, prices)
        for cause, seconds in mean_s.items()
        if cause != "work"
    }
    gpu_w = 0.0 if energy is None else energy / wall_s / spec.paid_gpus
    return {
        "cost_usd": cost,
        "cost_quantiles_usd": _of_finished(costs, finished),
        "rent_usd": rent_usd(wall_s, spec.paid_gpus, prices),
        "owned_usd": owned_usd(wall_s, energy, spec.paid_gpus, prices),
        "break_even_months": break_even_months(gpu_w, prices),
        "lost_cost_usd": lost_cost,
        "cost_usd_per_trillion_tokens": cost / (spec.tokens / 1e12) if finished.all() else None,
        "carbon_kg": None if energy is None else carbon_kg(energy, prices),
    }


def _energy_j(spec: RunSpec, seconds: Mapping[str, Amount]) -> Amount | None:
    return None if spec.power is None else energy_j(seconds, spec.job_gpus, spec.gpus, spec.power)


def _of_finished(values: Floats | None, finished: Bools) -> Quantiles | None:
    return None if values is None else quantiles(np.where(finished, values, np.inf))
