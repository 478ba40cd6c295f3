"""What a user learns about a run: when it is done, where the time went, what it costs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.checkpoint_interval import best_interval_s, every, first_order
from simulator.run.checkpoints import Saving
from simulator.run.fault_source import component_names, log_ends_s
from simulator.run.faults import mean_time_between_s
from simulator.run.money import carbon_kg, cost_usd, energy_j
from simulator.run.outcome import Outcome
from simulator.run.spares import spares_needed
from simulator.run.specs import RunSpec

SECONDS_PER_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Quantiles:
    p10: float
    p50: float
    p90: float

    def to_dict(self) -> dict[str, float | None]:
        """Plain numbers; None where a run in that quantile never finishes."""
        return {name: _plain(getattr(self, name)) for name in ("p10", "p50", "p90")}


@dataclass(frozen=True, slots=True)
class RunResult:
    """The whole run over all seeds; means are over runs.

    `ideal_s` + the sum of `lost_s` is the mean wall time (of what was played, where runs were given up).
    `lost_by_component_s` splits time down and work lost by what had failed, `interruptions` counts stops by the same.
    `first_order_goodput_fraction` is the closed form beside the simulation. `finishes` False: `reason` says why.
    `best_every_s` is Daly's interval for the tier that saves most often, `spares_needed` the nodes that suffice 99 % of
    the time. `cost_usd`, `energy_j` and `carbon_kg` are of the mean run, None where prices or power are not given.
    """

    runs: int
    finishes: bool
    finishing_fraction: float
    reason: str | None
    ideal_s: float
    finish_s: Quantiles
    goodput_fraction: float
    goodput_quantiles: Quantiles
    lost_s: Mapping[str, float]
    lost_by_component_s: Mapping[str, float]
    interruptions: Mapping[str, float]
    mean_time_between_interruptions_s: float
    checkpoint_every_s: Mapping[str, float]
    first_order_goodput_fraction: float
    energy_j: float | None
    cost_usd: float | None
    lost_cost_usd: Mapping[str, float] | None
    cost_usd_per_trillion_tokens: float | None
    carbon_kg: float | None
    warnings: tuple[str, ...]
    best_every_s: float
    spares: int
    spares_needed: int

    def to_dict(self) -> dict[str, Any]:
        """The `run` part of the evaluate document: plain numbers, None for what is unknown or endless."""
        return {
            "finishes": self.finishes,
            "finishing_fraction": self.finishing_fraction,
            "reason": self.reason,
            "runs": self.runs,
            "ideal_s": self.ideal_s,
            "finish_s": self.finish_s.to_dict(),
            "goodput_fraction": self.goodput_fraction,
            "goodput_quantiles": self.goodput_quantiles.to_dict(),
            "lost_s": dict(self.lost_s),
            "lost_by_component_s": dict(self.lost_by_component_s),
            "interruptions": dict(self.interruptions),
            "mean_time_between_interruptions_s": _plain(self.mean_time_between_interruptions_s),
            "checkpoint_every_s": {name: _plain(value) for name, value in self.checkpoint_every_s.items()},
            "best_every_s": _plain(self.best_every_s),
            "spares": self.spares,
            "spares_needed": self.spares_needed,
            "first_order_goodput_fraction": self.first_order_goodput_fraction,
            "energy_j": self.energy_j,
            "cost_usd": self.cost_usd,
            "lost_cost_usd": None if self.lost_cost_usd is None else dict(self.lost_cost_usd),
            "cost_usd_per_trillion_tokens": self.cost_usd_per_trillion_tokens,
            "carbon_kg": self.carbon_kg,
            "warnings": list(self.warnings),
        }

    def to_frame(self) -> Any:
        """The waterfall as a table: a row for the useful time and for each loss, with mean seconds, share and cost."""
        import pandas as pd

        total = self.ideal_s + sum(self.lost_s.values())
        rows = [("useful", self.ideal_s), *self.lost_s.items()]
        costs = self.lost_cost_usd or {}
        table = [{"part": name, "mean_s": s, "fraction": s / total, "cost_usd": costs.get(name)} for name, s in rows]
        return pd.DataFrame(table)


def summarise(spec: RunSpec, saving: Saving, outcome: Outcome) -> RunResult:
    """Quantiles and means of raw outcomes, with money, energy and the closed form beside them."""
    finished = np.isfinite(outcome.finish_s)
    goodput = outcome.work_s / outcome.elapsed_s
    lost = {name: float(seconds.mean()) for name, seconds in outcome.lost_s.items()}
    work, elapsed = float(outcome.work_s.mean()), float(outcome.elapsed_s.mean())
    names = component_names(spec)
    stops = outcome.stops_by_component.sum(axis=1)
    energy, cost, costs, carbon = _money(spec, lost, work, elapsed)
    return RunResult(
        runs=len(finished),
        finishes=bool(finished.mean() > 0.5),
        finishing_fraction=float(finished.mean()),
        reason=_reason(spec, outcome, finished),
        ideal_s=spec.work_s,
        finish_s=quantiles(outcome.finish_s),
        goodput_fraction=work / elapsed,
        goodput_quantiles=quantiles(goodput),
        lost_s=lost,
        lost_by_component_s=_by_name(names, outcome.lost_by_component_s),
        interruptions=_by_name(names, outcome.stops_by_component),
        mean_time_between_interruptions_s=float(elapsed / stops.mean()) if stops.any() else math.inf,
        checkpoint_every_s={tier.name: every(tier) for tier in saving.tiers},
        first_order_goodput_fraction=closed_form(spec, saving),
        energy_j=energy,
        cost_usd=cost,
        lost_cost_usd=costs,
        cost_usd_per_trillion_tokens=_per_trillion(cost, spec, finished),
        carbon_kg=carbon,
        warnings=(*spec.assumptions, *saving.warnings, *_warnings(spec, saving, float(outcome.elapsed_s.max()))),
        best_every_s=_best_every_s(spec, saving),
        spares=spec.recovery.spares,
        spares_needed=spares_needed(spec.failures, spec.job_gpus),
    )


def quantiles(values: Floats) -> Quantiles:
    """10th, 50th and 90th percentile, each a value that occurred (so that an endless run stays endless)."""
    return Quantiles(*(float(v) for v in np.quantile(values, (0.1, 0.5, 0.9), method="inverted_cdf")))


def closed_form(spec: RunSpec, saving: Saving) -> float:
    """First-order goodput from the same inputs: enough spares, independent failures, no slow parts."""
    gpus = spec.job_gpus
    stops = [c for c in spec.failures.classes if c.kind in ("crash", "hang", "planned", "corruption")]
    aged = {c.name: gpus * c.rate_per_gpu_s * (spec.failures.age_s / c.reference_age_s) ** (c.shape - 1) for c in stops}
    rate = sum(aged.values())
    if rate == 0:
        return first_order(saving, math.inf, 0.0, _maintenance_fraction(spec, saving)).goodput_fraction
    swap = spec.recovery.hot_swap_s if spec.recovery.hot_spares else spec.recovery.cold_start_s
    held = {c.name: (swap if c.repair else 0.0) + (c.outage.mean_s() if c.outage else 0.0) for c in stops}
    down = spec.restart_s + sum(aged[c.name] / rate * (c.detect.mean_s() + held[c.name]) for c in stops)
    fast, slow = saving.tiers[0], saving.tiers[-1]
    share = sum(aged[c.name] for c in stops if _breadth(spec, c.scope) <= fast.survives_nodes) / rate
    down += share * fast.restore_s + (1 - share) * slow.restore_s
    return first_order(saving, 1 / rate, down, _maintenance_fraction(spec, saving), share).goodput_fraction


def _best_every_s(spec: RunSpec, saving: Saving) -> float:
    """Daly's interval of the finest tier against the failures it serves; infinite without failures."""
    mtbf = mean_time_between_s(spec.failures, spec.job_gpus)
    step = max(segment.step_time_s for segment in spec.segments)
    return best_interval_s(saving.tiers[0], mtbf, math.inf, step) if math.isfinite(mtbf) else math.inf


