"""`plan()`: the search of a scenario's plans from start to end, on one process, several, or a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Place, Problem
from simulator.plan.spec import Plan
from simulator.planner.candidates import own_value
from simulator.planner.contests import HEADROOMS, contest_count
from simulator.planner.executors import Executor, Serial
from simulator.planner.remedies import remedies
from simulator.planner.result import FrontPoint, Gain, PlanSearch, RankedPlan, behind, is_tied, ranked_plan
from simulator.planner.resume import ChunkFiles
from simulator.planner.search import Asked, Chunk, ChunkResult, Played, chunks_of, search_chunk
from simulator.planner.shared_error import error_shares
from simulator.planner.space import Space, space_of
from simulator.predict.prediction import predict
from simulator.predict.simulate import simulate
from simulator.scenario.legal import problems
from simulator.scenario.spec import Scenario

# What is minimised. Of all but time the fastest plans are looked at, so many for each that is shown.
OBJECTIVES = ("time", "cost", "energy", "finish")
LOOKED_AT = 3


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a search is: chunks done of all, plans covered, and the best step so far."""

    done: int
    total: int
    covered: int
    best_s: float


@dataclass(slots=True)
class Tally:
    """What the chunks that are done came to."""

    legal: int = 0
    fitting: int = 0
    played: int = 0
    done: int = 0
    best: list[Played] = field(default_factory=list)
    least: list[Played] = field(default_factory=list)

    def add(self, result: ChunkResult) -> None:
        self.legal += result.legal
        self.fitting += result.fitting
        self.played += result.played
        self.done += 1
        self.best += result.best
        if result.least is not None:
            self.least.append(result.least)

    def winners(self, contest: int, wanted: int) -> list[Played]:
        """The fastest plans of a contest; of equals those of the earlier chunk."""
        own = [each for each in self.best if contest in each.contests]
        return sorted(own, key=lambda each: (each.step_time_s, repr(each.plan)))[:wanted]

    def limits(self, asked: Asked, contests: int) -> tuple[float, ...]:
        """Step times that are reached by contest."""
        found = []
        for contest in range(contests):
            wanted = asked.top if contest == 0 else 1
            own = self.winners(contest, wanted)
            found.append(own[-1].step_time_s if len(own) == wanted else inf)
        return tuple(found)


