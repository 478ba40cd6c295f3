"""Searches a space of plans chunk by chunk: all legal ones weighed, those played that could be among the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.planner.bounds import Weighed, weighed
from simulator.planner.candidates import own_value
from simulator.planner.columns import Columns, Ints
from simulator.planner.contests import HEADROOMS, Contests, contests_of
from simulator.planner.frames import plan_from
from simulator.planner.hosts import fits_hosts
from simulator.planner.legality import Judge
from simulator.planner.play import played_s
from simulator.planner.shapes import Setting
from simulator.planner.space import CHUNK, Space, Tables, chunks, first_rows, plans_of, tables
from simulator.plans.spec import Plan

# Plans that are played first, and how many more in each turn.
FIRST_PLAYED = 16
MOST_PLAYED = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What is wanted of a search: so many plans, with so much of the memory left free.

    `only_best`: neither the front of time against memory nor what each key brought."""

    top: int = 10
    headroom_fraction: float = 0.0
    only_best: bool = False

    @property
    def levels(self) -> tuple[float, ...]:
        """Shares of memory left free for which the fastest plan is wanted."""
        return () if self.only_best else HEADROOMS

    def keys(self, space: Space) -> tuple[str, ...]:
        """Keys of which it is asked what they brought."""
        return () if self.only_best else space.searched

    def contests(self, space: Space) -> int:
        """How many contests there are (see `contests`)."""
        return 1 + len(self.levels) + len(self.keys(space))


@dataclass(frozen=True, slots=True)
class Played:
    """A plan that was played: seconds of its step, bytes of the device and of the allocator on the fullest rank; the
    `contests` that it is among the best of."""

    plan: Plan
    step_time_s: float
    device_bytes: float
    peak_bytes: float
    contests: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Part of a search, as a worker needs it. `limits`: step times by contest that are known to be reached."""

    number: int
    space: Space
    asked: Asked
    tables: Tables
    limits: tuple[float, ...]

    @property
    def combinations(self) -> int:
        """Combinations of its keys' values, legal or not."""
        return len(self.tables.degrees) * len(self.tables.settings)


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a chunk came to. `fitting`: plans that leave the memory asked for; `least`: where none does, that with the
    smallest memory."""

    number: int
    legal: int
    fitting: int
    played: int
    best: tuple[Played, ...]
    least: Played | None = None


def chunks_of(space: Space, judge: Judge, asked: Asked, limits: Sequence[float] | None = None) -> list[Chunk]:
    """The parts of a search: a small one around the scenario's own degrees first, then others with its tp and cp."""
    found = tables(space, judge)
    limits = limits or [float("inf")] * asked.contests(space)
    first = first_rows(space, found)
    others = chunks(found, np.setdiff1d(np.arange(len(found.degrees)), first))
    others.sort(key=lambda rows: not _has_own(space, found, rows))
    parts = [replace(found, degrees=found.degrees.take(rows)) for rows in [*chunks(found, first), *others]]
    return [Chunk(number, space, asked, part, tuple(limits)) for number, part in enumerate(parts)]


def _has_own(space: Space, found: Tables, rows: Ints) -> bool:
    row = found.degrees.row(int(rows[0]))
    return all(row[key] == getattr(space.base, key) for key in CHUNK)


def search_chunk(chunk: Chunk) -> ChunkResult:
    """Weighs every legal plan of a chunk and plays those that its contests need."""
    space = chunk.space
    setting = Setting(space.scenario)
    plans = plans_of(space.judge(), chunk.tables, np.arange(len(chunk.tables.degrees)))
    if not len(plans):
        return ChunkResult(chunk.number, 0, 0, 0, ())
    known = weighed(setting, plans)
    capacity = space.scenario.cluster.accelerator.memory_capacity_bytes
    fits = known.device_bytes <= capacity
    free = 1 - known.device_bytes / capacity
    contests = contests_of(
        fits,
        free,
        known.device_bytes,
        wanted=chunk.asked.top,
        headroom=chunk.asked.headroom_fraction,
        levels=chunk.asked.levels,
        keeps_own=[keeps_own(space, plans, key) for key in chunk.asked.keys(space)],
        limits=chunk.limits,
    )
    fitting = int(contests.members[0].sum())
    if not fitting:
        return ChunkResult(chunk.number, len(plans), 0, 0, (), least_memory(setting, known))
    played = play_best_first(setting, known, contests)
    return ChunkResult(chunk.number, len(plans), fitting, played, winners(setting, known, contests))


def keeps_own(space: Space, plans: Columns, key: str) -> np.ndarray:
    """Which plans have the scenario's own value of a key."""
    own = own_value(space.base, key)
    return np.array([value == own for value in plans.values[key]])[plans.codes[key]]


def play_best_first(setting: Setting, chunk: Weighed, contests: Contests) -> int:
    """Plays plans in the order of their bounds until none that is left can win anything; gives how many it played.

    Plans whose nodes do not hold what is moved to them are left out when their turn comes.
    """
    order = np.argsort(chunk.bound_s, kind="stable")
    turn, played = FIRST_PLAYED, 0
    while True:
        rows = next_rows(order, contests.open(chunk.bound_s), turn)
        if not len(rows):
            return played
        plans = (plan_from(setting.base, chunk.columns.row(row)) for row in rows.tolist())
        fits = np.array([fits_hosts(setting.scenario, plan) for plan in plans])
        contests.leave_out(rows[~fits])
        if fits.any():
            contests.play(rows[fits], played_s(setting, chunk, rows[fits]))
        played += int(fits.sum())
        turn = min(2 * turn, MOST_PLAYED)


def next_rows(order: Ints, is_open: np.ndarray, count: int) -> Ints:
    """The first rows in order that are open."""
    return np.asarray(order[is_open[order]][:count])


def winners(setting: Setting, chunk: Weighed, contests: Contests) -> tuple[Played, ...]:
    """The best plans of every contest."""
    won: dict[int, list[int]] = {}
    for number in range(len(contests.wanted)):
        for row in contests.best(number).tolist():
            won.setdefault(row, []).append(number)
    return tuple(as_played(setting, chunk, row, contests.times[row], tuple(numbers)) for row, numbers in won.items())


def least_memory(setting: Setting, chunk: Weighed) -> Played:
    """The plan with the smallest memory."""
    row = int(np.argmin(chunk.device_bytes))
    return as_played(setting, chunk, row, float(played_s(setting, chunk, np.array([row]))[0]), ())


def as_played(setting: Setting, chunk: Weighed, row: int, step_time_s: float, contests: tuple[int, ...]) -> Played:
    plan = plan_from(setting.base, chunk.columns.row(row))
    return Played(plan, float(step_time_s), float(chunk.device_bytes[row]), float(chunk.peak_bytes[row]), contests)
