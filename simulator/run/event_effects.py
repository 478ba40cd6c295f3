"""What a fault does to one job: one function per kind of fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from simulator.run.event_job import Job
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.faults import JOB, KINDS, FaultKind


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One entry of a timeline, as plain numbers; the fields mean what its columns do."""

    time_s: float
    component: int
    kind: int
    node: int
    breadth: int
    detect_s: float
    repair_s: float
    outage_s: float
    lasts_s: float
    speed: float


def events(timeline: FaultTimeline) -> list[FaultEvent]:
    """The entries of a timeline, in order of time."""
    columns = [getattr(timeline, name).tolist() for name in FaultEvent.__slots__]
    return [FaultEvent(*row) for row in zip(*columns, strict=True)]


def strike(job: Job, fault: FaultEvent) -> None:
    """Applies one fault to the machines and, where it concerns it, to the job."""
    job.account()
    job.faults += 1
    kind = KINDS[fault.kind]
    if fault.node != JOB and job.nodes.is_down(fault.node, job.now_s):
        job.tell(kind, fault.component, fault.node, "already down")
        return
    if fault.node != JOB and not job.nodes.is_working(fault.node, job.replicas):
        _lose_spare(job, fault)
        job.tell(kind, fault.component, fault.node, "spare")
        return
    EFFECTS[kind](job, fault)
    effect = "stopped" if kind in ("crash", "hang", "planned") else "goes on"
    job.tell(kind, fault.component, fault.node, effect)
    job.wake()


def _lose_spare(job: Job, fault: FaultEvent) -> None:
    """A spare that breaks goes to repair; the job does not notice."""
    if KINDS[fault.kind] in ("crash", "hang") and fault.repair_s > 0:
        job.nodes.send_to_repair(fault.node, job.now_s + fault.detect_s, fault.repair_s)


def _crash(job: Job, fault: FaultEvent) -> None:
    """An unannounced stop, of the process or of the machine under it."""
    job.count_stop(fault.component)
    _fall_back(job, fault, math.inf)


def _announce(job: Job, fault: FaultEvent) -> None:
    """A stop that lets the job save first."""
    job.count_stop(fault.component)
    _stop_cleanly(job, fault)


def _slow_down(job: Job, fault: FaultEvent) -> None:
    """The worst slow part governs until the last is over or replaced."""
    slowness, now_s = job.slowness, job.now_s
    is_found = fault.detect_s < fault.lasts_s
    replaced = job.spec.recovery.evict_slow and is_found and not slowness.evicting
    until_s = now_s + (fault.detect_s if replaced else fault.lasts_s)
    if slowness.until_s > now_s:
        slowness.speed = min(slowness.speed, fault.speed)
        slowness.until_s = max(slowness.until_s, until_s)
    else:
        slowness.speed, slowness.until_s = fault.speed, until_s
    job.later(slowness.until_s, lambda: None)
    if replaced:
        slowness.evicting = True
        job.later(until_s, lambda: _evict(job, fault))


def _evict(job: Job, fault: FaultEvent) -> None:
    """Replaces a slow node that was found, unless it broke meanwhile."""
    job.slowness.evicting = False
    if fault.node != JOB and job.nodes.is_down(fault.node, job.now_s):
        return
    _announce(job, _exchange(fault, fault.node))
    job.tell("replaced", fault.component, fault.node, "stopped")


def _corrupt(job: Job, fault: FaultEvent) -> None:
    """Silent corruption: found later, and then all since the last checkpoint before it is worthless."""
    if job.corrupted:
        return
    job.corrupted = True
    storage = len(job.saving.tiers) - 1
    clean_work_s = job.saves.newest(storage, job.now_s) or 0.0
    job.later(job.now_s + fault.detect_s, lambda: _roll_back(job, fault, clean_work_s))


def _roll_back(job: Job, fault: FaultEvent, clean_work_s: float) -> None:
    """Returns to the checkpoint from before a corruption, and replaces its node unless it broke meanwhile."""
    job.corrupted = False
    is_gone = fault.node != JOB and job.nodes.is_down(fault.node, job.now_s)
    job.count_stop(fault.component)
    _fall_back(job, _exchange(fault, JOB if is_gone else fault.node), clean_work_s)
    job.tell("rolled back", fault.component, fault.node, "stopped")


