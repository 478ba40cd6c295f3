"""Which node stands where in many runs at once: repair, spares that take over, replicas that are whole.

`r` is always the (k,) numbers of the runs concerned; the other arrays of shape (k,) are aligned with it.
"""

from __future__ import annotations

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.batch_state import Batch


def send_to_repair(batch: Batch, r: Ints, node: Ints, decided_s: Floats, repair_s: Floats) -> Floats:
    """Marks nodes unusable and says until when, (k,): for ever if they failed too often."""
    nodes = batch.nodes
    back_s = decided_s + repair_s
    limit = batch.spec.recovery.evict_after
    if limit is not None:
        nodes.failures[r, node] += 1
        too_often = nodes.failures[r, node] >= limit
        back_s = np.where(too_often, np.inf, back_s)
    nodes.ready_s[r, node] = back_s
    return back_s


def is_down(batch: Batch, r: Ints, node: Ints) -> Bools:
    """Whether each node is in repair, (k,); never where there is none."""
    named = node >= 0
    here = np.maximum(node, 0)
    return named & (batch.nodes.ready_s[r, here] > batch.job.now_s[r])


def is_idle(batch: Batch, r: Ints, node: Ints) -> Bools:
    """Whether each node stands on the bench or in a replica that does not run, (k,)."""
    slot = batch.nodes.place[r, np.maximum(node, 0)]
    used_slots = batch.job.replicas[r] * batch.spec.nodes_per_replica
    return (node >= 0) & ((slot < 0) | (slot >= used_slots))


def soonest_spare(batch: Batch, r: Ints, decided_s: Floats) -> tuple[Ints, Floats]:
    """The place on the bench of the spare that can be in place first, and when, (k,) each; needs a bench."""
    nodes = batch.nodes
    ready_s = nodes.ready_s[r[:, None], nodes.bench[r]]
    in_place_s = np.maximum(ready_s, decided_s[:, None]) + nodes.swap_s
    chosen = np.argmin(in_place_s, axis=1)
    return chosen, in_place_s[np.arange(len(r)), chosen]


def replace_nodes(batch: Batch, r: Ints, node: Ints, decided_s: Floats, repair_s: Floats) -> Floats:
    """Puts the soonest of the spares and the node itself into each node's slot; says when it is in place, (k,)."""
    nodes, recovery = batch.nodes, batch.spec.recovery
    back_s = send_to_repair(batch, r, node, decided_s, repair_s)
    shrinks = recovery.when_short == "shrink"
    without_spare_s = decided_s if shrinks else back_s
    if not nodes.bench.shape[1] or not len(r):
        nodes.short[r] = shrinks
        return without_spare_s
    chosen, in_place_s = soonest_spare(batch, r, decided_s)
    better = in_place_s <= back_s
    if shrinks:
        better &= in_place_s <= decided_s + recovery.wait_before_shrinking_s
    _swap(batch, r[better], node[better], chosen[better], in_place_s[better], decided_s[better])
    nodes.short[r[~better]] = shrinks
    return np.where(better, in_place_s, without_spare_s)


def _swap(batch: Batch, r: Ints, node: Ints, chosen: Ints, in_place_s: Floats, decided_s: Floats) -> None:
    """Spare and failed node change places; where a hot spare left and cold ones exist, one of them warms up."""
    nodes, hot = batch.nodes, batch.spec.recovery.hot_spares
    spare = nodes.bench[r, chosen]
    nodes.place[r, spare] = nodes.place[r, node]
    nodes.ready_s[r, spare] = in_place_s
    vacated = chosen.copy()
    warms = np.flatnonzero((chosen < hot) & (nodes.bench.shape[1] > hot))
    if len(warms):
        vacated[warms] = _warm_up(batch, r[warms], chosen[warms], decided_s[warms])
    nodes.bench[r, vacated] = node
    nodes.place[r, node] = -1 - vacated


def _warm_up(batch: Batch, r: Ints, hot_place: Ints, decided_s: Floats) -> Ints:
    """The cold spare that is ready first moves to the hot place; gives the place it leaves, (k,)."""
    nodes, recovery = batch.nodes, batch.spec.recovery
    hot = recovery.hot_spares
    cold_ready_s = nodes.ready_s[r[:, None], nodes.bench[r, hot:]]
    cold_place: Ints = hot + np.argmin(cold_ready_s, axis=1)
    warming = nodes.bench[r, cold_place]
    nodes.bench[r, hot_place] = warming
    nodes.place[r, warming] = -1 - hot_place
    start_s = np.maximum(nodes.ready_s[r, warming], decided_s)
    nodes.ready_s[r, warming] = start_s + recovery.cold_start_s
    return cold_place


def fit_replicas(batch: Batch, r: Ints, decided_s: Floats) -> Floats:
    """Fills empty slots from the bench and sets how many replicas are whole; says when their nodes are in place, (k,).

    Sets when the job grows again, where it does so at once.
    """
    spec, recovery, nodes, job = batch.spec, batch.spec.recovery, batch.nodes, batch.job
    slots = spec.nodes_per_replica
    holes = _fill_slots(batch, r, decided_s)
    nodes.short[r] = holes.any(axis=1)
    whole = (spec.job_nodes - holes.sum(axis=1)) // slots
    job.replicas[r] = np.maximum(whole, recovery.min_replicas)
    _learn_speeds(batch, job.replicas[r])
    in_slot = nodes.place[r] >= 0
    ready_s = np.sort(np.where(in_slot, nodes.ready_s[r], np.inf), axis=1)
    k = np.arange(len(r))
    if recovery.regrow == "at-once":
        next_slots = np.minimum((job.replicas[r] + 1) * slots, spec.job_nodes)
        is_smaller = job.replicas[r] < spec.replicas
        batch.regrow_at_s[r] = np.where(is_smaller, ready_s[k, next_slots - 1], np.inf)
    last_ready_s: Floats = ready_s[k, job.replicas[r] * slots - 1]
    return np.maximum(last_ready_s, decided_s)


def _fill_slots(batch: Batch, r: Ints, decided_s: Floats) -> Bools:
    """Puts spares that come in time into empty slots; gives the slots' nodes still missing, (k, nodes)."""
    nodes = batch.nodes
    latest_s = decided_s + batch.spec.recovery.wait_before_shrinking_s
    while True:
        holes = (nodes.place[r] >= 0) & (nodes.ready_s[r] > latest_s[:, None])
        if not nodes.bench.shape[1]:
            return holes
        chosen, in_place_s = soonest_spare(batch, r, decided_s)
        fill = np.flatnonzero(holes.any(axis=1) & (in_place_s <= latest_s))
        if not len(fill):
            return holes
        missing = np.argmax(holes[fill], axis=1)
        _swap(batch, r[fill], missing, chosen[fill], in_place_s[fill], decided_s[fill])


def _learn_speeds(batch: Batch, replicas: Ints) -> None:
    """Asks for the speed of replica counts that occur for the first time: each may be a simulation of its own."""
    for count in set(replicas.tolist()) - batch.known_replicas:
        batch.replica_speed[count] = batch.spec.speeds()[count]
        batch.known_replicas.add(count)
