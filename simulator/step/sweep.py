"""Plays the same task graph level by level with NumPy, for many samples at once; no contention."""

from __future__ import annotations

import numpy as np

from simulator.step.graph import Floats, Ints, TaskGraph, topological_levels
from simulator.step.timeline import Timeline


def sweep(graph: TaskGraph, durations: Floats | None = None, levels: list[Ints] | None = None) -> tuple[Floats, Floats]:
    """Start and end seconds, shaped like `durations` [tasks, ...] (any trailing axes: samples, replicas).

    `durations` None: those of the graph. `levels`: `topological_levels(graph)` where many sweeps share it.
    Raises Deadlock when tasks wait for each other in a circle.
    """
    seconds = graph.duration_s if durations is None else durations
    if len(seconds) != len(graph):
        raise ValueError(f"durations of {len(seconds)} tasks, but the graph has {len(graph)}")
    start, end = np.zeros((2, *seconds.shape))
    counts = np.diff(graph.pred_indptr)
    for tasks in topological_levels(graph) if levels is None else levels:
        count = counts[tasks]
        if count[0] > 0:
            offsets = np.cumsum(count) - count
            within = np.arange(offsets[-1] + count[-1]) - np.repeat(offsets, count)
            preds = graph.preds[np.repeat(graph.pred_indptr[tasks], count) + within]
            start[tasks] = np.maximum.reduceat(end[preds], offsets, axis=0)
        end[tasks] = start[tasks] + seconds[tasks]
    return start, end


def sweep_timeline(graph: TaskGraph) -> Timeline:
    """The step played once by the sweep player."""
    return Timeline(graph, *sweep(graph))
