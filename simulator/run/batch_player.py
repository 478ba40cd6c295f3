"""Many runs at once, from fault to fault, as NumPy arrays with one element per run: the fast player."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from simulator.run.arrays import Floats, Ints
from simulator.run.batch_events import FaultColumns, fire_timers, next_timer_s, strike
from simulator.run.batch_state import NO_CHECKPOINT, Batch, new_batch
from simulator.run.checkpoints import Saving
from simulator.run.fault_source import FaultSource, repairs_s, window_s
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.outcome import Outcome, is_hopeless
from simulator.run.specs import DOWN, RunSpec
from simulator.run.work_clock import advance, points, stalls_between, wall_to_end_s

COLUMNS = tuple(field.name for field in fields(FaultColumns))
WHOLE_COLUMNS = ("component", "kind", "node", "breadth")


@dataclass(frozen=True, slots=True)
class FaultTable:
    """The faults of all runs in one window, padded: `time_s` (runs, faults), infinite where a run has no more, and
    each column of `FaultColumns` in the same shape."""

    time_s: Floats
    columns: Mapping[str, Any]

    def faults(self, r: Ints, at: Ints) -> FaultColumns:
        """Fault number `at` of each of the runs `r`, (k,)."""
        return FaultColumns(*(self.columns[name][r, at] for name in COLUMNS))


def play(
    spec: RunSpec, saving: Saving, source: FaultSource, runs: Ints, tell: Callable[[int], None] | None = None
) -> Outcome:
    """Plays the given runs (their numbers decide their faults) to their ends, all at once; `tell` hears how many have
    ended."""
    batch = new_batch(spec, saving, runs)
    length_s, start_s = window_s(spec), 0.0
    while not batch.halted.all():
        end_s = start_s + length_s
        _play_window(batch, source, (start_s, end_s))
        _give_up(batch)
        start_s = end_s
        if tell is not None:
            tell(int(batch.halted.sum()))
    return _outcome(batch)


def _play_window(batch: Batch, source: FaultSource, window: tuple[float, float]) -> None:
    """Plays all live runs to the end of the window, in rounds: each run moves on to its own next event."""
    live = np.flatnonzero(~batch.halted)
    timelines = {int(i): source(int(batch.runs[i]), window) for i in live}
    if window[0] == 0:
        batch.losses.repairs_s[live] = [repairs_s(batch.spec, timeline) for timeline in timelines.values()]
    table = _fault_table(timelines, len(batch.runs))
    every_run = np.arange(len(batch.runs))
    at = np.zeros(len(batch.runs), int)
    while True:
        halted = batch.halted
        due_s = table.time_s[every_run, at]
        until_s = np.minimum(np.minimum(due_s, next_timer_s(batch)), window[1])
        _settle(batch, np.where(halted, batch.job.now_s, until_s))
        alive = ~batch.halted
        if not (alive & (until_s < window[1])).any():
            return
        fire_timers(batch, alive)
        hit = np.flatnonzero(alive & (due_s <= batch.job.now_s))
        strike(batch, hit, table.faults(hit, at[hit]))
        at[hit] += 1


def _fault_table(timelines: Mapping[int, FaultTimeline], runs: int) -> FaultTable:
    """The timelines of some of the runs, side by side."""
    longest = max(len(timeline) for timeline in timelines.values()) + 1  # a last column without a fault
    shape = (runs, longest)
    time_s = np.full(shape, np.inf)
    columns = {name: np.zeros(shape, int if name in WHOLE_COLUMNS else float) for name in COLUMNS}
    for run, timeline in timelines.items():
        time_s[run, : len(timeline)] = timeline.time_s
        for name, column in columns.items():
            column[run, : len(timeline)] = getattr(timeline, name)
    return FaultTable(time_s, columns)


def _settle(batch: Batch, until_s: Floats) -> None:
    """Lets time pass to `until_s` (at most the next event): down first, then at work, perhaps to the end."""
    _settle_down(batch, until_s)
    works = ~batch.halted & (batch.job.resume_at_s < until_s)
    if works.any():
        _settle_at_work(batch, until_s)
    else:
        batch.job.now_s = until_s


def _settle_at_work(batch: Batch, until_s: Floats) -> None:
    """Work and saves up to `until_s` of the runs that are up by then."""
    spec, job, grid, by_cause = batch.spec, batch.job, batch.saving.grid, batch.losses.by_cause
    shrunk, slow = batch.speeds()
    speed = shrunk * slow / batch.step_factor
    start_s = np.maximum(job.now_s, np.minimum(job.resume_at_s, until_s))
    to_end_s = wall_to_end_s(grid, job.work_s, job.stall_left_s, spec.work_s, speed)
    ends = ~job.done & (job.resume_at_s < np.inf) & (until_s - start_s >= to_end_s)
    until_s = np.where(ends, start_s + to_end_s, until_s)
    wall_s = until_s - start_s
    work_s, stall_left_s = advance(grid, job.work_s, job.stall_left_s, wall_s, speed)
    work_s = np.where(ends, spec.work_s, np.minimum(work_s, spec.work_s))
    stall_left_s = np.where(ends, 0.0, stall_left_s)
    _settle_saves(batch, until_s, work_s, stall_left_s, speed)
    gained_s = (work_s - job.work_s) * batch.step_factor
    by_cause["checkpoint"] += np.maximum(wall_s - gained_s / (shrunk * slow), 0.0)
    by_cause["shrunk"] += gained_s * (1 / shrunk - 1)
    by_cause["slow"] += gained_s / shrunk * (1 / slow - 1)
    job.work_s, job.stall_left_s = work_s, stall_left_s
    job.now_s = np.where(job.done, job.now_s, until_s)
    job.done |= ends


def _settle_down(batch: Batch, until_s: Floats) -> None:
    """Shares the time down among detection, planned stop, waiting and restart, in that order."""
    job, losses = batch.job, batch.losses
    mark_s = job.now_s
    marks = (job.detect_until_s, job.planned_until_s, job.available_at_s, job.resume_at_s)
    for cause, end_s in zip(DOWN, marks, strict=True):
        reached_s = np.maximum(mark_s, np.minimum(end_s, until_s))
        losses.by_cause[cause] += reached_s - mark_s
        mark_s = reached_s
    losses.by_component_s[np.arange(len(mark_s)), job.component] += mark_s - job.now_s


def _settle_saves(batch: Batch, until_s: Floats, work_s: Floats, stall_left_s: Floats, speed: Floats) -> None:
    """Moves each tier's newest safe checkpoint up to what was completed and written by `until_s`."""
    saves, grid = batch.saves, batch.saving.grid
    half_s = grid.every_s[0] / 2  # a job inside a stall has not completed the save at its point of work
    completed_s = np.where(stall_left_s > 0, work_s - half_s, work_s)
    completed_before_s = np.where(batch.job.stall_left_s > 0, batch.job.work_s - half_s, batch.job.work_s)
    for i, tier in enumerate(batch.saving.tiers):
        every_s = grid.every_s[i]
        if not np.isfinite(every_s):
            continue
        reached = points(every_s, completed_s)
        passed = reached - points(every_s, completed_before_s)
        point_s = reached * every_s
        since_s = (work_s - point_s) / speed + stalls_between(grid, point_s, work_s) - stall_left_s
        written = (passed > 0) & (since_s >= tier.lag_s)
        is_fresh = (passed > 0) & ~written
        pending_written = saves.pending_at_s[i] <= until_s
        pending_s = np.where(pending_written, saves.pending_s[i], NO_CHECKPOINT)
        older_s = np.where(passed > 1, point_s - every_s, pending_s)
        saves.safe_s[i] = np.where(written, point_s, np.maximum(saves.safe_s[i], older_s))
        over = (passed > 0) | pending_written
        saves.pending_s[i] = np.where(is_fresh, point_s, np.where(over, NO_CHECKPOINT, saves.pending_s[i]))
        written_at_s = until_s - since_s + tier.lag_s
        saves.pending_at_s[i] = np.where(is_fresh, written_at_s, np.where(over, np.inf, saves.pending_at_s[i]))


def _give_up(batch: Batch) -> None:
    """Marks runs that wait for ever, or whose pace is hopeless."""
    job = batch.job
    waits_for_ever = ~job.done & (job.resume_at_s == np.inf)
    hopeless = ~job.done & is_hopeless(batch.spec, batch.losses.faults, job.now_s, _useful_s(batch))
    job.stuck |= waits_for_ever | hopeless


def _useful_s(batch: Batch) -> Floats:
    """Wall seconds of the useful work at each run's own full speed, (runs,)."""
    return batch.job.work_s * batch.step_factor


def _outcome(batch: Batch) -> Outcome:
    job, losses = batch.job, batch.losses
    return Outcome(
        finish_s=np.where(job.done, job.now_s, np.inf),
        elapsed_s=job.now_s,
        work_s=_useful_s(batch),
        lost_s=losses.by_cause,
        lost_by_component_s=losses.by_component_s,
        stops_by_component=losses.stops_by_component,
        faults=losses.faults,
        waits_for_ever=~job.done & (job.resume_at_s == np.inf),
        repairs_s=None if batch.spec.fault_log else losses.repairs_s,
    )
