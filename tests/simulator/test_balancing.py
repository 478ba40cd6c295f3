"""How evenly experts are loaded: kinds of balancing by name and by model, in the step, its interval and the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.plans.balancing import balancing_of_model, kinds
from simulator.predict.balancing import balancing
from simulator.predict.prediction import evaluate
from simulator.scenario.resolved import resolved
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
TINY = SCENARIOS / "tiny.yaml"
KEY = "plan.expert_imbalance"


def test_every_kind_lies_within_its_range_and_names_its_source() -> None:
    assert set(kinds()) == {"forced", "bias", "aux_loss", "none"}
    for kind in kinds().values():
        assert 1.0 <= kind.low <= kind.hottest <= kind.high
        assert len(kind.source) > 20
    hottest = [kinds()[name].hottest for name in ("forced", "bias", "aux_loss", "none")]
    assert hottest == sorted(hottest)
    assert len(set(hottest)) == 4


@pytest.mark.parametrize(
    ("model", "kind"),
    [("deepseek-v3", "bias"), ("kimi-k2", "bias"), ("qwen3-235b-a22b", "aux_loss"), ("of-my-own", "aux_loss")],
)
def test_models_have_the_balancing_that_they_were_trained_with(model: str, kind: str) -> None:
    found, source = balancing_of_model(model)
    assert found.kind == kind
    assert source


def test_a_word_stands_for_its_number_and_is_written_back() -> None:
    for name, kind in kinds().items():
        scenario = load_scenario(TINY, [f"{KEY}={name}"])
        assert scenario.plan.expert_imbalance == kind.hottest
        assert resolved(scenario)["plan"]["expert_imbalance"] == name
    assert resolved(load_scenario(TINY, [f"{KEY}=1.5"]))["plan"]["expert_imbalance"] == 1.5
    with pytest.raises(InputError, match="expert_imbalance"):
        load_scenario(TINY, [f"{KEY}=perfect"])


def test_hotter_experts_take_longer_only_where_ranks_share_experts_out() -> None:
    shared = [evaluate(load_scenario(TINY, [f"{KEY}={name}"])).step_time_s for name in ("forced", "aux_loss", "none")]
    assert shared[0] < shared[1] < shared[2]
    alone = [evaluate(load_scenario(TINY, ["plan.ep=1", f"{KEY}={name}"])).step_time_s for name in ("forced", "none")]
    assert alone[0] == alone[1]


def test_a_kind_widens_the_interval_and_is_told_among_what_is_assumed() -> None:
    """The upper end stays below the two ends one on top of the other: they add in quadrature."""
    kind = kinds()["none"]
    named, stated = (evaluate(load_scenario(TINY, [f"{KEY}={each}"])) for each in ("none", kind.hottest))
    hottest = evaluate(load_scenario(TINY, [f"{KEY}={kind.high}"]))
    assert named.step_time_s == stated.step_time_s
    assert named.step_time_interval_s[0] < stated.step_time_interval_s[0]
    assert stated.step_time_interval_s[1] < named.step_time_interval_s[1]
    apart = hottest.step_time_s / named.step_time_s
    assert named.step_time_interval_s[1] < stated.step_time_interval_s[1] * apart
    assert any(each.topic == "routing" and "none" in each.text for each in named.assumed)
    assert not any(each.topic == "routing" for each in (*stated.assumed, *stated.stated))


def test_no_kind_where_a_number_is_stated_or_nothing_is_routed_between_ranks() -> None:
    assert balancing(load_scenario(TINY, [])) is not None
    assert balancing(load_scenario(TINY, [f"{KEY}=1.05"])) is None
    assert balancing(load_scenario(TINY, ["plan.ep=1"])) is None
    assert balancing(load_scenario(TINY, ["plan.capacity_factor=1.5"])) is None


@pytest.mark.parametrize("written", ["Forced", "AUX_LOSS", "aux-loss"])
def test_a_kind_is_known_in_any_case(written: str) -> None:
    plan = load_scenario(TINY, [f"{KEY}={written}"]).plan
    assert plan.expert_imbalance == kinds()[written.lower().replace("-", "_")].hottest


def test_an_unknown_kind_lists_all() -> None:
    with pytest.raises(InputError, match="write forced, bias, aux_loss, none, or a number"):
        load_scenario(TINY, [f"{KEY}=auxloss"])


def test_the_hottest_rank_has_at_most_all_tokens() -> None:
    ep = load_scenario(TINY).plan.ep
    assert load_scenario(TINY, [f"{KEY}={ep}"]).plan.expert_imbalance == ep > 1
    with pytest.raises(InputError, match=f"at most {ep}$"):
        load_scenario(TINY, [f"{KEY}={ep + 0.1}"])


def test_a_stated_imbalance_that_acts_on_nothing_is_told() -> None:
    def told(*changes: str) -> list[str]:
        return [text for text in load_scenario(TINY, changes).warnings if KEY in text]

    stated = f"{KEY}=1.5"
    assert told(stated) == told("plan.ep=1") == []
    assert "ep 1" in told("plan.ep=1", stated)[0]
    assert "capacity_factor" in told("plan.capacity_factor=1.5", stated)[0]
    assert "no experts" in told("plan.ep=1", "model=llama-3-8b", stated)[0]
    assert KEY.partition(".")[2] not in resolved(load_scenario(TINY, ["plan.ep=1"]))["plan"]
