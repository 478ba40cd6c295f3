"""From the raw outcomes of many runs to one result: means, quantiles, money, energy, reasons and warnings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.checkpoint_interval import every
from simulator.run.checkpoints import Saving
from simulator.run.closed_form import best_every_s, closed_form_goodput
from simulator.run.fault_source import component_names, log_ends_s
from simulator.run.money import carbon_kg, cost_usd, energy_j
from simulator.run.outcome import Outcome
from simulator.run.result import Quantiles, RunResult
from simulator.run.spares import spares_needed
from simulator.run.specs import RunSpec

SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Bill:
    """What the mean run consumes and costs; None where power or prices are not given."""

    energy_j: float | None = None
    cost_usd: float | None = None
    lost_cost_usd: dict[str, float] | None = None
    carbon_kg: float | None = None


def summarise(spec: RunSpec, saving: Saving, outcome: Outcome) -> RunResult:
    """Quantiles and means of raw outcomes, with money, energy and the closed form beside them."""
    finished = np.isfinite(outcome.finish_s)
    lost_s = {cause: float(seconds.mean()) for cause, seconds in outcome.lost_s.items()}
    work_s, elapsed_s = float(outcome.work_s.mean()), float(outcome.elapsed_s.mean())
    names = component_names(spec)
    stops = outcome.stops_by_component.sum(axis=1)
    bill = _bill(spec, lost_s, work_s, elapsed_s)
    return RunResult(
        runs=len(finished),
        finishes=bool(finished.mean() > 0.5),
        finishing_fraction=float(finished.mean()),
        reason=_reason(spec, outcome, finished),
        ideal_s=spec.work_s,
        finish_s=quantiles(outcome.finish_s),
        goodput_fraction=work_s / elapsed_s,
        goodput_quantiles=quantiles(outcome.work_s / outcome.elapsed_s),
        lost_s=lost_s,
        lost_by_component_s=_by_name(names, outcome.lost_by_component_s),
        interruptions=_by_name(names, outcome.stops_by_component),
        mean_time_between_interruptions_s=float(elapsed_s / stops.mean()) if stops.any() else math.inf,
        checkpoint_every_s={tier.name: every(tier) for tier in saving.tiers},
        first_order_goodput_fraction=closed_form_goodput(spec, saving),
        energy_j=bill.energy_j,
        cost_usd=bill.cost_usd,
        lost_cost_usd=bill.lost_cost_usd,
        cost_usd_per_trillion_tokens=_per_trillion(bill.cost_usd, spec, finished),
        carbon_kg=bill.carbon_kg,
        warnings=_warnings(spec, saving, float(outcome.elapsed_s.max())),
        best_every_s=best_every_s(spec, saving),
        spares=spec.recovery.spares,
        spares_needed=spares_needed(spec.failures, spec.job_gpus, most=spec.job_nodes),
    )


def quantiles(values: Floats) -> Quantiles:
    """10th, 50th and 90th percentile, each a value that occurred (so that an endless run stays endless)."""
    p10, p50, p90 = np.quantile(values, (0.1, 0.5, 0.9), method="inverted_cdf")
    return Quantiles(float(p10), float(p50), float(p90))


def _bill(spec: RunSpec, lost_s: dict[str, float], work_s: float, elapsed_s: float) -> Bill:
    """The bill by cause of loss too: idle time is cheaper in electricity."""
    energy = _energy_j(spec, {"work": work_s, **lost_s})
    prices = spec.prices
    if prices is None:
        return Bill(energy)
    lost_cost = {
        cause: cost_usd(seconds, _energy_j(spec, {cause: seconds}), spec.gpus, prices)
        for cause, seconds in lost_s.items()
    }
    carbon = None if energy is None else carbon_kg(energy, prices)
    return Bill(energy, cost_usd(elapsed_s, energy, spec.gpus, prices), lost_cost, carbon)


def _energy_j(spec: RunSpec, seconds: dict[str, float]) -> float | None:
    return None if spec.power is None else energy_j(seconds, spec.job_gpus, spec.gpus, spec.power)


def _per_trillion(cost: float | None, spec: RunSpec, finished: Bools) -> float | None:
    return None if cost is None or not finished.all() else cost / (spec.tokens / 1e12)


def _by_name(names: tuple[str, ...], table: Floats | Ints) -> dict[str, float]:
    """Means by component of a (runs, components) table, those that never occurred left out."""
    means = table.mean(axis=0)
    return {name: float(mean) for name, mean in zip(names, means, strict=True) if mean > 0}


def _reason(spec: RunSpec, outcome: Outcome, finished: Bools) -> str | None:
    """Why runs do not finish; None where all do."""
    if finished.all():
        return None
    failed = ~finished
    which = "every run" if failed.all() else f"{failed.sum()} of {len(failed)} runs"
    if outcome.waits_for_ever[failed].any():
        return f"{which} wait for nodes that never come back: spares are too few for what is evicted or never repaired"
    days = outcome.elapsed_s[failed].mean() / SECONDS_PER_DAY
    useful = float(outcome.work_s[failed].sum() / outcome.elapsed_s[failed].sum())
    causes = {cause: float(seconds[failed].sum()) for cause, seconds in outcome.lost_s.items()}
    worst = max(causes, key=lambda cause: causes[cause]).replace("_", " ")
    limit = spec.simulation.give_up_fraction
    return (
        f"{which} cannot finish: after {days:.3g} days only {100 * useful:.2g} % of the time was useful (given up "
        f"below {100 * limit:.3g} %); most of it went into {worst}"
    )


def _warnings(spec: RunSpec, saving: Saving, longest_s: float) -> tuple[str, ...]:
    """What a reader must know; `longest_s` is how long the longest run took."""
    warnings = [*spec.assumptions, *saving.warnings]
    if spec.fault_log and longest_s > log_ends_s(spec):
        warnings.append(
            f"the fault log covers {log_ends_s(spec) / SECONDS_PER_DAY:.4g} days, the run takes longer: beyond, faults "
            "are drawn at the log's own rates by class, evenly over nodes, with its own repair times"
        )
    has_slow_faults = any(fault.kind == "slow" for fault in spec.failures.classes)
    if has_slow_faults and spec.recovery.evict_slow and not spec.recovery.spares:
        warnings.append("slow nodes are replaced, but there are no spares: the job waits for their repair each time")
    if not math.isfinite(every(saving.tiers[-1])) and spec.failures.classes:
        warnings.append("nothing is saved: each failure starts the run over")
    return tuple(warnings)
