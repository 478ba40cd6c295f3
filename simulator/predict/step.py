"""A simulated step: the schedule that was played, what its slots cost, where its time goes, and what surrounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from simulator.cost.slowest import slowest_of
from simulator.cost.step_times import SlotTimes
from simulator.schedules import Schedule
from simulator.step.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Around:
    """What surrounds a step, as it acts on it.

    `waiting_s`: seconds that it adds, by cause. `replaced`: causes of the step alone that do not occur.
    `clusters` like the scenario's take the step at the same time. `reports` hold the details by scenario section.
    """

    waiting_s: Mapping[str, float] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    clusters: int = 1
    reports: Mapping[str, object] = field(default_factory=dict)


ALONE = Around()


@dataclass(frozen=True, slots=True)
class Step:
    """A simulated step: its schedule, the costs of its stages, when everything ran, and what it waits for outside.

    `site_factor` is how many times longer steps take on the site than predicted, as far as its runs are believed.
    """

    schedule: Schedule
    slots: SlotTimes
    timeline: Timeline
    gpus: int
    site_factor: float = 1.0
    around: Around = ALONE

    @property
    def straggler_s(self) -> float:
        """What the job waits for its slowest rank: the latest of n with spread s is s x `slowest_of` n late."""
        late_s = self.timeline.step_time_s * self.slots.constants.rank_noise * float(slowest_of(self.gpus))
        return self.site_factor * late_s

    @property
    def alone_s(self) -> float:
        """The step of synchronous replicas whose data is always there."""
        return self.site_factor * self.timeline.step_time_s + self.straggler_s

    @property
    def step_time_s(self) -> float:
        """Seconds of a step with all that surrounds it."""
        if not self.around.waiting_s:
            return self.alone_s
        return sum(self.breakdown().values())

    def breakdown(self) -> dict[str, float]:
        """Seconds of the step by cause, mean over pipeline ranks; they add up to its time."""
        spent = {cause: self.site_factor * seconds for cause, seconds in self.timeline.breakdown().items()}
        alone = spent | {"straggler": self.straggler_s}
        return self._occurring(alone) | dict(self.around.waiting_s)

    def by_rank(self) -> list[dict[str, float]]:
        """The same of every pipeline rank: what a rank has less of its own work it waits longer."""
        spent = self.timeline.by_rank()
        ranks = []
        for rank in range(self.schedule.pp):
            alone = {cause: self.site_factor * float(seconds[rank]) for cause, seconds in spent.items()}
            causes = self._occurring(alone | {"straggler": self.straggler_s}) | dict(self.around.waiting_s)
            if self.around.replaced:
                last = list(self.around.waiting_s)[-1]
                causes[last] += self.step_time_s - sum(causes.values())
            ranks.append(causes)
        return ranks

    def _occurring(self, causes: dict[str, float]) -> dict[str, float]:
        replaced = self.around.replaced
        return {cause: 0.0 if cause in replaced else seconds for cause, seconds in causes.items()}
