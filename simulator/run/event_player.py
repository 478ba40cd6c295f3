"""One run in SimPy, from event to event and save by save, with the story of what happened: the reference player."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from simulator.run.outcome import SETTLED_FAULTS
from simulator.run.checkpoints import Saving
from simulator.run.fault_source import FaultSource, component_names, window_s
from simulator.run.faults import JOB, KINDS, FaultTimeline
from simulator.run.node_pool import NodePool
from simulator.run.outcome import Outcome, RunEvent
from simulator.run.specs import LOSSES, RunSpec

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class FaultEvent:
    """One entry of a timeline, as plain numbers."""

    time_s: float
    component: int
    kind: int
    node: int
    breadth: int
    detect_s: float
    repair_s: float
    outage_s: float
    lasts_s: float
    speed: float


def play_one(spec: RunSpec, saving: Saving, chances: FaultSource, run: int = 0) -> tuple[Outcome, tuple[RunEvent, ...]]:
    """Plays run number `run` and tells its story."""
    env = simpy.Environment()
    job = _Job(env, spec, saving)
    job.life = env.process(job.live())
    env.process(job.suffer(chances, run))
    env.run(until=job.over)
    return job.outcome(), tuple(job.story)


class _Job:
    """The job while it lives: what it has done, what is saved, until when it is down and why."""

    def __init__(self, env: simpy.Environment, spec: RunSpec, saving: Saving) -> None:
        self.env, self.spec, self.saving = env, spec, saving
        self.over = env.event()
        self.life: simpy.Process | None = None
        self.crew = NodePool(spec)
        self.names = component_names(spec)
        self.work = self.stall_left = 0.0
        self.saves: list[list[tuple[float, float]]] = [[] for _ in saving.tiers]  # (work, safe at)
        self.saves[-1].append((0.0, 0.0))
        self.detect_until = self.planned_until = self.available_at = self.resume_at = 0.0
        self.slow_until, self.slow_speed = 0.0, 1.0
        self.evicting = self.spoiled = False
        self.regrowth = 0  # number of the regrowth that counts; a newer stop makes older ones void
        self.replicas, self.component, self.faults = spec.replicas, 0, 0
        self.lost = dict.fromkeys(LOSSES, 0.0)
        self.lost_by = np.zeros(len(self.names))
        self.stops_by = np.zeros(len(self.names), int)
        self.story: list[RunEvent] = []
        self.phase, self.began, self.shrunk, self.slow = "work", 0.0, 1.0, 1.0
        self.stuck = False

    # -- living -------------------------------------------------------------------------------------------------

    def live(self) -> Process:
        """Goes from phase to phase until the work is done; whoever changes the state interrupts."""
        while self.work < self.spec.work_s:
            self.phase, wall, target = self.next_phase()
            self.began = self.env.now
            try:
                yield self.env.timeout(wall)
            except simpy.Interrupt:
                continue
            if self.phase == "restart":
                self.tell("resumed", self.component, JOB, "")
            self.account(target)
        self.tell("finished", None, JOB, "")
        self.over.succeed()

    def next_phase(self) -> tuple[str, float, float | None]:
        """What the job does now, for how long at most, and for work up to where."""
        now = self.env.now
        marks = (self.detect_until, self.planned_until, self.available_at, self.resume_at)
        for name, mark in zip(("detection", "planned", "waiting", "restart"), marks, strict=True):
            if mark > now:
                return name, mark - now, None
        if self.stall_left > 0:
            return "checkpoint", self.stall_left, None
        self.shrunk = self.spec.speeds()[self.replicas]
        self.slow = self.slow_speed if self.slow_until > now else 1.0
        every = self.saving.grid.every_s[0]
        point = (math.floor(self.work / every + 1e-6) + 1) * every if math.isfinite(every) else math.inf
        target = self.spec.work_s if point > self.spec.work_s - 1e-6 * min(every, 1e9) else point
        return "work", (target - self.work) / (self.shrunk * self.slow), target

    def account(self, target: float | None = None) -> None:
        """Books the time since the phase began; `target` is given when work arrived where it was headed."""
        wall, self.began = self.env.now - self.began, self.env.now
        if self.phase == "work":
            gained = wall * self.shrunk * self.slow if target is None else target - self.work
            self.lost["shrunk"] += gained * (1 / self.shrunk - 1)
            self.lost["slow"] += gained / self.shrunk * (1 / self.slow - 1)
            self.work = self.work + gained if target is None else target
            if target is not None and target < self.spec.work_s:
                self.stall_left = sum(self.saving.tiers[i].stall_s for i in self.due_tiers())
                if self.stall_left == 0:
                    self.saved()
            return
        self.lost[self.phase] += wall
        if self.phase != "checkpoint":
            self.lost_by[self.component] += wall
            return
        self.stall_left = max(self.stall_left - wall, 0.0)
        if self.stall_left <= 1e-9:
            self.stall_left = 0.0
            self.saved()

    def due_tiers(self) -> list[int]:
        """The tiers that save at the point reached."""
        tiers = []
        for i, every in enumerate(self.saving.grid.every_s):
            if math.isfinite(every) and abs(self.work / every - round(self.work / every)) < 1e-6:
                tiers.append(i)
        return tiers

    def saved(self) -> None:
        for i in self.due_tiers():
            self.saves[i] = [*self.saves[i][-2:], (self.work, self.env.now + self.saving.tiers[i].lag_s)]

    def safe(self, tier: int) -> float | None:
        """Work of the tier's newest checkpoint that is written by now."""
        done = [work for work, safe_at in self.saves[tier] if safe_at <= self.env.now]
        return max(done, default=None)

    # -- suffering ----------------------------------------------------------------------------------------------

    def suffer(self, chances: FaultSource, run: int) -> Process:
        """Lets the faults of the run happen, window by window, until the run is over or hopeless."""
        length, start = window_s(self.spec), 0.0
        while not self.stuck:
            for fault in _entries(chances(run, (start, start + length))):
                yield self.env.timeout(fault.time_s - self.env.now)
                self.happen(fault)
            yield self.env.timeout(max(start + length - self.env.now, 0.0))
            start += length
            self.account()
            self.stuck = self.hopeless()
        self.over.succeed()

    def hopeless(self) -> bool:
        give_up = self.spec.simulation.give_up_fraction
        patient = self.faults < SETTLED_FAULTS and self.env.now < self.spec.work_s / give_up
        return self.resume_at == math.inf or (not patient and self.work < give_up * self.env.now)

    def happen(self, fault: FaultEvent) -> None:
        """Applies one fault to the machines and, where it concerns it, to the job."""
        self.account()
        self.faults += 1
        what = KINDS[fault.kind]
        if fault.node != JOB:
            if self.crew.is_down(fault.node, self.env.now):
                return self.tell(what, fault.component, fault.node, "already down")
            if not self.crew.is_working(fault.node, self.replicas):
                if what in ("crash", "hang") and fault.repair_s > 0:
                    self.crew.send_to_repair(fault.node, self.env.now + fault.detect_s, fault.repair_s)
                return self.tell(what, fault.component, fault.node, "spare")
        effects: dict[str, Callable[[FaultEvent], None]] = {
            "crash": self.crash,
            "hang": self.crash,
            "slow": self.slow_down,
            "corruption": self.spoil,
            "planned": self.announce,
        }
        effects[what](fault)
        self.tell(what, fault.component, fault.node, "stopped" if what in ("crash", "hang", "planned") else "goes on")
        return self.wake()

    def wake(self) -> None:
        """Makes the job look again at what it does next."""
        if self.life is not None and self.life.is_alive:
            self.life.interrupt()

    def crash(self, fault: FaultEvent, limit: float = math.inf) -> None:
        """Back to the newest checkpoint that survives and lies at or below `limit`; then nodes, then restart."""
        self.component = fault.component if limit == math.inf else self.component
        self.stops_by[self.component] += limit == math.inf
        best, tier = -1.0, len(self.saves) - 1
        for i, place in enumerate(self.saving.tiers):
            safe = self.safe(i)
            if safe is None or place.survives_nodes < fault.breadth:
                self.saves[i] = []
            elif safe > best:
                best, tier = safe, i
        work = min(best, limit, self.work)
        tier = tier if best <= limit else len(self.saves) - 1
        self.lost["lost_work"] += self.work - work
        self.lost_by[self.component] += self.work - work
        self.work = work
        self.trim(work)
        self.detect_until = max(self.detect_until, self.env.now + fault.detect_s)
        self.come_back(fault, fault.detect_s, fault.outage_s, self.saving.tiers[tier].restore_s)

    def trim(self, work: float) -> None:
        """Forgets unfinished saves, and those ahead of `work`; storage keeps older checkpoints, so it has that one."""
        for i, saves in enumerate(self.saves):
            kept = [s for s in saves if s[1] <= self.env.now and s[0] <= work]
            ahead = any(s[1] <= self.env.now and s[0] > work for s in saves)
            self.saves[i] = kept if not ahead else []
        if not self.saves[-1]:
            self.saves[-1] = [(work, self.env.now)]

    def announce(self, fault: FaultEvent) -> None:
        """A stop that lets the job save first."""
        self.component = fault.component
        self.stops_by[fault.component] += 1
        self.stop_cleanly(fault)

    def stop_cleanly(self, fault: FaultEvent) -> None:
        save = 0.0
        if self.resume_at <= self.env.now:
            save = self.saving.final_save_s
            self.saves[-1] = [(self.work, self.env.now)]
        self.planned_until = max(self.planned_until, self.env.now + save + fault.outage_s)
        self.saves = [[s for s in saves if s[1] <= self.env.now] for saves in self.saves]
        self.come_back(fault, save, save + fault.outage_s, self.saving.tiers[-1].restore_s)

    def come_back(self, fault: FaultEvent, decided_after_s: float, outage_s: float, restore_s: float) -> None:
        """Nodes in place, then process start, communicators, loading and warm-up."""
        now = self.env.now
        decided = now + decided_after_s
        self.stall_left = 0.0
        in_place = decided
        if fault.node != JOB and fault.repair_s > 0:
            in_place = self.crew.replace(fault.node, decided, fault.repair_s)
        if self.spec.recovery.when_short == "shrink":
            self.replicas, fitted, regrow_at = self.crew.fit_replicas(decided)
            in_place = max(in_place, fitted)
            self.schedule_regrowth(regrow_at)
        self.available_at = max(self.available_at, now + outage_s, in_place)
        self.resume_at = self.available_at + self.spec.restart_s + restore_s

    # -- slow parts, corruption, regrowth -----------------------------------------------------------------------

    def later(self, at_s: float, action: Callable[[], None]) -> None:
        def wait() -> Process:
            yield self.env.timeout(max(at_s - self.env.now, 0.0))
            self.account()
            action()
            self.wake()

        self.env.process(wait())

    def slow_down(self, fault: FaultEvent) -> None:
        """The worst slow part governs until the last is over or replaced."""
        now = self.env.now
        replaced = self.spec.recovery.evict_slow and fault.detect_s < fault.lasts_s and not self.evicting
        until = now + (fault.detect_s if replaced else fault.lasts_s)
        live = self.slow_until > now
        self.slow_speed = min(self.slow_speed, fault.speed) if live else fault.speed
        self.slow_until = max(self.slow_until, until) if live else until
        self.later(self.slow_until, lambda: None)
        if replaced:
            self.evicting = True
            self.later(until, lambda: self.evict(fault))

    def evict(self, fault: FaultEvent) -> None:
        self.evicting = False
        if fault.node != JOB and self.crew.is_down(fault.node, self.env.now):
            return
        self.announce(_instead(fault, fault.node))
        self.tell("replaced", fault.component, fault.node, "stopped")

    def spoil(self, fault: FaultEvent) -> None:
        """Silent corruption: found later, and then everything since the last checkpoint before it is worthless."""
        if self.spoiled:
            return
        self.spoiled = True
        clean = self.safe(len(self.saves) - 1) or 0.0
        self.later(self.env.now + fault.detect_s, lambda: self.roll_back(fault, clean))

    def roll_back(self, fault: FaultEvent, clean: float) -> None:
        self.spoiled = False
        gone = fault.node != JOB and self.crew.is_down(fault.node, self.env.now)
        self.component = fault.component
        self.stops_by[fault.component] += 1
        self.crash(_instead(fault, JOB if gone else fault.node), clean)
        self.tell("rolled back", fault.component, fault.node, "stopped")

    def schedule_regrowth(self, at_s: float) -> None:
        self.regrowth += 1
        number = self.regrowth
        if math.isfinite(at_s):
            self.later(at_s, lambda: self.regrow(number))

    def regrow(self, number: int) -> None:
        if number != self.regrowth:
            return
        none = FaultEvent(self.env.now, self.component, KINDS.index("planned"), JOB, 0, 0.0, 0.0, 0.0, 0.0, 1.0)
        self.stop_cleanly(none)
        self.tell("regrown", self.component, JOB, "stopped")

    # -- telling ------------------------------------------------------------------------------------------------

    def tell(self, what: str, component: int | None, node: int, effect: str) -> None:
        name = "" if component is None else self.names[component]
        self.story.append(RunEvent(self.env.now, what, name, node, effect, self.work))

    def outcome(self) -> Outcome:
        finished = self.work >= self.spec.work_s
        return Outcome(
            finish_s=np.array([self.env.now if finished else math.inf]),
            elapsed_s=np.array([self.env.now]),
            work_s=np.array([self.work]),
            lost_s={name: np.array([lost]) for name, lost in self.lost.items()},
            lost_by_component_s=self.lost_by[None],
            stops_by_component=self.stops_by[None],
            faults=np.array([self.faults]),
            waits_for_ever=np.array([not finished and self.resume_at == math.inf]),
        )


def _instead(fault: FaultEvent, node: int) -> FaultEvent:
    """The stop that follows a fault which had gone on unseen: found already, one node to exchange."""
    return FaultEvent(fault.time_s, fault.component, fault.kind, node, 0, 0.0, fault.repair_s, 0.0, 0.0, 1.0)


def _entries(timeline: FaultTimeline) -> list[FaultEvent]:
    names = FaultEvent.__slots__
    return [FaultEvent(*row) for row in zip(*(getattr(timeline, n).tolist() for n in names), strict=True)]
