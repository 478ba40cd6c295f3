"""What another checkpoint interval, spare count or recovery policy would change: one thing at a time, same luck."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.checkpoint_interval import best_interval_s, every
from simulator.run.checkpoints import POLICIES
from simulator.run.faults import mean_time_between_s
from simulator.run.montecarlo import best_interval_by_simulation_s, outcomes, saving_every, saving_of
from simulator.run.result import RunResult, summarise
from simulator.run.spares import spares_needed
from simulator.run.specs import RunSpec

Kind = Literal["planned", "interval", "spares", "policy", "shortage", "restart", "together"]
CHOSEN: tuple[Kind, ...] = ("interval", "spares", "policy", "shortage")  # a user's choices; a faster restart is a wish
MOST_RUNS = 200  # of each alternative: differences between equal seeds need fewer runs than quantiles do
SEARCH = 4.0  # the interval is sought between Daly's divided and multiplied by this
TOLERANCE = 0.05  # of the interval: the curve is flat around its best
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
class Trial:
    """A change and the run that has it."""

    kind: Kind
    change: str
    spec: RunSpec


def alternatives(spec: RunSpec, progress: Progress | None = None) -> tuple[Alternative, ...]:
    """The planned run first, then each change, then the best of each kind together.

    All meet the same faults, also with other numbers of spares; at most MOST_RUNS runs of each are played.
    """
    runs = min(spec.simulation.runs, MOST_RUNS)
    spec = replace(spec, simulation=replace(spec.simulation, runs=runs), drawn_spares=spec.recovery.spares)
    trials = list(_trials(spec))
    planned, planned_finish = _played(Trial("planned", "as planned", spec), None)
    found = [planned]
    for number, trial in enumerate(trials):
        found.append(_played(trial, (planned, planned_finish))[0])
        if progress is not None:
            progress(number + 1, len(trials) + 1)
    best = {kind: _best(found, kind) for kind in CHOSEN}
    together = _together(spec, {found[i].kind: trials[i - 1].spec for i in best.values() if i})
    rows = [replace(row, best=i in best.values() and i > 0) for i, row in enumerate(found)]
    if together is not None:
        rows.append(_played(together, (planned, planned_finish))[0])
    if progress is not None:
        progress(len(trials) + 1, len(trials) + 1)
    return tuple(rows)


def _played(trial: Trial, planned: tuple[Alternative, Floats] | None) -> tuple[Alternative, Floats]:
    """The trial's figures and how they differ from the planned run's; and when each of its runs ends."""
    saving = saving_of(trial.spec)
    outcome = outcomes(trial.spec, saving)
    result = summarise(trial.spec, saving, outcome)
    if planned is None:
        return Alternative(
            trial.kind, trial.change, result, extra_cost_usd=_difference(result, result)
        ), outcome.finish_s
    base, finish = planned
    both = np.isfinite(finish) & np.isfinite(outcome.finish_s)
    later = outcome.finish_s[both] - finish[both]
    ends = result.finishes and base.result.finishes and len(later) > 0
    mean = float(later.mean()) if ends else None
    error = float(later.std(ddof=1) / math.sqrt(len(later))) if ends and len(later) > 1 else None
    extra = _difference(result, base.result)
    return Alternative(trial.kind, trial.change, result, mean, error, extra), outcome.finish_s


def _difference(result: RunResult, base: RunResult) -> float | None:
    """Dollars more than the planned run; None where one of them is not known or does not finish."""
    if result.cost_usd is None or base.cost_usd is None or not (result.finishes and base.finishes):
        return None
    return result.cost_usd - base.cost_usd


def _best(found: list[Alternative], kind: Kind) -> int:
    """Index of the best of a kind; 0, the plan, where nothing is better."""
    candidates = [i for i, row in enumerate(found) if row.kind in ("planned", kind)]
    return min(candidates, key=lambda i: _price(found[i].result))


def _price(result: RunResult) -> tuple[float, float]:
    """What is to be small: runs that never end, then money, or time where there are no prices."""
    spent = result.ideal_s / result.goodput_fraction if result.goodput_fraction else math.inf
    return (-result.finishing_fraction, spent if result.cost_usd is None else result.cost_usd)


def _together(spec: RunSpec, best: dict[Kind, RunSpec]) -> Trial | None:
    """The best choices in one run; the interval found belongs to the plan's policy, another one settles its own."""
    if len(best) < 2 or (len(best) == 2 and {"interval", "policy"} <= set(best)):
        return None
    saves = best.get("policy", best.get("interval", spec)).checkpoint
    spares, short = best.get("spares", spec).recovery, best.get("shortage", spec).recovery
    recovery = replace(short, hot_spares=spares.hot_spares, cold_spares=spares.cold_spares)
    if short.spares != spec.recovery.spares:  # shrinking took the place of spares
        recovery = short
    return Trial("together", "all marked together", replace(spec, checkpoint=saves, recovery=recovery))


