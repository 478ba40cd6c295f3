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

    def up_to(self, level: int) -> SaveGrid:
        """The tiers as fine as this one or finer."""
        return SaveGrid(self.every_s[: level + 1], self.stall_s[: level + 1])

    def cycle_s(self, level: int, speed: Floats) -> Floats:
        """Wall seconds from one point of a tier to the next at `speed`, with the stalls of all finer points between."""
        every_s = self.every_s[level]
        fine = self.up_to(level)
        stalls_s = sum(
            stall_s * round(every_s / fine_every_s)
            for fine_every_s, stall_s in zip(fine.every_s, fine.stall_s, strict=True)
        )
        total_s: Floats = every_s / speed + stalls_s
        return total_s


def points(every_s: float, work_s: Floats | float) -> Floats:
    """How many points k every_s, k >= 1, lie at or before `work_s`."""
    count: Floats = np.floor(np.asarray(work_s) / every_s + SNAP)
    return count


def before(every_s: float, work_s: Floats | float) -> Floats:
    """How many points lie strictly before `work_s`: a run that ends on a point does not wait for that save."""
    count: Floats = np.ceil(np.asarray(work_s) / every_s - SNAP) - 1
    return np.maximum(count, 0)


def next_point_s(every_s: float, work_s: Floats) -> Floats:
    """The first point after `work_s`."""
    return (points(every_s, work_s) + 1) * every_s


def wall_to_end_s(
    grid: SaveGrid, work_s: Floats, stall_left_s: Floats, end_s: Floats | float, speed: Floats | float
) -> Floats:
    """Wall seconds from a state (work done, stall still to sit out) to `end_s` of work at `speed`; shapes broadcast."""
    stalls_s = sum(
        stall_s * np.maximum(before(every_s, end_s) - points(every_s, work_s), 0)
        for every_s, stall_s in zip(grid.every_s, grid.stall_s, strict=True)
    )
    return stall_left_s + (end_s - work_s) / speed + stalls_s


def stalls_between(grid: SaveGrid, low_s: Floats, high_s: Floats) -> Floats:
    """Stall seconds of all points in (low, high]; shapes broadcast."""
    total_s = np.zeros(np.broadcast(low_s, high_s).shape)
    for every_s, stall_s in zip(grid.every_s, grid.stall_s, strict=True):
        total_s = total_s + stall_s * (points(every_s, high_s) - points(every_s, low_s))
    return total_s


def advance(
    grid: SaveGrid, work_s: Floats, stall_left_s: Floats, wall_s: Floats, speed: Floats
) -> tuple[Floats, Floats]:
    """State after `wall_s` seconds at `speed`: (work done, stall still to sit out); shapes broadcast.

    Coarse to fine, whole intervals are jumped over: first those of the coarsest tier, then those of the next tier up
    to the coarse point ahead, and so on; what is left runs towards the nearest point and may end inside its stall.
    """
    rest_s = wall_s - stall_left_s
    still_stalled_s = np.where(rest_s < 0, -rest_s, 0.0)
    rest_s = np.maximum(rest_s, 0.0)
    for level in reversed(range(len(grid.every_s))):
        if np.isfinite(grid.every_s[level]):
            work_s, rest_s = _jump(grid, level, work_s, rest_s, speed)
    return _towards_point(grid, work_s, still_stalled_s, rest_s, speed)


def _jump(grid: SaveGrid, level: int, work_s: Floats, rest_s: Floats, speed: Floats) -> tuple[Floats, Floats]:
    """Jumps to the last point of a tier that is reached in `rest_s`: (work there, seconds left)."""
    every_s = grid.every_s[level]
    first_s = next_point_s(every_s, work_s)
    to_first_s = (first_s - work_s) / speed + stalls_between(grid.up_to(level), work_s, first_s)
    cycle_s = grid.cycle_s(level, speed)
    reached = np.where(rest_s >= to_first_s, 1 + np.floor((rest_s - to_first_s) / cycle_s), 0)
    jumps = np.minimum(reached, _points_to_coarser(grid, level, work_s, first_s))
    jumped = jumps > 0
    left_s = np.where(jumped, rest_s - to_first_s - (jumps - 1) * cycle_s, rest_s)
    return np.where(jumped, first_s + (jumps - 1) * every_s, work_s), np.maximum(left_s, 0.0)


def _points_to_coarser(grid: SaveGrid, level: int, work_s: Floats, first_s: Floats) -> Floats | float:
    """Points of a tier before the next point of the tier above it, which was not reached; infinite without one."""
    above = level + 1
    if above >= len(grid.every_s) or not np.isfinite(grid.every_s[above]):
        return np.inf
    coarse_s = next_point_s(grid.every_s[above], work_s)
    count: Floats = np.round((coarse_s - first_s) / grid.every_s[level])
    return count


def _towards_point(
    grid: SaveGrid, work_s: Floats, stall_left_s: Floats, rest_s: Floats, speed: Floats
) -> tuple[Floats, Floats]:
    """The last stretch: less than one interval of the finest tier, and perhaps a part of the stall at its end."""
    finest_s = grid.every_s[0]
    if not np.isfinite(finest_s):
        return work_s + rest_s * speed, stall_left_s
    point_s = next_point_s(finest_s, work_s)
    arrives = rest_s * speed >= point_s - work_s
    stall_s = stalls_between(grid, work_s, point_s)
    inside_s = np.maximum(rest_s - (point_s - work_s) / speed, 0.0)
    stall_ahead_s = np.maximum(stall_s - inside_s, 0.0)
    return np.where(arrives, point_s, work_s + rest_s * speed), np.where(arrives, stall_ahead_s, stall_left_s)
