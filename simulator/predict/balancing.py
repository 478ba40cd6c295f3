"""How evenly a scenario's experts are loaded: the kind of balancing that it names or that its model has."""

from __future__ import annotations

from dataclasses import replace

from simulator.plans.balancing import Balancing, balancing_of
from simulator.scenario.spec import Scenario


def balancing(scenario: Scenario) -> tuple[Balancing, str] | None:
    """The kind of balancing that the plan's imbalance stands for, and its source; None where a number is stated, where
    capacity fills every expert alike, or where no rank has others' experts."""
    plan, model = scenario.plan, scenario.model
    if not model.has_experts or plan.ep == 1 or plan.capacity_factor is not None:
        return None
    found = balancing_of(scenario.written, model.name)
    return found if found is not None and plan.expert_imbalance == found[0].hottest else None


def at_imbalance(scenario: Scenario, hottest: float) -> Scenario:
    """The scenario with the hottest rank as loaded as stated."""
    return replace(scenario, plan=replace(scenario.plan, expert_imbalance=hottest))