# -- what is tried ----------------------------------------------------------------------------------------------


def _trials(spec: RunSpec) -> Iterator[Trial]:
    yield from _intervals(spec)
    yield from _spare_counts(spec)
    for name in POLICIES:
        if name not in ("none", spec.checkpoint.policy):  # each at the interval that is best for it
            policy = replace(spec.checkpoint, policy=name, every_s=None, fast_every_s=None)  # type: ignore[arg-type]
            yield Trial("policy", f"{name} checkpoints", replace(spec, checkpoint=policy))
    yield from _shortages(spec)
    yield Trial("restart", "half detection and restart", _faster(spec, 0.5))


def _intervals(spec: RunSpec) -> Iterator[Trial]:
    """Half, twice, and the best by simulation, of the interval of the tier that saves most often."""
    tier = saving_of(spec).tiers[0]
    now = every(tier)
    if math.isfinite(now):
        for factor, word in ((0.5, "halved"), (2.0, "doubled")):
            yield Trial("interval", f"interval {word}", saving_every(spec, now * factor))
    mtbf = mean_time_between_s(spec.failures, spec.job_gpus)
    if spec.checkpoint.policy == "none" or not math.isfinite(mtbf):
        return
    step = max(segment.step_time_s for segment in spec.segments)
    daly = best_interval_s(tier, mtbf, spec.work_s, step)
    best = best_interval_by_simulation_s(spec, max(step, daly / SEARCH), min(spec.work_s, daly * SEARCH), TOLERANCE)
    yield Trial("interval", "best interval", saving_every(spec, best))


def _spare_counts(spec: RunSpec) -> Iterator[Trial]:
    """No spares, a quarter, half, as many as are needed, twice as many."""
    planned = spec.recovery.spares
    needed = min(spares_needed(spec.failures, spec.job_gpus), spec.job_nodes)
    counts = {0, planned // 4, planned // 2, needed, 2 * max(planned, needed, 1)}
    for count in sorted(counts - {planned}):
        hot = round(count * spec.recovery.hot_spares / planned) if planned else count
        recovery = replace(spec.recovery, hot_spares=hot, cold_spares=count - hot)
        yield Trial("spares", f"{count} spare node{'' if count == 1 else 's'}", replace(spec, recovery=recovery))


def _shortages(spec: RunSpec) -> Iterator[Trial]:
    """What the job does without enough nodes: wait, or go on with fewer replicas and grow at once or at a restart."""
    now = spec.recovery
    if now.when_short == "shrink":
        yield Trial("shortage", "wait if short", replace(spec, recovery=replace(now, when_short="wait")))
    if spec.replicas == 1:
        return
    for regrow, word in (("at-restart", "at a restart"), ("at-once", "at once")):
        if (now.when_short, now.regrow) != ("shrink", regrow):
            recovery = replace(now, when_short="shrink", regrow=regrow)  # type: ignore[arg-type]
            yield Trial("shortage", f"shrink, regrow {word}", replace(spec, recovery=recovery))
    if now.spares:
        recovery = replace(now, when_short="shrink", regrow="at-once", hot_spares=0, cold_spares=0)
        yield Trial("shortage", "shrink instead of spares", replace(spec, recovery=recovery))


def _faster(spec: RunSpec, factor: float) -> RunSpec:
    """Detection and restart by this factor."""
    classes = tuple(replace(c, detect=c.detect.scaled(factor)) for c in spec.failures.classes)
    restart = spec.restart
    quick = replace(restart, process_start_s=restart.process_start_s * factor,
                    init_s_per_gpu=restart.init_s_per_gpu * factor, warm_up_s=restart.warm_up_s * factor)  # fmt: skip
    return replace(spec, failures=replace(spec.failures, classes=classes), restart=quick)
