"""Published plans against the search: whether it finds the recipe that a vendor tuned, or what it takes instead."""

from __future__ import annotations

import csv
import io
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from simulator.planner.candidates import KEYS, own_value
from simulator.planner.executors import Executor, Processes
from simulator.planner.options import SearchOptions
from simulator.planner.planning import plan as search
from simulator.planner.result import RankedPlan, is_tied, plain_value
from simulator.planner.space import SPLIT_KEYS
from validate.row import Row
from validate.row_scenarios import scenario_of, step_only
from validate.rows import read_rows

HERE = Path(__file__).parent
CHOSEN = HERE / "recipes.toml"
FOUND = HERE / "recipes.csv"


@dataclass(frozen=True, slots=True)
class Recipe:
    """A published plan beside the best of the search, by the same predictions.

    `is_tied`: the prediction cannot tell the two apart. `is_within`: the best lies within the 80 % interval of the
    recipe's own step. `fits`: the recipe, by the predicted memory. `differs`: what the best has in another way.
    """

    id: str
    gpus: int
    legal: int
    recipe_s: float
    low_s: float
    best_s: float
    is_tied: bool
    fits: bool
    differs: str

    @property
    def beaten_fraction(self) -> float:
        """How much longer the recipe's step takes than the best."""
        return self.recipe_s / self.best_s - 1

    @property
    def is_within(self) -> bool:
        return self.best_s >= self.low_s


@dataclass(frozen=True, slots=True)
class Chosen:
    """A row whose plans are searched, and the keys that stay as it has them."""

    row: Row
    keep: tuple[str, ...]


def chosen_rows() -> list[Chosen]:
    """The rows whose plans are searched, as the data file lists them."""
    rows, chosen = read_rows(), []
    for listed in tomllib.loads(CHOSEN.read_text(encoding="utf-8"))["recipes"]:
        keep = tuple(listed.get("keep", ()))
        inside = [row for row in rows if any(fnmatchcase(row.id, pattern) for pattern in listed["ids"])]
        chosen += [Chosen(row, keep) for row in inside]
    return chosen


def recipe_of(chosen: Chosen, executor: Executor | None = None) -> Recipe:
    """Searches the plans of a row's scenario. Raises Unsupported for a row without one, ValueError where the published
    plan breaks a rule or no plan fits."""
    row = chosen.row
    scenario = step_only(scenario_of(row)[0])
    found = search(scenario, SearchOptions(keep=chosen.keep, top=1, only_best=True), executor=executor)
    if found.start is None or not found.plans:
        raise ValueError(f"{row.id}: {'the published plan breaks a rule' if found.plans else 'no plan fits'}")
    own, best = found.start, found.plans[0]
    return Recipe(
        id=row.id,
        gpus=scenario.cluster.gpus,
        legal=found.legal,
        recipe_s=own.step_time_s,
        low_s=own.step_time_interval_s[0],
        best_s=best.step_time_s,
        is_tied=own.step_time_s <= best.step_time_s or is_tied(best, own),
        fits=own.fits,
        differs=differences(own, best),
    )


def differences(own: RankedPlan, best: RankedPlan) -> str:
    """The keys in which two plans differ, as "key own -> best"."""
    values = [(key, own_value(own.plan, key), own_value(best.plan, key)) for key in KEYS]
    values += [(key, getattr(own.plan, key), getattr(best.plan, key)) for key in SPLIT_KEYS]
    return "; ".join(f"{key} {plain_value(a)} -> {plain_value(b)}" for key, a, b in values if a != b)


def all_recipes(told: Callable[[Recipe], None], executor: Executor | None = None) -> list[Recipe]:
    """Every chosen row's recipe; `told` hears of each when it is done."""
    found = []
    for chosen in chosen_rows():
        found.append(recipe_of(chosen, executor))
        told(found[-1])
    return found


def share_found(recipes: Sequence[Recipe]) -> float:
    """Share of the recipes that the search found, or beat by less than their interval."""
    return sum(each.is_within for each in recipes) / len(recipes)


def recipe_explanations(recipes: Sequence[Recipe]) -> list[str]:
    """What is known of the recipes that are beaten by more than their interval, a line for each."""
    known = tomllib.loads(CHOSEN.read_text(encoding="utf-8"))["explained"]
    beaten = [each.id for each in recipes if not each.is_within]
    return [
        f"- {name}: {next((why for pattern, why in known.items() if fnmatchcase(name, pattern)), 'not explained')}"
        for name in beaten
    ]


def summary_line(recipes: Sequence[Recipe]) -> str:
    share = 100 * share_found(recipes)
    return f"{share:.1f} % of {len(recipes)} recipes are found, or beaten by less than the interval of their own step."


def recipes_document(recipes: Sequence[Recipe]) -> dict[str, Any]:
    """The document of `traincast validate --plans --json`."""
    rows = [{**asdict(each), "beaten_fraction": each.beaten_fraction, "is_within": each.is_within} for each in recipes]
    return {"recipes": rows, "share_found_fraction": share_found(recipes)}


def csv_text(recipes: Sequence[Recipe]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    names = [field.name for field in fields(Recipe)]
    writer.writerow(names)
    writer.writerows([getattr(each, name) for name in names] for each in recipes)
    return stream.getvalue()


def read_recipes(path: Path = FOUND) -> list[Recipe]:
    """The recipes as they were last searched."""
    with path.open(encoding="utf-8", newline="") as stream:
        return [_read(row) for row in csv.DictReader(stream)]


def _read(row: dict[str, str]) -> Recipe:
    return Recipe(
        id=row["id"],
        gpus=int(row["gpus"]),
        legal=int(row["legal"]),
        recipe_s=float(row["recipe_s"]),
        low_s=float(row["low_s"]),
        best_s=float(row["best_s"]),
        is_tied=row["is_tied"] == "True",
        fits=row["fits"] == "True",
        differs=row["differs"],
    )


def line(recipe: Recipe) -> str:
    """A recipe in one line of a terminal."""
    how = "tied" if recipe.is_tied else "within its interval" if recipe.is_within else "beaten"
    return (
        f"{recipe.id}: {recipe.recipe_s:.3f} s, best {recipe.best_s:.3f} s of {recipe.legal:,} legal plans, "
        f"{100 * recipe.beaten_fraction:+.1f} %, {how}; {recipe.differs or 'the same plan'}"
    )


def main() -> None:
    found = all_recipes(lambda recipe: print(line(recipe), flush=True), Processes(2))
    FOUND.write_text(csv_text(found), encoding="utf-8")
    print(summary_line(found))


if __name__ == "__main__":
    main()
