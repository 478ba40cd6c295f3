"""Plays a task graph with SimPy: a task starts with the last end of what it waits for, and its end is an event."""

from __future__ import annotations

from typing import Any

import numpy as np
import simpy

from simulator.step.contention import Contention, Shares
from simulator.step.graph import TaskGraph, deadlock, to_csr
from simulator.step.timeline import Timeline


def play(graph: TaskGraph, contention: Contention | None = None) -> Timeline:
    """Runs the step event by event; streams are kept in order by the graph itself.

    With `contention` tasks slow each other down while they run at the same time, so durations are those of a task
    alone. Raises Deadlock when tasks wait for each other in a circle.
    """
    env = simpy.Environment()
    count = len(graph)
    started, ended = [-1.0] * count, [-1.0] * count
    waiting = np.diff(graph.pred_indptr)
    indptr, after = to_csr(np.repeat(np.arange(count), waiting), graph.preds, count)
    first, successors, left = indptr.tolist(), after.tolist(), waiting.tolist()
    durations = graph.duration_s.tolist()
    timeout = env.timeout
    begin = Shares(env, graph, contention).begin if contention is not None else None

    def start(task: int) -> None:
        started[task] = env.now
        event = timeout(durations[task], task) if begin is None else begin(task)
        event.callbacks.append(finish)

    def finish(event: Any) -> None:
        task: int = event.value
        ended[task] = env.now
        for successor in successors[first[task] : first[task + 1]]:
            left[successor] -= 1
            if not left[successor]:
                start(successor)

    for task in np.flatnonzero(waiting == 0).tolist():
        start(task)
    env.run()
    end_s = np.array(ended)
    if (end_s < 0).any():
        raise deadlock(graph, np.flatnonzero(end_s < 0))
    return Timeline(graph, np.array(started), end_s)
