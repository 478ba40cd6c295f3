"""The nearest plan that a target can be told: what it cannot express replaced, then what that breaks put right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from simulator.fields import default_of, hints, key_of_field
from simulator.launch.express import Inexpressible
from simulator.launch.tables import MISSING
from simulator.plans.rules import check
from simulator.plans.spec import Plan
from simulator.scenario.schema import Scenario
from simulator.schedules import default_schedule
from simulator.stack import Stack, release

_MOST_ROUNDS = 12
AUTO = "auto"
# Asks what a target still cannot be told of a plan.
Refuses = Callable[[Plan], Sequence[Inexpressible]]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A plan that the target can be told, and what it changes: dotted key to the new value."""

    plan: Plan
    changes: Mapping[str, Any]

    @property
    def overrides(self) -> list[str]:
        """The changes as `--set` takes them."""
        return [f"{key}={value_text(value)}" for key, value in self.changes.items()]


def nearest(scenario: Scenario, stack: Stack, refuses: Refuses) -> Nearest | None:
    """The nearest plan on the target's stack; None where replacing single keys leads to none.

    Every round replaces what the target cannot express by the nearest that it can, and sets what a rule forbids to its
    default.
    """
    plan = scenario.plan
    if plan.stack.framework != stack.framework:
        plan = replace(plan, stack=stack)
    for _ in range(_MOST_ROUNDS):
        changes = _corrections(scenario, plan, refuses)
        if changes is None:
            return None
        if not changes:
            return Nearest(plan, differences(scenario.plan, plan))
        for key, value in changes.items():
            plan = with_value(plan, key, value)
        plan = _scheduled(plan)
    return None


def _corrections(scenario: Scenario, plan: Plan, refuses: Refuses) -> dict[str, Any] | None:
    """What to change next; nothing where the plan is legal and can be told, None where no way leads on."""
    changes = {}
    for refused in refuses(plan):
        value = _default(refused.key) if refused.nearest is MISSING else refused.nearest
        if not refused.key.startswith("plan.") or value is MISSING or value == refused.value:
            return None
        changes[refused.key] = value
    if changes:
        return changes
    for broken in check(scenario.model, plan, gpus=scenario.cluster.gpus, seq_length=scenario.run.seq_length):
        default = _default(broken.key)
        if default is MISSING or default == _value(plan, broken.key):
            return None
        changes[broken.key] = default
    return changes


def _scheduled(plan: Plan) -> Plan:
    """The schedule by degrees, where it was left to them."""
    return replace(plan, schedule=default_schedule(plan.pp, plan.vpp)) if plan.schedule == AUTO else plan


def with_value(plan: Plan, key: str, value: Any) -> Plan:
    """The plan with one dotted key changed; degrees that no longer fill the cluster are made up by dp."""
    changed: Plan = _replaced(plan, key.split(".")[1:], value)
    gpus, replica = plan.gpus, changed.tp * changed.cp * changed.pp
    return replace(changed, dp=gpus // replica) if gpus % replica == 0 else changed


def _replaced(spec: Any, path: list[str], value: Any) -> Any:
    name = _field(type(spec), path[0])
    if len(path) > 1:
        value = _replaced(getattr(spec, name), path[1:], value)
    return replace(spec, **{name: None if _says_none(type(spec), name, value) else value})


def _says_none(cls: Any, name: str, value: Any) -> bool:
    """Whether a table's word stands for None: null, and auto for a field that None leaves to the simulator."""
    (spec,) = (each for each in fields(cls) if each.name == name)
    return value == "null" or (value == AUTO and default_of(spec) is None)


def _field(cls: Any, key: str) -> str:
    """The field of a key; keys leave units out."""
    return next(spec.name for spec in fields(cls) if key_of_field(spec, hints(cls)[spec.name]) == key)


def _value(plan: Plan, key: str) -> Any:
    value: Any = plan
    for name in key.split(".")[1:]:
        value = getattr(value, _field(type(value), name))
    return value


def _default(key: str) -> Any:
    """The default of a dotted key of the plan; MISSING where it has none."""
    cls: Any = Plan
    default: Any = MISSING
    if not key.startswith("plan."):
        return MISSING
    for name in key.split(".")[1:]:
        spec = next((each for each in fields(cls) if key_of_field(each, hints(cls)[each.name]) == name), None)
        if spec is None:
            return MISSING
        if spec.name in ("dp", "micro_batch_size", "global_batch_size"):
            return MISSING
        default = default_of(spec)
        cls = type(default)
    return MISSING if is_dataclass(default) else default


def differences(before: Plan, after: Plan) -> dict[str, Any]:
    """Dotted keys whose values differ; another stack as a whole by its name."""
    if before.stack.name == after.stack.name:
        return dict(_unequal("plan", before, after))
    same_stack = replace(before, stack=after.stack)
    stated = {key: _value(after, key) for key in _brought(after.stack.name)}  # what the other stack would bring
    # What the stack before brought, and no longer does.
    kept = {key: _value(after, key) for key in _brought(before.stack.name)}
    kept = {key: value for key, value in kept.items() if value != _default(key)}
    return {**dict(_unequal("plan", same_stack, after)), **kept, **stated, "plan.stack": after.stack.name}


def _brought(stack: str) -> list[str]:
    """Dotted keys of the plan that a release gives a value where the file does not."""
    brought = release(stack)
    return [f"plan.{key}" for key in {**brought.plan, **brought.plan_with_pipeline}]


def _unequal(prefix: str, before: Any, after: Any) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    cls: type = type(before)
    known = hints(cls)
    for spec in fields(before):
        old, new = getattr(before, spec.name), getattr(after, spec.name)
        key = f"{prefix}.{key_of_field(spec, known[spec.name])}"
        if old == new:
            continue
        if is_dataclass(old) and is_dataclass(new):
            found += _unequal(key, old, new)
        else:
            found.append((key, new))
    return found


def value_text(value: Any) -> str:
    """A value as `--set` takes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(str(item) for item in value) + "]"
    return str(value)
