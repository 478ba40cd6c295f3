"""How evenly a scenario's experts are loaded: the kind of balancing that it names or that its model has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simulator.model.spec import MoE
from simulator.plans.balancing import Balancing, balancing_of_model, kind_named
from simulator.scenario.spec import Scenario


def stated_imbalance(scenario: Scenario) -> Any:
    """What the scenario's file says of it: a number, a kind, or None."""
    plan = scenario.written.get("plan")
    return plan.get("expert_imbalance") if isinstance(plan, Mapping) else None


def balancing(scenario: Scenario) -> tuple[Balancing, str] | None:
    """The kind of balancing that the plan's imbalance stands for, and its source; None where a number is stated, where
    capacity fills every expert alike, or where no rank has others' experts."""
    plan, stated = scenario.plan, stated_imbalance(scenario)
    routed = any(isinstance(layer.ffn, MoE) for layer in scenario.model.layers)
    if not routed or plan.ep == 1 or plan.capacity_factor is not None:
        return None
    if stated is None:
        found, source = balancing_of_model(scenario.model.name)
    else:
        kind = kind_named(str(stated))
        if kind is None:
            return None
        found, source = kind, "given: plan.expert_imbalance"
    return (found, source) if plan.expert_imbalance == found.hottest else None


def at_imbalance(scenario: Scenario, hottest: float) -> Scenario:
    """The scenario with the hottest rank as loaded as stated."""
    return replace(scenario, plan=replace(scenario.plan, expert_imbalance=hottest))
