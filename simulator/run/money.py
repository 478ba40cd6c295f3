"""What a run costs and consumes: money, energy and carbon from hours, watts and prices.

Seconds may be numbers or arrays over runs; what is returned has their shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from simulator.run.arrays import Floats
from simulator.run.specs import Power, RunPrices

Amount = TypeVar("Amount", float, Floats)
HOUR_S = 3600.0
MONTH_H = 365.25 * 24 / 12
KWH_J = 3.6e6
LITRES = 1000.0  # in a cubic metre
BUSY = ("work", "lost_work", "slow", "shrunk", "evaluation")  # GPUs take steps; in all other time they stand
SPINNING = ("detection",)  # the job has failed and nobody knows: its GPUs wait in collectives


def energy_j(seconds: Mapping[str, Amount], job_gpus: int, gpus: int, power: Power) -> Amount:
    """Energy at the meter, joules: every part of `energy_by_part_j` together."""
    parts = energy_by_part_j(seconds, job_gpus, gpus, power)
    return _total(list(parts.values()))


def energy_by_part_j(seconds: Mapping[str, Amount], job_gpus: int, gpus: int, power: Power) -> dict[str, Amount]:
    """Joules at the meter: of the GPUs by cause of the step, standing, of spares, servers and network, and what cooling
    and power distribution add (PUE).

    `seconds` maps "work" and the causes of loss to wall seconds; spares idle throughout, unused slots are off.
    """
    wall_s = _total(list(seconds.values()))
    busy_s = _chosen(seconds, BUSY, wall_s)
    spinning_s = _chosen(seconds, SPINNING, wall_s)
    standing_s = wall_s - busy_s - spinning_s
    parts = {cause: job_gpus * busy_s * watts for cause, watts in power.gpu_step_w.items()}
    parts["standing"] = job_gpus * (spinning_s * power.gpu_spinning_w + standing_s * power.gpu_idle_w)
    parts["spares"] = (gpus - job_gpus) * wall_s * power.gpu_idle_w
    parts["servers"] = gpus * wall_s * power.server_w
    parts["network"] = gpus * wall_s * power.fabric_w
    parts["cooling"] = (power.pue - 1) * _total(list(parts.values()))
    return parts


def _chosen(seconds: Mapping[str, Amount], names: tuple[str, ...], like: Amount) -> Amount:
    """Seconds of the named causes together, in the shape of `like`."""
    total = 0.0 * like
    for name, spent in seconds.items():
        if name in names:
            total = total + spent
    return total


def _total(amounts: list[Amount]) -> Amount:
    total = amounts[0]
    for amount in amounts[1:]:
        total = total + amount
    return total


def it_energy_j(parts: Mapping[str, Amount]) -> Amount:
    """Joules of the machines themselves: all parts but what the building adds."""
    return _total([joules for part, joules in parts.items() if part != "cooling"])


def water_m3(parts: Mapping[str, Amount], power: Power) -> Amount:
    """Cubic metres that cooling evaporates or drains: kWh of IT energy x WUE (The Green Grid's definition)."""
    return it_energy_j(parts) / KWH_J * power.water_l_per_kwh / LITRES


def heat_by_medium_w(parts: Mapping[str, float], wall_s: float, power: Power) -> dict[str, float]:
    """Watts that leave the building in the mean, which are all watts at the meter, by what takes them from the servers.

    The network's and the building's own share goes into air.
    """
    of_servers = it_energy_j(parts) - parts["network"]
    liquid_w = power.liquid_fraction * of_servers / wall_s
    return {"liquid": liquid_w, "air": _total(list(parts.values())) / wall_s - liquid_w}


def utilities_usd_per_kwh(prices: RunPrices, power: Power | None) -> float:
    """Electricity of a kWh at the meter, and the water that cools it."""
    if power is None:
        return prices.electricity_usd_per_kwh
    water_m3_per_kwh = power.water_l_per_kwh / LITRES / power.pue
    return prices.electricity_usd_per_kwh + water_m3_per_kwh * prices.water_usd_per_m3


def cost_usd(wall_s: Amount, energy: Amount | None, gpus: int, prices: RunPrices, power: Power | None = None) -> Amount:
    """Dollars for `wall_s` on `gpus` GPUs: as an owner pays where the machines have a price, else as rent."""
    owned = owned_usd(wall_s, energy, gpus, prices, power)
    if owned is not None:
        return owned
    rent = rent_usd(wall_s, gpus, prices)
    return _extras_usd(wall_s, gpus, prices) if rent is None else rent


def rent_usd(wall_s: Amount, gpus: int, prices: RunPrices) -> Amount | None:
    """Rent, and what network and storage cost on top; None without a price of rent."""
    if prices.gpu_hour_usd is None:
        return None
    return gpus * (wall_s / HOUR_S) * prices.gpu_hour_usd + _extras_usd(wall_s, gpus, prices)


def owned_usd(
    wall_s: Amount, energy: Amount | None, gpus: int, prices: RunPrices, power: Power | None = None
) -> Amount | None:
    """Capital by the share of its used life, electricity, water, and what comes on top; None without a price of
    machines."""
    if not prices.capital_usd_per_gpu:
        return None
    used_life_s = prices.utilisation_fraction * prices.life_s
    capital = gpus * prices.capital_usd_per_gpu * wall_s / used_life_s
    extras = _extras_usd(wall_s, gpus, prices)
    if energy is None:
        return capital + extras
    return capital + energy / KWH_J * utilities_usd_per_kwh(prices, power) + extras


def _extras_usd(wall_s: Amount, gpus: int, prices: RunPrices) -> Amount:
    hours = wall_s / HOUR_S
    return hours * (gpus * prices.network_usd_per_gpu_hour + prices.storage_usd_per_hour)


def break_even_months(gpu_w: float, prices: RunPrices, power: Power | None = None) -> float | None:
    """Months of use after which an owned GPU has cost less than a rented one, where it draws `gpu_w` at the meter.

    Capital / (rent - electricity and water); None where a price is not known, or rent is no dearer than these.
    """
    if prices.gpu_hour_usd is None or not prices.capital_usd_per_gpu:
        return None
    utilities_usd_per_hour = gpu_w * HOUR_S / KWH_J * utilities_usd_per_kwh(prices, power)
    saved_usd_per_hour = prices.gpu_hour_usd - utilities_usd_per_hour
    if saved_usd_per_hour <= 0:
        return None
    return prices.capital_usd_per_gpu / saved_usd_per_hour / MONTH_H


def break_even_utilisation(months: float | None, prices: RunPrices) -> float | None:
    """Share of its life that an owned GPU must work for to cost less than a rented one; above 1 it never does.

    Months of use to break even over the months of its life; None without them.
    """
    return None if months is None else months * MONTH_H * HOUR_S / prices.life_s


def carbon_kg(energy: float, prices: RunPrices) -> float | None:
    """Carbon of the electricity, where the grid's intensity is known."""
    return None if prices.carbon_kg_per_kwh is None else energy / KWH_J * prices.carbon_kg_per_kwh
