"""What another checkpoint interval, spare count or recovery policy would change, under the same faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.montecarlo import outcomes, saving_of
from simulator.run.outcome import Outcome
from simulator.run.result import RunResult
from simulator.run.run_means import run_weights
from simulator.run.specs import RunSpec
from simulator.run.summary import summarise
from simulator.run.trials import Kind, Trial, together, trials

CHOSEN: tuple[Kind, ...] = ("interval", "spares", "policy", "shortage")  # a user's choices; a faster restart is a wish
MOST_RUNS = 200  # of each alternative: differences between equal seeds need fewer runs than quantiles do
# (alternatives done, alternatives in all)
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Alternative:
    """The run with one thing changed, beside the planned one.

    `later_s` is the mean over equal seeds of how much later it ends than the planned run (negative: earlier) with its
    standard error, over the runs that end in both; None where most runs of either do not end. `best` marks the choice
    of its kind, the plan's own included, that costs least (without prices: that ends first).
    """

    kind: Kind
    change: str
    result: RunResult
    later_s: float | None = 0.0
    later_error_s: float | None = 0.0
    extra_cost_usd: float | None = None
    best: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A row of the evaluate document's `alternatives`."""
        run = self.result.to_dict()
        return {
            "kind": self.kind,
            "change": self.change,
            "best": self.best,
            **{key: run[key] for key in ("finishes", "finish_s", "goodput_fraction", "cost_usd", "energy_j")},
            "later_s": self.later_s,
            "later_error_s": self.later_error_s,
            "extra_cost_usd": self.extra_cost_usd,
            "checkpoint_every_s": run["checkpoint_every_s"],
            "spares": self.result.spares,
            "runs": self.result.runs,
        }


@dataclass(frozen=True, slots=True)
class Planned:
    """The run as planned, with which the others are compared: its result, when each of its runs ends and what each
    counts in a mean, (runs,)."""

    result: RunResult
    finish_s: Floats
    weights: Floats


def alternatives(spec: RunSpec, progress: Progress | None = None) -> tuple[Alternative, ...]:
    """The planned run first, then each change, then the best of each kind together.

    All meet the same faults, also with other numbers of spares; at most MOST_RUNS runs of each are played.
    """
    runs = min(spec.simulation.runs, MOST_RUNS)
    spec = replace(spec, simulation=replace(spec.simulation, runs=runs), drawn_spares=spec.recovery.spares)
    tried = list(trials(spec))
    tell = progress or _silent
    outcome, result = _play(spec)
    planned = Planned(result, outcome.finish_s, run_weights(spec, outcome))
    rows = [Alternative("planned", "as planned", result, extra_cost_usd=_extra_cost_usd(result, result))]
    for number, trial in enumerate(tried):
        rows.append(_compared(trial, planned))
        tell(number + 1, len(tried) + 1)
    best = {kind: _best(rows, kind) for kind in CHOSEN}
    combined = together(spec, {kind: tried[i - 1].spec for kind, i in best.items() if i})
    marked = [replace(row, best=i in best.values() and i > 0) for i, row in enumerate(rows)]
    if combined is not None:
        marked.append(_compared(combined, planned))
    tell(len(tried) + 1, len(tried) + 1)
    return tuple(marked)


def _silent(done: int, total: int) -> None:
    """Progress that nobody watches."""


def _play(spec: RunSpec, weights: Floats | None = None) -> tuple[Outcome, RunResult]:
    """The run, its means by the given weights where it has as many runs, so that differences are of equal runs."""
    saving = saving_of(spec)
    outcome = outcomes(spec, saving)
    is_alike = weights is not None and len(weights) == len(outcome.finish_s)
    return outcome, summarise(spec, saving, outcome, weights if is_alike else None)


def _compared(trial: Trial, planned: Planned) -> Alternative:
    """The trial's figures and how they differ from the planned run's."""
    outcome, result = _play(trial.spec, planned.weights)
    later_s, error_s = _later_s(outcome.finish_s, planned)
    if not (result.finishes and planned.result.finishes):
        later_s, error_s = None, None
    extra = _extra_cost_usd(result, planned.result)
    return Alternative(trial.kind, trial.change, result, later_s, error_s, extra)


def _later_s(finish_s: Floats, planned: Planned) -> tuple[float | None, float | None]:
    """Mean difference over the runs that end in both, and its standard error; None where too few do."""
    # A run that a fault log covers is played once, and ends alike under every seed.
    finish_s, planned_s = np.broadcast_arrays(finish_s, planned.finish_s)
    both = np.isfinite(planned_s) & np.isfinite(finish_s)
    later_s = finish_s[both] - planned_s[both]
    count = len(later_s)
    if count == 0:
        return None, None
    error_s = float(later_s.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    weights = np.broadcast_to(planned.weights, both.shape)[both]
    return float(np.average(later_s, weights=weights)), error_s


def _extra_cost_usd(result: RunResult, base: RunResult) -> float | None:
    """Dollars more than the planned run; None where one of them is not known or does not finish."""
    if result.cost_usd is None or base.cost_usd is None or not (result.finishes and base.finishes):
        return None
    return result.cost_usd - base.cost_usd


def _best(rows: list[Alternative], kind: Kind) -> int:
    """Index of the best of a kind; 0, the plan, where nothing is better."""
    candidates = [i for i, row in enumerate(rows) if row.kind in ("planned", kind)]
    return min(candidates, key=lambda i: _price(rows[i].result))


def _price(result: RunResult) -> tuple[float, float]:
    """What is to be small: runs that never end, then money, or time where there are no prices."""
    mean_s = result.ideal_s / result.goodput_fraction if result.goodput_fraction else math.inf
    return -result.finishing_fraction, mean_s if result.cost_usd is None else result.cost_usd
