"""What inequality costs: the distribution of step times, the tax of each cause, and who is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.step.graph import Floats, TaskGraph
from simulator.step.ranks import Grid, ProgramOf, RankResult, simulate_ranks
from simulator.step.spread import Spread


@dataclass(frozen=True, slots=True)
class InequalityReport:
    """`ideal_s` without any spread; `step_times_s` [samples] with all of it; `tax_fraction` the mean step time over
    the ideal, minus one, with one cause at a time; `blamed` (global rank, seconds others waited for it, mean)."""

    ideal_s: float
    step_times_s: Floats
    tax_fraction: dict[str, float]
    wait_s: dict[str, float]
    blamed: tuple[tuple[int, float], ...]

    def quantile_s(self, fraction: float) -> float:
        return float(np.quantile(self.step_times_s, fraction))

    @property
    def mean_s(self) -> float:
        return float(self.step_times_s.mean())


def study(
    graph: TaskGraph,
    stage_of_chunk: np.ndarray,
    program_of: ProgramOf,
    grid: Grid,
    spread: Spread,
    seeds: Sequence[int] = (0,),
) -> InequalityReport:
    """Simulates every GPU: once without spread, with all causes and with each alone, for each seed."""

    def steps(case: Spread) -> list[RankResult]:
        return [simulate_ranks(graph, stage_of_chunk, program_of, grid, case, seed) for seed in seeds]

    ideal_s = simulate_ranks(graph, stage_of_chunk, program_of, grid, Spread()).step_time_s
    whole = steps(spread)
    tax = {
        cause: float(np.mean([step.step_time_s for step in steps(alone)])) / ideal_s - 1
        for cause, alone in spread.causes().items()
    }
    blame = np.mean([step.blame_s.ravel() for step in whole], axis=0)
    worst = np.argsort(-blame, kind="stable")[:10]
    return InequalityReport(
        ideal_s=ideal_s,
        step_times_s=np.array([step.step_time_s for step in whole]),
        tax_fraction=tax,
        wait_s={group: float(np.mean([step.wait_s[group].mean() for step in whole])) for group in whole[0].wait_s},
        blamed=tuple((int(rank), float(blame[rank])) for rank in worst if blame[rank] > 0),
    )
