"""Which node stands where in one run: slots of the job, hot and cold spares, nodes in repair."""

from __future__ import annotations

import math
from typing import NamedTuple

from simulator.run.specs import RunSpec


class SpareOffer(NamedTuple):
    """When a spare could be in place, and its place on the bench; the smallest offer is the best."""

    in_place_s: float
    place: int


class ReplicaFit(NamedTuple):
    """Replicas that are whole, when all their nodes are in place, and when the job grows again (infinity: not by
    itself)."""

    replicas: int
    in_place_s: float
    regrow_at_s: float


class NodePool:
    """Nodes of one run.

    A node is usable from `ready_s[node]` on; `slot[node]` is None while it is on the bench, whose first places are
    those of hot spares.
    """

    def __init__(self, spec: RunSpec) -> None:
        self.spec, self.recovery = spec, spec.recovery
        nodes = range(spec.machines.nodes)
        self.ready_s = dict.fromkeys(nodes, 0.0)
        self.slot: dict[int, int | None] = {node: node if node < spec.job_nodes else None for node in nodes}
        self.bench = [node for node in nodes if node >= spec.job_nodes]
        self.failures = dict.fromkeys(nodes, 0)

    def is_down(self, node: int, now_s: float) -> bool:
        return self.ready_s[node] > now_s

    def is_working(self, node: int, replicas: int) -> bool:
        """In a slot of one of the replicas that run; the slots of missing replicas come last."""
        slot = self.slot[node]
        return slot is not None and slot < replicas * self.spec.nodes_per_replica

    def send_to_repair(self, node: int, decided_s: float, repair_s: float) -> float:
        """When the node is back: never, if it has failed too often."""
        self.failures[node] += 1
        limit = self.recovery.evict_after
        too_often = limit is not None and self.failures[node] >= limit
        self.ready_s[node] = math.inf if too_often else decided_s + repair_s
        return self.ready_s[node]

    def replace(self, node: int, decided_s: float, repair_s: float) -> float:
        """Fills the node's slot with the soonest of the spares and the node itself; says when it is in place."""
        back_s = self.send_to_repair(node, decided_s, repair_s)
        offer = self.soonest_spare(decided_s)
        shrinks = self.recovery.when_short == "shrink"
        if offer is not None and offer.in_place_s <= back_s:
            is_late = shrinks and offer.in_place_s > self._latest_s(decided_s)
            if not is_late:
                self._swap(node, offer, decided_s)
                return offer.in_place_s
        return decided_s if shrinks else back_s

    def _latest_s(self, decided_s: float) -> float:
        """Until when a job that can shrink waits for a node."""
        return decided_s + self.recovery.wait_before_shrinking_s

    def soonest_spare(self, decided_s: float) -> SpareOffer | None:
        """The spare that can be in place first."""
        return min((self._offer(place, decided_s) for place in range(len(self.bench))), default=None)

    def _offer(self, place: int, decided_s: float) -> SpareOffer:
        is_hot = place < self.recovery.hot_spares
        swap_s = self.recovery.hot_swap_s if is_hot else self.recovery.cold_start_s
        start_s = max(self.ready_s[self.bench[place]], decided_s)
        return SpareOffer(start_s + swap_s, place)

    def _swap(self, node: int, offer: SpareOffer, decided_s: float) -> None:
        """The spare takes the node's slot; a cold spare starts to warm up where a hot one left."""
        spare, vacated = self.bench[offer.place], offer.place
        self.slot[spare], self.slot[node] = self.slot[node], None
        self.ready_s[spare] = offer.in_place_s
        hot = self.recovery.hot_spares
        if vacated < hot < len(self.bench):
            vacated = self._warm_up(vacated, decided_s)
        self.bench[vacated] = node

    def _warm_up(self, hot_place: int, decided_s: float) -> int:
        """The cold spare that is ready first moves to the hot place; gives the place it leaves."""
        cold_places = range(self.recovery.hot_spares, len(self.bench))
        cold = min(cold_places, key=lambda place: self.ready_s[self.bench[place]])
        warming = self.bench[cold]
        self.bench[hot_place] = warming
        self.ready_s[warming] = max(self.ready_s[warming], decided_s) + self.recovery.cold_start_s
        return cold

    def fit_replicas(self, decided_s: float) -> ReplicaFit:
        """Fills empty slots, then counts the replicas that are whole, at least the fewest allowed."""
        spec, recovery = self.spec, self.recovery
        each = spec.nodes_per_replica
        empty = self._fill_slots(decided_s)
        whole = (spec.job_nodes - len(empty)) // each
        replicas = max(whole, recovery.min_replicas)
        ready_s = sorted(ready_s for node, ready_s in self.ready_s.items() if self.slot[node] is not None)
        regrow_at_s = math.inf
        if recovery.regrow == "at-once" and replicas < spec.replicas:
            regrow_at_s = ready_s[(replicas + 1) * each - 1]
        in_place_s = max(ready_s[replicas * each - 1], decided_s)
        return ReplicaFit(replicas, in_place_s, regrow_at_s)

    def _fill_slots(self, decided_s: float) -> list[int]:
        """Puts spares that come in time into empty slots; gives the nodes that are still missing."""
        latest_s = self._latest_s(decided_s)
        while True:
            missing = [node for node, slot in self.slot.items() if slot is not None and self.ready_s[node] > latest_s]
            offer = self.soonest_spare(decided_s)
            if not missing or offer is None or offer.in_place_s > latest_s:
                return missing
            self._swap(missing[0], offer, decided_s)
