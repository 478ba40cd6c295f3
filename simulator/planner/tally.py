"""What the chunks of a search that are done came to, and what others need not look at any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from math import inf

from simulator.planner.doubles import groups
from simulator.planner.search import Asked, ChunkResult, Played


@dataclass(slots=True)
class Tally:
    """What the chunks that are done (by number) came to. `known`: step times that are reached by contest anyhow."""

    known: tuple[float, ...] = ()
    legal: int = 0
    fitting: int = 0
    played: int = 0
    done: list[int] = field(default_factory=list)
    best: list[Played] = field(default_factory=list)
    least: list[Played] = field(default_factory=list)

    def add(self, result: ChunkResult) -> None:
        self.legal += result.legal
        self.fitting += result.fitting
        self.played += result.played
        self.done.append(result.number)
        self.best += result.best
        if result.least is not None:
            self.least.append(result.least)

    def winners(self, contest: int, wanted: int) -> list[Played]:
        """The fastest plans of a contest; of equals those of the earlier chunk."""
        own = [each for each in self.best if contest in each.contests]
        return sorted(own, key=lambda each: (each.step_time_s, repr(each.plan)))[:wanted]

    def different(self, wanted: int) -> list[list[Played]]:
        """The fastest plans of all, each with its doubles."""
        ordered = self.winners(0, len(self.best))
        return list(islice(groups(ordered, lambda each: (each.step_time_s, each.device_bytes)), wanted))

    def limits(self, asked: Asked, contests: int) -> tuple[float, ...]:
        """Step times that are reached by contest."""
        known = self.known or (inf,) * contests
        return tuple(min(limit, self._reached(contest, asked)) for contest, limit in enumerate(known))

    def _reached(self, contest: int, asked: Asked) -> float:
        """The step time of the last plan that is wanted of a contest; infinite where there are not so many yet."""
        if contest == 0 and asked.top > 1:
            best = self.different(asked.top)
            return best[-1][-1].step_time_s if len(best) == asked.top else inf
        return min((each.step_time_s for each in self.winners(contest, 1)), default=inf)
