"""Sizing inverts evaluation: its answer meets the question, one step smaller does not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import pytest

from hardware.problems import InputError
from simulator import evaluate, load_scenario, size
from simulator.plain import plain
from simulator.planner.fastest import best_plan
from simulator.planner.job import play_job, with_sized_spares
from simulator.planner.resized import NoPlan, gpu_counts, on_cluster
from simulator.planner.sizing import Part, Sizing
from simulator.predict.simulate import simulate
from simulator.report.printing import report_text
from simulator.report.sizing import sizing
from tests.command import ROOT, traincast

TINY = ROOT / "scenarios" / "tiny.yaml"
LONG = ["run.tokens=1T", "run.simulation={runs: 100}"]
JOBS = "run.jobs=[{name: data, gpus: 0, lasts: 20 d}, {name: train, after: [data]}]"
DAY_S = 86400.0
RICH, POOR = 9000.0, 4000.0
NODES = ("hgx-h100", "hgx-h200")


@pytest.fixture(scope="module")
def three_days() -> Sizing:
    return size(load_scenario(TINY, LONG), finish_within_s=3 * DAY_S, nodes=NODES)


@pytest.mark.xdist_group("three days")
def test_the_answer_meets_the_date_when_evaluated(three_days: Sizing) -> None:
    """At 90 % the asked time and the run's P90 are one and the same."""
    for option in three_days.options:
        assert option.purchase is not None
        assert option.scenario is not None
        run = evaluate(option.scenario).run
        assert run is not None
        assert run.finish_s.p90 == pytest.approx(option.purchase.at_confidence_s, rel=1e-12)
        assert run.finish_s.p90 <= 3 * DAY_S
        assert run.cost_usd == pytest.approx(option.purchase.cost_usd)
        assert run.paid_gpus == option.purchase.paid_gpus


@pytest.mark.xdist_group("three days")
def test_one_step_smaller_does_not(three_days: Sizing) -> None:
    scenario = load_scenario(TINY, LONG)
    for option in three_days.options:
        assert option.purchase is not None
        assert option.smaller is not None
        counts = gpu_counts(scenario, option.node)
        step = counts.index(option.purchase.job_gpus)
        assert option.smaller.job_gpus == counts[step - 1]
        assert option.smaller.at_confidence_s > 3 * DAY_S


@pytest.mark.xdist_group("three days")
def test_spares_are_within_the_purchase(three_days: Sizing) -> None:
    option = three_days.answer
    assert option is not None
    assert option.purchase is not None
    assert option.scenario is not None
    bought = option.purchase
    assert bought.gpus == bought.job_gpus + 8 * bought.spare_nodes
    assert option.scenario.written["cluster"]["gpus"] == bought.gpus
    assert option.scenario.cluster.gpus == bought.job_gpus


@pytest.mark.xdist_group("three days")
def test_the_cheapest_node_is_the_answer(three_days: Sizing) -> None:
    costs = [option.purchase.cost_usd for option in three_days.options if option.purchase]
    assert costs == sorted(costs)
    assert three_days.answer == three_days.options[0]


@pytest.mark.xdist_group("three days")
def test_parts_and_assumptions_move_the_answer_the_right_way(three_days: Sizing) -> None:
    by_part = {part.part: part for part in three_days.parts}
    assert by_part["HBM"].saved_s > by_part["storage"].saved_s
    assert by_part["spares"].priced
    assert by_part["spares"].saved_usd < 0
    ends = {each.assumption: each for each in three_days.assumptions}
    for name in ("kernel rates", "model's error", "expert imbalance"):
        low_s, high_s = ends[name].finish_s
        assert low_s < high_s, name
    assert ends["price"].finish_s[0] == ends["price"].finish_s[1]
    assert ends["price"].cost_usd is not None
    assert ends["price"].cost_usd[1] == pytest.approx(ends["price"].cost_usd[0] * 1.1 / 0.9)


def test_turned_round_the_tokens_fill_the_time() -> None:
    """What 24 GPUs train in three days: their run ends in time, and 1 % more tokens would not."""
    scenario = load_scenario(TINY, LONG)
    found = size(scenario, finish_within_s=3 * DAY_S, gpus=24, hinges=False).answer
    assert found is not None
    assert found.purchase is not None
    assert found.scenario is not None
    assert found.purchase.gpus == 24
    run = evaluate(found.scenario).run
    assert run is not None
    assert 0.99 * 3 * DAY_S < run.finish_s.p90 <= 3 * DAY_S
    assert found.scenario.run.tokens == found.purchase.tokens