def _maintenance_fraction(spec: RunSpec, saving: Saving) -> float:
    every_s = spec.recovery.maintenance_every_s
    if every_s is None:
        return 0.0
    stop = saving.final_save_s + spec.recovery.maintenance_s + spec.restart_s + saving.tiers[-1].restore_s
    return stop / (every_s - stop) if every_s > stop else math.inf


def _breadth(spec: RunSpec, scope: str) -> int:
    return {"job": 0, "rack": spec.nodes_per_rack, "pod": spec.nodes_per_pod}.get(scope, 1)


def _money(
    spec: RunSpec, lost: dict[str, float], work: float, elapsed: float
) -> tuple[float | None, float | None, dict[str, float] | None, float | None]:
    """Energy, cost, cost by cause of loss (idle time is cheaper in electricity), carbon; of the mean run."""
    seconds = {"work": work, **lost}
    energy = None if spec.power is None else energy_j(seconds, spec.job_gpus, spec.gpus, spec.power)
    if spec.prices is None:
        return energy, None, None, None
    cost = cost_usd(elapsed, energy, spec.gpus, spec.prices)
    costs = {}
    for name, wall in lost.items():
        part = None if spec.power is None else energy_j({name: wall}, spec.job_gpus, spec.gpus, spec.power)
        costs[name] = cost_usd(wall, part, spec.gpus, spec.prices)
    return energy, cost, costs, None if energy is None else carbon_kg(energy, spec.prices)


