"""Terminal rows of the whole run: when it ends, what it costs, draws and loses, as quantiles or means that say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hardware.units import format_energy, format_fraction, format_power, format_seconds, format_usd, format_volume
from simulator.report.printing import LEAST_ERROR, with_error

Row = tuple[str, str]
ROUNDING = 1e-9  # of the run: what is lost below is no loss
LEAST_SHARE = 0.005  # of the energy: smaller parts are summed up


def run_rows(run: Mapping[str, Any] | None, tokens: float) -> list[Row]:
    """The run of `tokens` tokens with its failures; nothing where none was simulated."""
    if run is None:
        return []
    if not run["finishes"]:
        return [("Whole run", f"does not finish: {run['reason']}"), ("Spares", _spares(run))]
    return [*_end(run), *_policies(run), *_lost(run), *_cost(run, tokens), *_energy(run)]


def _spread(quantiles: Mapping[str, float | None], written: Callable[[float], str]) -> str:
    """P50 with P10 and P90."""
    values = [quantiles[name] for name in ("p10", "p50", "p90")]
    p10, p50, p90 = ["never" if value is None else written(value) for value in values]
    return f"{p50} (P10 {p10}, P90 {p90})"


def _end(run: Mapping[str, Any]) -> Iterator[Row]:
    breaks = run["mean_time_between_interruptions_s"] is not None
    known = "with failures, and errors of step time and failure rate" if breaks else "with errors of step time"
    yield "Whole run", f"{_spread(run['finish_s'], format_seconds)} {known}"
    goodput = _spread(run["goodput_quantiles"], format_fraction)
    first_order = format_fraction(run["first_order_goodput_fraction"])
    mean = format_fraction(run["goodput_fraction"])
    rates = "the fault log's own rates" if run.get("replays_fault_log") else "the mean failure rate"
    yield "Goodput", f"{goodput}; {mean} in the mean, {first_order} to first order at {rates}"


def _policies(run: Mapping[str, Any]) -> Iterator[Row]:
    """How often it is interrupted, and what is done about it."""
    between_s = run["mean_time_between_interruptions_s"]
    of_gpus = f"of {run['job_gpus']:,} GPUs at work"
    stops = f"every {format_seconds(between_s)} {of_gpus}, in the mean" if between_s else "never"
    yield "Interrupted", stops
    yield "Spares", _spares(run)
    saves = [f"to {tier} every {format_seconds(s)}" for tier, s in run["checkpoint_every_s"].items() if s]
    yield "Checkpoints", (f"{', '.join(saves)} of work" if saves else "none") + _optimum(run)


def _spares(run: Mapping[str, Any]) -> str:
    """Spare nodes, and how many are enough."""
    needed = run["spares_needed"]
    most = run["job_gpus"]  # no more are counted
    enough = f"{needed:,} suffice" if needed < most else f"more than {most:,} are needed to suffice"
    return f"{_count(run['spares'], 'node')}; {enough} 99 % of the time"


def _optimum(run: Mapping[str, Any]) -> str:
    best_s = run["best_every_s"]
    if not best_s or best_s in run["checkpoint_every_s"].values():
        return ""
    saved = format_seconds(run["best_every_saves_s"]) if run["best_every_saves_s"] else "nothing"
    return f"; Daly's best, every {format_seconds(best_s)}, would save {saved}"


def _lost(run: Mapping[str, Any]) -> Iterator[Row]:
    """Time lost by cause, the largest first, with its cost."""
    least_s = ROUNDING * run["ideal_s"]
    lost = sorted(((spent, cause) for cause, spent in run["lost_s"].items() if spent > least_s), reverse=True)
    costs = run["lost_cost_usd"]
    parts = []
    for spent, cause in lost:
        price = f" = {format_usd(costs[cause])}" if costs else ""
        parts.append(f"{cause.replace('_', ' ')} {format_seconds(spent)}{price}")
    if parts:
        yield "Lost", f"in the mean{_off_by(run)}: " + ", ".join(parts)


def _off_by(run: Mapping[str, Any]) -> str:
    """The standard error of all losses together, where it is seen in them."""
    error_s, lost_s = run.get("mean_error_s"), sum(run["lost_s"].values())
    if not error_s or error_s < LEAST_ERROR * lost_s:
        return ""
    return f", {with_error(lost_s, error_s, format_seconds)} in all"


def _cost(run: Mapping[str, Any], tokens: float) -> Iterator[Row]:
    quantiles = run["cost_quantiles_usd"]
    if quantiles is None:
        yield "Cost", "not known: no price is known of these GPUs; give run.prices"
        return
    mean = "" if run["cost_usd"] is None else f"; {usd_words(run, 'cost_usd')} in the mean"
    yield "Cost", f"{_spread(quantiles, format_usd)}{mean}{_per_trillion_tokens(run, quantiles['p50'], tokens)}"
    rent, owned = run["rent_usd"], run["owned_usd"]
    if rent is None or owned is None:
        return
    months = run["break_even_months"]
    even = "owning never pays" if months is None else f"owning pays after {months:.1f} months of use{_in_life(run)}"
    yield "Cost", f"in the mean {usd_words(run, 'owned_usd')} owned, {usd_words(run, 'rent_usd')} rented: {even}"


def _per_trillion_tokens(run: Mapping[str, Any], median_usd: float | None, tokens: float) -> str:
    """The cost of 10^12 tokens of the median run and of the mean one, as far as they end."""
    mean_usd = run["cost_usd_per_trillion_tokens"]
    parts = [] if median_usd is None else [f"{format_usd(median_usd / tokens * 1e12)} in the median"]
    parts += [] if mean_usd is None else [f"{format_usd(mean_usd)} in the mean"]
    return f"; per 10^12 tokens {', '.join(parts)}" if parts else ""


def usd_words(run: Mapping[str, Any], key: str) -> str:
    """A cost of the mean run, by its key, which is as far off as `cost_usd`."""
    paid, error = run["cost_usd"], run.get("cost_error_usd")
    scaled = error * run[key] / paid if error and paid else None
    return with_error(run[key], scaled, format_usd)


def _in_life(run: Mapping[str, Any]) -> str:
    """The share of the machines' life that the months to break even are."""
    share = run["break_even_utilisation_fraction"]
    if share > 1:
        return ", longer than its life"
    return f", {format_fraction(share)} of its life"


