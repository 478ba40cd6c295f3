"""Plans that take equally long and hold as many bytes: one of them is shown, the one that changes least."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import isclose
from typing import TypeVar

from simulator.planner.candidates import KEYS, own_value
from simulator.planner.space import SPLIT_KEYS
from simulator.plans.spec import Plan

Item = TypeVar("Item")
# By how much the step and the bytes of doubles differ at most.
ROUNDING = 1e-9


def groups(ordered: Iterable[Item], figures: Callable[[Item], tuple[float, float]]) -> Iterable[list[Item]]:
    """Doubles side by side, in the order of each group's first.

    `ordered` by step time; `figures` of one: seconds of its step, bytes of its fullest device.
    """
    near: list[list[Item]] = []
    for each in ordered:
        step_s, held_bytes = figures(each)
        first_far = 0
        while first_far < len(near) and not isclose(figures(near[first_far][0])[0], step_s, rel_tol=ROUNDING):
            first_far += 1
        yield from near[:first_far]
        near = near[first_far:]
        double = next((one for one in near if isclose(figures(one[0])[1], held_bytes, rel_tol=ROUNDING)), None)
        if double is None:
            near.append([each])
        else:
            double.append(each)
    yield from near


def changes(base: Plan, plan: Plan) -> int:
    """How many keys of the plan, its split of the layers included, have another value than the base's."""
    keys = (*KEYS, *SPLIT_KEYS)
    return sum(own_value(base, key) != own_value(plan, key) for key in keys)


def fewest_changes(base: Plan, alike: Iterable[Item], plan_of: Callable[[Item], Plan]) -> Item:
    """Of doubles the one that changes the fewest keys of the base; of equals the first."""
    return min(alike, key=lambda each: changes(base, plan_of(each)))
