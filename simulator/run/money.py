"""What a run costs and consumes: money, energy and carbon from hours, watts and prices."""

from __future__ import annotations

from simulator.run.specs import Power, RunPrices

HOUR_S = 3600.0
KWH_J = 3.6e6
BUSY = ("work", "lost_work", "slow", "shrunk")  # GPUs compute; in all other time they stand


def energy_j(seconds: dict[str, float], job_gpus: int, gpus: int, power: Power) -> float:
    """Energy at the meter: busy time of the job's GPUs at busy power, everything else idle, times the PUE.

    `seconds` maps "work" and the causes of loss to wall seconds; spares idle throughout.
    """
    busy = sum(s for name, s in seconds.items() if name in BUSY)
    idle = sum(s for name, s in seconds.items() if name not in BUSY)
    job = job_gpus * (busy * power.busy_w + idle * power.idle_w)
    spares = (gpus - job_gpus) * (busy + idle) * power.idle_w
    return power.pue * (job + spares)


def cost_usd(wall_s: float, energy: float | None, gpus: int, prices: RunPrices) -> float:
    """Dollars for `wall_s` on `gpus` GPUs: rent, or capital by the share of its life plus electricity, plus extras."""
    hours = wall_s / HOUR_S
    extras = hours * (gpus * prices.network_usd_per_gpu_hour + prices.storage_usd_per_hour)
    if prices.gpu_hour_usd is not None:
        return gpus * hours * prices.gpu_hour_usd + extras
    capital = gpus * prices.capital_usd_per_gpu * wall_s / prices.life_s
    electricity = (energy or 0.0) / KWH_J * prices.electricity_usd_per_kwh
    return capital + electricity + extras


def carbon_kg(energy: float, prices: RunPrices) -> float | None:
    """Carbon of the electricity, where the grid's intensity is known."""
    return None if prices.carbon_kg_per_kwh is None else energy / KWH_J * prices.carbon_kg_per_kwh
