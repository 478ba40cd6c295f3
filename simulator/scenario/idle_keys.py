"""Keys that a scenario states and that act on nothing in it: worth a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from simulator.plans.balancing import stated_imbalance
from simulator.scenario.spec import Scenario

OWNERS_PRICES = ("life", "utilisation", "electricity", "water")


def idle_imbalance(scenario: Scenario, starts_search: bool) -> Iterator[str]:
    """A word on a stated imbalance that acts on nothing, unless a search may choose other degrees."""
    plan = scenario.plan
    if starts_search or stated_imbalance(scenario.written) is None:
        return
    if not scenario.model.has_experts:
        yield "plan.expert_imbalance does nothing: the model has no experts. Leave it out"
    elif plan.ep == 1:
        yield "plan.expert_imbalance does nothing with ep 1: every rank has all experts. Leave it out"
    elif plan.capacity_factor is not None:
        yield "plan.expert_imbalance does nothing beside plan.capacity_factor, which fills all experts. Leave it out"


def idle_prices(scenario: Scenario) -> Iterator[str]:
    """A word on what an owner pays where nobody owns: rent covers it."""
    policies, run = scenario.run.policies, scenario.written.get("run")
    written = run.get("prices") if isinstance(run, Mapping) else None
    if policies is None or policies.prices is None or policies.prices.capital_usd_per_gpu:
        return
    if isinstance(written, Mapping):
        for key in OWNERS_PRICES:
            if key in written:
                yield f"run.prices.{key} acts only with run.prices.capital_per_gpu: rent covers it. Leave it out"
