"""The split of a plan's layers by what they cost, beside the splits that every plan of a search is tried with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardware.problems import Place
from simulator.planner.space import NO_SPLIT, SPLIT_KEYS
from simulator.plans.spec import Plan
from simulator.scenario.auto_layout import fault_of_auto, with_best_layout
from simulator.scenario.legal import problems
from simulator.scenario.spec import Scenario


def split_by_cost(scenario: Scenario, plan: Plan) -> Plan | None:
    """The plan with the split of `plan.layout: auto`; None without a pipeline, or where that split breaks a rule or is
    the plan's own."""
    unsaid: dict[str, Any] = dict(zip(SPLIT_KEYS, NO_SPLIT, strict=True))
    free = replace(plan, **unsaid)
    if plan.pp == 1 or fault_of_auto(scenario.model, free) is not None:
        return None
    split = with_best_layout(scenario.model, scenario.cluster, free, scenario.run.seq_length)
    if split == plan or problems(replace(scenario, plan=split), Place("layout")):
        return None
    return split
