"""What a launch runs that leaves out degrees which its target cannot be told: more replicas, fewer micro-batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod
from typing import Any

from simulator.launch.express import Expressed, Inexpressible, Setting
from simulator.plans.spec import Plan

# Degrees of model parallelism, whose ranks become replicas where they are left out.
_DEGREES = ("tp", "cp", "pp")


def launched_plan(plan: Plan, inexpressible: Iterable[Inexpressible]) -> Plan:
    """The plan with the degrees that are left out at 1 and their ranks as replicas."""
    refused = {each.key for each in inexpressible}
    left_out = [name for name in _DEGREES if f"plan.{name}" in refused]
    if not left_out:
        return plan
    dp = plan.dp * prod(getattr(plan, name) for name in left_out)
    changes: dict[str, Any] = {"dp": dp, **dict.fromkeys(left_out, 1)}
    if "pp" in left_out:
        changes |= {"vpp": 1, "layout": None}
    return replace(plan, **changes)


def with_replicas(expressed: Expressed, plan: Plan) -> Expressed:
    """The settings with the micro-batches in a row that the launched plan's replicas leave of a step."""
    return replace(expressed, settings=tuple(_of_replicas(each, plan) for each in expressed.settings))


def _of_replicas(setting: Setting, plan: Plan) -> Setting:
    if not setting.worked_out or setting.name != "gradient_accumulation_steps":
        return setting
    at_once = plan.micro_batch_size * plan.dp
    count, rest = divmod(plan.global_batch_size, at_once)
    note = f"{plan.global_batch_size} sequences a step are no multiple of {plan.micro_batch_size} x {plan.dp} replicas"
    value = max(1, count)
    return replace(setting, value=value, stated=value, note=f"{note}; it will not start" if rest else setting.note)
