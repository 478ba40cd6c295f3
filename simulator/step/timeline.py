"""When every task of a step ran, and where each rank's time went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.step.graph import KIND, KINDS, STREAM, Floats, Ints, TaskGraph
from simulator.step.times import SLOT_CAUSES

CAUSES = (*SLOT_CAUSES, "pp", "dp", "bubble", "optimizer", "barrier")
SENDS = (KIND["send_forward"], KIND["send_backward"])
SHARDED = (KIND["gather"], KIND["reduce"])


@dataclass(frozen=True, slots=True)
class Timeline:
    """A played task graph: `start_s`, `end_s` per task."""

    graph: TaskGraph
    start_s: Floats
    end_s: Floats

    @property
    def step_time_s(self) -> float:
        return float(self.end_s.max(initial=0.0))

    def by_rank(self) -> dict[str, Floats]:
        """Where each pipeline rank's step went, seconds by cause [ranks]; the causes add up to the step time.

        Own work of slots by its causes; "pp" waiting while the awaited transfer was under way (or sending, where
        sends block); "dp" waiting for parameters, for gradient reductions after all slots are done, and the
        gradient norm; "bubble" every other wait for another stage; "barrier" waiting at the end of the step for
        the slowest rank's optimizer.
        """
        graph = self.graph
        spent = {cause: np.zeros(graph.ranks) for cause in CAUSES}
        on_compute = np.flatnonzero(graph.stream == STREAM["compute"])
        self._own_work(spent, on_compute)
        own_rank = graph.rank[on_compute]
        idle_from = np.zeros(len(on_compute))
        follows = 1 + np.flatnonzero(own_rank[1:] == own_rank[:-1])
        idle_from[follows] = self.end_s[on_compute[follows - 1]]
        gap = self.start_s[on_compute] - idle_from
        cause = self._awaited(on_compute)
        optimizer = graph.kind[on_compute] == KIND["optimizer"]
        moved = np.where(cause >= 0, np.minimum((self.end_s - self.start_s)[cause], gap), 0.0)
        awaits_pp = (cause >= 0) & np.isin(graph.kind[cause], SENDS) & ~optimizer
        awaits_dp = (cause >= 0) & np.isin(graph.kind[cause], SHARDED) & ~optimizer
        before_gather = np.where(awaits_dp, self._waits_of_gathers(cause, idle_from), 0.0)
        np.add.at(spent["pp"], own_rank[awaits_pp], moved[awaits_pp])
        np.add.at(spent["bubble"], own_rank[awaits_pp], (gap - moved)[awaits_pp])
        np.add.at(spent["dp"], own_rank[awaits_dp], (gap - before_gather)[awaits_dp])
        np.add.at(spent["bubble"], own_rank[awaits_dp], before_gather[awaits_dp])
        other = ~(awaits_pp | awaits_dp | optimizer)
        np.add.at(spent["bubble"], own_rank[other], gap[other])
        self._after_slots(spent, idle_from[optimizer], self.start_s[on_compute][optimizer], own_rank[optimizer])
        return spent

    def by_kind(self) -> dict[str, Floats]:
        """Seconds that each pipeline rank's compute stream spent in each kind of task [ranks] (KINDS; "FB" are the
        overlapped pairs, "F", "B", "I", "W" the slots that ran alone)."""
        graph = self.graph
        on_compute = np.flatnonzero(graph.stream == STREAM["compute"])
        spent = np.zeros((len(KINDS), graph.ranks))
        np.add.at(spent, (graph.kind[on_compute], graph.rank[on_compute]), (self.end_s - self.start_s)[on_compute])
        return {kind: seconds for kind, seconds in zip(KINDS, spent, strict=True) if seconds.any()}

    def breakdown(self) -> dict[str, float]:
        """Seconds by cause, mean over pipeline ranks; adds up to the step time."""
        return {cause: float(seconds.mean()) for cause, seconds in self.by_rank().items()}

    def _own_work(self, spent: dict[str, Floats], on_compute: Ints) -> None:
        graph = self.graph
        rank, kind = graph.rank[on_compute], graph.kind[on_compute]
        duration = (self.end_s - self.start_s)[on_compute]
        for index, cause in enumerate(SLOT_CAUSES):
            np.add.at(spent[cause], rank, duration * graph.cause_fraction[on_compute, index])
        sends = np.isin(kind, SENDS)
        np.add.at(spent["pp"], rank[sends], duration[sends])
        optimizer = kind == KIND["optimizer"]
        np.add.at(spent["optimizer"], rank[optimizer], duration[optimizer])

    def _awaited(self, tasks: Ints) -> Ints:
        """For each task the one it waited for last (-1: none)."""
        graph = self.graph
        first, count = graph.pred_indptr[tasks], graph.pred_indptr[tasks + 1] - graph.pred_indptr[tasks]
        awaited = np.full(len(tasks), -1)
        latest = np.full(len(tasks), -np.inf)
        for turn in range(int(count.max(initial=0))):
            rows = np.flatnonzero(count > turn)
            pred = graph.preds[first[rows] + turn]
            later = self.end_s[pred] > latest[rows]
            latest[rows[later]], awaited[rows[later]] = self.end_s[pred[later]], pred[later]
        return awaited

    def _waits_of_gathers(self, awaited: Ints, idle_from: Floats) -> Floats:
        """Seconds that a rank was idle before the awaited gather could start, since that waited for another stage."""
        received = np.isin(self.graph.kind[self._awaited(awaited)], SENDS)
        return np.where(received, np.maximum(0.0, self.start_s[awaited] - idle_from), 0.0)

    def _after_slots(self, spent: dict[str, Floats], idle_from: Floats, begin: Floats, rank: Ints) -> None:
        """The end of the step: drain of the pipeline, data-parallel tail, wait for the slowest optimizer."""
        graph = self.graph
        slots = (graph.stream == STREAM["compute"]) & (graph.kind != KIND["optimizer"])
        drained = float(self.end_s[slots].max(initial=0.0))
        if len(rank) == 0:
            ends = np.zeros(graph.ranks)
            np.maximum.at(ends, graph.rank[slots], self.end_s[slots])
            spent["bubble"] += drained - ends
            spent["dp"] += self.step_time_s - drained
            return
        np.add.at(spent["bubble"], rank, drained - idle_from)
        np.add.at(spent["dp"], rank, begin - drained)
        ends = np.zeros(graph.ranks)
        done = graph.kind == KIND["optimizer"]
        np.maximum.at(ends, graph.rank[done], self.end_s[done])
        spent["barrier"] += self.step_time_s - ends
