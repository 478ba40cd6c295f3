"""What happens to many runs at once: one function per kind of event.

`r` is always the (k,) numbers of the runs concerned; the other arrays of shape (k,) are aligned with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.batch_nodes import fit_replicas, is_down, is_idle, replace_nodes, send_to_repair
from simulator.run.batch_state import NO_CHECKPOINT, NO_NODE, Batch, ScheduledStop
from simulator.run.faults import CORRUPTION, PLANNED, SLOW


@dataclass(frozen=True, slots=True)
class FaultColumns:
    """One fault for each of some runs; the columns mean what those of `FaultTimeline` do, shape (k,) each."""

    component: Ints
    kind: Ints
    node: Ints
    breadth: Ints
    detect_s: Floats
    repair_s: Floats
    outage_s: Floats
    lasts_s: Floats
    speed: Floats

    def take(self, index: Ints) -> FaultColumns:
        return FaultColumns(*(getattr(self, name)[index] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class StopTimes:
    """From a stop to the decision to replace its node, the node's repair, and how long the job is held up at least;
    shape (k,) each."""

    decide_s: Floats
    repair_s: Floats
    outage_s: Floats


def strike(batch: Batch, r: Ints, faults: FaultColumns) -> None:
    """One fault for each of the runs `r`: those on working nodes, and those on no node, reach the job."""
    batch.losses.faults[r] += 1
    down = is_down(batch, r, faults.node)
    idle = ~down & is_idle(batch, r, faults.node)
    reaches = ~down & ~idle
    breaks = faults.kind < SLOW
    _lose_spares(batch, r, faults, idle & breaks & (faults.repair_s > 0))
    _crash(batch, r, faults, reaches & breaks)
    _announce(batch, r, faults, reaches & (faults.kind == PLANNED))
    _slow_down(batch, r, faults, reaches & (faults.kind == SLOW))
    _corrupt(batch, r, faults, reaches & (faults.kind == CORRUPTION))


def _lose_spares(batch: Batch, r: Ints, faults: FaultColumns, chosen: Bools) -> None:
    """Spares that break go to repair; the job does not notice."""
    index = np.flatnonzero(chosen)
    if not len(index):
        return
    decided_s = batch.job.now_s[r[index]] + faults.detect_s[index]
    send_to_repair(batch, r[index], faults.node[index], decided_s, faults.repair_s[index])


def _crash(batch: Batch, r: Ints, faults: FaultColumns, chosen: Bools) -> None:
    """Crashes and hangs stop the job."""
    index = np.flatnonzero(chosen)
    if not len(index):
        return
    hit, r = faults.take(index), r[index]
    _count_stop(batch, r, hit.component)
    times = StopTimes(hit.detect_s, hit.repair_s, hit.outage_s)
    _stop(batch, r, hit.node, hit.breadth, times, np.full(len(r), np.inf))


def _announce(batch: Batch, r: Ints, faults: FaultColumns, chosen: Bools) -> None:
    """Planned stops let the job save first."""
    index = np.flatnonzero(chosen)
    if not len(index):
        return
    hit, r = faults.take(index), r[index]
    _count_stop(batch, r, hit.component)
    _planned_stop(batch, r, hit.node, hit.repair_s, hit.outage_s)


def _slow_down(batch: Batch, r: Ints, faults: FaultColumns, chosen: Bools) -> None:
    """A slow part: the worst of those present governs, until the last is over or replaced."""
    index = np.flatnonzero(chosen)
    if not len(index):
        return
    hit, r = faults.take(index), r[index]
    slow, eviction, now_s = batch.slow, batch.eviction, batch.job.now_s[r]
    none_scheduled = eviction.at_s[r] == np.inf
    replaced = (hit.detect_s < hit.lasts_s) & batch.spec.recovery.evict_slow & none_scheduled
    until_s = now_s + np.where(replaced, hit.detect_s, hit.lasts_s)
    already = slow.until_s[r] > now_s
    slow.speed[r] = np.where(already, np.minimum(slow.speed[r], hit.speed), hit.speed)
    slow.until_s[r] = np.where(already, np.maximum(slow.until_s[r], until_s), until_s)
    _schedule(eviction, r[replaced], until_s[replaced], hit.take(replaced))


def _corrupt(batch: Batch, r: Ints, faults: FaultColumns, chosen: Bools) -> None:
    """Silent corruption: found later, and then all since the last checkpoint before it is worthless."""
    none_scheduled = ~np.isfinite(batch.corruption.at_s[r])
    index = np.flatnonzero(chosen & none_scheduled)
    if not len(index):
        return
    hit, r = faults.take(index), r[index]
    _schedule(batch.corruption, r, batch.job.now_s[r] + hit.detect_s, hit)
    batch.corruption.clean_work_s[r] = batch.saves.safe_s[-1, r]


def _schedule(stop: ScheduledStop, r: Ints, at_s: Floats, faults: FaultColumns) -> None:
    stop.at_s[r] = at_s
    stop.node[r] = faults.node
    stop.repair_s[r] = faults.repair_s
    stop.component[r] = faults.component


# -- what happens by itself ---------------------------------------------------------------------------------------


def next_timer_s(batch: Batch) -> Floats:
    """When the next thing happens by itself, (runs,): a slow part recovers, a finding is acted on, replicas return."""
    until_s = batch.slow.until_s
    recovery_s = np.where(until_s > batch.job.now_s, until_s, np.inf)
    finding_s = np.minimum(batch.eviction.at_s, batch.corruption.at_s)
    return np.minimum(np.minimum(recovery_s, finding_s), batch.regrow_at_s)


def fire_timers(batch: Batch, live: Bools) -> None:
    """Acts on what is due now in the `live` (runs,) runs: evictions, then roll-backs, then regrowth."""
    now_s = batch.job.now_s
    _evict(batch, np.flatnonzero(live & (batch.eviction.at_s <= now_s)))
    _roll_back(batch, np.flatnonzero(live & (batch.corruption.at_s <= now_s)))
    _regrow(batch, np.flatnonzero(live & (batch.regrow_at_s <= now_s)))


def _evict(batch: Batch, r: Ints) -> None:
    """Replaces slow nodes that were found, unless they broke meanwhile."""
    if not len(r):
        return
    eviction = batch.eviction
    eviction.at_s[r] = np.inf
    r = r[~is_down(batch, r, eviction.node[r])]
    _count_stop(batch, r, eviction.component[r])
    _planned_stop(batch, r, eviction.node[r], eviction.repair_s[r], np.zeros(len(r)))


def _roll_back(batch: Batch, r: Ints) -> None:
    """Returns to the checkpoint from before a corruption, and replaces its node unless it broke meanwhile."""
    if not len(r):
        return
    corruption = batch.corruption
    corruption.at_s[r] = np.inf
    _count_stop(batch, r, corruption.component[r])
    node = np.where(is_down(batch, r, corruption.node[r]), NO_NODE, corruption.node[r])
    times = StopTimes(np.zeros(len(r)), corruption.repair_s[r], np.zeros(len(r)))
    _stop(batch, r, node, np.zeros(len(r), int), times, corruption.clean_work_s[r])


def _regrow(batch: Batch, r: Ints) -> None:
    """Stops jobs whose missing nodes are back, to go on with more replicas."""
    if not len(r):
        return
    batch.regrow_at_s[r] = np.inf
    nothing_s = np.zeros(len(r))
    _planned_stop(batch, r, np.full(len(r), NO_NODE), nothing_s, nothing_s)


# -- stops ----------------------------------------------------------------------------------------------------------


def _count_stop(batch: Batch, r: Ints, component: Ints) -> None:
    """Stops of a job at work are counted; one that is down is not interrupted by what breaks meanwhile."""
    job = batch.job
    job.component[r] = component
    at_work = job.resume_at_s[r] <= job.now_s[r]
    batch.losses.stops_by_component[r, component] += at_work


def _stop(batch: Batch, r: Ints, node: Ints, breadth: Ints, times: StopTimes, limit_s: Floats) -> None:
    """Unannounced stop: back to the newest checkpoint that survives the loss of `breadth` nodes, and holds at most
    `limit_s` of work; then up again."""
    job, saves, losses, tiers = batch.job, batch.saves, batch.losses, batch.saving.tiers
    survives = np.array([tier.survives_nodes for tier in tiers])[:, None] >= breadth
    safe_s = np.where(survives, saves.safe_s[:, r], NO_CHECKPOINT)
    best = np.argmax(safe_s, axis=0)
    newest_s = safe_s[best, np.arange(len(r))]
    work_s = np.minimum(np.minimum(newest_s, limit_s), job.work_s[r])
    source = np.where(newest_s > limit_s, len(tiers) - 1, best)  # storage keeps older checkpoints
    lost_s = (job.work_s[r] - work_s) * batch.step_factor[r]
    losses.by_cause["lost_work"][r] += lost_s
    losses.by_component_s[r, job.component[r]] += lost_s
    usable_s = np.where(safe_s > work_s, NO_CHECKPOINT, safe_s)
    usable_s[-1] = np.minimum(safe_s[-1], work_s)
    saves.safe_s[:, r] = usable_s
    job.work_s[r] = work_s
    job.detect_until_s[r] = np.maximum(job.detect_until_s[r], job.now_s[r] + times.decide_s)
    restore_s = np.array([tier.restore_s for tier in tiers])[source]
    _come_back(batch, r, node, times, restore_s)


def _planned_stop(batch: Batch, r: Ints, node: Ints, repair_s: Floats, outage_s: Floats) -> None:
    """Announced stop: the state is saved to storage first, unless the job is down; nothing is lost."""
    job, safe_s = batch.job, batch.saves.safe_s
    working = job.resume_at_s[r] <= job.now_s[r]
    save_s = np.where(working, batch.saving.final_save_s, 0.0)
    safe_s[-1, r] = np.where(working, job.work_s[r], safe_s[-1, r])
    # A node that is only exchanged makes the job wait; a stop for its own sake counts as planned.
    until_s = job.now_s[r] + save_s + outage_s
    job.planned_until_s[r] = np.maximum(job.planned_until_s[r], until_s)
    restore_s = np.full(len(r), batch.saving.tiers[-1].restore_s)
    _come_back(batch, r, node, StopTimes(save_s, repair_s, save_s + outage_s), restore_s)


def _come_back(batch: Batch, r: Ints, node: Ints, times: StopTimes, restore_s: Floats) -> None:
    """Nodes in place, then restart: sets when runs `r` resume."""
    job, saves = batch.job, batch.saves
    decided_s = job.now_s[r] + times.decide_s
    job.stall_left_s[r] = 0.0
    saves.pending_s[:, r] = NO_CHECKPOINT
    saves.pending_at_s[:, r] = np.inf
    in_place_s = decided_s.copy()
    gone = np.flatnonzero((node >= 0) & (times.repair_s > 0))
    in_place_s[gone] = replace_nodes(batch, r[gone], node[gone], decided_s[gone], times.repair_s[gone])
    short = np.flatnonzero(batch.nodes.short[r])
    if len(short):
        fitted_s = fit_replicas(batch, r[short], decided_s[short])
        in_place_s[short] = np.maximum(in_place_s[short], fitted_s)
    held_until_s = np.maximum(job.available_at_s[r], job.now_s[r] + times.outage_s)
    available_s = np.maximum(held_until_s, np.maximum(in_place_s, decided_s))
    job.available_at_s[r] = available_s
    job.resume_at_s[r] = available_s + batch.spec.restart_s + restore_s