def _energy(run: Mapping[str, Any]) -> Iterator[Row]:
    quantiles = run["energy_quantiles_j"]
    if quantiles is None:
        return
    mean = "" if run["energy_j"] is None else f"; {format_energy(run['energy_j'])} in the mean"
    carbon = "" if run["carbon_kg"] is None else f"; {run['carbon_kg'] / 1000:,.0f} t CO2 in the mean"
    yield "Energy", f"{_spread(quantiles, format_energy)}{mean}{carbon}"
    parts = run["energy_by_part_j"]
    whole = sum(parts.values())
    shown = sorted(((joules, part) for part, joules in parts.items() if joules >= LEAST_SHARE * whole), reverse=True)
    rest = whole - sum(joules for joules, _ in shown)
    shares = [f"{part} {format_fraction(joules / whole)}" for joules, part in shown]
    yield "Energy", ", ".join([*shares, f"all else {format_fraction(rest / whole)}"])
    yield "Cooling", _cooling(run)


def _cooling(run: Mapping[str, Any]) -> str:
    """Heat that leaves the building and the water that it takes, both in the mean."""
    heat = run["heat_by_medium_w"]
    whole_w = sum(heat.values())
    liquid = f", {format_fraction(heat['liquid'] / whole_w)} of it through liquid" if heat["liquid"] else ""
    water = f"{format_volume(run['water_m3'])} in the mean" if run["water_m3"] else "none"
    return f"{format_power(whole_w)} of heat in the mean{liquid}; water {water}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