def test_turned_round_it_says_why_gpus_are_left_over() -> None:
    """Thirty GPUs are three servers of eight and six more; 64 sequences are not shared by 24 replicas of one GPU."""
    found = size(load_scenario(TINY, LONG), finish_within_s=3 * DAY_S, gpus=30)
    assert found.answer is not None
    assert found.answer.purchase is not None
    assert (found.answer.purchase.gpus, found.answer.purchase.job_gpus) == (24, 16)
    assert "6 of the 30 GPUs fill no node of 8" in found.answer.limits
    assert "the next job larger than 16 that shares the batch of 64 evenly has 32 GPUs" in found.answer.limits
    # Its parts and assumptions are of all its tokens, not of the scenario's own.
    ends_s = found.answer.purchase.at_confidence_s
    for each in found.assumptions:
        assert 0.4 * ends_s < each.finish_s[0] <= each.finish_s[1] < 2 * ends_s, each.assumption
    assert all(abs(part.saved_s) < 0.5 * ends_s for part in found.parts)
    faster_s, slower_s = next(each.finish_s for each in found.assumptions if each.assumption == "kernel rates")
    assert faster_s < ends_s < slower_s


@pytest.mark.untraced
def test_a_budget_alone_buys_the_fastest_run_that_it_pays_for() -> None:
    """Without spares a larger job is sooner done and dearer."""
    scenario = load_scenario(TINY, [*LONG, "run.spares={hot: 0}"])
    rich = size(scenario, budget_usd=RICH, hinges=False).answer
    poor = size(scenario, budget_usd=POOR, hinges=False).answer
    assert rich is not None
    assert poor is not None
    assert rich.purchase is not None
    assert poor.purchase is not None
    assert poor.purchase.cost_usd <= POOR < rich.purchase.cost_usd <= RICH
    assert rich.purchase.at_confidence_s < poor.purchase.at_confidence_s


def test_the_best_plan_is_no_slower_than_the_given_one_scaled() -> None:
    scenario = load_scenario(TINY)
    best = best_plan(scenario, 8, "hgx-h100")
    assert simulate(best).step.step_time_s <= simulate(scenario).step.step_time_s
    assert best.plan.gpus == best.cluster.gpus == 8


def test_no_plan_says_what_stands_in_the_way() -> None:
    with pytest.raises(NoPlan, match="memory"):
        best_plan(load_scenario(TINY, ["run.seq_length=4194304"]), 8, "hgx-h100")
    with pytest.raises(NoPlan, match="fabric"):
        on_cluster(load_scenario(TINY), 8_000_000, "hgx-h100")


def test_without_a_price_no_budget_is_known_to_be_kept() -> None:
    """A node without a price answers a date, and no budget."""
    scenario = load_scenario(TINY, LONG)
    dated = size(scenario, finish_within_s=30 * DAY_S, nodes=["gb300-nvl72"], hinges=False)
    assert dated.answer is not None
    paid = size(scenario, finish_within_s=30 * DAY_S, budget_usd=1.0, nodes=["gb300-nvl72"], hinges=False)
    assert paid.answer is None
    assert "no price is known" in paid.options[0].limits


def decided(*nodes: str, overrides: Sequence[str] = ()) -> str:
    """The report's line on what decides among nodes that are all in time."""
    scenario = load_scenario(TINY, [*LONG, *overrides])
    found = size(scenario, finish_within_s=30 * DAY_S, nodes=nodes, hinges=False)
    text = " ".join(report_text(sizing(found.to_dict())).split())
    return text.partition("decided by ")[2]


def test_it_says_what_decides_among_nodes_and_that_an_unpriced_node_cannot_win() -> None:
    words = decided("gb300-nvl72", "hgx-h200", "hgx-h100")
    assert words.startswith("the cost of the mean run, the least first")
    assert "no price of gb300-nvl72 is known, so it comes behind every priced node: write run.prices.gpu_hour" in words
    assert "no price" not in decided("hgx-h200", "hgx-h100")
    assert decided("gb300-nvl72", "mi355x-platform").startswith("the time, the earliest end first")
    assert not decided("hgx-h100")


def test_it_says_which_job_sizes_were_tried() -> None:
    """A pipeline of three stages makes jobs of 24 and 48 GPUs: of 56, eight are spares, and no job of 56 is tried."""
    scenario = load_scenario(TINY, [*LONG, "cluster.gpus=48", "plan.pp=3", "plan.layout=Et*3|t*3|t*2L"])
    found = size(scenario, gpus=56, finish_within_s=3 * DAY_S, hinges=False)
    (option,) = found.options
    assert option.purchase is not None
    assert option.purchase.job_gpus in option.tried_gpus
    assert 56 not in option.tried_gpus
    text = " ".join(report_text(sizing(found.to_dict())).split())
    assert f"jobs tried: {', '.join(map(str, option.tried_gpus))} GPUs" in text
    assert "no other size was looked at" in text


