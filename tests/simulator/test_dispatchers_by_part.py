"""Dispatchers whose kernels are not written for a part: no candidates of a search, and named by an evaluation."""

from __future__ import annotations

import pytest

from hardware import catalogue
from hardware.collectives import DISPATCHERS
from hardware.problems import Place
from simulator import evaluate, load_scenario
from simulator.planner.space import space_of
from tests.command import ROOT

TINY = ROOT / "scenarios" / "tiny.yaml"
EVERY = tuple(DISPATCHERS)
COLLECTIVES = ("allgather", "alltoall")


def on(node: str, dispatcher: str = "alltoall") -> list[str]:
    fabric = catalogue.usual_fabric(catalogue.node(node, Place("test")), 8).name
    return [f"cluster.node={node}", f"cluster.fabric={fabric}", f"plan.dispatcher={dispatcher}", "plan.precision=fp16"]


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("dgx-a100-80", EVERY),
        ("hgx-h100", EVERY),
        ("hgx-b200", EVERY),
        ("dgx-v100", COLLECTIVES),
        ("mi300x-platform", COLLECTIVES),
        ("mi355x-platform", COLLECTIVES),
    ],
)
def test_a_search_tries_the_dispatchers_that_the_part_has(node: str, expected: tuple[str, ...]) -> None:
    scenario = load_scenario(TINY, on(node), starts_search=True)
    assert space_of(scenario).candidates["dispatcher"] == expected


@pytest.mark.parametrize("dispatcher", EVERY)
def test_an_evaluation_names_a_dispatcher_that_the_part_has_not(dispatcher: str) -> None:
    told = evaluate(load_scenario(TINY, on("mi300x-platform", dispatcher))).warnings
    words = f"plan.dispatcher {dispatcher}: its kernels are written for ampere, hopper, blackwell; MI300X needs a port"
    assert any(words in warning for warning in told) == (dispatcher not in COLLECTIVES)
    at_home = evaluate(load_scenario(TINY, on("hgx-h100", dispatcher))).warnings
    assert not any("its kernels are written for" in warning for warning in at_home)
