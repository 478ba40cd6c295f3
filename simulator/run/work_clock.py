"""How work and checkpoints share the wall clock: where a job stands after so many seconds, without walking steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Floats

SNAP = 1e-6  # of an interval: work that close below a checkpoint point counts as having reached it


@dataclass(frozen=True, slots=True)
class SaveGrid:
    """Points of work at which a job stops to save.

    Tier i saves every `every_s[i]` seconds of work and stops the job for `stall_s[i]`. Finest tier first, and each
    interval a whole multiple of the one before, so that coarse points are fine points too. Work is measured in
    seconds at full speed. An infinite interval never saves.
    """

    every_s: tuple[float, ...]
    stall_s: tuple[float, ...]


def points(every_s: float, work_s: Floats | float) -> Floats:
    """How many points k every_s, k >= 1, lie at or before `work_s`."""
    return np.floor(np.asarray(work_s) / every_s + SNAP)


def before(every_s: float, work_s: Floats | float) -> Floats:
    """How many points lie strictly before `work_s`: a run that ends on a point does not wait for that save."""
    return np.maximum(np.ceil(np.asarray(work_s) / every_s - SNAP) - 1, 0)


def wall_to_end_s(
    grid: SaveGrid, work_s: Floats, stall_left_s: Floats, end_s: Floats | float, speed: Floats | float
) -> Floats:
    """Wall seconds from a state (work done, stall still to sit out) to `end_s` of work at `speed`."""
    stalls = sum(
        stall * np.maximum(before(every, end_s) - points(every, work_s), 0)
        for every, stall in zip(grid.every_s, grid.stall_s, strict=True)
    )
    return stall_left_s + (end_s - work_s) / speed + stalls


def stalls_between(grid: SaveGrid, low_s: Floats, high_s: Floats) -> Floats:
    """Stall seconds of all points in (low, high]."""
    total = np.zeros(np.broadcast(low_s, high_s).shape)
    for every, stall in zip(grid.every_s, grid.stall_s, strict=True):
        total = total + stall * (points(every, high_s) - points(every, low_s))
    return total


def advance(
    grid: SaveGrid, work_s: Floats, stall_left_s: Floats, wall_s: Floats, speed: Floats
) -> tuple[Floats, Floats]:
    """State after `wall_s` seconds at `speed`: (work done, stall still to sit out); shapes broadcast.

    Coarse to fine, whole intervals are jumped over: first those of the coarsest tier, then those of the next tier up
    to the coarse point ahead, and so on; what is left runs towards the nearest point and may end inside its stall.
    """
    rest = wall_s - stall_left_s
    stalled = rest < 0
    left = np.where(stalled, -rest, 0.0)
    rest = np.maximum(rest, 0.0)
    work = work_s
    room: Floats | float = np.inf
    for level in reversed(range(len(grid.every_s))):
        every = grid.every_s[level]
        if not np.isfinite(every):
            continue
        fine = SaveGrid(grid.every_s[: level + 1], grid.stall_s[: level + 1])
        first = (points(every, work) + 1) * every
        to_first = (first - work) / speed + stalls_between(fine, work, first)
        cycle = every / speed + sum(s * round(every / e) for e, s in zip(fine.every_s, fine.stall_s, strict=True))
        if level + 1 < len(grid.every_s) and np.isfinite(grid.every_s[level + 1]):
            coarse = grid.every_s[level + 1]
            ahead = (points(coarse, work) + 1) * coarse
            room = np.round((ahead - first) / every)  # fine points before the coarse one, which was not completed
        jumps = np.minimum(np.where(rest >= to_first, 1 + np.floor((rest - to_first) / cycle), 0), room)
        jumped = jumps > 0
        rest = np.maximum(np.where(jumped, rest - to_first - (jumps - 1) * cycle, rest), 0.0)
        work = np.where(jumped, first + (jumps - 1) * every, work)
    return _towards_point(grid, work, left, rest, speed)


def _towards_point(grid: SaveGrid, work: Floats, left: Floats, rest: Floats, speed: Floats) -> tuple[Floats, Floats]:
    """The last stretch: less than one interval of the finest tier, and perhaps a part of the stall at its end."""
    finest = grid.every_s[0]
    if not np.isfinite(finest):
        return work + rest * speed, left
    point = (points(finest, work) + 1) * finest
    arrives = rest * speed >= point - work
    stall = stalls_between(grid, work, point)
    inside = np.maximum(stall - np.maximum(rest - (point - work) / speed, 0.0), 0.0)
    return np.where(arrives, point, work + rest * speed), np.where(arrives, inside, left)
