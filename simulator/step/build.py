"""From a schedule and the times of its slots to the task graph of one training step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulator.schedules import BACKWARD, FORWARD, Schedule
from simulator.step.graph import KIND, STREAM, WORLD, Floats, Ints, TaskGraph, Tasks, assemble, join
from simulator.step.times import SLOT_CAUSES, StageTimes, check

Bools = NDArray[np.bool_]
Links = list[tuple[Ints, Ints, bool, bool]]  # before, after, whether each counts within the new tasks
AFTER_SLOT = 1 << 20  # order within a slot's place: its pieces first, then its blocking sends


@dataclass(frozen=True, slots=True)
class _Slots:
    """The schedule flattened: one row per slot, with the virtual stages its halves belong to (-1: no such half)."""

    kind: Ints
    work: Ints
    rank: Ints
    position: Ints
    forward_stage: Ints
    backward_stage: Ints
    of_forward: Ints  # [microbatches, stages] -> slot
    of_backward: Ints

    def __len__(self) -> int:
        return len(self.kind)


def build_graph(schedule: Schedule, times: StageTimes) -> TaskGraph:
    """The step's task graph. Raises ValueError when times and schedule do not fit each other or the schedule
    leaves out or repeats a forward or backward."""
    check(times, schedule.stages, schedule.pp)
    slots = _flatten(schedule)
    seconds = _slot_seconds(slots, times)
    gathers, reduces = _buckets(slots, times)
    pieces = np.ones(len(slots), dtype=np.int64)
    data = times.data_parallel
    for slot, row in (gathers if data.gather_overlap else []) + (reduces if data.reduce_overlap else []):
        pieces[slot] = max(pieces[slot], len(row))
    first = np.concatenate([[0], np.cumsum(pieces)])
    entry, leave = first[:-1], first[1:] - 1
    parts = [_compute_tasks(slots, seconds, pieces)]
    edges: list[Ints] = []
    for sends, links in (_hand_over(slots, times, entry, leave, forward) for forward in (True, False)):
        edges.append(_shift_new(links, sum(map(len, parts))))
        parts.append(sends)
    dp_tasks, links = _dp_tasks(slots, times, (gathers, reduces), first)
    edges.append(_shift_new(links, sum(map(len, parts))))
    parts.append(dp_tasks)
    tail = _tail(join(parts), schedule.pp, times)
    if tail is not None:
        edges.append(tail[1])
        parts.append(tail[0])
    return assemble(join(parts), np.concatenate(edges), schedule.pp)


def _flatten(schedule: Schedule) -> _Slots:
    rows = [slot for slots in schedule.ranks for slot in slots]
    counts = np.array([len(slots) for slots in schedule.ranks])
    kind = np.array([KIND[row[0]] for row in rows])
    work = np.array([row[1:] for row in rows])
    rank = np.repeat(np.arange(schedule.pp), counts)
    position = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    own = schedule.stage_of_chunk[rank, work[:, 1]]
    pair = kind == KIND["FB"]
    other = np.where(pair, schedule.stage_of_chunk[rank, work[:, 3]], own)
    forward_stage = np.where(np.isin(kind, [KIND["F"], KIND["FB"]]), own, -1)
    backward_stage = np.where(kind == KIND["F"], -1, other)
    shape = (schedule.microbatches, schedule.stages)
    forward = _index(forward_stage >= 0, work[:, 0], forward_stage, shape, "forward")
    runs_backward = np.isin(kind, [KIND[k] for k in BACKWARD])
    backward_microbatch = np.where(pair, work[:, 2], work[:, 0])
    backward = _index(runs_backward, backward_microbatch, backward_stage, shape, "backward")
    if (position[forward] >= position[backward]).any():
        raise ValueError(f"schedule {schedule.name!r}: a backward stands before its forward on its rank")
    return _Slots(kind, work, rank, position, forward_stage, backward_stage, forward, backward)


def _index(mask: Bools, microbatch: Ints, stage: Ints, shape: tuple[int, int], what: str) -> Ints:
    """[microbatches, stages] -> the slot that does it. A stage held by two ranks still sees each micro-batch once."""
    slots = np.flatnonzero(mask)
    key = microbatch[slots] * shape[1] + stage[slots]
    counts = np.bincount(key, minlength=shape[0] * shape[1])
    if len(counts) != shape[0] * shape[1] or (counts != 1).any():
        bad = int(np.flatnonzero(counts != 1)[0])
        where = f"micro-batch {bad // shape[1]} on stage {bad % shape[1]}"
        raise ValueError(f"the schedule must hold one {what} of each micro-batch and stage; {where} has {counts[bad]}")
    table = np.empty(shape[0] * shape[1], dtype=np.int64)
    table[key] = slots
    return table.reshape(shape)


def _slot_seconds(slots: _Slots, times: StageTimes) -> Floats:
    """Seconds of each slot by cause [slots, SLOT_CAUSES]."""
    seconds = np.zeros((len(slots), len(SLOT_CAUSES)))
    for kind in ("F", "B", "I", "W", "FB"):
        rows = np.flatnonzero(slots.kind == KIND[kind])
        own = slots.forward_stage[rows] if kind in FORWARD else slots.backward_stage[rows]
        seconds[rows] = times.by_cause(kind, own, slots.backward_stage[rows])
    return seconds


def _compute_tasks(slots: _Slots, seconds: Floats, pieces: Ints) -> Tasks:
    """The slots on the compute streams, each cut into its pieces."""
    of = np.repeat(np.arange(len(slots)), pieces)
    piece = np.arange(len(of)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    whole = seconds.sum(axis=1)
    fraction = np.divide(seconds, whole[:, None], out=np.zeros_like(seconds), where=whole[:, None] > 0)
    compute = np.full(len(of), STREAM["compute"])
    place = np.stack([slots.position[of], piece], axis=1)
    return Tasks((whole / pieces)[of], slots.rank[of], compute, slots.kind[of], slots.work[of], place, fraction[of])


def _hand_over(slots: _Slots, times: StageTimes, entry: Ints, leave: Ints, forward: bool) -> tuple[Tasks, Links]:
    """Activations (or gradients) from stage to stage: the sends between ranks, and who waits for whom.

    Links are (before, after, before is new, after is new): "new" numbers count within the sends.
    """
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
    new = np.arange(len(far))
    return sends, [
        (leave[source[near]], entry[target[near]], False, False),
        (leave[sender], new, False, True),
        (new, entry[target[far]], True, False),
    ]


def _shift_new(links: Links, offset: int) -> Ints:
    """Edges [e, 2] once the new tasks are numbered from `offset`."""
    shifted = [(before + new * offset, after + late * offset) for before, after, new, late in links]
    return np.concatenate([np.stack(pair, axis=1) for pair in shifted])


def _blocking(slots: _Slots, times: StageTimes) -> Bools:
    """Which slots' sends hold the compute stream."""
    if times.p2p != "steady":
        return np.full(len(slots), times.p2p == "blocking")
    ranks = slots.rank.max() + 1
    first_backward, last_forward = np.full(ranks, len(slots)), np.full(ranks, -1)
    backward, forward = slots.backward_stage >= 0, slots.forward_stage >= 0
    np.minimum.at(first_backward, slots.rank[backward], slots.position[backward])
    np.maximum.at(last_forward, slots.rank[forward], slots.position[forward])
    return (slots.position < first_backward[slots.rank]) | (slots.position > last_forward[slots.rank])


