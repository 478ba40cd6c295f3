"""The fastest plan of a scenario among those that share its settings and differ in degrees, schedule and stages: what
sizing asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from hardware.problems import Place
from simulator.memory.report import RESERVE_FRACTION
from simulator.planner.candidates import SEARCHED
from simulator.planner.layouts import split_by_cost
from simulator.planner.resized import NoPlan, on_cluster
from simulator.planner.search import Asked, Played, chunks_of, search_chunk
from simulator.planner.space import Space, space_of
from simulator.planner.tally import Tally
from simulator.plans.spec import Plan
from simulator.predict.simulate import simulate
from simulator.scenario.legal import problems
from simulator.scenario.spec import Scenario

VARIED = ("tp", "pp", "micro_batch_size", "sequence_parallel", "ep", "schedule", "vpp")
MICRO_BATCHES = (1, 2, 4, 8)
# So many of the fastest are held against the rules of the whole scenario, its phases included.
LOOKED_AT = 8


def best_plan(scenario: Scenario, gpus: int, node: str) -> Scenario:
    """The scenario on `gpus` GPUs of the catalogue node `node`, with its fastest plan. Raises NoPlan."""
    placed = on_cluster(scenario, gpus, node)
    return replace(placed, plan=fastest_plan(placed))


def fastest_plan(scenario: Scenario) -> Plan:
    """The fastest legal plan that fits. Raises NoPlan."""
    asked = Asked(top=LOOKED_AT, headroom_fraction=RESERVE_FRACTION, only_best=True)
    space, tally = degrees_space(scenario), Tally()
    judge = space.judge()
    for chunk in chunks_of(space, judge, asked):
        tally.add(search_chunk(replace(chunk, limits=tally.limits(asked, len(chunk.limits)))))
    fastest = tally.winners(0, asked.top)
    if not fastest:
        raise NoPlan(why_none(scenario, tally.least, judge.rejected))
    broken = [problems(replace(scenario, plan=each.plan), Place("size")) for each in fastest]
    legal = [each for each, faults in zip(fastest, broken, strict=True) if not faults]
    if not legal:
        raise NoPlan(f"{broken[0][0].key}: {broken[0][0].message}")
    return with_faster_split(scenario, legal[0])


def degrees_space(scenario: Scenario) -> Space:
    """The plans that share the scenario's settings."""
    keep = [key for key in SEARCHED if key not in VARIED]
    own = scenario.plan.micro_batch_size
    return space_of(scenario, keep, {"micro_batch_size": [*dict.fromkeys([*MICRO_BATCHES, own])]})


def with_faster_split(scenario: Scenario, best: Played) -> Plan:
    """The plan, its layers split by what they cost where that fits and is faster."""
    split = split_by_cost(scenario, best.plan)
    if split is None:
        return best.plan
    done = simulate(replace(scenario, plan=split))
    fits = done.device_bytes <= usable_bytes(scenario)
    return split if fits and done.step.step_time_s < best.step_time_s else best.plan


def usable_bytes(scenario: Scenario) -> float:
    """The GPU's memory without the reserve."""
    return (1 - RESERVE_FRACTION) * scenario.cluster.accelerator.memory_capacity_bytes


def why_none(scenario: Scenario, least: list[Played], rejected: Mapping[str, int]) -> str:
    """What stands in the way of every plan: memory, or the rules that rejected most."""
    if least:
        excess = min(each.device_bytes for each in least) - usable_bytes(scenario)
        reserve = f"{100 * RESERVE_FRACTION:g} % of its memory in reserve"
        return f"memory: the smallest plan needs {excess / 2**30:.1f} GiB more than a GPU has with {reserve}"
    rules = sorted(rejected, key=lambda rule: -rejected[rule])[:3]
    return f"no plan is legal: rejected by {', '.join(rules)}" if rules else "no division of the GPUs is legal"
