"""Many runs at once: the rules of the run as NumPy arrays with one element per run, from fault to fault."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from simulator.run.checkpoints import Saving
from simulator.run.fault_source import FaultSource, component_names, window_s
from simulator.run.faults import CORRUPTION, PLANNED, SLOW, FaultTimeline
from simulator.run.outcome import Outcome
from simulator.run.specs import LOSSES, RunSpec
from simulator.run.work_clock import advance, points, stalls_between, wall_to_end_s

SETTLED_FAULTS = 256  # after so many faults the pace of a run is no longer a matter of luck
NONE = -1.0  # work of a checkpoint that does not exist
TIMELINE_COLUMNS = tuple(f.name for f in fields(FaultTimeline))
WHOLE_COLUMNS = ("component", "kind", "node", "breadth")


@dataclass(frozen=True, slots=True)
class Faults:
    """One fault for each of some runs; the columns mean what `FaultTimeline`'s do."""

    component: np.ndarray
    kind: np.ndarray
    node: np.ndarray
    breadth: np.ndarray
    detect: np.ndarray
    repair: np.ndarray
    outage: np.ndarray
    lasts: np.ndarray
    speed: np.ndarray


def play(spec: RunSpec, saving: Saving, chances: FaultSource, runs: np.ndarray) -> Outcome:
    """Plays the given runs (their numbers decide their luck) to their ends, all at once."""
    sweep = Sweep(spec, saving, runs)
    length, start = window_s(spec), 0.0
    while not (sweep.done | sweep.stuck).all():
        window = (start, start + length)
        _play_window(sweep, chances, window)
        sweep.give_up()
        start = window[1]
    return sweep.outcome()


def _play_window(sweep: Sweep, chances: FaultSource, window: tuple[float, float]) -> None:
    """Plays all live runs to the end of the window, in rounds: each run moves on to its own next event."""
    live = np.flatnonzero(~(sweep.done | sweep.stuck))
    timelines = {int(i): chances(int(sweep.runs[i]), window) for i in live}
    longest = max(len(t) for t in timelines.values()) + 1
    n = len(sweep.runs)
    time = np.full((n, longest), np.inf)
    columns = [c for c in TIMELINE_COLUMNS if c != "time_s"]
    table = {c: np.zeros((n, longest), int if c in WHOLE_COLUMNS else float) for c in columns}
    for i, timeline in timelines.items():
        time[i, : len(timeline)] = timeline.time_s
        for c in columns:
            table[c][i, : len(timeline)] = getattr(timeline, c)
    at, every = np.zeros(n, int), np.arange(n)
    while True:
        halted = sweep.done | sweep.stuck
        due = time[every, at]
        until = np.minimum(np.minimum(due, sweep.next_timer()), window[1])
        sweep.settle(np.where(halted, sweep.now, until))
        alive = ~(sweep.done | sweep.stuck)
        if not (alive & (until < window[1])).any():
            return
        sweep.timers(alive)
        hit = np.flatnonzero(alive & (due <= sweep.now))
        sweep.fault(hit, Faults(*(table[c][hit, at[hit]] for c in columns)))
        at[hit] += 1


