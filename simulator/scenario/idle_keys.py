"""Keys that a scenario states and that act on nothing in it, or that drop its work: worth a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from simulator.plans.balancing import stated_imbalance
from simulator.scenario.spec import Scenario

OWNERS_PRICES = ("life", "utilisation", "electricity", "water")
# What a resolved scenario writes of a model without experts.
DEFAULT_DISPATCHER = "alltoall"


def idle_keys(scenario: Scenario, starts_search: bool) -> tuple[str, ...]:
    """Words on every key that acts on nothing; `starts_search`: the plan is where a search starts."""
    return (
        *idle_imbalance(scenario, starts_search),
        *idle_plan(scenario, starts_search),
        *idle_spread(scenario),
        *idle_prices(scenario),
        *dropped_tokens(scenario),
        *idle_spares(scenario),
    )


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


def idle_plan(scenario: Scenario, starts_search: bool) -> Iterator[str]:
    """Words on keys of the plan as written that act on nothing, unless a search may choose other degrees."""
    written, plan = scenario.written.get("plan"), scenario.plan
    if not isinstance(written, Mapping):
        return
    if "dispatcher" in written and plan.dispatcher != DEFAULT_DISPATCHER and not scenario.model.has_experts:
        yield "plan.dispatcher does nothing: the model has no experts. Leave it out"
    for key in ("account_for_embedding", "account_for_loss"):
        if written.get(key) is True and plan.pp * plan.vpp == 1 and not starts_search:
            yield f"plan.{key} does nothing with pp 1: all layers are on one stage. Leave it out"


def idle_spread(scenario: Scenario) -> Iterator[str]:
    """A word on what makes GPUs unequal: equal ranks are simulated once, and the step time is theirs."""
    if scenario.spread is not None:
        yield "spread acts on the figures of every GPU by itself (traincast evaluate --ranks all), not on the step time"


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


def dropped_tokens(scenario: Scenario) -> Iterator[str]:
    """A word on a capacity below the load that arrives: MFU counts the work of tokens that are dropped."""
    plan = scenario.plan
    capacity = plan.capacity_factor
    if capacity is None or not scenario.model.has_experts:
        return
    of_even_load = 1 - capacity
    of_hottest_rank = (plan.expert_imbalance - capacity) / plan.ep if plan.ep > 1 else 0.0
    dropped = max(of_even_load, of_hottest_rank)
    if dropped > 0:
        yield (
            f"plan.capacity_factor: {capacity:g} drops at least {dropped:.2%} of the tokens routed to experts, and "
            "Model FLOPs and MFU count them as computed. Write more, or leave it out (dropless)"
        )


def idle_spares(scenario: Scenario) -> Iterator[str]:
    """A word on more stated spares than the job has nodes, which stand by and are paid for."""
    policies, nodes = scenario.run.policies, scenario.cluster.nodes
    if policies is None or policies.auto_spares or policies.recovery.spares <= nodes:
        return
    yield (
        f"run.spares: {policies.recovery.spares:,} spare nodes for a job of {nodes:,} are more than it can lose at "
        "once, and all are paid for. Write fewer, or auto"
    )
