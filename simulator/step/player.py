"""Plays a task graph with SimPy: every stream of every rank is a process that works through its tasks."""

from __future__ import annotations

from collections.abc import Generator
from itertools import pairwise
from typing import Any

import numpy as np
import simpy

from simulator.step.graph import TaskGraph, deadlock, stream_starts
from simulator.step.timeline import Timeline


def play(graph: TaskGraph) -> Timeline:
    """Runs the step event by event. Raises Deadlock when tasks wait for each other in a circle."""
    env = simpy.Environment()
    count = len(graph)
    started, ended = [-1.0] * count, [-1.0] * count
    rows = np.repeat(np.arange(count), np.diff(graph.pred_indptr))
    # The task before on the same stream is the process's own order; only other streams' ends need an event.
    abroad = (graph.rank[rows] != graph.rank[graph.preds]) | (graph.stream[rows] != graph.stream[graph.preds])
    abroad |= graph.preds > rows
    done: dict[int, simpy.Event] = {task: env.event() for task in np.unique(graph.preds[abroad]).tolist()}
    waits: dict[int, list[simpy.Event]] = {}
    for row, pred in zip(rows[abroad].tolist(), graph.preds[abroad].tolist(), strict=True):
        waits.setdefault(row, []).append(done[pred])
    durations = graph.duration_s.tolist()

    def work(first: int, last: int) -> Generator[simpy.Event, Any, None]:
        for task in range(first, last):
            for event in waits.get(task, ()):
                if not event.processed:
                    yield event
            started[task] = env.now
            if durations[task]:
                yield env.timeout(durations[task])
            ended[task] = env.now
            if task in done:
                done[task].succeed()

    starts = stream_starts(graph).tolist()
    for first, last in pairwise(starts):
        env.process(work(first, last))
    env.run()
    end_s = np.array(ended)
    if (end_s < 0).any():
        raise deadlock(graph, np.flatnonzero(end_s < 0))
    return Timeline(graph, np.array(started), end_s)
