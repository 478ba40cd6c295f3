"""From the raw outcomes of many runs to one result: means, quantiles, money, energy, reasons and warnings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np

from simulator.run.arrays import Bools, Floats
from simulator.run.bill import Bill, bill_of
from simulator.run.checkpoint_interval import every
from simulator.run.checkpoints import Saving
from simulator.run.closed_form import best_every_s, closed_form_goodput
from simulator.run.fault_source import component_names, log_ends_s
from simulator.run.outcome import Outcome, mostly_finishes
from simulator.run.quantiles import quantiles
from simulator.run.result import RunResult
from simulator.run.run_means import run_weights, standard_error
from simulator.run.spares import spares_needed
from simulator.run.specs import DOWN, RunSpec
from simulator.run.uncertainty import step_factors

SECONDS_PER_DAY = 86400.0
FEWEST_RUNS = 20  # whose quantiles are shown without a warning


def summarise(spec: RunSpec, saving: Saving, outcome: Outcome, weights: Floats | None = None) -> RunResult:
    """Quantiles and means of raw outcomes, with money, energy and the closed form beside them.

    `weights` (runs,): what each run counts in a mean (None: its own, see `run_weights`).
    """
    finished = np.isfinite(outcome.finish_s)
    weights = run_weights(spec, outcome) if weights is None else weights
    lost_s = {cause: float(weights @ seconds) for cause, seconds in outcome.lost_s.items()}
    work_s, elapsed_s = float(weights @ outcome.work_s), float(weights @ outcome.elapsed_s)
    names = component_names(spec)
    stops = float(outcome.stops_by_component.sum())
    bill, finishes = bill_of(spec, outcome, weights), mostly_finishes(outcome)
    return RunResult(
        runs=len(finished),
        finishes=finishes,
        finishing_fraction=float(finished.mean()),
        reason=_reason(spec, outcome, finished),
        ideal_s=_ideal_s(spec, weights),
        mean_error_s=standard_error(spec, outcome, outcome.elapsed_s) if finishes else None,
        finish_s=quantiles(outcome.finish_s),
        goodput_fraction=min(1.0, work_s / elapsed_s),
        goodput_quantiles=quantiles((outcome.work_s / outcome.elapsed_s).clip(max=1.0)),
        lost_s=lost_s,
        lost_by_component_s=_by_name(names, weights @ outcome.lost_by_component_s),
        interruptions=_by_name(names, weights @ outcome.stops_by_component),
        mean_time_between_interruptions_s=_at_work_s(outcome) / stops if stops else math.inf,
        checkpoint_every_s={tier.name: every(tier) for tier in saving.tiers},
        first_order_goodput_fraction=closed_form_goodput(spec, saving),
        warnings=_warnings(spec, saving, float(outcome.elapsed_s.max())),
        best_every_s=best_every_s(spec, saving),
        spares=spec.recovery.spares,
        best_every_saves_s=_saved_by_best_s(spec, saving),
        spares_needed=spares_needed(spec.failures, spec.job_gpus),
        job_gpus=spec.job_gpus,
        replays_fault_log=bool(spec.fault_log),
        paid_gpus=spec.paid_gpus,
        unused_gpus=spec.paid_gpus - spec.gpus,
        **{part.name: getattr(bill, part.name) for part in fields(Bill)},
    )


def _at_work_s(outcome: Outcome) -> float:
    """Wall time of all runs together in which the job was not down: work, also what was lost of it, and its pauses."""
    down_s = sum(float(outcome.lost_s[cause].sum()) for cause in DOWN if cause in outcome.lost_s)
    return float(outcome.elapsed_s.sum()) - down_s


def _ideal_s(spec: RunSpec, weights: Floats) -> float:
    """Wall time of the mean run if nothing ever broke and nothing were saved or evaluated."""
    factors = step_factors(spec.uncertainty, spec.simulation.seed, np.arange(len(weights)))
    trained_s = spec.work_s * (1 - spec.evaluation_fraction)
    return trained_s * float(weights @ factors)


def _saved_by_best_s(spec: RunSpec, saving: Saving) -> float:
    """Wall time that the best checkpoint interval would save, to first order; zero where it is taken already."""
    best_s = best_every_s(spec, saving)
    if not math.isfinite(best_s):
        return 0.0
    fast, *others = saving.tiers
    best = replace(saving, tiers=(replace(fast, every_s=best_s), *others))
    now, then = closed_form_goodput(spec, saving), closed_form_goodput(spec, best)
    return max(0.0, spec.work_s / now - spec.work_s / then) if now > 0 else 0.0


def _by_name(names: tuple[str, ...], means: Floats) -> dict[str, float]:
    """Means by component (components,), those that never occurred left out."""
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
    runs = spec.simulation.runs
    if runs < FEWEST_RUNS and not spec.fault_log:
        warnings.append(
            f"run.simulation.runs is {runs}: P10 and P90 of so few runs say little; take {FEWEST_RUNS} or more"
        )
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
    elif spec.failures.classes:
        warnings += _late_saves(spec, saving)
    return tuple(warnings)


def _late_saves(spec: RunSpec, saving: Saving) -> Iterator[str]:
    """A word on a stated interval that the run ends before: nothing reaches storage."""
    interval_s = every(saving.tiers[-1])
    if spec.checkpoint.every_s is not None and interval_s >= spec.work_s:
        yield (
            f"run.checkpoint.every is {interval_s / SECONDS_PER_DAY:,.1f} days, and the run's work takes "
            f"{spec.work_s / SECONDS_PER_DAY:,.1f} days: nothing is saved to storage. Write less, or auto"
        )