Buckets = list[tuple[int, tuple[float, ...]]]  # (slot, durations)


def _buckets(slots: _Slots, times: StageTimes) -> tuple[Buckets, Buckets]:
    """Which slots gather parameters before, and reduce gradients after they run, with the bucket durations."""
    data = times.data_parallel
    if data.every_microbatch and (slots.kind == KIND["FB"]).any():
        raise ValueError("parameters gathered for every micro-batch (ZeRO-3) with overlapped pairs is not modelled")
    gathers = _at(_users(slots, slots.forward_stage, data.every_microbatch, last=False), data.gather_s)
    ends = np.where(slots.kind == KIND["I"], -1, slots.backward_stage)
    reduces = _at(_users(slots, ends, data.every_microbatch, last=True), data.reduce_s)
    if data.every_microbatch:
        opens = np.where(slots.kind == KIND["W"], -1, slots.backward_stage)
        backwards = _at(_users(slots, opens, True, last=False), data.gather_s)
        gathers += [(slot, row[::-1]) for slot, row in backwards]
    return gathers, reduces


def _users(slots: _Slots, stage: Ints, every: bool, last: bool) -> list[tuple[int, int]]:
    """(slot, stage) of every slot with a stage, or only the first (last) of each rank and stage."""
    rows = np.flatnonzero(stage >= 0)
    if every:
        return list(zip(rows.tolist(), stage[rows].tolist(), strict=True))
    rows = rows[::-1] if last else rows
    _, first = np.unique(slots.rank[rows] * (stage.max() + 1) + stage[rows], return_index=True)
    return list(zip(rows[first].tolist(), stage[rows[first]].tolist(), strict=True))


