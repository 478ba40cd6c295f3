"""Plans that differ in nothing that counts."""

from __future__ import annotations

from dataclasses import replace

from simulator import load_scenario
from simulator.planner.doubles import changes, fewest_changes, groups
from tests.command import ROOT


def test_equal_steps_are_doubles_where_memory_is_equal_too() -> None:
    pairs = [(1.0, 5.0), (1.0, 6.0), (1.0 + 1e-12, 5.0), (1.0 + 1e-6, 5.0), (2.0, 6.0), (2.0, 6.0 + 1e-6)]
    found = list(groups(pairs, lambda pair: pair))
    assert [[pairs.index(each) for each in alike] for alike in found] == [[0, 2], [1], [3], [4], [5]]


def test_of_doubles_the_one_with_the_fewest_changes_stays() -> None:
    base = load_scenario(ROOT / "scenarios" / "tiny.yaml").plan
    one, two = replace(base, micro_batch_size=4), replace(base, micro_batch_size=4, sequence_parallel=True)
    assert [changes(base, plan) for plan in (base, one, two)] == [0, 1, 2]
    assert fewest_changes(base, [two, one], lambda plan: plan) == one
    assert fewest_changes(base, [one, base, two], lambda plan: plan) == base
