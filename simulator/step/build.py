"""From a schedule and the times of its slots to the task graph of one training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.schedules import FORWARD, Schedule
from simulator.step.data_parallel import Blocking, data_parallel_tasks, slot_buckets, slot_pieces
from simulator.step.flat_slots import Bools, FlatSlots, flatten
from simulator.step.graph import KIND, STREAM, WORLD, Floats, Ints, Links, TaskGraph, Tasks, assemble, join
from simulator.step.times import SLOT_CAUSES, StageTimes, check

AFTER_SLOT = 1 << 20  # order within a slot's place: its pieces first, then its blocking sends


@dataclass(frozen=True, slots=True)
class _Ends:
    """By slot [slots]: its first and its last compute task, and what of data parallelism blocks it."""

    entry: Ints
    leave: Ints
    blocking: Blocking


def build_graph(schedule: Schedule, times: StageTimes) -> TaskGraph:
    """The step's task graph. Raises ValueError when times and schedule do not fit each other or the schedule
    leaves out or repeats a forward or backward."""
    check(times, schedule.stages, schedule.pp)
    slots, data = flatten(schedule), times.data_parallel
    buckets = slot_buckets(slots, data)
    pieces = slot_pieces(slots, buckets, data)
    first = np.concatenate([[0], np.cumsum(pieces)])
    compute = _compute_tasks(slots, _slot_seconds(slots, times), pieces)
    dp_tasks, dp_links, blocking = data_parallel_tasks(slots, data, buckets, first)
    ends = _Ends(first[:-1], first[1:] - 1, blocking.shifted(len(compute)))
    parts = [compute, dp_tasks]
    edges = [_shift_new(dp_links, len(compute))]
    for forward in (True, False):
        sends, links = _hand_over(slots, times, ends, forward)
        edges.append(_shift_new(links, sum(map(len, parts))))
        parts.append(sends)
    tail = _tail(join(parts), schedule.pp, times)
    if tail is not None:
        edges.append(tail[1])
        parts.append(tail[0])
    return assemble(join(parts), np.concatenate(edges), schedule.pp)


def _slot_seconds(slots: FlatSlots, times: StageTimes) -> Floats:
    """Seconds of each slot by cause [slots, SLOT_CAUSES]."""
    seconds = np.zeros((len(slots), len(SLOT_CAUSES)))
    for kind in ("F", "B", "I", "W", "FB"):
        rows = np.flatnonzero(slots.kind == KIND[kind])
        own = slots.forward_stage[rows] if kind in FORWARD else slots.backward_stage[rows]
        seconds[rows] = times.by_cause(kind, own, slots.backward_stage[rows])
    return seconds


def _compute_tasks(slots: FlatSlots, seconds: Floats, pieces: Ints) -> Tasks:
    """The slots on the compute streams, each cut into its pieces."""
    of = np.repeat(np.arange(len(slots)), pieces)
    piece = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    whole = seconds.sum(axis=1)
    fraction = np.divide(seconds, whole[:, None], out=np.zeros_like(seconds), where=whole[:, None] > 0)
    compute = np.full(len(of), STREAM["compute"])
    place = np.stack([slots.position[of], piece], axis=1)
    return Tasks((whole / pieces)[of], slots.rank[of], compute, slots.kind[of], slots.work[of], place, fraction[of])


def _hand_over(slots: FlatSlots, times: StageTimes, ends: _Ends, forward: bool) -> tuple[Tasks, Links]:
    """Activations (or gradients) from stage to stage: the sends between ranks, and who waits for whom."""
    table = slots.of_forward if forward else slots.of_backward
    before, after = (table[:, :-1], table[:, 1:]) if forward else (table[:, 1:], table[:, :-1])
    stage = np.arange(table.shape[1])[:-1] if forward else np.arange(table.shape[1])[1:]
    source, target = before.ravel(), after.ravel()
    send_s = (times.send_forward_s if forward else times.send_backward_s)[np.broadcast_to(stage, before.shape).ravel()]
    away = slots.rank[source] != slots.rank[target]
    near, far = np.flatnonzero(~away), np.flatnonzero(away)
    sender = source[far]
    blocking = _blocking(slots, times)[sender]
    name = "send_forward" if forward else "send_backward"
    pair = slots.kind[sender] == KIND["FB"]
    work = slots.work[sender].copy()
    if not forward:
        work[pair, :2] = work[pair, 2:]
    work[:, 2:] = -1
    sends = Tasks(
        duration_s=np.asarray(send_s[far], dtype=np.float64),
        rank=slots.rank[sender],
        stream=np.where(blocking, STREAM["compute"], STREAM["pp"]),
        kind=np.full(len(far), KIND[name]),
        work=work,
        place=np.stack([slots.position[sender], np.full(len(far), AFTER_SLOT + (not forward))], axis=1),
        cause_fraction=np.zeros((len(far), len(SLOT_CAUSES))),
    )
    new, receiver = np.arange(len(far)), target[far]
    gathers, reduces = ends.blocking.gather[receiver], ends.blocking.reduce[sender]
    gathered, reduced = np.flatnonzero(gathers >= 0), np.flatnonzero(reduces >= 0)
    return sends, [
        (ends.leave[source[near]], ends.entry[target[near]], False, False),
        (ends.leave[sender], new, False, True),
        (new, ends.entry[receiver], True, False),
        (new[gathered], gathers[gathered], True, False),
        (reduces[reduced], new[reduced], False, True),
    ]


def _shift_new(links: Links, offset: int) -> Ints:
    """Edges [e, 2] once the new tasks are numbered from `offset`."""
    shifted = [(before + new * offset, after + late * offset) for before, after, new, late in links]
    return np.concatenate([np.stack(pair, axis=1) for pair in shifted])


def _blocking(slots: FlatSlots, times: StageTimes) -> Bools:
    """Which slots' sends hold the compute stream."""
    if times.p2p != "steady":
        return np.full(len(slots), times.p2p == "blocking")
    ranks = slots.rank.max() + 1
    first_backward, last_forward = np.full(ranks, len(slots)), np.full(ranks, -1)
    backward, forward = slots.backward_stage >= 0, slots.forward_stage >= 0
    np.minimum.at(first_backward, slots.rank[backward], slots.position[backward])
    np.maximum.at(last_forward, slots.rank[forward], slots.position[forward])
    return (slots.position < first_backward[slots.rank]) | (slots.position > last_forward[slots.rank])


