"""Memory of a pipeline rank along its schedule: who allocates what when, the peak, its moment and its owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.memory.activations import Kept
from simulator.memory.report import RankMemory
from simulator.schedules import BACKWARD, FORWARD, Schedule, Slot, Work, backward_work
from simulator.step.graph import KIND, KINDS, STREAM, Floats, slot_pieces
from simulator.step.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Allocation:
    """Bytes that an owner holds from `begin_s` to `end_s`."""

    owner: str
    bytes: float
    begin_s: float
    end_s: float
    microbatch: int = -1
    stage: int = -1


@dataclass(frozen=True, slots=True)
class MemoryTimeline:
    """Bytes held after each moment `time_s` [moments], by owner; owners are constant between moments."""

    time_s: Floats
    by_owner: dict[str, Floats]

    @property
    def total(self) -> Floats:
        computed: Floats = np.sum(list(self.by_owner.values()), axis=0)
        return computed

    def peak(self) -> tuple[float, float, dict[str, float]]:
        """(bytes, first moment in seconds, bytes by owner) of the peak."""
        total = self.total
        at = int(total.argmax())
        return (
            float(total[at]),
            float(self.time_s[at]),
            {owner: float(held[at]) for owner, held in self.by_owner.items()},
        )


def rank_memory(timeline: Timeline, schedule: Schedule, kept: Sequence[Kept], report: RankMemory) -> MemoryTimeline:
    """A pipeline rank's memory over the step; `kept` of every virtual stage, what is constant from its report."""
    constant = {owner: size for owner, size in report.owners.items() if owner not in ("activations", "working")}
    return memory_over_time(allocations(timeline, schedule, kept, report.rank), constant, timeline.step_time_s)


def allocations(timeline: Timeline, schedule: Schedule, kept: Sequence[Kept], rank: int) -> list[Allocation]:
    """What a rank's slots allocate and free, given what one micro-batch leaves on each virtual stage.

    A forward allocates when it starts, a backward frees when it ends; the halves of an overlapped pair work layer by
    layer, so that what one fills the other has freed.
    """
    begun: dict[Work, list[float]] = {}
    found: list[Allocation] = []
    for slot, start_s, end_s in _slot_spans(timeline, rank):
        if slot.kind in FORWARD:
            count = max(1, kept[schedule.stage_of_chunk[rank, slot.chunk]].layers)
            steps = _steps(start_s, end_s, count)[:-1] if slot.kind == "FB" else [start_s] * count
            begun[slot.microbatch, slot.chunk] = steps
        if slot.kind == "F":
            continue
        work = backward_work(slot)
        stage = int(schedule.stage_of_chunk[rank, work[1]])
        begins = begun[work] if slot.kind == "I" else begun.pop(work)
        ends = _steps(start_s, end_s, len(begins))[:0:-1] if slot.kind == "FB" else [end_s] * len(begins)
        freed = _freed_bytes(slot.kind, kept[stage]) / len(begins)
        found += [Allocation("activations", freed, *span, work[0], stage) for span in zip(begins, ends, strict=True)]
        if slot.kind in BACKWARD:
            found.append(Allocation("working", float(kept[stage].working), start_s, end_s, work[0], stage))
    return [allocation for allocation in found if allocation.bytes]


def _freed_bytes(kind: str, kept: Kept) -> float:
    """What a backward, or a half of it, lets go."""
    if kind == "W":
        return float(kept.until_wgrad)
    return float(kept.until_backward - (kept.until_wgrad if kind == "I" else 0.0))


def _steps(start_s: float, end_s: float, count: int) -> list[float]:
    return [start_s + (end_s - start_s) * (step / count) for step in range(count)] + [end_s]


def _slot_spans(timeline: Timeline, rank: int) -> list[tuple[Slot, float, float]]:
    """A rank's slots in order with start and end, pieces of one slot joined."""
    graph = timeline.graph
    first, pieces = slot_pieces(graph)
    mine = (graph.rank == rank) & (graph.stream == STREAM["compute"]) & (graph.kind <= KIND["FB"])
    starts = np.flatnonzero(mine & (first == np.arange(len(graph))))
    columns = (graph.microbatch, graph.chunk, graph.backward_microbatch, graph.backward_chunk)
    return [
        (
            Slot(KINDS[graph.kind[task]], *(int(column[task]) for column in columns)),  # type: ignore[arg-type]
            float(timeline.start_s[task]),
            float(timeline.end_s[task + pieces[task] - 1]),
        )
        for task in starts.tolist()
    ]


def memory_over_time(held: Sequence[Allocation], constant: Mapping[str, float], until_s: float = 0.0) -> MemoryTimeline:
    """Adds the allocations up, on top of what is held all the time (weights, optimizer, ...), at least `until_s`.
    At one moment frees come before allocations."""
    moments = np.unique([0.0, until_s] + [a.begin_s for a in held] + [a.end_s for a in held])
    owners = {owner: np.full(len(moments), float(size)) for owner, size in constant.items()}
    for owner in sorted({a.owner for a in held}):
        own = [a for a in held if a.owner == owner]
        change = np.zeros(len(moments) + 1)
        sizes = np.array([a.bytes for a in own])
        np.add.at(change, np.searchsorted(moments, [a.begin_s for a in own]), sizes)
        np.subtract.at(change, np.searchsorted(moments, [a.end_s for a in own]), sizes)
        owners[owner] = owners.get(owner, 0.0) + np.cumsum(change[:-1])
    return MemoryTimeline(moments, owners)


def memory_snapshot(held: Sequence[Allocation], constant: Mapping[str, float]) -> dict[str, object]:
    """The allocations as a PyTorch memory snapshot (what torch.cuda.memory._dump_snapshot pickles): one trace of
    alloc and free events whose frames name the owner; addresses are consecutive."""
    events: list[tuple[float, int, dict[str, object]]] = []
    address = 1 << 40
    whole = [Allocation(owner, size, 0.0, np.inf) for owner, size in constant.items()]
    for allocation in [*whole, *held]:
        size = int(allocation.bytes)
        where = f"{allocation.owner}, micro-batch {allocation.microbatch}, stage {allocation.stage}"
        name = where if allocation.microbatch >= 0 else allocation.owner
        frames = [{"filename": "step", "line": 0, "name": name}]
        for moment_s, order, action in ((allocation.begin_s, 1, "alloc"), (allocation.end_s, 0, "free_completed")):
            if np.isfinite(moment_s):
                event = {"action": action, "addr": address, "size": size, "stream": 0}
                events.append((moment_s, order, event | {"time_us": round(moment_s * 1e6), "frames": frames}))
        address += size
    trace = [event for _, _, event in sorted(events, key=lambda entry: entry[:2])]
    return {"segments": [], "device_traces": [trace], "allocator_settings": {}, "external_annotations": []}
