"""Which node stands where in one run: slots of the job, hot and cold spares, nodes in repair."""

from __future__ import annotations

import math

from simulator.run.specs import RunSpec


class NodePool:
    """Nodes of one run. A node is usable from `ready[node]` on; `slot[node]` is None while it is on the bench."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self.recovery = spec, spec.recovery
        nodes = range(spec.machines.nodes)
        self.ready = dict.fromkeys(nodes, 0.0)
        self.slot: dict[int, int | None] = {n: n if n < spec.job_nodes else None for n in nodes}
        self.bench = [n for n in nodes if n >= spec.job_nodes]  # hot places first
        self.failures = dict.fromkeys(nodes, 0)

    def is_down(self, node: int, now: float) -> bool:
        return self.ready[node] > now

    def is_working(self, node: int, replicas: int) -> bool:
        """In a slot of one of the replicas that run; the slots of missing replicas come last."""
        slot = self.slot[node]
        return slot is not None and slot < replicas * self.spec.nodes_per_replica

    def send_to_repair(self, node: int, decided: float, repair_s: float) -> float:
        """When the node is back: never, if it has failed too often."""
        self.failures[node] += 1
        limit = self.recovery.evict_after
        self.ready[node] = math.inf if limit is not None and self.failures[node] >= limit else decided + repair_s
        return self.ready[node]

    def replace(self, node: int, decided: float, repair_s: float) -> float:
        """Fills the node's slot with the soonest of the spares and the node itself; says when it is in place."""
        back = self.send_to_repair(node, decided, repair_s)
        found = self.soonest_spare(decided)
        shrink = self.recovery.when_short == "shrink"
        if found is not None:
            in_place, place = found
            if in_place <= back and not (shrink and in_place > self.latest(decided)):
                self.swap(node, place, in_place, decided)
                return in_place
        return decided if shrink else back

    def latest(self, decided: float) -> float:
        """Until when a job that can shrink waits for a node."""
        return decided + max(self.recovery.patience_s, self.recovery.hot_swap_s)

    def soonest_spare(self, decided: float) -> tuple[float, int] | None:
        """(time in place, bench place) of the spare that is in place first."""
        if not self.bench:
            return None
        hot = self.recovery.hot_spares
        offers = []
        for place, node in enumerate(self.bench):
            takes = self.recovery.hot_swap_s if place < hot else self.recovery.cold_start_s
            offers.append((max(self.ready[node], decided) + takes, place))
        return min(offers)

    def swap(self, node: int, place: int, in_place: float, decided: float) -> None:
        """The spare takes the node's slot; a cold spare starts to warm up where a hot one left."""
        spare, hot = self.bench[place], self.recovery.hot_spares
        self.slot[spare], self.slot[node] = self.slot[node], None
        self.ready[spare] = in_place
        if place < hot < len(self.bench):
            cold = min(range(hot, len(self.bench)), key=lambda p: self.ready[self.bench[p]])
            warming = self.bench[cold]
            self.bench[place] = warming
            self.ready[warming] = max(self.ready[warming], decided) + self.recovery.cold_start_s
            place = cold
        self.bench[place] = node

    def fit_replicas(self, decided: float) -> tuple[int, float, float]:
        """Fills empty slots, then (replicas that are whole, when their nodes are in place, when to grow again)."""
        spec, late = self.spec, self.latest(decided)
        while True:
            holes = [n for n in self.ready if self.slot[n] is not None and self.ready[n] > late]
            found = self.soonest_spare(decided)
            if not holes or found is None or found[0] > late:
                break
            self.swap(holes[0], found[1], found[0], decided)
        ordered = sorted(ready for node, ready in self.ready.items() if self.slot[node] is not None)
        each = spec.nodes_per_replica
        whole = (spec.job_nodes - len(holes)) // each
        replicas = max(whole, self.recovery.min_replicas)
        regrow_at = math.inf
        if self.recovery.regrow == "at-once" and replicas < spec.replicas:
            regrow_at = ordered[(replicas + 1) * each - 1]
        return replicas, max(ordered[replicas * each - 1], decided), regrow_at
