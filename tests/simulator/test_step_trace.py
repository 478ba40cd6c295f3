"""The trace is the timeline, in the format its readers expect; the picture has a box for every slot."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ET
from itertools import pairwise

import jsonschema
import numpy as np
import pytest

from simulator.memory.activations import Kept
from simulator.plans.spec import Optimizer, Plan
from simulator.report.gantt import gantt_svg
from simulator.report.step_trace import Event, chrome_trace, collectives_of, trace_bytes
from simulator.schedules import SCHEDULES, make_schedule
from simulator.step.build import build_graph
from simulator.step.graph import STREAM
from simulator.step.memory_timeline import allocations, memory_over_time
from simulator.step.player import play
from simulator.step.timeline import Timeline
from simulator.step.times import DataParallel, StageTimes
from simulator.workload.states import StageParameters


def played(name: str = "1f1b") -> Timeline:
    pp = 1 if name.startswith("none") else 4
    schedule = make_schedule(name, pp, 2 if name.startswith("interleaved") else 1, 8)
    one = np.ones(schedule.stages)
    data = DataParallel(reduce_s=((0.5, 0.5),) * schedule.stages, grad_norm_s=0.1, optimizer_s=(0.3,) * pp)
    times = StageTimes(*({"compute": one} for _ in range(3)), 0.1 * one, 0.1 * one, data_parallel=data)  # type: ignore[misc,arg-type]
    return play(build_graph(schedule, times))


def test_events_are_the_tasks() -> None:
    timeline = played()
    document = chrome_trace(timeline)
    done = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(done) == len(timeline.graph)
    assert max(event["ts"] + event["dur"] for event in done) == pytest.approx(timeline.step_time_s * 1e6)
    by_lane: dict[tuple[int, int], float] = {}
    for event in sorted(done, key=lambda e: (e["ts"], e["ts"] + e["dur"])):
        lane = (event["pid"], event["tid"])
        assert event["ts"] >= by_lane.get(lane, 0.0) - 1e-6  # a stream does one thing at a time
        by_lane[lane] = event["ts"] + event["dur"]
    named = {(e["pid"], e["tid"]) for e in document["traceEvents"] if e["name"] == "thread_name"}
    assert named == set(by_lane)


def test_flows_join_transfers_to_slots() -> None:
    events = chrome_trace(played())["traceEvents"]
    begins = {e["id"]: e for e in events if e["ph"] == "s"}
    ends = {e["id"]: e for e in events if e["ph"] == "f"}
    assert len(begins) == len(ends) == 2 * 8 * 3
    for number, begin in begins.items():
        assert abs(begin["pid"] - ends[number]["pid"]) == 1
        assert ends[number]["ts"] >= begin["ts"]


def test_collectives_carry_kinetos_names() -> None:
    plan = Plan(dp=32, cp=2, pp=4, micro_batch_size=1, global_batch_size=256, optimizer=Optimizer(grad_reduce="bf16"))
    schedule = make_schedule("1f1b", 4, 1, 8)
    held = [StageParameters(6400.0 * (stage + 1), 0.0, ()) for stage in range(4)]
    events = chrome_trace(played(), collectives_of(plan, 4096 * 100, held, schedule))["traceEvents"]
    reduces = [e for e in events if "reduce_scatter" in e["name"]]
    assert reduces
    for event in reduces:
        assert event["args"]["Collective name"] == "_reduce_scatter_base"
        assert {"In msg nelems", "Out msg nelems", "Group size", "dtype", "Process Group Name"} <= set(event["args"])
        whole = 6400 * (event["pid"] + 1) // 2  # in two buckets
        assert (event["args"]["In msg nelems"], event["args"]["Out msg nelems"]) == (whole, whole // 64)
        assert (event["args"]["Group size"], event["args"]["dtype"]) == (64, "BFloat16")
    sends = [e for e in events if e.get("args", {}).get("Collective name") == "send"]
    assert {e["args"]["In msg nelems"] for e in sends} == {409600}


NUMBER = {"type": "number", "minimum": 0}
WHOLE = {"type": "integer", "minimum": 0}
COMMON = {"ph": {"type": "string"}, "pid": WHOLE, "name": {"type": "string"}}


def shape_of_event(**more: object) -> dict[str, object]:
    properties = COMMON | more
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# The Trace Event Format's event types that a step uses, each with exactly the keys that it defines.
EVENTS = {
    "X": shape_of_event(tid=WHOLE, ts=NUMBER, dur=NUMBER, cat={"type": "string"}, args={"type": "object"}),
    "s": shape_of_event(tid=WHOLE, ts=NUMBER, id=WHOLE, cat={"type": "string"}),
    "f": shape_of_event(tid=WHOLE, ts=NUMBER, id=WHOLE, cat={"type": "string"}, bp={"const": "e"}),
    "C": shape_of_event(ts=NUMBER, args={"type": "object", "additionalProperties": NUMBER, "minProperties": 1}),
    "M": {"type": "object", "required": ["ph", "pid", "name", "args"]},
}
METADATA = {"process_name": "name", "process_sort_index": "sort_index", "thread_name": "name",
            "thread_sort_index": "sort_index"}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_trace_keeps_the_trace_event_format(name: str) -> None:
    """Every event has the keys of its type; slices of a thread never cross; flow ends lie in slices."""
    pp = 1 if name.startswith("none") else 4
    schedule, timeline = make_schedule(name, pp, 2 if name.startswith("interleaved") else 1, 8), played(name)
    held = memory_over_time(allocations(timeline, schedule, [Kept(1e9)] * schedule.stages, 0), {"weights": 5e9})
    document = json.loads(trace_bytes(chrome_trace(timeline, memory={0: held}), compressed=False))
    events = document["traceEvents"]
    validators = {kind: jsonschema.Draft202012Validator(schema) for kind, schema in EVENTS.items()}  # type: ignore[arg-type]
    for event in events:
        validators[event["ph"]].validate(event)
        if event["ph"] == "M":
            assert set(event["args"]) == {METADATA[event["name"]]}
    slices = slices_by_thread(events)
    for lane in slices.values():
        assert all(begin >= end * (1 - 1e-12) - 1e-6 for (_, end), (begin, _) in pairwise(lane))
    for event in events:
        if event["ph"] in "sf":
            lane = slices[event["pid"], event["tid"]]
            assert any(begin - 1e-6 <= event["ts"] <= end + 1e-6 for begin, end in lane)


def slices_by_thread(events: list[Event]) -> dict[tuple[int, int], list[tuple[float, float]]]:
    found: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            found.setdefault((event["pid"], event["tid"]), []).append((event["ts"], event["ts"] + event["dur"]))
    return {lane: sorted(spans) for lane, spans in found.items()}


def test_counters_of_transfers_return_to_zero() -> None:
    events = [e for e in chrome_trace(played())["traceEvents"] if e["name"] == "transfers under way"]
    for rank in range(4):
        counts = [e["args"]["transfers"] for e in sorted(events, key=lambda e: e["ts"]) if e["pid"] == rank]
        assert counts[-1] == 0
        assert min(counts) == 0
        assert 1 <= max(counts) <= 2  # one on the pipeline's stream, one on the data-parallel stream


def test_file_is_gzipped_json_and_repeatable() -> None:
    schedule = make_schedule("1f1b", 4, 1, 8)
    timeline = played()
    held = memory_over_time(allocations(timeline, schedule, [Kept(1e9)] * 4, 0), {"weights": 5e9})
    first, second = (trace_bytes(chrome_trace(timeline, memory={0: held}), compressed=True) for _ in range(2))
    assert first == second
    document = json.loads(gzip.decompress(first))
    counters = [e for e in document["traceEvents"] if e["ph"] == "C"]
    assert max(sum(e["args"].values()) for e in counters) == pytest.approx(5e9 + 4e9)
    assert json.loads(trace_bytes(chrome_trace(timeline), compressed=False))["traceEvents"]


@pytest.mark.parametrize("name", SCHEDULES)
def test_gantt_has_a_box_for_every_slot(name: str) -> None:
    timeline = played(name)
    picture = ET.fromstring(gantt_svg(timeline, f"<{name}>"))
    boxes = [e for e in picture.iter("{http://www.w3.org/2000/svg}rect") if e.get("stroke") == "white"]
    assert len(boxes) == (timeline.graph.stream == STREAM["compute"]).sum()
    right = max(float(box.get("x", 0)) + float(box.get("width", 0)) for box in boxes)
    assert right == pytest.approx(1380, abs=1)
