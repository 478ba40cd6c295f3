"""Entries of every catalogue are found by their names in any case, on the command line and in scenarios."""

from __future__ import annotations

import pytest

from hardware import catalogue
from hardware.problems import known_name
from simulator.model.catalogue import names as model_names
from simulator.scenario.schema import load_scenario
from simulator.stack import names as stack_names
from tests.command import ROOT, traincast

TINY = ROOT / "scenarios" / "tiny.yaml"


@pytest.mark.parametrize(
    ("verb", "name", "found"),
    [
        (("hardware", "show"), "H200-SXM-141GB", "h200-sxm-141gb"),
        (("hardware", "show"), "HGX H100", "hgx-h100"),
        (("models",), "Kimi_K2", "kimi-k2"),
        (("stacks", "show"), "Megatron-Core-0.19", "megatron-core-0.19"),
    ],
)
def test_the_command_line_shows_the_same_for_any_spelling(verb: tuple[str, ...], name: str, found: str) -> None:
    spelled, plain = traincast(*verb, name), traincast(*verb, found)
    assert spelled.returncode == 0, spelled.stderr
    assert spelled.stdout == plain.stdout


def test_scenarios_take_any_spelling() -> None:
    named = ["model=Kimi-K2", "plan.stack=Megatron-Core-0.19", "cluster.node=HGX_H200", "plan.layout=auto"]
    plain = ["model=kimi-k2", "plan.stack=megatron-core-0.19", "cluster.node=hgx-h200", "plan.layout=auto"]
    ways = [load_scenario(TINY, sets, starts_search=True) for sets in (named, plain)]
    assert (ways[0].model, ways[0].plan, ways[0].cluster) == (ways[1].model, ways[1].plan, ways[1].cluster)
    changed = load_scenario(TINY, ["model={base: Qwen3-8B, layers: 8}"], starts_search=True)
    assert len(changed.model.layers) == 8


@pytest.mark.parametrize("kind", ["accelerators", "nodes", "fabrics"])
def test_names_are_unique_in_any_case(kind: catalogue.Kind) -> None:
    known = [*catalogue.names(kind), *catalogue.aliases(kind)]
    assert len({name.lower() for name in known}) == len(set(known))


def test_models_and_stacks_are_unique_in_any_case() -> None:
    for known in (model_names(), stack_names()):
        assert len({name.lower() for name in known}) == len(known)


def test_what_is_no_name_stays_as_it_is() -> None:
    assert known_name("H 100", ["h100", "h-100"]) == "h-100"
    assert known_name("Voodoo 2", ["h100"]) == "Voodoo 2"
