"""Keys that act on nothing are told, and precisions that nothing computes in are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.model.spec import MoE
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
DENSE = ("model=llama-3-8b", "plan={micro_batch_size: 1, global_batch_size: 64, %s}")


def warnings(plan: str = "tp: 1", *changes: str, starts_search: bool = False) -> str:
    given = [DENSE[0], DENSE[1] % plan, *changes]
    return " ".join(load_scenario(SCENARIOS / "tiny.yaml", given, starts_search=starts_search).warnings)


@pytest.mark.parametrize("dispatcher", ["deepep", "allgather"])
def test_a_dispatcher_without_experts_is_told(dispatcher: str) -> None:
    assert "plan.dispatcher does nothing: the model has no experts" in warnings(f"dispatcher: {dispatcher}")
    with_experts = load_scenario(SCENARIOS / "tiny.yaml", [f"plan.dispatcher={dispatcher}"])
    assert not any("dispatcher" in each for each in with_experts.warnings)


@pytest.mark.parametrize("key", ["account_for_embedding", "account_for_loss"])
def test_a_layer_that_is_counted_on_one_stage_is_told(key: str) -> None:
    assert f"plan.{key} does nothing with pp 1" in warnings(f"{key}: true")
    assert key not in warnings(f"{key}: false")
    assert key not in warnings(f"{key}: true", starts_search=True)


def test_a_spread_says_which_figures_it_acts_on() -> None:
    assert "spread acts on the figures of every GPU by itself" in warnings("tp: 1", "spread={gpu_sigma: 0.05}")
    assert "spread" not in warnings()


def test_a_resolved_scenario_is_told_nothing_that_nobody_wrote(tmp_path: Path) -> None:
    scenario = load_scenario(SCENARIOS / "tiny.yaml", [DENSE[0], DENSE[1] % "tp: 1"])
    (tmp_path / "resolved.yaml").write_text(scenario_yaml(scenario))
    assert load_scenario(tmp_path / "resolved.yaml").warnings == scenario.warnings


@pytest.mark.parametrize(
    ("precision", "told"),
    [
        ("{base: bf16, head: fp32}", "precision.head: is fp32; what is not below 16 bit computes in the base, bf16"),
        ("{attention: fp16}", "precision.attention: is fp16; .* Write bf16, or leave it out"),
    ],
)
def test_a_part_in_another_precision_of_16_bit_or_more_is_refused(precision: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        warnings(f"precision: {precision}")
    assert "precision" not in warnings("precision: {base: bf16, attention: bf16}")


def capacity_warnings(capacity: float, *changes: str) -> list[str]:
    loaded = load_scenario(SCENARIOS / "tiny.yaml", [f"plan.capacity_factor={capacity}", *changes])
    return [each for each in loaded.warnings if each.startswith("plan.capacity_factor")]


def test_a_capacity_below_the_load_says_what_it_drops() -> None:
    even = "plan.expert_imbalance=1.0"
    assert capacity_warnings(1.0, even) == []
    (of_all,) = capacity_warnings(0.75, even)
    assert "drops at least 25.00% of the tokens" in of_all
    assert "MFU count them" in of_all
    ep = load_scenario(SCENARIOS / "tiny.yaml").plan.ep
    (of_hottest,) = capacity_warnings(1.0, "plan.expert_imbalance=1.2")
    assert f"at least {0.2 / ep:.2%}" in of_hottest


def test_a_capacity_is_refused_where_it_is_none() -> None:
    ffn = next(layer.ffn for layer in load_scenario(SCENARIOS / "tiny.yaml").model.layers if isinstance(layer.ffn, MoE))
    most = ffn.experts / ffn.top_k
    assert capacity_warnings(most) == []
    with pytest.raises(InputError, match=rf"already are all tokens.*at most {most:g}"):
        capacity_warnings(most + 0.1)
    with pytest.raises(InputError, match=r"below 0\.5 most of the tokens"):
        capacity_warnings(0.49)