def plan(
    scenario: Scenario,
    *,
    keep: Sequence[str] = (),
    free: Mapping[str, Sequence[Any] | None] | None = None,
    top: int = 10,
    objective: str = "time",
    headroom_fraction: float = 0.0,
    executor: Executor | None = None,
    folder: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> PlanSearch:
    """Search every legal plan around the scenario's own and rank the best.

    `keep`: keys that stay as they are; `free`: further keys, with the values to try (None: the usual ones).
    `headroom_fraction`: share of the GPU's memory that stays free. `folder`: where chunks that are done are kept, so
    that a search that was killed goes on. An interrupt gives the best so far. Raises InputError for keys that cannot be
    kept or freed, and for a space without a legal plan.
    """
    begun = time.monotonic()
    check_objective(objective)
    if scenario.distillation is not None:
        why = "a teacher beside the model is not searched; compare plans instead (traincast compare --over)"
        raise InputError([Problem("plan", None, "distillation", why)])
    space = space_of(without_phases(scenario), keep, free)
    asked = Asked(top if objective == "time" else LOOKED_AT * top, headroom_fraction)
    judge = space.judge()
    chunks = chunks_of(space, judge, asked)
    tally = Tally()
    complete = True
    try:
        for result in results(chunks, asked, tally, executor or Serial(), folder):
            tally.add(result)
            if progress is not None:
                progress(Progress(tally.done, len(chunks), tally.legal, min(_steps(tally.best), default=inf)))
    except KeyboardInterrupt:
        complete = False
    if not tally.legal and complete:
        raise InputError([no_legal_plan(space, judge.rejected)])
    return outcome(space, asked, tally, objective, top, time.monotonic() - begun, complete)


def without_phases(scenario: Scenario) -> Scenario:
    """The scenario with its own plan from start to end: phases with plans of their own are not searched."""
    policies = scenario.run.policies
    if policies is None or not policies.phases:
        return scenario
    run = replace(scenario.run, policies=replace(policies, phases=()))
    written_run = {key: value for key, value in scenario.written["run"].items() if key != "phases"}
    return replace(scenario, run=run, phase_plans={}, written={**scenario.written, "run": written_run})


def _steps(best: Iterable[Played]) -> list[float]:
    return [each.step_time_s for each in best if 0 in each.contests]


def check_objective(objective: str) -> None:
    if objective not in OBJECTIVES:
        raise InputError([Problem("--objective", None, "", f"is {objective!r}; choose from {', '.join(OBJECTIVES)}")])


def results(
    chunks: Sequence[Chunk], asked: Asked, tally: Tally, executor: Executor, folder: Path | None
) -> Iterable[ChunkResult]:
    """The result of every chunk: from the folder where it is known, else searched (and left in the folder)."""
    files = ChunkFiles.of(folder, chunks)
    waiting = []
    for chunk in chunks:
        known = files.read(chunk)
        if known is not None:
            yield known
        else:
            waiting.append(chunk)
    contests = contest_count(len(chunks[0].space.searched)) if chunks else 0

    def with_limits(chunk: Chunk) -> Chunk:
        return replace(chunk, limits=tally.limits(asked, contests))

    for result in executor.run(search_chunk, waiting, with_limits):
        files.write(result)
        yield result


def no_legal_plan(space: Space, rejected: Mapping[str, int]) -> Problem:
    """Which rules left nothing of the space."""
    worst = sorted(rejected, key=lambda rule: -rejected[rule])[:4]
    kept = ", ".join(f"plan.{key}" for key in KEPT_OFTEN if len(space.candidates[key]) == 1)
    why = f"no plan is legal: rejected by {', '.join(worst)}" if worst else "no plan can be made of these keys"
    remedy = f"; free one of {kept}" if kept else "; change the batch or the number of GPUs"
    return Problem(space.scenario.file, None, "plan", why + remedy)


KEPT_OFTEN = ("tp", "cp", "pp", "vpp", "ep", "micro_batch_size", "schedule")


def outcome(
    space: Space, asked: Asked, tally: Tally, objective: str, top: int, seconds: float, complete: bool
) -> PlanSearch:
    """The result of a search, its best plans evaluated in full."""
    scenario = space.scenario
    candidates = [evaluated(scenario, each.plan) for each in tally.winners(0, asked.top)]
    plans = ranking([each for each in candidates if each.fits], objective)[:top]
    nearest = None
    if not plans and (tally.least or candidates):
        near = min(tally.least, key=lambda each: each.device_bytes).plan if tally.least else candidates[0].plan
        nearest = evaluated(scenario, near)
    return PlanSearch(
        plans=plans,
        front=front(tally),
        gains=gains(space, tally),
        legal=tally.legal,
        fitting=tally.fitting,
        played=tally.played,
        seconds=seconds,
        objective=objective,
        headroom_fraction=asked.headroom_fraction,
        searched={key: len(values) for key, values in space.candidates.items() if len(values) > 1},
        start=start_of(space),
        nearest=nearest,
        remedies=remedies(scenario, nearest.plan, asked.headroom_fraction) if nearest else (),
        complete=complete,
    )


def evaluated(scenario: Scenario, plan: Plan) -> RankedPlan:
    """A plan evaluated as `evaluate` does it."""
    done = simulate(replace(scenario, plan=plan, warnings=()))
    return ranked_plan(predict(done), error_shares(done))


def start_of(space: Space) -> RankedPlan | None:
    """The scenario's own plan, where it is legal."""
    scenario = space.scenario
    return evaluated(scenario, scenario.plan) if own_is_legal(space) else None


def own_is_legal(space: Space) -> bool:
    return not problems(space.scenario, Place(space.scenario.file))


def ranking(plans: Sequence[RankedPlan], objective: str) -> tuple[RankedPlan, ...]:
    """Plans in the order of an objective, each compared with the first."""
    ordered = sorted(plans, key=lambda each: value_of(each, objective))
    return tuple(
        replace(
            each,
            rank=rank,
            tied=rank > 1 and is_tied(ordered[0], each),
            behind_s=behind(ordered[0], each) if rank > 1 else None,
        )
        for rank, each in enumerate(ordered, start=1)
    )


def value_of(ranked: RankedPlan, objective: str) -> float:
    """What an objective minimises; where a scenario does not say what it costs, the step time."""
    if objective == "finish" and ranked.finish_s is not None:
        return ranked.finish_s["p50"]
    known = {"cost": ranked.cost_usd, "energy": ranked.energy_j, "finish": ranked.training_time_s}.get(objective)
    return ranked.step_time_s if known is None else known


def front(tally: Tally) -> tuple[FrontPoint, ...]:
    """The fastest plans by the memory that they leave free, without those that are beaten in both."""
    points: list[FrontPoint] = []
    for number, level in enumerate(HEADROOMS, start=1):
        for won in tally.winners(number, 1):
            if points and points[-1].plan == won.plan:
                points.pop()
            points.append(FrontPoint(level, won.plan, won.step_time_s, won.device_bytes))
    return tuple(points)


def gains(space: Space, tally: Tally) -> tuple[Gain, ...]:
    """What every searched key brought, largest first; keys whose own value no fitting plan has are left out."""
    best = tally.winners(0, 1)
    if not best:
        return ()
    found = []
    for number, key in enumerate(space.searched, start=1 + len(HEADROOMS)):
        for kept in tally.winners(number, 1):
            own, value = own_value(space.base, key), own_value(best[0].plan, key)
            found.append(Gain(key, own, value, kept.step_time_s, kept.step_time_s - best[0].step_time_s))
    return tuple(sorted(found, key=lambda gain: -gain.gain_s))


def played_start(scenario: Scenario) -> Played:
    """The scenario's own plan, played: the first row of a search."""
    done = simulate(scenario)
    fullest = max(rank.device_bytes for rank in done.memory)
    allocated = max(rank.allocated_bytes for rank in done.memory)
    return Played(scenario.plan, done.step.step_time_s, fullest, allocated)
