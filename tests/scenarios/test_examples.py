"""The small examples beside the shipped scenarios: each reads, asks a question, and is evaluated to an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.predict.prediction import evaluate
from simulator.scenario.schema import load_scenario

FOLDER = Path(__file__).parents[2] / "scenarios" / "examples"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_asks_a_question_and_gets_an_answer(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    scenario = load_scenario(path)
    assert scenario.question.endswith("?")
    assert scenario.source
    prediction = evaluate(scenario)
    assert prediction.fits
    assert prediction.run is not None
    assert prediction.run.finishes
