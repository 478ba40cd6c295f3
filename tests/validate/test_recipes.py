"""Plans that vendors published are found by the search, or come close to its best."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from validate import recipes
from validate.recipes import (
    Recipe,
    chosen_rows,
    csv_text,
    line,
    read_recipes,
    recipe_explanations,
    recipe_of,
    share_found,
)

HERE = Path(recipes.__file__).parent
BOUNDS = tomllib.loads((HERE / "bounds.toml").read_text(encoding="utf-8"))["recipes"]
TIED = Recipe("a", 256, 1000, 10.2, 9.0, 10.0, True, True, "")
BEATEN = Recipe("b", 256, 1000, 12.0, 11.0, 10.0, False, True, "tp 2 -> 1")


def test_the_recipes_of_the_last_search_are_those_that_are_chosen() -> None:
    assert [each.id for each in read_recipes()] == [chosen.row.id for chosen in chosen_rows()]


def test_most_recipes_were_found_or_nearly_so() -> None:
    assert share_found(read_recipes()) >= BOUNDS["least_share_found"]


def test_every_recipe_that_is_beaten_is_explained() -> None:
    assert not [line for line in recipe_explanations(read_recipes()) if line.endswith("not explained")]
    assert recipe_explanations([TIED, BEATEN]) == ["- b: not explained"]


def test_a_recipe_is_within_where_the_best_lies_in_its_interval(tmp_path: Path) -> None:
    assert TIED.is_within
    assert not BEATEN.is_within
    assert BEATEN.beaten_fraction == pytest.approx(0.2)
    assert share_found([TIED, BEATEN]) == 0.5
    assert "+20.0 %, beaten; tp 2 -> 1" in line(BEATEN)
    file = tmp_path / "recipes.csv"
    file.write_text(csv_text([TIED, BEATEN]))
    assert read_recipes(file) == [TIED, BEATEN]


@pytest.mark.slow
@pytest.mark.parametrize(
    "identifier", ["MB-llama3.1-405b-H100-FP8-26.06-26", "CARD-deepseek-v3-pretrain_performance.GB200"]
)
def test_a_recipe_is_searched_again(identifier: str) -> None:
    chosen = next(chosen for chosen in chosen_rows() if chosen.row.id == identifier)
    found = recipe_of(chosen)
    assert found.fits
    last = next(each for each in read_recipes() if each.id == identifier)
    assert found.best_s <= found.recipe_s
    assert found.is_within == last.is_within
