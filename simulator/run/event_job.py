"""One job as it runs: what it does now, what it has done, until when it is down, and where its time went."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from simulator.run.checkpoints import Saving
from simulator.run.event_saves import SAME_POINT, SaveHistory
from simulator.run.fault_source import component_names
from simulator.run.faults import JOB
from simulator.run.node_pool import NodePool
from simulator.run.outcome import Outcome, RunEvent
from simulator.run.specs import DOWN, LOSSES, RunSpec

Process = Generator[simpy.Event, Any, None]
STALL_END_S = 1e-9  # a stall with less left is over


@dataclass(slots=True)
class Marks:
    """Until when the job is down, and for which cause."""

    detect_until_s: float = 0.0
    planned_until_s: float = 0.0
    available_at_s: float = 0.0
    resume_at_s: float = 0.0

    def in_order(self) -> tuple[tuple[str, float], ...]:
        """(cause, until when) in the order in which a stop goes through them."""
        times = (self.detect_until_s, self.planned_until_s, self.available_at_s, self.resume_at_s)
        return tuple(zip(DOWN, times, strict=True))


@dataclass(slots=True)
class Activity:
    """What the job does at present: a cause of `DOWN`, "checkpoint" or "work", and since when.

    Work goes at `shrunk` x `slow` of full speed, towards `target_s` of work.
    """

    name: str = "work"
    began_s: float = 0.0
    target_s: float | None = None
    shrunk: float = 1.0
    slow: float = 1.0


@dataclass(slots=True)
class Slowness:
    """The slow parts together: the worst `speed` governs until `until_s`; `evicting`: one of them will be replaced."""

    until_s: float = 0.0
    speed: float = 1.0
    evicting: bool = False


class Job:
    """The state of one run; time passes in SimPy's environment, and `account` books it."""

    def __init__(self, env: simpy.Environment, spec: RunSpec, saving: Saving, step_factor: float = 1.0) -> None:
        self.env, self.spec, self.saving = env, spec, saving
        self.step_factor = step_factor  # by how much the step is longer than predicted
        self.over: simpy.Event = env.event()
        self.life: simpy.Process | None = None
        self.nodes = NodePool(spec)
        self.saves = SaveHistory(saving)
        self.marks, self.activity, self.slowness = Marks(), Activity(), Slowness()
        self.work_s = self.stall_left_s = 0.0
        self.replicas = spec.replicas
        self.corrupted = False  # a corruption has not been found yet
        self.regrowth = 0  # number of the regrowth that counts; a newer stop makes older ones void
        self.component = self.faults = 0
        self.repairs_s = 0.0
        self.names = component_names(spec)
        self.lost_s = dict.fromkeys(LOSSES, 0.0)
        self.lost_by_component_s = np.zeros(len(self.names))
        self.stops_by_component = np.zeros(len(self.names), int)
        self.story: list[RunEvent] = []

    @property
    def now_s(self) -> float:
        return float(self.env.now)

    @property
    def is_complete(self) -> bool:
        return self.work_s >= self.spec.work_s

    def wake(self) -> None:
        """Makes the job look again at what it does next."""
        if self.life is not None and self.life.is_alive:
            self.life.interrupt()

    def later(self, at_s: float, action: Callable[[], None]) -> None:
        """Lets something happen at a time of its own."""

        def wait() -> Process:
            yield self.env.timeout(max(at_s - self.now_s, 0.0))
            self.account()
            action()
            self.wake()

        self.env.process(wait())

    def next_activity(self) -> tuple[Activity, float]:
        """What the job does now, and for how many seconds at most."""
        now_s = self.now_s
        for cause, until_s in self.marks.in_order():
            if until_s > now_s:
                return Activity(cause, now_s), until_s - now_s
        if self.stall_left_s > 0:
            return Activity("checkpoint", now_s), self.stall_left_s
        shrunk = self.spec.speeds()[self.replicas]
        slow = self.slowness.speed if self.slowness.until_s > now_s else 1.0
        target_s = self._next_point_s()
        wall_s = (target_s - self.work_s) * self.step_factor / (shrunk * slow)
        return Activity("work", now_s, target_s, shrunk, slow), wall_s

    def _next_point_s(self) -> float:
        """The work at the next save, or at the end."""
        every_s = self.saving.grid.every_s[0]
        point_s = math.inf
        if math.isfinite(every_s):
            point_s = (math.floor(self.work_s / every_s + SAME_POINT) + 1) * every_s
        last_point_s = self.spec.work_s - SAME_POINT * min(every_s, 1e9)
        return self.spec.work_s if point_s > last_point_s else point_s

    def account(self, arrived: bool = False) -> None:
        """Books the time since the activity began; `arrived`: it came to its end and was not cut short."""
        activity = self.activity
        wall_s = self.now_s - activity.began_s
        activity.began_s = self.now_s
        if activity.name == "work":
            self._account_work(wall_s, activity.target_s if arrived else None)
            return
        self.lost_s[activity.name] += wall_s
        if activity.name == "checkpoint":
            self._account_stall(wall_s)
        else:
            self.lost_by_component_s[self.component] += wall_s

    def _account_work(self, wall_s: float, target_s: float | None) -> None:
        """Work at reduced speed loses time to the missing replicas first, then to slow parts."""
        shrunk, slow = self.activity.shrunk, self.activity.slow
        speed = shrunk * slow / self.step_factor
        gained_s = wall_s * speed if target_s is None else target_s - self.work_s
        useful_s = gained_s * self.step_factor
        self.lost_s["shrunk"] += useful_s * (1 / shrunk - 1)
        self.lost_s["slow"] += useful_s / shrunk * (1 / slow - 1)
        if target_s is None:
            self.work_s += gained_s
            return
        self.work_s = target_s
        if not self.is_complete:
            self.stall_left_s = self.saves.stall_s(self.work_s)
            if self.stall_left_s == 0:
                self.saves.complete(self.work_s, self.now_s)

    def _account_stall(self, wall_s: float) -> None:
        self.stall_left_s = max(self.stall_left_s - wall_s, 0.0)
        if self.stall_left_s <= STALL_END_S:
            self.stall_left_s = 0.0
            self.saves.complete(self.work_s, self.now_s)

    def count_stop(self, component: int) -> None:
        """Stops of a job at work are counted; one that is down is not interrupted by what breaks meanwhile."""
        self.component = component
        self.stops_by_component[component] += self.marks.resume_at_s <= self.now_s

    def tell(self, what: str, component: int | None, node: int, effect: str) -> None:
        """Adds to the story of the run."""
        name = "" if component is None else self.names[component]
        self.story.append(RunEvent(self.now_s, what, name, node, effect, self.work_s))

    def tell_resumed(self) -> None:
        self.tell("resumed", self.component, JOB, "")

    def outcome(self) -> Outcome:
        """What the run came to, as a batch of one."""
        waits_for_ever = not self.is_complete and self.marks.resume_at_s == math.inf
        return Outcome(
            finish_s=np.array([self.now_s if self.is_complete else math.inf]),
            elapsed_s=np.array([self.now_s]),
            work_s=np.array([self.work_s * self.step_factor]),
            lost_s={name: np.array([lost]) for name, lost in self.lost_s.items()},
            lost_by_component_s=self.lost_by_component_s[None],
            stops_by_component=self.stops_by_component[None],
            faults=np.array([self.faults]),
            waits_for_ever=np.array([waits_for_ever]),
            repairs_s=None if self.spec.fault_log else np.array([self.repairs_s]),
        )
