"""Broken rules of a plan, each with the settings of its software stack that are to blame."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from simulator.model.spec import Model
from simulator.plans.case import written
from simulator.plans.rules import Violation, check
from simulator.plans.spec import Plan
from simulator.schedules import default_schedule


def with_blame(
    broken: Iterable[Violation],
    model: Model,
    plan: Plan,
    *,
    gpus: int,
    seq_length: int,
    settings: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """(key, message) of each violation, with the settings of the stack that its rule would not be broken without."""

    def is_broken(rule: str, changed: Plan) -> bool:
        return rule in {each.rule for each in check(model, changed, gpus=gpus, seq_length=seq_length)}

    found = []
    for violation in broken:
        blamed = _blamed(violation.rule, plan, settings, is_broken)
        found.append((violation.key, violation.message + _said_of_stack(blamed, plan)))
    return found


def _blamed(rule: str, plan: Plan, settings: Mapping[str, Any], is_broken: Callable[[str, Plan], bool]) -> list[str]:
    """The fewest settings of the stack, found one by one, whose plain values would keep the rule."""
    needed = list(settings)
    if is_broken(rule, _plain(plan, needed)):
        return []
    for key in settings:
        others = [each for each in needed if each != key]
        if not is_broken(rule, _plain(plan, others)):
            needed = others
    return needed


def _plain(plan: Plan, keys: Iterable[str]) -> Plan:
    """The plan with the value under each dotted key that a plan has whose stack sets nothing."""
    changed = plan
    for key in keys:
        name, _, below = key.partition(".")
        value = plain_value(plan, key)
        section = replace(getattr(changed, name), **{below: value}) if below else value
        changed = replace(changed, **{name: section})
    return changed


def plain_value(plan: Plan, key: str) -> Any:
    """What stands under a dotted key of a plan where neither scenario nor stack set it."""
    if key == "schedule":
        return default_schedule(plan.pp, plan.vpp)
    name, _, below = key.partition(".")
    bare = Plan(dp=1, micro_batch_size=1, global_batch_size=1)
    return getattr(getattr(bare, name), below) if below else getattr(bare, name)


def _said_of_stack(keys: Iterable[str], plan: Plan) -> str:
    """What the user writes to overrule each setting of the stack."""
    texts = []
    for key in keys:
        value, plain = written(_value_under(plan, key)), written(plain_value(plan, key))
        texts.append(f"; stack {plan.stack.name} sets plan.{key} to {value}, write plan.{key}: {plain} to overrule it")
    return "".join(texts)


def _value_under(plan: Plan, key: str) -> Any:
    name, _, below = key.partition(".")
    return getattr(getattr(plan, name), below) if below else getattr(plan, name)
