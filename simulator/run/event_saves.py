"""The checkpoints of one run, save by save: what each tier holds, what is written, what survives a loss."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from simulator.run.checkpoints import Saving

KEPT = 2  # older saves of a tier beside the newest, which may still be on its way
SAME_POINT = 1e-6  # of an interval


class Save(NamedTuple):
    """A checkpoint of the work at one point, and when it is written."""

    work_s: float
    written_at_s: float


class SaveHistory:
    """The saves of each tier, oldest first; at the start storage holds an empty one."""

    def __init__(self, saving: Saving) -> None:
        self.tiers = saving.tiers
        self.every_s = saving.grid.every_s
        self.saves: list[list[Save]] = [[] for _ in self.tiers]
        self.save_to_storage(0.0, 0.0)

    def due_tiers(self, work_s: float) -> list[int]:
        """The tiers that save at this point of work."""
        return [i for i, every_s in enumerate(self.every_s) if math.isfinite(every_s) and _is_point(work_s, every_s)]

    def stall_s(self, work_s: float) -> float:
        """How long the saves at this point stop the job."""
        return sum(self.tiers[i].stall_s for i in self.due_tiers(work_s))

    def complete(self, work_s: float, now_s: float) -> None:
        """The job has sat out the saves at this point; each is written after its tier's lag."""
        for i in self.due_tiers(work_s):
            save = Save(work_s, now_s + self.tiers[i].lag_s)
            self.saves[i] = [*self.saves[i][-KEPT:], save]

    def save_to_storage(self, work_s: float, now_s: float) -> None:
        """A save on demand: it is all that storage needs to hold."""
        self.saves[-1] = [Save(work_s, now_s)]

    def newest(self, tier: int, now_s: float) -> float | None:
        """Work of the tier's newest checkpoint that is written by now."""
        return max((save.work_s for save in _written(self.saves[tier], now_s)), default=None)

    def survivor(self, breadth: int, now_s: float) -> tuple[float, int]:
        """(work, tier) of the newest checkpoint that outlives the loss of `breadth` nodes; the others are gone."""
        best_s, best_tier = -1.0, len(self.tiers) - 1
        for i, tier in enumerate(self.tiers):
            newest_s = self.newest(i, now_s)
            if newest_s is None or tier.survives_nodes < breadth:
                self.saves[i] = []
            elif newest_s > best_s:
                best_s, best_tier = newest_s, i
        return best_s, best_tier

    def return_to(self, work_s: float, now_s: float) -> None:
        """Forgets unfinished saves and tiers ahead of the work; storage keeps older checkpoints, so it has that one."""
        for i, saves in enumerate(self.saves):
            written = _written(saves, now_s)
            is_ahead = any(save.work_s > work_s for save in written)
            self.saves[i] = [] if is_ahead else written
        if not self.saves[-1]:
            self.save_to_storage(work_s, now_s)

    def drop_unfinished(self, now_s: float) -> None:
        self.saves = [_written(saves, now_s) for saves in self.saves]


def _is_point(work_s: float, every_s: float) -> bool:
    intervals = work_s / every_s
    return abs(intervals - round(intervals)) < SAME_POINT


def _written(saves: Iterable[Save], now_s: float) -> list[Save]:
    return [save for save in saves if save.written_at_s <= now_s]
