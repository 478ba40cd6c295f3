"""The best checkpoint interval, and the first-order estimate that stands beside every simulated run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from hardware.units import format_seconds
from simulator.run.checkpoints import POLICIES, CheckpointPolicy, CheckpointTier, SavePaths, Saving, sharded_write_s

GOLDEN = (math.sqrt(5) - 1) / 2
NOTICED = 1.05  # an interval stretched by less is not worth a warning
IDLE_WRITES = 10.0  # assumed: shared storage also feeds the data


def young_s(save_s: float, mtbf_s: float) -> float:
    """Work between checkpoints that loses least: sqrt(2 C M) (Young 1974)."""
    return math.sqrt(2 * save_s * mtbf_s)


def daly_s(save_s: float, mtbf_s: float) -> float:
    """Daly's higher-order optimum (2006): sqrt(2 C M) (1 + sqrt(C / 2M) / 3 + C / 18M) - C, and M where C >= 2 M."""
    if save_s >= 2 * mtbf_s:
        return mtbf_s
    ratio = save_s / (2 * mtbf_s)
    return young_s(save_s, mtbf_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def exact_wall_s(work_s: float, every_s: float, save_s: float, restart_s: float, mtbf_s: float) -> float:
    """Expected wall time under memoryless failures that may also strike during saves and restarts (Daly 2006, eq. 13):
    M exp(R / M) (exp((T + C) / M) - 1) work / T."""
    return mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((every_s + save_s) / mtbf_s) * work_s / every_s


@dataclass(frozen=True, slots=True)
class FirstOrder:
    """Fractions of useful time lost to each cause, to first order in the failure rate, and the goodput they leave."""

    checkpoint_fraction: float
    lost_work_fraction: float
    down_fraction: float
    planned_fraction: float

    @property
    def goodput_fraction(self) -> float:
        total = self.checkpoint_fraction + self.lost_work_fraction + self.down_fraction + self.planned_fraction
        return 1 / (1 + total)


def first_order(
    saving: Saving,
    mtbf_s: float,
    down_s: float,
    planned_fraction: float = 0.0,
    fast_share: float = 1.0,
    total_s: float = math.inf,
) -> FirstOrder:
    """1 / (1 + C/T + (T/2 + lag + R) / M): saves, half an interval and a restart per failure.

    `down_s` is detection, replacement and restart per failure; `fast_share` the share of failures that the finest
    tier survives, the others falling back to the coarsest. `total_s`: all the work, more than which is never lost.
    """
    fast, storage = saving.tiers[0], saving.tiers[-1]
    fast_rework_s = min(every(fast), total_s) / 2 + fast.lag_s
    storage_rework_s = min(every(storage), total_s) / 2 + storage.lag_s
    rework_s = fast_share * fast_rework_s + (1 - fast_share) * storage_rework_s
    return FirstOrder(
        checkpoint_fraction=sum(tier.stall_s / every(tier) for tier in saving.tiers),
        lost_work_fraction=rework_s / mtbf_s if math.isfinite(mtbf_s) else 0.0,
        down_fraction=down_s / mtbf_s,
        planned_fraction=planned_fraction,
    )


def every(tier: CheckpointTier) -> float:
    """The tier's interval, infinite if it never saves."""
    return math.inf if tier.every_s is None else tier.every_s


def best_interval_s(tier: CheckpointTier, mtbf_s: float, total_s: float, step_s: float) -> float:
    """Daly's interval for the tier's stall, at least the time the last save needs to be written, whole steps.

    A tier that stops nothing, storage behind a faster one, is kept from writing more than a tenth of the time.
    """
    wanted = daly_s(tier.stall_s, mtbf_s) if math.isfinite(mtbf_s) else total_s
    busy = tier.lag_s if tier.stall_s > 0 else IDLE_WRITES * tier.lag_s
    return whole(max(wanted, busy, step_s), step_s)


def whole(seconds: float, unit_s: float) -> float:
    """Rounded up to whole units."""
    return math.ceil(seconds / unit_s - 1e-9) * unit_s


def settle_intervals(
    policy: CheckpointPolicy, paths: SavePaths, mtbf_s: float, total_s: float, step_s: float
) -> Saving:
    """The policy's tiers with intervals in whole steps, nested, none shorter than its own write.

    Intervals that had to be stretched are told in the warnings.
    """
    warnings: list[str] = []
    settled: list[CheckpointTier] = []
    unit_s = step_s
    for tier in POLICIES[policy.policy](policy, paths):
        chosen_s = _settled_s(tier, mtbf_s, total_s, unit_s)
        warnings += _stretched(tier, chosen_s, unit_s, step_s)
        settled.append(replace(tier, every_s=chosen_s))
        if math.isfinite(chosen_s):
            unit_s = chosen_s
    return Saving(tuple(settled), sharded_write_s(paths), tuple(warnings))


def _settled_s(tier: CheckpointTier, mtbf_s: float, total_s: float, unit_s: float) -> float:
    """The tier's own interval in whole units, or the best one that is allowed where it has none."""
    if tier.every_s is None:
        return max(best_interval_s(tier, mtbf_s, total_s, unit_s), whole(tier.least_every_s, unit_s))
    if math.isinf(tier.every_s):
        return tier.every_s
    return whole(max(tier.every_s, tier.lag_s), unit_s)


def _kept_waiting(tier: CheckpointTier, chosen_s: float, step_s: float) -> list[str]:
    """The warning of a chosen interval that nothing but the last save's own writing decides."""
    if tier.lag_s <= tier.least_every_s or chosen_s > whole(tier.lag_s, step_s):
        return []
    return [
        f"a {tier.name} checkpoint takes {format_seconds(tier.lag_s)} to write, and no more than one is written at a "
        f"time: it is taken every {format_seconds(chosen_s)} of work"
    ]


def _stretched(tier: CheckpointTier, chosen_s: float, unit_s: float, step_s: float) -> list[str]:
    """Warnings of an interval that is longer than was asked for, or than is best, by more than rounding explains."""
    if tier.every_s is None:
        return _kept_waiting(tier, chosen_s, step_s)
    if math.isinf(tier.every_s):
        return []
    warnings = []
    in_steps_s = whole(max(tier.every_s, tier.lag_s), step_s)
    if chosen_s > NOTICED * in_steps_s:
        warnings.append(
            f"a {tier.name} checkpoint is taken every {chosen_s:.0f} s of work, a multiple of the faster tier's "
            f"{unit_s:.0f} s, not every {tier.every_s:.0f} s"
        )
    if tier.lag_s > tier.every_s:
        warnings.append(
            f"a {tier.name} checkpoint takes {tier.lag_s:.0f} s to write: it is taken every {chosen_s:.0f} s of work, "
            f"not every {tier.every_s:.0f} s"
        )
    return warnings


def best_by_simulation_s(
    goodput_at: Callable[[float], float], low_s: float, high_s: float, tolerance: float = 0.01
) -> float:
    """Golden-section search for the interval of greatest goodput, in the logarithm of the interval.

    `goodput_at` must use the same seeds for every interval, so that the curve is as smooth as the law.
    """
    low, high = math.log(low_s), math.log(high_s)
    left = high - GOLDEN * (high - low)
    right = low + GOLDEN * (high - low)
    left_goodput, right_goodput = goodput_at(math.exp(left)), goodput_at(math.exp(right))
    while high - low > tolerance:
        if left_goodput >= right_goodput:
            high, right, right_goodput = right, left, left_goodput
            left = high - GOLDEN * (high - low)
            left_goodput = goodput_at(math.exp(left))
        else:
            low, left, left_goodput = left, right, right_goodput
            right = low + GOLDEN * (high - low)
            right_goodput = goodput_at(math.exp(right))
    return math.exp((low + high) / 2)
