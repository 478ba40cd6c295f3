"""What a search came to: its best plans evaluated in full, ranked and compared, and what each key brought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from hardware.problems import Place
from simulator.planner.candidates import own_value
from simulator.planner.contests import HEADROOMS
from simulator.planner.doubles import fewest_changes, groups
from simulator.planner.floors import least_value
from simulator.planner.layouts import split_by_cost
from simulator.planner.options import SearchOptions
from simulator.planner.remedies import remedies
from simulator.planner.result import FrontPoint, Gain, PlanSearch, RankedPlan, behind, is_tied, ranked_plan, value_of
from simulator.planner.search import Asked, Played
from simulator.planner.shared_error import error_shares
from simulator.planner.space import Space
from simulator.planner.tally import Tally
from simulator.plans.spec import Plan
from simulator.predict.prediction import predict
from simulator.predict.simulate import simulate
from simulator.scenario.legal import problems
from simulator.scenario.spec import Scenario

# By how much a step that is played with others may differ from the same step played alone.
ROUNDING = 1e-9
# The best plans of which a split by cost is tried too.
MOST_SPLITS = 5


def outcome(space: Space, options: SearchOptions, tally: Tally, seconds: float, complete: bool) -> PlanSearch:
    """The result of a search, its best plans evaluated in full."""
    scenario, asked = space.scenario, options.asked
    candidates = [evaluated(scenario, plan) for plan in fastest_plans(space, tally, asked.top)]
    splits = [evaluated(scenario, split) for split in splits_by_cost(scenario, candidates)]
    enough = (1 - options.headroom_fraction) * scenario.cluster.accelerator.memory_capacity_bytes
    fitting = [each for each in (*candidates, *splits) if each.fits and each.device_memory_bytes <= enough]
    plans = ranking(without_doubles(scenario.plan, fitting), options.objective)[: options.top]
    nearest = None
    if not plans and (tally.least or candidates):
        near = min(tally.least, key=lambda each: each.device_bytes).plan if tally.least else candidates[0].plan
        nearest = evaluated(scenario, near)
    return PlanSearch(
        plans=plans,
        front=front(tally, splits, scenario.cluster.accelerator.memory_capacity_bytes),
        gains=gains(space, tally),
        legal=tally.legal,
        fitting=tally.fitting,
        played=tally.played,
        seconds=seconds,
        objective=options.objective,
        headroom_fraction=options.headroom_fraction,
        searched={key: len(values) for key, values in space.candidates.items() if len(values) > 1},
        refused=space.refused,
        start=start_of(space),
        nearest=nearest,
        remedies=remedies(scenario, nearest.plan, options.headroom_fraction) if nearest else (),
        complete=complete,
        priced=len(candidates) + len(splits),
        others_least=others_least(scenario, options, candidates) if complete else None,
    )


def fastest_plans(space: Space, tally: Tally, wanted: int) -> list[Plan]:
    """The fastest plans, of doubles the one that changes least of the scenario's own."""
    base = space.scenario.plan
    return [fewest_changes(base, doubles, lambda each: each.plan).plan for doubles in tally.different(wanted)]


def without_doubles(base: Plan, plans: Sequence[RankedPlan]) -> list[RankedPlan]:
    """Evaluated plans, of those with equal step and memory the one that changes least of the base."""
    ordered = sorted(plans, key=lambda each: each.step_time_s)
    doubles = groups(ordered, lambda each: (each.step_time_s, each.device_memory_bytes))
    return [fewest_changes(base, alike, lambda each: each.plan) for alike in doubles]


def others_least(scenario: Scenario, options: SearchOptions, candidates: Sequence[RankedPlan]) -> float | None:
    """What no plan that was not evaluated stays below in the objective: its step is not below the slowest candidate's.

    None for time, by which the candidates were chosen, and where all plans that fit are candidates."""
    if options.objective == "time" or len(candidates) < options.asked.top:
        return None
    done = simulate(replace(scenario, plan=candidates[0].plan, warnings=()))
    return least_value(options.objective, done, max(each.step_time_s for each in candidates))


def splits_by_cost(scenario: Scenario, best: Sequence[RankedPlan]) -> list[Plan]:
    """The best plans with their layers split by what they cost, where that is another split than those tried."""
    found: dict[Plan, None] = {}
    for each in best[:MOST_SPLITS]:
        split = split_by_cost(scenario, each.plan)
        if split is not None and all(split != other.plan for other in best):
            found[split] = None
    return list(found)


def evaluated(scenario: Scenario, plan: Plan) -> RankedPlan:
    """A plan evaluated as `evaluate` does it."""
    done = simulate(replace(scenario, plan=plan, warnings=()))
    return ranked_plan(predict(done), error_shares(done))


def own_limits(space: Space, asked: Asked) -> tuple[float, ...]:
    """Step times that the scenario's own plan reaches, by contest; infinite where it is not in the space or not in the
    contest."""
    count = asked.contests(space)
    if not own_is_legal(space) or not space.holds_own():
        return (inf,) * count
    own = played_start(space.scenario)
    reached_s = own.step_time_s * (1 + ROUNDING)
    free = 1 - own.device_bytes / space.scenario.cluster.accelerator.memory_capacity_bytes
    enough = free >= asked.headroom_fraction
    levels = [reached_s if free >= level else inf for level in asked.levels]
    keys = [reached_s if enough else inf for _ in asked.keys(space)]
    return (reached_s if enough and asked.top == 1 else inf, *levels, *keys)


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


def front(tally: Tally, splits: Sequence[RankedPlan], capacity_bytes: float) -> tuple[FrontPoint, ...]:
    """The fastest plans by the memory that they leave free, without those that are beaten in both.

    Those are the winners of the search, and the best of them with layers split by cost (`splits`).
    """
    points: list[FrontPoint] = []
    for number, level in enumerate(HEADROOMS, start=1):
        for won in tally.winners(number, 1):
            point = FrontPoint(level, won.plan, won.step_time_s, won.device_bytes)
            roomy = [each for each in splits if each.device_memory_bytes <= (1 - level) * capacity_bytes]
            others = [FrontPoint(level, each.plan, each.step_time_s, each.device_memory_bytes) for each in roomy]
            fastest = min((point, *others), key=lambda each: each.step_time_s)
            if points and points[-1].plan == fastest.plan:
                points.pop()
            points.append(fastest)
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
