"""The step as a Chrome / Perfetto trace: a process per pipeline rank, a thread per stream, flows for transfers,
counters for memory; communication carries the argument names that PyTorch's Kineto writes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardware.precisions import FORMATS
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan
from simulator.schedules import Schedule
from simulator.step.graph import KIND, KINDS, STREAM, STREAMS, WORLD, TaskGraph
from simulator.step.memory_timeline import MemoryTimeline
from simulator.step.timeline import Timeline
from simulator.workload.states import StageParameters, replica_ranks, shard_count

MICRO = 1e6  # trace times are microseconds
NAMES = {"F": "forward", "B": "backward", "I": "input gradient", "W": "weight gradient", "FB": "forward + backward"}
COLLECTIVE = {"send_forward": "send", "send_backward": "send", "gather": "_allgather_base",
              "reduce": "_reduce_scatter_base", "norm": "allreduce"}  # fmt: skip
Event = dict[str, Any]
Collectives = dict[tuple[str, int, int], "CollectiveInfo"]  # by task kind, pipeline rank and chunk


@dataclass(frozen=True, slots=True)
class CollectiveInfo:
    """What Kineto says of a collective: process group, its size, dtype, elements in and out."""

    group_name: str
    group_size: int
    dtype: str
    in_elements: int
    out_elements: int

    def arguments(self, buckets: int) -> dict[str, Any]:
        """Of one of `buckets` equal parts."""
        return {
            "In msg nelems": self.in_elements // buckets,
            "Out msg nelems": self.out_elements // buckets,
            "Group size": self.group_size,
            "dtype": self.dtype,
            "Process Group Name": self.group_name,
        }


def collectives_of(
    plan: Plan, sent_elements: int, parameters: Sequence[StageParameters], schedule: Schedule
) -> Collectives:
    """What Kineto would say of a plan's transfers: micro-batch activations of `sent_elements` between stages, and
    the gathers and reductions of each stage's `parameters`, dense ones over data parallelism (whose size it tells)
    and experts over theirs. By task kind, pipeline rank and chunk."""
    copies = replica_ranks(plan)
    dense, expert = (int(shard_count(plan, copies[kind])) for kind in ("dense", "expert"))
    grads = FORMATS[plan.optimizer.grad_reduce].torch_name
    sent = CollectiveInfo("pipeline", 2, "BFloat16", sent_elements, sent_elements)
    found: Collectives = {("norm", WORLD, -1): CollectiveInfo("world", plan.gpus, "Float", 1, 1)}
    # Fully sharded parameters are gathered twice per micro-batch, for forward and for backward.
    times = 2 if SHARDINGS[plan.sharding].shards_weights else 1
    for (rank, chunk), stage in np.ndenumerate(schedule.stage_of_chunk):
        held = parameters[int(stage)]
        whole, shard = int(held.dense + held.expert), int(held.dense / dense + held.expert / expert)
        found |= {
            ("send_forward", rank, chunk): sent,
            ("send_backward", rank, chunk): sent,
            ("gather", rank, chunk): CollectiveInfo("data_parallel", dense, "BFloat16", times * shard, times * whole),
            ("reduce", rank, chunk): CollectiveInfo("data_parallel", dense, grads, whole, shard),
        }
    return found


def chrome_trace(
    timeline: Timeline,
    collectives: Collectives | None = None,
    memory: Mapping[int, MemoryTimeline] | None = None,
    name: str = "step",
) -> dict[str, Any]:
    """The trace document. `collectives`: what is known of the transfers; `memory`: by pipeline rank."""
    events = _metadata(timeline.graph) + _tasks(timeline, collectives or {}) + _flows(timeline)
    events += _link_use(timeline)
    events += [event for rank, held in (memory or {}).items() for event in _counters(rank, held)]
    return {
        "schemaVersion": 1,
        "displayTimeUnit": "ms",
        "traceName": name,
        "distributedInfo": {"backend": "nccl", "rank": 0, "world_size": timeline.graph.ranks},
        "traceEvents": events,
    }


def trace_bytes(document: Mapping[str, Any], compressed: bool) -> bytes:
    """The document as JSON, gzipped where `compressed`; the same bytes whenever it is written."""
    data = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return gzip.compress(data, mtime=0) if compressed else data


def process(graph: TaskGraph, rank: int) -> int:
    """Number of a rank's process; what all ranks do together stands after them, for readers take no negative one."""
    return rank if rank >= 0 else graph.ranks


def _metadata(graph: TaskGraph) -> list[Event]:
    events: list[Event] = []
    pairs = zip(graph.rank.tolist(), graph.stream.tolist(), strict=True)
    lanes = {(process(graph, rank), stream) for rank, stream in pairs}
    for number in sorted({number for number, _ in lanes}):
        label = f"pipeline rank {number}" if number < graph.ranks else "all ranks"
        events.append({"ph": "M", "pid": number, "name": "process_name", "args": {"name": label}})
        events.append({"ph": "M", "pid": number, "name": "process_sort_index", "args": {"sort_index": number}})
    for number, stream in sorted(lanes):
        about = {"ph": "M", "pid": number, "tid": stream}
        events.append({**about, "name": "thread_name", "args": {"name": f"stream {stream} ({STREAMS[stream]})"}})
        events.append({**about, "name": "thread_sort_index", "args": {"sort_index": stream}})
    return events