def _tail(tasks: Tasks, ranks: int, times: StageTimes) -> tuple[Tasks, Ints] | None:
    """The gradient-norm all-reduce that waits for everything, and each rank's optimizer after it."""
    data = times.data_parallel
    if not data.optimizer_s and not data.grad_norm_s:
        return None
    optimizer_s = data.optimizer_s or (0.0,) * ranks
    norm, count = len(tasks), ranks + 1
    none = np.full((count, 4), -1)
    tail = Tasks(
        duration_s=np.array([data.grad_norm_s, *optimizer_s]),
        rank=np.concatenate([[WORLD], np.arange(ranks)]),
        stream=np.array([STREAM["dp"]] + [STREAM["compute"]] * ranks),
        kind=np.array([KIND["norm"]] + [KIND["optimizer"]] * ranks),
        work=none,
        place=np.full((count, 2), np.iinfo(np.int64).max),
        cause_fraction=np.zeros((count, len(SLOT_CAUSES))),
    )
    order = np.lexsort((tasks.place[:, 1], tasks.place[:, 0], tasks.stream, tasks.rank))
    rank, stream = tasks.rank[order], tasks.stream[order]
    last = order[np.append((np.diff(rank) != 0) | (np.diff(stream) != 0), True)]
    waits = np.stack([last, np.full(len(last), norm)], axis=1)
    starts = np.stack([np.full(ranks, norm), norm + 1 + np.arange(ranks)], axis=1)
    return tail, np.concatenate([waits, starts])
