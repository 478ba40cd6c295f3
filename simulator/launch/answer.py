"""Whether a target can be told a scenario: its settings, what it cannot express, and the nearest plan that it can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from simulator.launch.environment import variables
from simulator.launch.express import Expressed, Inexpressible, express
from simulator.launch.facts import Facts, scenario_facts
from simulator.launch.forecast import Forecast
from simulator.launch.nearest import Nearest, nearest
from simulator.launch.partial import launched_plan, with_replicas
from simulator.launch.phases import Stretch
from simulator.launch.tables import Table, as_text, stated_key
from simulator.launch.targets import Target
from simulator.plans.rules import check
from simulator.plans.spec import Plan
from simulator.scenario.schema import Scenario
from simulator.stack import Stack, release


@dataclass(frozen=True, slots=True)
class Answer:
    """What a target is told of a scenario. `inexpressible` holds everything that it cannot be told, by key."""

    facts: Mapping[str, Any]
    expressed: Expressed
    inexpressible: tuple[Inexpressible, ...]


def answer(
    target: Target, table: Table, scenario: Scenario, forecast: Forecast, stretch: Stretch | None = None
) -> Answer:
    """The scenario in the target's words; `stretch`: the phase of a run that it is."""
    facts = scenario_facts(scenario, forecast, stretch)
    expressed = express(table, facts.values)
    found: dict[str, Inexpressible] = {}
    for each in (
        *target.unfit(table, scenario, facts.values),
        *_of_model(target, facts),
        *expressed.inexpressible,
        *_of_stack(table, scenario.plan),
        *_broken_rules(table, scenario),
    ):
        found.setdefault(each.key, _with_origin(each, scenario))
    settings = with_replicas(_without_switches(expressed, found), launched_plan(scenario.plan, found.values()))
    return Answer(facts.values, settings, tuple(found.values()))


def _with_origin(refused: Inexpressible, scenario: Scenario) -> Inexpressible:
    """With the stack named where it, not the file, gives the plan the value."""
    key, stack = refused.key.removeprefix("plan."), scenario.plan.stack.name
    if key not in scenario.stack_settings:
        return refused
    # A plain fp8 is the scenario's own word; which recipe it is the stack says.
    own = key == "precision"
    origin = f"the fp8 of {stack}" if own else f"{stack} brings it, as the plan leaves it out"
    return replace(refused, why=f"{refused.why} ({origin})")


def _without_switches(expressed: Expressed, refused: Mapping[str, Inexpressible]) -> Expressed:
    """Without the switches of keys that a rule forbids together with others."""
    settings = tuple(each for each in expressed.settings if not (each.bare and each.key in refused))
    return replace(expressed, settings=settings)


def nearest_plan(target: Target, table: Table, scenario: Scenario, forecast: Forecast) -> Nearest | None:
    """The nearest plan that the target can be told; None where there is none near."""
    stack = release(table.stack).stack

    def refuses(plan: Plan) -> tuple[Inexpressible, ...]:
        return answer(target, table, replace(scenario, plan=plan), forecast).inexpressible

    return nearest(scenario, stack, refuses)


def _of_model(target: Target, facts: Facts) -> tuple[Inexpressible, ...]:
    """What of the model has no flat keys; a registry's model needs none."""
    return tuple(each for each in facts.inexpressible if not (target.has_registry and each.key.startswith("model")))


def _of_stack(table: Table, plan: Plan) -> list[Inexpressible]:
    """What the predicted software does that the launched release does not, and has no setting for."""
    launched = release(table.stack).stack
    if plan.stack.framework != launched.framework:
        why = f"another framework was predicted than {table.title}, which this launches"
        return [Inexpressible("plan.stack", plan.stack.name, why, table.stack)]
    written = [row.key for row in table.rows if not row.import_only]
    told_apart = {fixed.key for fixed in table.fixed.values()} | table.not_settings.keys()
    settable = {*written, *map(stated_key, written), *told_apart}
    settable |= {key for each in variables() for key in each.when}
    return [
        Inexpressible(
            f"plan.stack.{name}", value, f"{table.title} has {as_text(of_release)}, and no setting for it", of_release
        )
        for name, value, of_release in _behaviours(plan.stack, launched)
        if value != of_release and f"plan.stack.{name}" not in settable
    ]


def _behaviours(own: Stack, launched: Stack) -> list[tuple[str, Any, Any]]:
    names = [spec.name for spec in fields(Stack) if spec.name not in ("name", "framework", "framework_rules")]
    return [(name, getattr(own, name), getattr(launched, name)) for name in names]


def _broken_rules(table: Table, scenario: Scenario) -> list[Inexpressible]:
    """Rules of the launched framework that the plan breaks, where other software was predicted."""
    stack = release(table.stack).stack
    launched = replace(scenario.plan.stack, name=stack.name, framework=stack.framework, framework_rules=True)
    plan = replace(scenario.plan, stack=launched)
    broken = check(scenario.model, plan, gpus=scenario.cluster.gpus, seq_length=scenario.run.seq_length)
    return [Inexpressible(each.key, each.value, f"{each.why}; right would be: {each.remedy}") for each in broken]
