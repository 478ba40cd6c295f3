"""The standard error of a mean reaches every report that prints the mean, and no mean that it is not seen in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hardware.units import format_usd
from simulator import compare, evaluate, load_scenario, size
from simulator.report.comparison import comparison
from simulator.report.document import evaluate_document
from simulator.report.page import evaluation_page
from simulator.report.printing import report_text, with_error
from simulator.report.sizing import sizing
from simulator.report.terminal import evaluation_text
from simulator.scenario.spec import Scenario

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
DAY_S = 86400.0


def often_failing() -> Scenario:
    """A server that loses a node twice a run in the mean, and waits for it."""
    return load_scenario(
        TINY, ["run.tokens=1T", "run.failures={base: llama-3, mtbf: 4 d}", "run.simulation={runs: 30}"]
    )


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return evaluate_document(evaluate(often_failing()))


def words(text: str) -> str:
    return " ".join(text.split())


def cost_of(run: dict[str, Any]) -> str:
    """The mean cost with its error, which is seen in it."""
    written = with_error(run["cost_usd"], run["cost_error_usd"], format_usd)
    assert " +- " in written
    return written


def test_the_cost_has_its_error_on_terminal_and_page(document: dict[str, Any]) -> None:
    cost = cost_of(document["run"])
    assert f"{cost} in the mean" in words(evaluation_text(document))
    assert f"Cost in the mean</span><b>{cost}</b>" in evaluation_page(document, {})


def test_losses_have_the_error_of_all_of_them(document: dict[str, Any]) -> None:
    """A longer mean run has lost more: its error is that of the losses, a larger share of them."""
    run = document["run"]
    share = run["mean_error_s"] / sum(run["lost_s"].values())
    assert share > run["cost_error_usd"] / run["cost_usd"]
    assert f"+- {100 * share:.2g} % in all: waiting" in words(evaluation_text(document))


def test_compared_and_sized_costs_have_their_errors() -> None:
    compared = compare([often_failing()]).to_dict()
    assert cost_of(compared["columns"][0]["figures"]) in words(report_text(comparison(compared)))
    sized = size(often_failing(), gpus=8, hinges=False).to_dict()
    assert cost_of(sized["options"][0]["purchase"]) in words(report_text(sizing(sized)))


def test_an_error_that_is_not_seen_is_not_printed() -> None:
    """A run in which nothing fails: its mean is known."""
    quiet = load_scenario(TINY, ["run.failures=none"])
    found = evaluate_document(evaluate(quiet))
    assert found["run"]["cost_error_usd"] < 1e-6 * found["run"]["cost_usd"]
    assert "+-" not in evaluation_text(found)
