"""The first-order estimate of a run's goodput, from the same inputs as the simulation."""

from __future__ import annotations

import math

from simulator.run.checkpoint_interval import best_interval_s, first_order
from simulator.run.checkpoints import Saving
from simulator.run.faults import FaultClass, FaultKind, mean_time_between_s, rate_at_age_per_s
from simulator.run.specs import RunSpec

STOPS: tuple[FaultKind, ...] = ("crash", "hang", "planned", "corruption")


def closed_form_goodput(spec: RunSpec, saving: Saving) -> float:
    """Goodput to first order in the failure rate: enough spares, independent failures, no slow parts."""
    return (1 - spec.evaluation_fraction) * _kept_fraction(spec, saving)


def _kept_fraction(spec: RunSpec, saving: Saving) -> float:
    """What failures and saves leave of the time, evaluation within."""
    stops = [fault for fault in spec.failures.classes if fault.kind in STOPS]
    rates = [rate_at_age_per_s(fault, spec.job_gpus, spec.failures.age_s) for fault in stops]
    rate = sum(rates)
    planned_fraction = _maintenance_fraction(spec, saving)
    if rate == 0:
        return first_order(saving, math.inf, 0.0, planned_fraction).goodput_fraction
    fast, storage = saving.tiers[0], saving.tiers[-1]
    down_s = spec.restart_s + sum(
        each / rate * (fault.detect.mean_s() + _replacement_s(spec, fault))
        for each, fault in zip(rates, stops, strict=True)
    )
    survived = [
        each
        for each, fault in zip(rates, stops, strict=True)
        if spec.machines.breadth(fault.scope) <= fast.survives_nodes
    ]
    fast_share = sum(survived) / rate
    down_s += fast_share * fast.restore_s + (1 - fast_share) * storage.restore_s
    return first_order(saving, 1 / rate, down_s, planned_fraction, fast_share, spec.work_s).goodput_fraction


def _replacement_s(spec: RunSpec, fault: FaultClass) -> float:
    """Until nodes are in place after a fault: a spare's swap where it takes a node, and the fault's outage."""
    recovery = spec.recovery
    swap_s = recovery.hot_swap_s if recovery.hot_spares else recovery.cold_start_s
    outage_s = fault.outage.mean_s() if fault.outage else 0.0
    return (swap_s if fault.repair else 0.0) + outage_s


def _maintenance_fraction(spec: RunSpec, saving: Saving) -> float:
    """Time in planned maintenance over the time between; infinite where nothing is left between."""
    every_s = spec.recovery.maintenance_every_s
    if every_s is None:
        return 0.0
    stop_s = saving.final_save_s + spec.recovery.maintenance_s + spec.restart_s + saving.tiers[-1].restore_s
    return stop_s / (every_s - stop_s) if every_s > stop_s else math.inf


def best_every_s(spec: RunSpec, saving: Saving) -> float:
    """Daly's interval of the finest tier against the failures it serves; infinite without failures or saves, whose cost
    is not known of a policy that makes none."""
    mtbf_s = mean_time_between_s(spec.failures, spec.job_gpus)
    if not math.isfinite(mtbf_s) or spec.checkpoint.policy == "none":
        return math.inf
    return best_interval_s(saving.tiers[0], mtbf_s, math.inf, spec.longest_step_s)
