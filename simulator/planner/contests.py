"""Which plans of a chunk can still be among the best of anything that is asked, and the best of those played so far.

A contest is a set of plans of which the fastest are wanted: all that fit; all that leave so much memory; all that keep
one key of the scenario's plan. A plan whose step cannot be shorter than the last one wanted of every contest that it is
in need not be played.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from hardware.arrays import Floats
from simulator.planner.columns import Ints
from simulator.planner.doubles import groups

# Shares of memory left free for which the fastest plan is shown.
HEADROOMS = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)


@dataclass(slots=True)
class Contests:
    """`members` [contests, plans], how many are `wanted` of each, the `times` [plans] of those played (nan: not).

    Where several are wanted, plans of equal time and equal `device_bytes` [plans] count as one.
    """

    members: NDArray[np.bool_]
    device_bytes: Floats
    wanted: tuple[int, ...]
    limits: Floats
    times: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.times = np.full(self.members.shape[1], np.nan)

    def open(self, bound_s: Floats) -> NDArray[np.bool_]:
        """Plans that are not played and could still be among those wanted."""
        reach = np.where(self.members, self.limits[:, None], -np.inf).max(axis=0)
        return np.asarray(np.isnan(self.times) & (bound_s <= reach))

    def play(self, rows: Ints, seconds: Floats) -> None:
        """Takes in the step times of plans that were played."""
        self.times[rows] = seconds
        for number, wanted in enumerate(self.wanted):
            best = self._best(number)
            if len(best) == wanted:
                self.limits[number] = min(self.limits[number], self.times[best[-1][-1]])

    def leave_out(self, rows: Ints) -> None:
        """Takes plans out of every contest."""
        self.members[:, rows] = False

    def best(self, number: int) -> Ints:
        """The fastest plans of a contest, as many as are wanted, their doubles included; of one the first."""
        return np.array([*chain.from_iterable(self._best(number))], dtype=int)

    def _best(self, number: int) -> list[list[int]]:
        """The fastest plans of a contest, each with its doubles; where one is wanted, that alone."""
        played = np.flatnonzero(self.members[number] & ~np.isnan(self.times))
        if self.wanted[number] == 1 and len(played):
            return [[int(played[np.argmin(self.times[played])])]]
        ordered = played[np.argsort(self.times[played], kind="stable")].tolist()
        doubles = groups(ordered, lambda row: (float(self.times[row]), float(self.device_bytes[row])))
        return list(islice(doubles, self.wanted[number]))


def contests_of(
    fits: NDArray[np.bool_],
    free_fraction: Floats,
    device_bytes: Floats,
    *,
    wanted: int,
    headroom: float,
    levels: Sequence[float],
    keeps_own: Sequence[NDArray[np.bool_]],
    limits: Sequence[float],
) -> Contests:
    """Everything that is asked of a chunk: the `wanted` plans with this headroom, the fastest of each of the `levels`
    of headroom, and of all plans that keep a key (`keeps_own` by key).

    `limits`: step times that are known to be reached.
    """
    enough = fits & (free_fraction >= headroom)
    members = [enough, *(fits & (free_fraction >= level) for level in levels), *(enough & own for own in keeps_own)]
    counts = (wanted, *(1 for _ in members[1:]))
    return Contests(np.array(members), device_bytes, counts, np.array(limits, dtype=float))