def _tasks(timeline: Timeline, collectives: Collectives) -> list[Event]:
    graph = timeline.graph
    buckets = _buckets(graph)
    events: list[Event] = []
    for task in range(len(graph)):
        kind = KINDS[graph.kind[task]]
        arguments: dict[str, Any] = {"stream": int(graph.stream[task])}
        if graph.microbatch[task] >= 0:
            arguments |= {"microbatch": int(graph.microbatch[task]), "chunk": int(graph.chunk[task])}
        if kind == "FB":
            arguments["backward microbatch"] = int(graph.backward_microbatch[task])
            arguments["backward chunk"] = int(graph.backward_chunk[task])
        if kind in COLLECTIVE:
            place = (kind, int(graph.rank[task]), int(graph.chunk[task]))
            known = collectives.get(place)
            arguments["Collective name"] = COLLECTIVE[kind]
            arguments |= known.arguments(buckets.get((*place, int(graph.microbatch[task])), 1)) if known else {}
        events.append(
            {
                "ph": "X",
                "cat": "kernel",
                "name": f"ncclDevKernel_{COLLECTIVE[kind]} {kind}" if kind in COLLECTIVE else NAMES.get(kind, kind),
                "pid": process(graph, int(graph.rank[task])),
                "tid": int(graph.stream[task]),
                "ts": timeline.start_s[task] * MICRO,
                "dur": (timeline.end_s[task] - timeline.start_s[task]) * MICRO,
                "args": arguments,
            }
        )
    return events


def _buckets(graph: TaskGraph) -> Counter[tuple[str, int, int, int]]:
    """How many gathers (reductions) move a chunk's parameters for a micro-batch, by kind, rank, chunk, micro-batch."""
    rows = np.flatnonzero(np.isin(graph.kind, (KIND["gather"], KIND["reduce"])))
    columns = (graph.rank, graph.chunk, graph.microbatch)
    return Counter(
        (KINDS[graph.kind[task]], *(int(column[task]) for column in columns))  # type: ignore[misc]
        for task in rows.tolist()
    )


def _flows(timeline: Timeline) -> list[Event]:
    """An arrow from every transfer between ranks to the slot that uses it."""
    graph = timeline.graph
    rows = np.repeat(np.arange(len(graph)), np.diff(graph.pred_indptr))
    sends = np.isin(graph.kind[graph.preds], (KIND["send_forward"], KIND["send_backward"]))
    across = sends & (graph.rank[rows] != graph.rank[graph.preds]) & (graph.rank[rows] >= 0)
    events: list[Event] = []
    for number, (target, source) in enumerate(zip(rows[across].tolist(), graph.preds[across].tolist(), strict=True)):
        about = {"cat": "p2p", "name": KINDS[graph.kind[source]], "id": number}
        begin = {"ph": "s", "pid": int(graph.rank[source]), "tid": int(graph.stream[source])}
        end = {"ph": "f", "bp": "e", "pid": int(graph.rank[target]), "tid": STREAM["compute"]}
        events.append({**about, **begin, "ts": timeline.start_s[source] * MICRO})
        events.append({**about, **end, "ts": timeline.start_s[target] * MICRO})
    return events


def _link_use(timeline: Timeline) -> list[Event]:
    """How many transfers (pipeline sends, gathers, reductions) each rank has under way."""
    graph = timeline.graph
    moves = np.isin(graph.kind, [KIND[kind] for kind in COLLECTIVE]) & (graph.rank >= 0)
    events: list[Event] = []
    for rank in range(graph.ranks):
        mine = moves & (graph.rank == rank)
        moments, at = np.unique(np.concatenate([timeline.start_s[mine], timeline.end_s[mine]]), return_inverse=True)
        change = np.bincount(at[: mine.sum()], minlength=len(moments)) - np.bincount(
            at[mine.sum() :], minlength=len(moments)
        )
        about = {"ph": "C", "pid": rank, "name": "transfers under way"}
        counts = zip(moments.tolist(), np.cumsum(change).tolist(), strict=True)
        events += [{**about, "ts": moment_s * MICRO, "args": {"transfers": count}} for moment_s, count in counts]
    return events


def _counters(rank: int, held: MemoryTimeline) -> list[Event]:
    return [
        {"ph": "C", "pid": rank, "name": "memory (bytes)", "ts": moment_s * MICRO,
         "args": {owner: float(values[index]) for owner, values in held.by_owner.items()}}
        for index, moment_s in enumerate(held.time_s.tolist())
    ]  # fmt: skip