def _exchange(fault: FaultEvent, node: int) -> FaultEvent:
    """The stop that follows a fault which had gone on unseen: found already, one node to exchange."""
    return FaultEvent(
        time_s=fault.time_s,
        component=fault.component,
        kind=fault.kind,
        node=node,
        breadth=0,
        detect_s=0.0,
        repair_s=fault.repair_s,
        outage_s=0.0,
        lasts_s=0.0,
        speed=1.0,
    )


# -- stops ----------------------------------------------------------------------------------------------------------


def _fall_back(job: Job, fault: FaultEvent, limit_s: float) -> None:
    """Back to the newest checkpoint that survives and holds at most `limit_s` of work; then nodes, then restart."""
    newest_s, tier = job.saves.survivor(fault.breadth, job.now_s)
    work_s = min(newest_s, limit_s, job.work_s)
    if newest_s > limit_s:
        tier = len(job.saving.tiers) - 1  # storage keeps older checkpoints
    lost_s = (job.work_s - work_s) * job.step_factor
    job.lost_s["lost_work"] += lost_s
    job.lost_by_component_s[job.component] += lost_s
    job.work_s = work_s
    job.saves.return_to(work_s, job.now_s)
    job.marks.detect_until_s = max(job.marks.detect_until_s, job.now_s + fault.detect_s)
    _come_back(job, fault, fault.detect_s, fault.outage_s, job.saving.tiers[tier].restore_s)


def _stop_cleanly(job: Job, fault: FaultEvent) -> None:
    """Saves to storage first, unless the job is down; nothing is lost."""
    save_s = 0.0
    if job.marks.resume_at_s <= job.now_s:
        save_s = job.saving.final_save_s
        job.saves.save_to_storage(job.work_s, job.now_s)
    job.marks.planned_until_s = max(job.marks.planned_until_s, job.now_s + save_s + fault.outage_s)
    job.saves.drop_unfinished(job.now_s)
    _come_back(job, fault, save_s, save_s + fault.outage_s, job.saving.tiers[-1].restore_s)


def _come_back(job: Job, fault: FaultEvent, decided_after_s: float, outage_s: float, restore_s: float) -> None:
    """Nodes in place, then process start, communicators, loading and warm-up."""
    now_s, marks = job.now_s, job.marks
    decided_s = now_s + decided_after_s
    job.stall_left_s = 0.0
    in_place_s = decided_s
    if fault.node != JOB and fault.repair_s > 0:
        in_place_s = job.nodes.replace(fault.node, decided_s, fault.repair_s)
    if job.spec.recovery.when_short == "shrink":
        fit = job.nodes.fit_replicas(decided_s)
        job.replicas = fit.replicas
        in_place_s = max(in_place_s, fit.in_place_s)
        _schedule_regrowth(job, fit.regrow_at_s)
    marks.available_at_s = max(marks.available_at_s, now_s + outage_s, in_place_s)
    marks.resume_at_s = marks.available_at_s + job.spec.restart_s + restore_s


def _schedule_regrowth(job: Job, at_s: float) -> None:
    job.regrowth += 1
    number = job.regrowth
    if math.isfinite(at_s):
        job.later(at_s, lambda: _regrow(job, number))


def _regrow(job: Job, number: int) -> None:
    """Stops the job, whose missing nodes are back, to go on with more replicas."""
    if number != job.regrowth:
        return
    planned = FaultEvent(
        time_s=job.now_s,
        component=job.component,
        kind=KINDS.index("planned"),
        node=JOB,
        breadth=0,
        detect_s=0.0,
        repair_s=0.0,
        outage_s=0.0,
        lasts_s=0.0,
        speed=1.0,
    )
    _stop_cleanly(job, planned)
    job.tell("regrown", job.component, JOB, "stopped")


EFFECTS: Mapping[FaultKind, Callable[[Job, FaultEvent], None]] = {
    "crash": _crash,
    "hang": _crash,
    "slow": _slow_down,
    "corruption": _corrupt,
    "planned": _announce,
}
