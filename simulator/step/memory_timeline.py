"""Memory of a pipeline rank along its schedule: who allocates what when, the peak, its moment and its owners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.step.graph import KIND, STREAM, Floats
from simulator.step.schedules import BACKWARD, FORWARD, RankSlots, Schedule
from simulator.step.timeline import Timeline


@dataclass(frozen=True, slots=True)
class StageBytes:
    """What one micro-batch leaves on a virtual stage between forward and backward, bytes.

    `activations` in all, of which `deferred` (inputs of linears, output gradients) stay until the weight gradient
    where that runs apart; `working`: what a backward needs only while it runs. `layers`: how many layers the
    stage frees (or fills) one after the other while an overlapped pair runs.
    """

    activations: float
    deferred: float = 0.0
    working: float = 0.0
    layers: int = 1


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
        return np.sum(list(self.by_owner.values()), axis=0)

    def peak(self) -> tuple[float, float, dict[str, float]]:
        """(bytes, first moment in seconds, bytes by owner) of the peak."""
        total = self.total
        at = int(total.argmax())
        return (
            float(total[at]),
            float(self.time_s[at]),
            {owner: float(held[at]) for owner, held in self.by_owner.items()},
        )


def allocations(timeline: Timeline, schedule: Schedule, stages: Sequence[StageBytes], rank: int) -> list[Allocation]:
    """What a rank's slots allocate and free. A forward allocates when it starts, a backward frees when it ends; the
    halves of an overlapped pair work layer by layer, so that what one fills the other has freed."""
    begun: dict[tuple[int, int], list[float]] = {}
    found: list[Allocation] = []
    for kind, work, back, start_s, end_s in _slot_spans(timeline, rank):
        if kind in FORWARD:
            layers = stages[schedule.stage_of_chunk[rank, work[1]]].layers
            begun[work] = list(_steps(start_s, end_s, layers)[:-1]) if kind == "FB" else [start_s] * layers
        if kind in BACKWARD:
            stage = int(schedule.stage_of_chunk[rank, back[1]])
            held, begins = stages[stage], begun.pop(back)
            ends = _steps(start_s, end_s, held.layers)[:0:-1] if kind == "FB" else [end_s] * held.layers
            share = held.activations - (held.deferred if kind == "I" else 0.0)
            found += [
                Allocation("activations", share / held.layers, begin, end, back[0], stage)
                for begin, end in zip(begins, ends, strict=True)
            ]
            found.append(Allocation("working", held.working, start_s, end_s, back[0], stage))
            if kind == "I":
                begun[back] = begins
        if kind == "W":
            stage = int(schedule.stage_of_chunk[rank, work[1]])
            held, begins = stages[stage], begun.pop(work)
            found += [
                Allocation("activations", held.deferred / held.layers, begin, end_s, work[0], stage) for begin in begins
            ]
    return [allocation for allocation in found if allocation.bytes]


def _steps(start_s: float, end_s: float, count: int) -> list[float]:
    return [start_s + (end_s - start_s) * step / count for step in range(count)] + [end_s]


Span = tuple[str, tuple[int, int], tuple[int, int], float, float]


def _slot_spans(timeline: Timeline, rank: int) -> list[Span]:
    """(kind, work, backward work, start, end) of a rank's slots in order, pieces of one slot joined."""
    graph = timeline.graph
    names = {KIND[kind]: kind for kind in ("F", "B", "I", "W", "FB")}
    spans: list[Span] = []
    for task in np.flatnonzero((graph.rank == rank) & (graph.stream == STREAM["compute"])).tolist():
        kind = names.get(int(graph.kind[task]))
        if kind is None:
            continue
        work = (int(graph.microbatch[task]), int(graph.chunk[task]))
        back = (int(graph.backward_microbatch[task]), int(graph.backward_chunk[task])) if kind == "FB" else work
        start_s, end_s = float(timeline.start_s[task]), float(timeline.end_s[task])
        if spans and spans[-1][:3] == (kind, work, back):
            spans[-1] = (kind, work, back, spans[-1][3], end_s)
        else:
            spans.append((kind, work, back, start_s, end_s))
    return spans


def memory_over_time(held: Sequence[Allocation], constant: Mapping[str, float]) -> MemoryTimeline:
    """Adds the allocations up, on top of what is held all the time (weights, optimizer, ...). At one moment frees
    come before allocations."""
    moments = np.unique([0.0] + [a.begin_s for a in held] + [a.end_s for a in held])
    owners = {owner: np.full(len(moments), float(size)) for owner, size in constant.items()}
    for owner in sorted({a.owner for a in held}):
        own = [a for a in held if a.owner == owner]
        change = np.zeros(len(moments) + 1)
        sizes = np.array([a.bytes for a in own])
        np.add.at(change, np.searchsorted(moments, [a.begin_s for a in own]), sizes)
        np.subtract.at(change, np.searchsorted(moments, [a.end_s for a in own]), sizes)
        owners[owner] = owners.get(owner, 0.0) + np.cumsum(change[:-1])
    return MemoryTimeline(moments, owners)


def static_peak_activations(slots: RankSlots, stages: Sequence[StageBytes]) -> float:
    """Peak bytes of activations from the order of a rank's slots alone; `stages` are those of its chunks in order."""
    live = peak = 0.0
    for slot in slots:
        filled = stages[slot.chunk].activations if slot.kind in FORWARD else 0.0
        chunk = slot.backward_chunk if slot.kind == "FB" else slot.chunk
        done = stages[chunk]
        freed = {"F": 0.0, "W": done.deferred, "I": done.activations - done.deferred}.get(slot.kind, done.activations)
        if slot.kind == "FB":
            steps = np.arange(1, stages[slot.chunk].layers + 1) / stages[slot.chunk].layers
            before = np.floor((steps - steps[0]) * done.layers + 1e-9) / done.layers
            peak = max(peak, live + float((steps * filled - before * freed).max()))
        peak = max(peak, live + filled) if slot.kind == "F" else peak
        live += filled - freed
    return peak


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