class Sweep:
    """State of all runs of one call; every array has one row (or element) per run."""

    def __init__(self, spec: RunSpec, saving: Saving, runs: np.ndarray) -> None:
        n, machines, tiers = len(runs), spec.machines, saving.tiers
        self.spec, self.saving, self.grid, self.runs = spec, saving, saving.grid, runs
        self.speeds = np.ones(spec.replicas + 1)  # by replicas; those below the whole are filled in as they occur
        self.asked = {spec.replicas}
        self.now, self.work, self.stall_left = np.zeros((3, n))
        self.saved = np.full((len(tiers), n), NONE)
        self.saved[-1] = 0.0
        self.pending, self.pending_at = np.full((len(tiers), n), NONE), np.full((len(tiers), n), np.inf)
        self.detect_until, self.planned_until, self.available_at, self.resume_at = np.zeros((4, n))
        self.slow_until, self.slow_speed = np.zeros(n), np.ones(n)
        self.evict_at, self.evict_node, self.evict_repair = np.full(n, np.inf), np.full(n, -1), np.zeros(n)
        self.spoiled_at, self.spoiled_work = np.full(n, np.inf), np.zeros(n)
        self.spoiled_node, self.spoiled_repair = np.full(n, -1), np.zeros(n)
        self.evict_component, self.spoiled_component = np.zeros((2, n), int)
        self.regrow_at = np.full(n, np.inf)
        self.replicas, self.component = np.full(n, spec.replicas), np.zeros(n, int)
        self.done, self.stuck, self.short = np.zeros((3, n), bool)  # short: a slot of the job is without a node
        self.lost = {name: np.zeros(n) for name in LOSSES}
        parts = len(component_names(spec))
        self.lost_by, self.stops_by = np.zeros((n, parts)), np.zeros((n, parts), int)
        self.faults = np.zeros(n, int)
        # Nodes: when each is usable, where it stands (slot >= 0, bench place b as -1 - b), how often it failed.
        self.ready = np.zeros((n, machines.nodes))
        self.place = np.tile(np.r_[: machines.job_nodes, -1 - np.arange(machines.spare_nodes)].astype(np.int32), (n, 1))
        self.bench = np.tile(np.arange(machines.job_nodes, machines.nodes), (n, 1))
        self.hits = np.zeros((n, machines.nodes), np.int16) if spec.recovery.evict_after else None
        hot = np.arange(machines.spare_nodes) < spec.recovery.hot_spares
        self.takes_s = np.where(hot, spec.recovery.hot_swap_s, spec.recovery.cold_start_s)

    # -- time ---------------------------------------------------------------------------------------------------

    def speed(self) -> tuple[np.ndarray, np.ndarray]:
        """Speed left by missing replicas and by a slow part; the job runs at their product."""
        return self.speeds[self.replicas], np.where(self.slow_until > self.now, self.slow_speed, 1.0)

    def settle(self, until: np.ndarray) -> None:
        """Lets time pass to `until` (at most the next event): down first, then at work, perhaps to the end."""
        self._settle_down(until)
        shrunk, slow = self.speed()
        speed = shrunk * slow
        start = np.maximum(self.now, np.minimum(self.resume_at, until))
        to_end = wall_to_end_s(self.grid, self.work, self.stall_left, self.spec.work_s, speed)
        ends = ~self.done & (self.resume_at < np.inf) & (until - start >= to_end)
        until = np.where(ends, start + to_end, until)
        wall = until - start
        work, stall_left = advance(self.grid, self.work, self.stall_left, wall, speed)
        work = np.where(ends, self.spec.work_s, np.minimum(work, self.spec.work_s))
        stall_left = np.where(ends, 0.0, stall_left)
        self._settle_saves(until, work, stall_left, speed)
        gained = work - self.work
        self.lost["checkpoint"] += wall - gained / speed
        self.lost["shrunk"] += gained * (1 / shrunk - 1)
        self.lost["slow"] += gained / shrunk * (1 / slow - 1)
        self.work, self.stall_left = work, stall_left
        self.now = np.where(self.done, self.now, until)
        self.done |= ends

    def _settle_down(self, until: np.ndarray) -> None:
        """Shares the time down among detection, planned stop, waiting and restart, in that order."""
        mark = self.now
        ends = (self.detect_until, self.planned_until, self.available_at, self.resume_at)
        for name, end in zip(("detection", "planned", "waiting", "restart"), ends, strict=True):
            reached = np.maximum(mark, np.minimum(end, until))
            self.lost[name] += reached - mark
            mark = reached
        self.lost_by[np.arange(len(mark)), self.component] += mark - self.now

    def _settle_saves(self, until: np.ndarray, work: np.ndarray, stall_left: np.ndarray, speed: np.ndarray) -> None:
        """Moves each tier's newest safe checkpoint up to what was completed and written by `until`."""
        half = self.grid.every_s[0] / 2
        for i, tier in enumerate(self.saving.tiers):
            every = self.grid.every_s[i]
            if not np.isfinite(every):
                continue
            reached = points(every, np.where(stall_left > 0, work - half, work))
            passed = reached - points(every, np.where(self.stall_left > 0, self.work - half, self.work))
            point = reached * every
            since = (work - point) / speed + stalls_between(self.grid, point, work) - stall_left
            mature = (passed > 0) & (since >= tier.lag_s)
            waited = self.pending_at[i] <= until
            older = np.where(passed > 1, point - every, np.where(waited, self.pending[i], NONE))
            self.saved[i] = np.where(mature, point, np.maximum(self.saved[i], older))
            fresh = (passed > 0) & ~mature
            gone = (passed > 0) | waited
            self.pending[i] = np.where(fresh, point, np.where(gone, NONE, self.pending[i]))
            due = until - since + tier.lag_s
            self.pending_at[i] = np.where(fresh, due, np.where(gone, np.inf, self.pending_at[i]))

    def next_timer(self) -> np.ndarray:
        """When the next thing happens by itself: a slow part recovers, a finding is acted on, replicas return."""
        slow = np.where(self.slow_until > self.now, self.slow_until, np.inf)
        return np.minimum(np.minimum(slow, self.evict_at), np.minimum(self.spoiled_at, self.regrow_at))

    def timers(self, live: np.ndarray) -> None:
        """Acts on what is due now: slow nodes are replaced, corruption is rolled back, replicas grow again."""
        r = np.flatnonzero(live & (self.evict_at <= self.now))
        if len(r):
            self.evict_at[r] = np.inf
            there = self.ready[r, np.maximum(self.evict_node[r], 0)] <= self.now[r]
            r = r[there | (self.evict_node[r] < 0)]
            self._blame(r, self.evict_component[r])
            self.planned_stop(r, self.evict_node[r], np.stack([0 * self.now[r], self.evict_repair[r], 0 * self.now[r]]))
        r = np.flatnonzero(live & (self.spoiled_at <= self.now))
        if len(r):
            self.spoiled_at[r] = np.inf
            self._blame(r, self.spoiled_component[r])
            here = np.maximum(self.spoiled_node[r], 0)
            node = np.where(self.ready[r, here] <= self.now[r], self.spoiled_node[r], -1)
            delays = np.stack([0 * self.now[r], self.spoiled_repair[r], 0 * self.now[r]])
            self.stop(r, node, np.zeros(len(r), int), delays, self.spoiled_work[r])
        r = np.flatnonzero(live & (self.regrow_at <= self.now))
        if len(r):
            self.regrow_at[r] = np.inf
            self.planned_stop(r, np.full(len(r), -1), np.zeros((3, len(r))))

    def give_up(self) -> None:
        """Marks runs that wait for ever, or whose pace is hopeless and no longer a matter of luck."""
        waits = ~self.done & (self.resume_at == np.inf)
        patient = (self.faults < SETTLED_FAULTS) & (self.now < self.spec.work_s / self.spec.simulation.give_up_fraction)
        slow = ~self.done & ~patient & (self.work < self.spec.simulation.give_up_fraction * self.now)
        self.stuck |= waits | slow

    def outcome(self) -> Outcome:
        return Outcome(
            finish_s=np.where(self.done, self.now, np.inf),
            elapsed_s=self.now,
            work_s=self.work,
            lost_s=self.lost,
            lost_by_component_s=self.lost_by,
            stops_by_component=self.stops_by,
            faults=self.faults,
            waits_for_ever=~self.done & (self.resume_at == np.inf),
        )

    # -- what happens -------------------------------------------------------------------------------------------

    def stop(
        self, r: np.ndarray, node: np.ndarray, breadth: np.ndarray, delays: np.ndarray, limit: np.ndarray | float
    ) -> None:
        """Unannounced stop of runs `r`: back to the newest checkpoint that survives (at most `limit`), then up again.

        `delays` holds rows (detect_s, repair_s, outage_s).
        """
        detect, repair, outage = delays
        tiers = self.saving.tiers
        survives = np.array([t.survives_nodes for t in tiers])[:, None] >= breadth
        saved = np.where(survives, self.saved[:, r], NONE)
        best = np.argmax(saved, axis=0)
        work = np.minimum(np.minimum(saved.max(axis=0), limit), self.work[r])
        best = np.where(saved[best, np.arange(len(r))] > limit, len(tiers) - 1, best)
        lost = self.work[r] - work
        self.lost["lost_work"][r] += lost
        self.lost_by[r, self.component[r]] += lost
        kept = np.where(saved > work, NONE, saved)
        kept[-1] = np.minimum(saved[-1], work)
        self.saved[:, r] = kept
        self.work[r] = work
        self.detect_until[r] = np.maximum(self.detect_until[r], self.now[r] + detect)
        restore = np.array([t.restore_s for t in tiers])[best]
        self._come_back(r, node, np.stack([detect, repair, outage]), restore)

    def planned_stop(self, r: np.ndarray, node: np.ndarray, delays: np.ndarray) -> None:
        """Announced stop: the state is saved to storage first, nothing is lost; `delays` as in `stop`."""
        working = self.resume_at[r] <= self.now[r]
        save = np.where(working, self.saving.final_save_s, 0.0)
        self.saved[-1, r] = np.where(working, self.work[r], self.saved[-1, r])
        # A node that is only exchanged makes the job wait; a stop for its own sake counts as planned.
        until = self.now[r] + save + delays[2]
        self.planned_until[r] = np.maximum(self.planned_until[r], until)
        restore = np.full(len(r), self.saving.tiers[-1].restore_s)
        self._come_back(r, node, np.stack([save, delays[1], save + delays[2]]), restore)

    def _come_back(self, r: np.ndarray, node: np.ndarray, delays: np.ndarray, restore: np.ndarray) -> None:
        """Nodes in place, then restart: sets when runs `r` resume."""
        detect, repair, outage = delays
        decided = self.now[r] + detect
        self.stall_left[r] = 0.0
        self.pending[:, r], self.pending_at[:, r] = NONE, np.inf
        in_place = decided.copy()
        gone = np.flatnonzero((node >= 0) & (repair > 0))
        in_place[gone] = self._replace(r[gone], node[gone], decided[gone], repair[gone])
        short = np.flatnonzero(self.short[r])
        if len(short):
            in_place[short] = np.maximum(in_place[short], self._fit_replicas(r[short], decided[short]))
        available = np.maximum(np.maximum(self.available_at[r], self.now[r] + outage), np.maximum(in_place, decided))
        self.available_at[r] = available
        self.resume_at[r] = available + self.spec.restart_s + restore

    def _send_to_repair(self, r: np.ndarray, node: np.ndarray, decided: np.ndarray, repair: np.ndarray) -> np.ndarray:
        """Marks nodes unusable and says until when: for ever if they failed too often."""
        back = decided + repair
        if self.hits is not None:
            self.hits[r, node] += 1
            back = np.where(self.hits[r, node] >= self.spec.recovery.evict_after, np.inf, back)
        self.ready[r, node] = back
        return back

    def _replace(self, r: np.ndarray, node: np.ndarray, decided: np.ndarray, repair: np.ndarray) -> np.ndarray:
        """Puts the soonest of the spares and the node itself into each node's slot; says when it is in place."""
        back = self._send_to_repair(r, node, decided, repair)
        shrinks = self.spec.recovery.when_short == "shrink"
        if not self.bench.shape[1] or not len(r):
            self.short[r] = shrinks
            return decided if shrinks else back
        k = np.arange(len(r))
        usable = np.maximum(self.ready[r[:, None], self.bench[r]], decided[:, None])
        chosen = np.argmin(usable + self.takes_s, axis=1)
        in_place = usable[k, chosen] + self.takes_s[chosen]
        better = in_place <= back
        if shrinks:
            better &= in_place <= decided + max(self.spec.recovery.patience_s, self.spec.recovery.hot_swap_s)
        self._swap(r[better], node[better], chosen[better], in_place[better], decided[better])
        self.short[r[~better]] = shrinks
        return np.where(better, in_place, decided if shrinks else back)

    def _swap(
        self, r: np.ndarray, node: np.ndarray, chosen: np.ndarray, in_place: np.ndarray, decided: np.ndarray
    ) -> None:
        """Spare and failed node change places; where a hot spare left and cold ones exist, one of them warms up."""
        hot, cold_start = self.spec.recovery.hot_spares, self.spec.recovery.cold_start_s
        spare, slot = self.bench[r, chosen], self.place[r, node]
        self.place[r, spare], self.ready[r, spare] = slot, in_place
        empty = chosen.copy()
        warms = np.flatnonzero((chosen < hot) & (self.bench.shape[1] > hot))
        if len(warms):
            w, to = r[warms], chosen[warms]
            cold = hot + np.argmin(self.ready[w[:, None], self.bench[w, hot:]], axis=1)
            moved = self.bench[w, cold]
            self.bench[w, to], self.place[w, moved] = moved, -1 - to
            self.ready[w, moved] = np.maximum(self.ready[w, moved], decided[warms]) + cold_start
            empty[warms] = cold
        self.bench[r, empty], self.place[r, node] = node, -1 - empty

    def _fit_replicas(self, r: np.ndarray, decided: np.ndarray) -> np.ndarray:
        """Fills empty slots from the bench, counts the replicas that are whole; says when there are enough of them."""
        recovery, spec = self.spec.recovery, self.spec
        slots_per_replica = spec.nodes_per_replica
        late = decided + max(recovery.patience_s, recovery.hot_swap_s)
        while True:
            holes = (self.place[r] >= 0) & (self.ready[r] > late[:, None])
            if not self.bench.shape[1]:
                break
            usable = np.maximum(self.ready[r[:, None], self.bench[r]], decided[:, None])
            chosen = np.argmin(usable + self.takes_s, axis=1)
            in_place = usable[np.arange(len(r)), chosen] + self.takes_s[chosen]
            fill = np.flatnonzero(holes.any(axis=1) & (in_place <= late))
            if not len(fill):
                break
            self._swap(r[fill], np.argmax(holes[fill], axis=1), chosen[fill], in_place[fill], decided[fill])
        self.short[r] = holes.any(axis=1)
        standing = self.place[r] >= 0
        ready = np.where(standing, self.ready[r], np.inf)
        whole = (spec.job_nodes - holes.sum(axis=1)) // slots_per_replica
        self.replicas[r] = np.maximum(whole, recovery.min_replicas)
        for count in set(self.replicas[r].tolist()) - self.asked:
            self.speeds[count] = spec.speeds()[count]
            self.asked.add(count)
        ordered = np.sort(ready, axis=1)
        enough = np.maximum(ordered[:, recovery.min_replicas * slots_per_replica - 1], decided)
        used = ordered[np.arange(len(r)), self.replicas[r] * slots_per_replica - 1]
        if recovery.regrow == "at-once":
            more = np.minimum((self.replicas[r] + 1) * slots_per_replica, spec.job_nodes) - 1
            self.regrow_at[r] = np.where(self.replicas[r] < spec.replicas, ordered[np.arange(len(r)), more], np.inf)
        return np.where(whole >= recovery.min_replicas, np.maximum(used, decided), enough)

    # -- faults -------------------------------------------------------------------------------------------------

    def fault(self, r: np.ndarray, f: Faults) -> None:
        """One fault for each of the runs `r`; the columns of `f` are aligned with `r`."""
        self.faults[r] += 1
        node = f.node
        here = np.maximum(node, 0)
        on_node = node >= 0
        down = on_node & (self.ready[r, here] > self.now[r])
        slot = self.place[r, here]
        idle = on_node & ~down & (
            (slot < 0) | (slot >= self.replicas[r] * (self.spec.nodes_per_replica))
        )  # fmt: skip
        breaks = f.kind < SLOW
        aside = np.flatnonzero(idle & breaks & (f.repair > 0))
        if len(aside):
            decided = self.now[r[aside]] + f.detect[aside]
            self._send_to_repair(r[aside], node[aside], decided, f.repair[aside])
        hits = ~down & ~idle
        delays = np.stack([f.detect, f.repair, f.outage])
        stops = np.flatnonzero(hits & breaks)
        if len(stops):
            self._blame(r[stops], f.component[stops])
            self.stop(r[stops], node[stops], f.breadth[stops], delays[:, stops], np.inf)
        planned = np.flatnonzero(hits & (f.kind == PLANNED))
        if len(planned):
            self._blame(r[planned], f.component[planned])
            self.planned_stop(r[planned], node[planned], delays[:, planned])
        slow = np.flatnonzero(hits & (f.kind == SLOW))
        if len(slow):
            self._slow(r[slow], f, slow)
        spoils = np.flatnonzero(hits & (f.kind == CORRUPTION) & ~np.isfinite(self.spoiled_at[r]))
        if len(spoils):
            s = r[spoils]
            self.spoiled_at[s] = self.now[s] + f.detect[spoils]
            self.spoiled_work[s], self.spoiled_node[s] = self.saved[-1, s], node[spoils]
            self.spoiled_repair[s] = f.repair[spoils]
            self.spoiled_component[s] = f.component[spoils]

    def _blame(self, r: np.ndarray, component: np.ndarray) -> None:
        self.component[r] = component
        self.stops_by[r, component] += 1

    def _slow(self, r: np.ndarray, f: Faults, i: np.ndarray) -> None:
        """A slow part: the worst of those present governs, until the last is over or replaced."""
        live = self.slow_until[r] > self.now[r]
        replaced = (f.detect[i] < f.lasts[i]) & self.spec.recovery.evict_slow & (self.evict_at[r] == np.inf)
        until = self.now[r] + np.where(replaced, f.detect[i], f.lasts[i])
        self.slow_speed[r] = np.where(live, np.minimum(self.slow_speed[r], f.speed[i]), f.speed[i])
        self.slow_until[r] = np.where(live, np.maximum(self.slow_until[r], until), until)
        e = r[replaced]
        self.evict_at[e], self.evict_node[e] = until[replaced], f.node[i][replaced]
        self.evict_repair[e], self.evict_component[e] = f.repair[i][replaced], f.component[i][replaced]
