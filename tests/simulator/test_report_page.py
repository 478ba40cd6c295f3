"""The HTML page of an evaluation: says what the terminal says, steers nothing, loads nothing, and draws to scale."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from simulator import evaluate, load_scenario
from simulator.predict.simulate import simulate
from simulator.report.bars import Bar, bars_svg
from simulator.report.document import evaluate_document
from simulator.report.markup import as_html
from simulator.report.page import evaluation_page
from simulator.report.pictures import memory_picture, step_picture
from simulator.report.terminal import evaluation_text

SCENARIOS = Path(__file__).parents[2] / "scenarios"
MEGABYTE = 1_000_000


def document(name: str, *overrides: str) -> dict[str, Any]:
    return evaluate_document(evaluate(load_scenario(SCENARIOS / f"{name}.yaml", list(overrides))))


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w.,%/+-]*\d[\w.,%/+-]*", text))


@pytest.fixture(scope="module")
def tiny() -> dict[str, Any]:
    return document("tiny")


@pytest.mark.parametrize("name", ["tiny", "kimi-k2-10240xh100"])
def test_every_figure_of_the_terminal_stands_on_the_page(name: str) -> None:
    found = document(name)
    page = unescape(re.sub(r"<[^>]*>", " ", evaluation_page(found, {})))
    terminal = evaluation_text(found)
    # Long rows are folded at other places on the terminal, inside words too where they have no space.
    missing = [word for word in words(terminal) - words(page) if word not in page.replace(" ", "")]
    assert not missing


def test_the_page_stands_alone_and_stays_small() -> None:
    done = simulate(load_scenario(SCENARIOS / "kimi-k2-10240xh100.yaml", []))
    drawn = {"Step": step_picture(done), "Memory": memory_picture(done)}
    page = evaluation_page(document("kimi-k2-10240xh100"), drawn)
    assert page.count("<svg") == 5
    assert not re.search(r"<script|<link|<img|\bsrc=|\bhref=|@import|url\(", page)
    assert len(page) < MEGABYTE


def test_a_picture_that_is_too_large_is_left_out(tiny: dict[str, Any]) -> None:
    small = evaluation_page(tiny, {"Step": "<svg>here</svg>"})
    large = evaluation_page(tiny, {"Step": f"<svg>{'x' * MEGABYTE}</svg>"})
    assert "<svg>here</svg>" in small
    assert len(large) < MEGABYTE / 2


def test_hostile_names_are_text(tiny: dict[str, Any]) -> None:
    hostile = "</title><script>alert(1)</script>\x1b[2J"
    scenario = {**tiny["scenario"], "name": hostile, "question": hostile}
    page = evaluation_page({**tiny, "scenario": scenario, "warnings": [hostile]}, {})
    assert "<script" not in page
    assert "\x1b" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_an_answer_of_no_is_marked() -> None:
    page = evaluation_page(document("tiny", "plan.micro_batch_size=16", "plan.recompute=none", "cluster.gpus=8"), {})
    assert ("card no" in page) == ("does not fit" in page)
    large = document("kimi-k2-10240xh100", "plan.recompute=none")
    assert not large["fits"]
    assert "card no" in evaluation_page(large, {})


def test_bars_are_drawn_to_one_scale() -> None:
    svg = bars_svg([Bar("a", {"x": 1.0, "y": 3.0}), Bar("b & c", {"x": 2.0, "z": 0.0})], str, ("limit", 8.0))
    widths = [float(width) for width in re.findall(r'<rect [^>]*width="([\d.]+)"[^>]*><title>', svg)]
    whole = 1100 - 130 - 110
    assert widths == pytest.approx([whole / 8, 3 * whole / 8, 2 * whole / 8], abs=0.01)
    assert "b &amp; c" in svg
    assert ">z<" not in svg


def test_nothing_but_texts_and_tables_becomes_markup() -> None:
    assert as_html(Text("a < b")) == "<p>a &lt; b</p>"
    with pytest.raises(TypeError, match="Console"):
        as_html(Console())  # type: ignore[arg-type]
