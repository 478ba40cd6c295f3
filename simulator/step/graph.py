"""A training step as a graph of tasks: compact arrays that any player can run.

Every task has a rank and a stream; tasks of one stream run in the order they are numbered. Dependencies across
streams say which data a task needs. A player gives every task a start: the latest end of what it waits for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Who waits for whom: (before, after, before is new, after is new); "new" numbers count within the tasks that join.
Links = list[tuple[Ints, Ints, bool, bool]]

STREAMS = ("compute", "tp", "cp", "ep", "pp", "dp")
KINDS = ("F", "B", "I", "W", "FB", "send_forward", "send_backward", "gather", "reduce", "norm", "optimizer", "other")
STREAM = {name: code for code, name in enumerate(STREAMS)}
KIND = {name: code for code, name in enumerate(KINDS)}
WORLD = -1  # rank of a task that all ranks take part in


class Deadlock(ValueError):
    """Tasks wait for each other in a circle."""


@dataclass(frozen=True, slots=True)
class TaskGraph:
    """n tasks, sorted by (rank, stream), in stream order.

    `cause_fraction` [n, SLOT_CAUSES]: what share of a task's own time each cause has (zero rows: not a slot).
    Task i waits for `preds[pred_indptr[i] : pred_indptr[i + 1]]`, the task before it on its stream included.
    `microbatch`, `chunk` and their `backward_` pair are -1 where a task has none.
    """

    duration_s: Floats
    rank: Ints
    stream: Ints
    kind: Ints
    microbatch: Ints
    chunk: Ints
    backward_microbatch: Ints
    backward_chunk: Ints
    cause_fraction: Floats
    pred_indptr: Ints
    preds: Ints
    ranks: int

    def __len__(self) -> int:
        return len(self.duration_s)

    def describe(self, task: int) -> str:
        return (
            f"{KINDS[self.kind[task]]} of micro-batch {self.microbatch[task]}, chunk {self.chunk[task]}"
            f" on rank {self.rank[task]} ({STREAMS[self.stream[task]]})"
        )


@dataclass(frozen=True, slots=True)
class Tasks:
    """Columns of tasks before they are sorted; `place` [n, 2] orders tasks within their stream."""

    duration_s: Floats
    rank: Ints
    stream: Ints
    kind: Ints
    work: Ints  # [n, 4]: micro-batch, chunk, backward micro-batch, backward chunk
    place: Ints
    cause_fraction: Floats

    def __len__(self) -> int:
        return len(self.duration_s)


def join(parts: list[Tasks]) -> Tasks:
    columns = zip(
        *((p.duration_s, p.rank, p.stream, p.kind, p.work, p.place, p.cause_fraction) for p in parts), strict=True
    )
    return Tasks(*(np.concatenate(column) for column in columns))


def assemble(tasks: Tasks, edges: Ints, ranks: int) -> TaskGraph:
    """Sorts the tasks into streams, adds each stream's order to the dependency `edges` [e, 2] (before, after)."""
    order = np.lexsort((tasks.place[:, 1], tasks.place[:, 0], tasks.stream, tasks.rank))
    new = np.empty(len(order), dtype=np.int64)
    new[order] = np.arange(len(order))
    rank, stream, work = tasks.rank[order], tasks.stream[order], tasks.work[order]
    follows = 1 + np.flatnonzero((rank[1:] == rank[:-1]) & (stream[1:] == stream[:-1]))
    before = np.concatenate([new[edges[:, 0]], follows - 1])
    after = np.concatenate([new[edges[:, 1]], follows])
    indptr, preds = to_csr(before, after, len(order))
    return TaskGraph(
        duration_s=tasks.duration_s[order],
        rank=rank,
        stream=stream,
        kind=tasks.kind[order],
        microbatch=work[:, 0],
        chunk=work[:, 1],
        backward_microbatch=work[:, 2],
        backward_chunk=work[:, 3],
        cause_fraction=tasks.cause_fraction[order],
        pred_indptr=indptr,
        preds=preds,
        ranks=ranks,
    )


def to_csr(values: Ints, rows: Ints, count: int) -> tuple[Ints, Ints]:
    """Values grouped by row: (indptr [count + 1], values sorted by row)."""
    indptr = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows, minlength=count), out=indptr[1:])
    return indptr, values[np.argsort(rows, kind="stable")]


def stream_starts(graph: TaskGraph) -> Ints:
    """First task of every (rank, stream) and, last, the task count."""
    turns = 1 + np.flatnonzero((np.diff(graph.rank) != 0) | (np.diff(graph.stream) != 0))
    return np.concatenate([[0], turns, [len(graph)]]) if len(graph) else np.zeros(1, dtype=np.int64)


def slot_pieces(graph: TaskGraph) -> tuple[Ints, Ints]:
    """First piece of the slot that each task belongs to, and into how many pieces the slot is cut."""
    columns = (graph.rank, graph.kind, graph.microbatch, graph.chunk, graph.backward_microbatch, graph.backward_chunk)
    same = np.logical_and.reduce([column[1:] == column[:-1] for column in columns])
    number = np.concatenate([[0], np.cumsum(~same)])
    starts = np.concatenate([[0], 1 + np.flatnonzero(~same)])
    return starts[number], np.bincount(number)[number]


def topological_levels(graph: TaskGraph) -> list[Ints]:
    """Tasks in levels: each task stands one level after the last of those it waits for. Raises Deadlock."""
    count = len(graph)
    waiting = np.diff(graph.pred_indptr)
    after = np.repeat(np.arange(count), waiting)
    indptr, successors = to_csr(after, graph.preds, count)
    first, left, after_of = indptr.tolist(), waiting.tolist(), successors.tolist()
    level = np.flatnonzero(waiting == 0).tolist()
    levels = []
    while level:
        levels.append(np.array(level, dtype=np.int64))
        following = []
        for task in level:
            for successor in after_of[first[task] : first[task + 1]]:
                left[successor] -= 1
                if left[successor] == 0:
                    following.append(successor)
        level = following
    if sum(map(len, levels)) < count:
        raise deadlock(graph, np.flatnonzero(np.array(left)))
    return levels


def deadlock(graph: TaskGraph, blocked: Ints) -> Deadlock:
    """The error that names the first few blocked tasks."""
    some = "; ".join(graph.describe(task) for task in blocked[:4])
    return Deadlock(f"{len(blocked)} of {len(graph)} tasks wait for each other in a circle, among them {some}")
