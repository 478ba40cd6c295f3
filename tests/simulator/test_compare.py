"""Scenarios side by side: what differs, by how much, and when it cannot be told."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from simulator import compare, evaluate, load_scenario
from simulator.planner.comparison import Comparison
from simulator.planner.shared_error import ErrorShares, difference_interval_s, different_share
from simulator.planner.variants import split_values
from simulator.predict.confidence import STANDARD_DEVIATIONS
from simulator.report.comparison import comparison
from simulator.report.printing import report_text
from tests.command import ROOT, traincast

SCENARIOS = ROOT / "scenarios"
TINY, KIMI = SCENARIOS / "tiny.yaml", SCENARIOS / "kimi-k2-10240xh100.yaml"


# Sought anew for a failure every minute, they take seconds.
GIVEN_SPARES = "run.spares={hot: 1}"
# On one worker of pytest-xdist, so that what the tests share is made once.
pytestmark = pytest.mark.xdist_group("compared plans")


@pytest.fixture(scope="module")
def depths() -> Comparison:
    """The pipeline of Kimi-K2 as written, with half the chunks unevenly filled, and with the same plan again."""
    uneven = ["plan.vpp=2", "plan.layout=Ettt|ttt|(t*4|)*4(t*5|)*2(ttt|)*2(t*4|)*5tttL"]
    return compare([load_scenario(KIMI, overrides) for overrides in ([], uneven, [])])


def test_only_what_differs_is_on_top(depths: Comparison) -> None:
    assert set(depths.inputs) == {"plan.vpp", "plan.layout"}
    assert depths.inputs["plan.vpp"] == (4, 2, 4)


def test_columns_are_evaluations_and_differences_add_up(depths: Comparison) -> None:
    first, second, _ = depths.columns
    prediction = evaluate(load_scenario(KIMI))
    assert first.figures is not None
    assert second.figures is not None
    assert second.difference is not None
    assert first.figures.step_time_s == prediction.step_time_s
    assert first.figures.cost_usd == prediction.run.cost_usd  # type: ignore[union-attr]
    assert sum(first.figures.memory_bytes.values()) == pytest.approx(prediction.device_memory_bytes)
    assert sum(second.difference.breakdown_s.values()) == pytest.approx(second.difference.step_time_s)
    assert second.difference.step_time_s == second.figures.step_time_s - first.figures.step_time_s


def test_the_same_twice_differs_by_nothing_for_sure(depths: Comparison) -> None:
    again = depths.columns[2].difference
    assert again is not None
    assert again.step_time_interval_s == (0.0, 0.0)
    assert again.finish_interval_s == (0.0, 0.0)
    assert (again.verdict, again.judged_by) == ("the same", None)


def test_a_longer_bubble_is_told_apart_within_intervals_that_overlap(depths: Comparison) -> None:
    """The steps' own intervals overlap, since both rest on the same kernels and links; the difference's does not hold
    zero."""
    first, second, _ = depths.columns
    assert first.figures is not None
    assert second.figures is not None
    assert second.difference is not None
    assert first.figures.step_time_interval_s[1] > second.figures.step_time_interval_s[0]
    assert second.difference.step_time_interval_s[0] > 0
    assert second.difference.verdict == "slower"


@pytest.fixture(scope="module")
def runs() -> Comparison:
    """The same steps in runs that differ: as planned, with failures twice a day, every minute, and at twice the
    price."""
    changes = [
        "run.failures={mtbf: 10 days}",
        "run.failures={mtbf: 12 h}",
        "run.failures={mtbf: 1 min}",
        "run.prices=4 USD/h",
    ]
    common = ["run.tokens=1T", "run.failures={mtbf: 10 days}", "run.prices=2 USD/h", GIVEN_SPARES]
    return compare([load_scenario(TINY, [*common, change]) for change in changes])


def test_the_whole_run_is_judged_where_steps_are_the_same(runs: Comparison) -> None:
    first, failing, _, dear = runs.columns
    assert first.figures is not None
    assert failing.figures is not None
    assert failing.difference is not None
    assert failing.difference.training_time_interval_s == (0.0, 0.0)
    assert (failing.difference.verdict, failing.difference.judged_by) == ("slower", "finish P50")
    low_s, high_s = failing.difference.finish_interval_s or (0.0, 0.0)
    ends_s = [(each.finish_s or {})["p50"] or 0.0 for each in (first.figures, failing.figures)]
    assert 0 < low_s < ends_s[1] - ends_s[0] < high_s
    assert dear.difference is not None
    assert dear.figures is not None
    assert dear.figures.cost_usd == pytest.approx(2 * (first.figures.cost_usd or 0.0))
    assert (dear.difference.verdict, dear.difference.judged_by) == ("costs more", "cost")


def test_a_run_that_does_not_finish_is_never_alike_and_has_no_cost(runs: Comparison) -> None:
    stuck = runs.columns[2]
    assert stuck.figures is not None
    assert stuck.difference is not None
    assert (stuck.difference.verdict, stuck.difference.judged_by) == ("does not finish", "whether it finishes")
    assert (stuck.figures.cost_usd, stuck.figures.energy_j) == (None, None)
    assert (stuck.difference.cost_usd, stuck.difference.energy_j) == (None, None)
    document = runs.to_dict()
    jsonschema.validate(document, json.loads(traincast("schema", "compare").stdout))
    text = report_text(comparison(document))
    cost = next(line for line in text.splitlines() if line.startswith("cost, mean run"))
    assert " - " in cost
    steps = next(line for line in text.splitlines() if line.startswith("  against first"))
    assert steps.count("the same") == 3


def test_a_run_that_ends_is_faster_than_one_that_does_not() -> None:
    changes = ["run.failures={mtbf: 1 min}", "run.failures={mtbf: 10 days}", "run.failures={mtbf: 50 s}"]
    stuck = compare([load_scenario(TINY, ["run.tokens=1T", GIVEN_SPARES, change]) for change in changes])
    verdicts = [column.difference.verdict for column in stuck.columns if column.difference is not None]
    assert verdicts == ["faster", "does not finish"]


def test_no_speed_is_compared_with_that_of_a_plan_that_does_not_fit() -> None:
    """However fast it would be, and whichever of the two it is."""
    large, small = ["plan.micro_batch_size=16", "run.seq_length=131072"], ["plan.micro_batch_size=1"]
    scenarios = {tuple(each): load_scenario(TINY, ["run.simulation={runs: 3}", *each]) for each in (large, small)}
    for order, word in (((small, large), "does not fit"), ((large, small), "fits"), ((large, large), "does not fit")):
        found = compare([scenarios[tuple(each)] for each in order])
        difference = found.columns[1].difference
        assert difference is not None
        assert (difference.verdict, difference.judged_by) == (word, "whether it fits")
        jsonschema.validate(found.to_dict(), json.loads(traincast("schema", "compare").stdout))
        assert f" {word}" in report_text(comparison(found.to_dict())).partition("step time")[0]


def test_a_component_that_both_share_cancels() -> None:
    """Four seconds of each and one second of bubble more: what is off of the four drops out."""
    kernels, links = ("compute", "part"), ("ep", "links")
    first = ErrorShares({kernels: 4.0, links: 3.0}, 0.1)
    # sigma of a component: 0.1 * 7 / sqrt(16 + 9) = 0.14
    assert first.component_sigma == pytest.approx(0.14)
    assert difference_interval_s(first, first) == (0.0, 0.0)
    other = ErrorShares({("compute", "other part"): 4.0, ("ep", "other links"): 3.0}, 0.1)
    assert different_share(first, other) == 1.0
    low, high = difference_interval_s(first, other)
    # independent steps: 0.1 * 7 * sqrt(2), and the spread of ratios on top
    assert (high - low) / 2 > STANDARD_DEVIATIONS * 0.7 * 2**0.5


def test_twice_the_step_is_off_twice_as_much() -> None:
    first = ErrorShares({("compute",): 4.0, ("bubble",): 1.0}, 0.1)
    second = ErrorShares({("compute",): 4.0, ("bubble",): 2.0}, 0.1)
    low, high = difference_interval_s(first, second)
    assert difference_interval_s(first * 2, second * 2) == pytest.approx((2 * low, 2 * high))


def test_a_table_has_a_row_for_every_figure(depths: Comparison) -> None:
    frame = depths.to_frame()
    assert list(frame.columns) == ["kimi-k2-10240xh100", "kimi-k2-10240xh100 (2)", "kimi-k2-10240xh100 (3)"]
    assert frame.loc["breakdown_s.bubble"].iloc[1] > frame.loc["breakdown_s.bubble"].iloc[0]


def test_combinations_of_values_make_columns_and_refused_ones_say_why(tmp_path: Path) -> None:
    done = traincast("compare", str(TINY), "--over", "plan.pp=1,4", "--over", "plan.ep=2,4", "--json", "--out",
                     str(tmp_path / "out"))  # fmt: skip
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert [column["name"] for column in document["columns"]] == ["pp=1 ep=2", "pp=1 ep=4", "pp=4 ep=2", "pp=4 ep=4"]
    refused = document["columns"][3]
    assert refused["figures"] is None
    assert "does not divide the 2 ranks" in refused["refused"][0]
    jsonschema.validate(document, json.loads(traincast("schema", "compare").stdout))
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix) == [
        "report.txt",
        "result.json",
        "table.csv",
    ]


def test_warnings_are_those_of_each_evaluation(tmp_path: Path) -> None:
    overrides = ["cluster.fabric=ndr-rail-2tier"]
    arguments = [str(TINY), "--with", ",".join(overrides)]
    columns = json.loads(traincast("compare", *arguments, "--json").stdout)["columns"]
    alone = [evaluate(load_scenario(TINY, changes)).warnings for changes in ([], overrides)]
    assert [tuple(column["warnings"]) for column in columns] == alone
    assert alone[0] != alone[1]
    printed = " ".join(traincast("compare", *arguments).stdout.split())
    for warning in {*alone[0], *alone[1]}:
        assert printed.count(warning) == 1


def test_a_column_that_does_not_fit_is_shown_with_its_figures() -> None:
    done = traincast("compare", str(TINY), "--with", "plan.micro_batch_size=16,run.seq_length=131072")
    assert done.returncode == 0
    assert "does not fit in memory: pipeline rank" in done.stdout
    assert "the answer is no" not in done.stdout
    alone = traincast("compare", str(TINY), "--set", "run.seq_length=1048576", "--with", "plan.micro_batch_size=4")
    assert alone.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([str(TINY)], "needs two scenarios"),
        ([str(TINY), str(KIMI), "--with", "plan.pp=1"], "name one file"),
        ([str(TINY), "--over", "plan.pp"], "needs the form"),
        ([str(TINY), "--over", "plan.pp=3", "--over", "plan.ep=3"], "plan.pp"),
        ([str(TINY), "--with", "plan.tp=abc"], "--with plan.tp=abc: plan.tp: must be a whole number"),
        ([str(TINY), "--over", "plan.tp=1,abc"], "--over plan.tp=abc: plan.tp: must be a whole number"),
        ([str(TINY), "--with", "plan.tpp=2"], "--with plan.tpp=2: plan.tpp: 'tpp' is not known"),
        ([str(TINY), "--with", "run.tokens=many"], "--with run.tokens=many: run.tokens"),
        ([str(TINY), "--over", f"plan.pp={','.join(map(str, range(1, 70)))}"], "at most 64"),
        (["none.yaml", "neither.yaml"], "there is no such file"),
    ],
)
def test_bad_input_ends_with_two(arguments: list[str], words: str) -> None:
    done = traincast("compare", *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stdout == ""


def test_values_in_brackets_are_one() -> None:
    assert split_values("{granularity: selective, modules: [a, b]},none") == [
        "{granularity: selective, modules: [a, b]}",
        "none",
    ]