def _per_trillion(cost: float | None, spec: RunSpec, finished: Floats) -> float | None:
    return None if cost is None or not finished.all() else cost / (spec.tokens / 1e12)


def _by_name(names: tuple[str, ...], table: Floats) -> dict[str, float]:
    """Means by component, those that never occurred left out."""
    return {name: float(mean) for name, mean in zip(names, table.mean(axis=0), strict=True) if mean > 0}


def _reason(spec: RunSpec, outcome: Outcome, finished: Floats) -> str | None:
    if finished.all():
        return None
    failed = ~finished
    days = outcome.elapsed_s[failed].mean() / SECONDS_PER_DAY
    share = float(outcome.work_s[failed].sum() / outcome.elapsed_s[failed].sum())
    which = "every run" if failed.all() else f"{failed.sum()} of {len(failed)} runs"
    if outcome.waits_for_ever[failed].any():
        return f"{which} wait for nodes that never come back: spares are too few for what is evicted or never repaired"
    causes = {name: float(seconds[failed].sum()) for name, seconds in outcome.lost_s.items()}
    worst = max(causes, key=lambda name: causes[name])
    limit = spec.simulation.give_up_fraction
    return (
        f"{which} cannot finish: after {days:.3g} days only {100 * share:.2g} % of the time was useful (given up below "
        f"{100 * limit:.3g} %); most of it went into {worst.replace('_', ' ')}"
    )


def _warnings(spec: RunSpec, saving: Saving, longest_s: float) -> list[str]:
    """What a reader must know; `longest_s` is how long the longest run took."""
    found = []
    if spec.fault_log and longest_s > log_ends_s(spec):
        found.append(
            f"the fault log covers {log_ends_s(spec) / SECONDS_PER_DAY:.4g} days, the run takes longer: beyond, faults "
            "are drawn at the log's own rates by class, evenly over nodes, with its own repair times"
        )
    if any(c.kind == "slow" for c in spec.failures.classes) and spec.recovery.evict_slow and not spec.recovery.spares:
        found.append("slow nodes are replaced, but there are no spares: the job waits for their repair each time")
    if not math.isfinite(every(saving.tiers[-1])) and spec.failures.classes:
        found.append("nothing is saved: each failure starts the run over")
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