def _at(users: list[tuple[int, int]], seconds: tuple[tuple[float, ...], ...]) -> Buckets:
    return [(slot, seconds[stage]) for slot, stage in users if seconds and seconds[stage]]


def _dp_tasks(slots: _Slots, times: StageTimes, buckets: tuple[Buckets, Buckets], first: Ints) -> tuple[Tasks, Links]:
    """Parameter gathers and gradient reductions on each rank's dp stream, and whom they wait for."""
    data = times.data_parallel
    begin, end = _rank_span(slots, first)
    gathered, used_by = _spread(buckets[0], first, before=True)
    reduced, made_by = _spread(buckets[1], first, before=False)
    if not data.gather_overlap:
        used_by = begin[slots.rank[gathered]]
    if not data.reduce_overlap:
        made_by = end[slots.rank[reduced]]
    slot, task = np.concatenate([gathered, reduced]), np.concatenate([used_by, made_by])
    new, reduces = np.arange(len(slot)), np.arange(len(slot)) >= len(gathered)
    # A rank's dp stream: what task i + 1 gathers, then what task i reduces, then what task i + 2 gathers.
    place = np.stack([2 * task + np.where(reduces, 1, -2), new], axis=1)
    tasks = Tasks(
        duration_s=np.array([second for group in buckets for _, row in group for second in row], dtype=np.float64),
        rank=slots.rank[slot],
        stream=np.full(len(slot), STREAM["dp"]),
        kind=np.where(reduces, KIND["reduce"], KIND["gather"]),
        work=slots.work[slot],
        place=place,
        cause_fraction=np.zeros((len(slot), len(SLOT_CAUSES))),
    )
    links: Links = [(used := new[~reduces], used_by, True, False), (made_by, new[reduces], False, True)]
    if data.every_microbatch and data.gather_overlap:
        # Memory for gathered parameters is for the layer in use and the next one only.
        ahead = np.flatnonzero(used_by - 2 >= begin[slots.rank[gathered]])
        links.append((used_by[ahead] - 2, used[ahead], False, True))
    return tasks, links


def _spread(buckets: Buckets, first: Ints, before: bool) -> tuple[Ints, Ints]:
    """Slot of every single bucket, and the piece of the slot it is needed before (or filled after)."""
    slot = np.array([slot for slot, row in buckets for _ in row], dtype=np.int64)
    of = np.array([len(row) for _, row in buckets for _ in row], dtype=np.int64)
    index = np.array([index for _, row in buckets for index in range(len(row))], dtype=np.int64)
    pieces = first[slot + 1] - first[slot]
    piece = index * pieces // of if before else -(-(index + 1) * pieces // of) - 1
    return slot, first[slot] + piece


def _rank_span(slots: _Slots, first: Ints) -> tuple[Ints, Ints]:
    """First and last compute task of every rank."""
    starts = np.flatnonzero(np.diff(slots.rank, prepend=-1))
    return first[starts], first[np.append(starts[1:], len(slots))] - 1


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
