"""The hand-drawn figures put every point where its numbers say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from validate.report_figures import PALETTE, scatter, strips, tick

SVG = "{http://www.w3.org/2000/svg}"


def circles(svg: str, radius: str = "3") -> list[tuple[float, float, str]]:
    """(x, y, fill) of the dots of a figure."""
    found = ElementTree.fromstring(svg).iter(f"{SVG}circle")
    return [(float(c.attrib["cx"]), float(c.attrib["cy"]), c.attrib["fill"]) for c in found if c.attrib["r"] == radius]


def words(svg: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_points_stand_on_logarithmic_axes() -> None:
    """Two decades on 420 pixels from (55, 28): 10 of 1 to 100 is half way, and y grows downwards."""
    points = [(1.0, 1.0, "a"), (10.0, 10.0, "a"), (100.0, 1.0, "b"), (1.0, 100.0, "b")]
    svg = scatter("Times", points, "s")
    places = [(x, y) for x, y, _ in circles(svg)]
    assert places == [(55.0, 448.0), (265.0, 238.0), (475.0, 448.0), (55.0, 28.0)]
    assert [fill for *_, fill in circles(svg)] == [PALETTE[0], PALETTE[0], PALETTE[1], PALETTE[1]]
    assert [fill for *_, fill in circles(svg, radius="4")] == [PALETTE[0], PALETTE[1]]
    assert {"Times", "1", "10", "100", "a", "b", "measured, s", "predicted, s"} <= set(words(svg))


def test_the_lines_20_percent_off_lie_on_either_side_of_the_diagonal() -> None:
    svg = scatter("Times", [(1.0, 10.0, "a")], "s")
    lines = [each.attrib for each in ElementTree.fromstring(svg).iter(f"{SVG}line")]
    diagonal = next(each for each in lines if each["stroke"] == "#999" and "stroke-dasharray" not in each)
    assert [float(diagonal[key]) for key in ("x1", "y1", "x2", "y2")] == [55.0, 448.0, 475.0, 28.0]
    dashed = [each for each in lines if "stroke-dasharray" in each]
    # One decade is 420 pixels: log10(1.2) of it is 33.3.
    assert [float(each["y1"]) for each in dashed] == pytest.approx([448 - 33.3, 448], abs=0.1)
    assert [float(each["x1"]) for each in dashed] == pytest.approx([55, 55 + 33.3], abs=0.1)


@pytest.mark.parametrize(("power", "label"), [(-2, "0.01"), (0, "1"), (3, "1000")])
def test_ticks_are_plain_numbers(power: int, label: str) -> None:
    assert tick(power) == label


def test_strips_show_errors_their_median_and_what_is_beyond_at_the_edge() -> None:
    """460 pixels from 120 span -60 % to +60 %: 0 lies at 350, +30 % at 465, 200 % at the edge, 580."""
    svg = strips("Errors", {"x & y": [0.0, 0.3, 2.0], "z": [-0.6]})
    assert [(x, y) for x, y, _ in circles(svg)] == [(350.0, 45.0), (465.0, 45.0), (580.0, 45.0), (120.0, 67.0)]
    bars = [float(bar) for bar in re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="3"', svg)]
    assert bars == [463.5, 118.5]
    assert {"x & y (3)", "z (1)", "-60 %", "+0 %", "+60 %"} <= set(words(svg))