def test_a_time_needs_its_unit() -> None:
    done = traincast("size", str(TINY), "--finish-within", "30")
    assert done.returncode == 2
    assert "--finish-within 30: '30' has no unit: write 30d for days" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--finish-within", "1 s"], "the least of all sizes that were played"),
        (["--budget", "0.01"], "the budget buys no run: the cheapest costs"),
        (["--finish-within", "3d", "--budget", "100"], "the budget: the date needs"),
        (["--gpus", "4"], "fewer than the smallest job needs"),
    ],
)
def test_nothing_is_enough_ends_with_one_and_says_why(arguments: list[str], words: str) -> None:
    done = traincast("size", str(TINY), "--set", LONG[0], "--set", LONG[1], *arguments)
    assert done.returncode == 1
    assert words in " ".join(done.stdout.split())
    assert "Nothing is enough" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--finish-within", "90d", "--node", "hgx-h2000"], "did you mean hgx-h200"),
        (["--finish-within", "90 parsecs"], "--finish-within 90 parsecs"),
        (["--finish-within", "90d", "--confidence", "100%"], "between 0 and 100 %"),
        ([], "needs --finish-within, --budget or --gpus"),
        (["--budget", "60 kg"], "--budget 60 kg"),
        (["--budget", "1M", "--set", "run.tokens=", "--set", "run.days=3"], "run.days"),
        (["--gpus", "8", "--set", "run.phases=[{name: whole}]"], "run.phases"),
        (
            ["--finish-within", "9d", "--set", JOBS],
            "size: run.jobs: jobs around the run cannot be sized; leave them out",
        ),
    ],
)
def test_bad_questions_end_with_two(arguments: list[str], words: str) -> None:
    done = traincast("size", str(TINY), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_the_document_follows_its_schema_and_the_answer_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = traincast("size", str(TINY), "--set", LONG[0], "--set", LONG[1], "--finish-within", "4d", "--json", "--out",
                     str(out))  # fmt: skip
    assert done.returncode == 0
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads(traincast("schema", "size").stdout))
    answer = load_scenario(out / "scenario.yaml")
    assert answer.cluster.gpus == document["options"][0]["purchase"]["job_gpus"]
    assert "limited by the date" in (out / "report.txt").read_text()


def test_a_question_needs_known_nodes_in_python_too() -> None:
    with pytest.raises(InputError, match="h9"):
        size(load_scenario(TINY), finish_within_s=DAY_S, nodes=["h9"])


def test_sizing_takes_the_spares_that_evaluate_takes_where_they_are_left_open() -> None:
    larger = ["cluster.gpus=64", "plan.global_batch_size=512", "run.tokens=20T"]
    scenario = load_scenario(TINY, [*larger, "run.failures={base: llama-3, mtbf: 3 d}"])
    run = evaluate(scenario).run
    assert run is not None
    assert play_job(with_sized_spares(scenario)).spec.recovery.spares == run.spares > 0


def test_the_share_in_time_and_the_time_at_that_share_agree(three_days: Sizing) -> None:
    """What is bought is in time by both, what is one step smaller by neither."""
    for option in three_days.options:
        bought, smaller = option.purchase, option.smaller
        assert bought is not None
        assert smaller is not None
        assert bought.chance_fraction is not None
        assert smaller.chance_fraction is not None
        assert bought.at_confidence_s <= 3 * DAY_S
        assert bought.chance_fraction >= 0.9
        assert smaller.at_confidence_s > 3 * DAY_S
        assert smaller.chance_fraction < 0.9


@pytest.mark.parametrize(
    ("saved_s", "saved_usd", "priced", "words"),
    [
        (0.0, 2e-3, False, "0 nothing"),
        (-1.0, 0.001, False, "0 nothing"),
        (7200.0, 500.0, False, "2 h pays for itself below 500 USD"),
        (0.0, 500.0, False, "0 pays for itself below 500 USD"),
        (-7200.0, 500.0, False, "2 h later the mean run costs 500 USD less"),
        (-7200.0, -500.0, False, "2 h later the mean run costs 500 USD more and gains nothing"),
        (7200.0, -500.0, False, "2 h the mean run costs 500 USD more"),
        (7200.0, 0.0, False, "2 h nothing: the mean run costs the same"),
        (7200.0, -500.0, True, "2 h costs 500 USD: 4 h for a million USD"),
        (0.0, -500.0, True, "0 costs 500 USD and gains nothing"),
        (7200.0, 500.0, True, "2 h saves 500 USD"),
        (7200.0, None, True, "2 h no price is known"),
    ],
)
def test_what_a_part_is_worth_agrees_with_the_time_beside_it(
    three_days: Sizing, saved_s: float, saved_usd: float | None, priced: bool, words: str
) -> None:
    """Beside three days and some thousand dollars a second and a tenth of a cent are nothing."""
    per_million = 14400.0 if priced and saved_usd is not None and saved_usd < 0 else None
    document = three_days.to_dict()
    document["parts"] = plain((Part("part", "change", saved_s, saved_usd, priced, per_million),))
    text = report_text(sizing(document))
    (line,) = (" ".join(line.split()) for line in text.splitlines() if line.strip().startswith("part"))
    assert line == f"part change {words}"
