"""What a user learns about a run: when it is done, where the time went, what it costs, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.run.quantiles import Quantiles


@dataclass(frozen=True, slots=True)
class RunResult:
    """The whole run over all seeds; means are over runs, weighted so that less of them is chance (`run_means`).

    `ideal_s` + the sum of `lost_s` is the mean wall time (of what was played, where runs were given up), `mean_error_s`
    its standard error and `cost_error_usd` that of `cost_usd` (None: of a single run).
    `lost_by_component_s` splits time down and work lost by what had failed, `interruptions` counts stops by the same.
    `mean_time_between_interruptions_s` is the time at work (not down) of all runs over their interruptions: it is that
    of the job's own GPUs, `job_gpus`, whatever its spares.
    `first_order_goodput_fraction` is the closed form beside the simulation. `finishes` False: `reason` says why.
    `best_every_s` is Daly's interval for the tier that saves most often and `best_every_saves_s` what it would save to
    first order; `spares_needed` are the nodes that suffice 99 % of the time. `cost_usd`, `rent_usd`, `owned_usd`,
    `energy_j`, `energy_by_part_j`, `water_m3` and `carbon_kg` are of the mean run; quantiles are over runs, as
    those of `finish_s`. None where prices or power are not given, and errors, bill and energy of a run that does not
    finish: what was spent until it was given up is not what it costs.
    """

    runs: int
    finishes: bool
    finishing_fraction: float
    reason: str | None
    ideal_s: float
    mean_error_s: float | None
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
    energy_quantiles_j: Quantiles | None
    energy_by_part_j: Mapping[str, float] | None
    heat_by_medium_w: Mapping[str, float] | None
    water_m3: float | None
    cost_usd: float | None
    cost_error_usd: float | None
    cost_quantiles_usd: Quantiles | None
    rent_usd: float | None
    owned_usd: float | None
    break_even_months: float | None
    break_even_utilisation_fraction: float | None
    lost_cost_usd: Mapping[str, float] | None
    cost_usd_per_trillion_tokens: float | None
    carbon_kg: float | None
    warnings: tuple[str, ...]
    best_every_s: float
    best_every_saves_s: float
    spares: int
    spares_needed: int
    job_gpus: int
    replays_fault_log: bool
    paid_gpus: int
    unused_gpus: int

    def to_dict(self) -> dict[str, Any]:
        """The `run` part of the evaluate document: plain numbers, None for what is unknown or endless."""
        return {
            "finishes": self.finishes,
            "finishing_fraction": self.finishing_fraction,
            "reason": self.reason,
            "runs": self.runs,
            "ideal_s": self.ideal_s,
            "mean_error_s": self.mean_error_s,
            "finish_s": self.finish_s.to_dict(),
            "goodput_fraction": self.goodput_fraction,
            "goodput_quantiles": self.goodput_quantiles.to_dict(),
            "lost_s": dict(self.lost_s),
            "lost_by_component_s": dict(self.lost_by_component_s),
            "interruptions": dict(self.interruptions),
            "mean_time_between_interruptions_s": _plain(self.mean_time_between_interruptions_s),
            "checkpoint_every_s": {name: _plain(value) for name, value in self.checkpoint_every_s.items()},
            "best_every_s": _plain(self.best_every_s),
            "best_every_saves_s": self.best_every_saves_s,
            "spares": self.spares,
            "spares_needed": self.spares_needed,
            "job_gpus": self.job_gpus,
            "replays_fault_log": self.replays_fault_log,
            "paid_gpus": self.paid_gpus,
            "unused_gpus": self.unused_gpus,
            "first_order_goodput_fraction": self.first_order_goodput_fraction,
            "energy_j": self.energy_j,
            "energy_quantiles_j": _quantiles(self.energy_quantiles_j),
            "energy_by_part_j": _mapping(self.energy_by_part_j),
            "heat_by_medium_w": _mapping(self.heat_by_medium_w),
            "water_m3": self.water_m3,
            "cost_usd": self.cost_usd,
            "cost_error_usd": self.cost_error_usd,
            "cost_quantiles_usd": _quantiles(self.cost_quantiles_usd),
            "rent_usd": self.rent_usd,
            "owned_usd": self.owned_usd,
            "break_even_months": self.break_even_months,
            "break_even_utilisation_fraction": self.break_even_utilisation_fraction,
            "lost_cost_usd": _mapping(self.lost_cost_usd),
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


def _plain(value: float) -> float | None:
    """A number that JSON knows; None for infinity."""
    return value if math.isfinite(value) else None


def _mapping(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else dict(values)


def _quantiles(values: Quantiles | None) -> dict[str, float | None] | None:
    return None if values is None else values.to_dict()
