"""No prediction moves unless the golden file is renewed with it (see golden.py)."""

from __future__ import annotations

import pytest

from tests.golden.golden import cases, differences, read_golden

CHUNKS = 8
# A thousand whole predictions: what they run the rooms' own tests cover, and tracing them doubles minutes.
pytestmark = pytest.mark.untraced


def test_the_golden_file_has_every_case() -> None:
    assert list(read_golden()) == list(cases()), "cases came or went: renew the golden file"


@pytest.mark.xdist_group("shipped scenarios")
def test_shipped_scenarios_are_those_of_the_golden_file() -> None:
    check([name for name in cases() if name.startswith("scenario ")])


@pytest.mark.xdist_group("published rows")
def test_published_rows_are_those_of_the_golden_file() -> None:
    check([name for name in cases() if name.startswith("row ")])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_drawn_plans_are_those_of_the_golden_file(chunk: int) -> None:
    check([name for name in cases() if name.startswith("plan ")][chunk::CHUNKS])


def check(names: list[str]) -> None:
    """Compares some of the cases with the golden file."""
    golden, now = read_golden(), cases()
    assert names
    found = [f"{name}{difference}" for name in names for difference in differences(golden[name], now[name]())]
    assert not found, "\n".join(found[:20])
