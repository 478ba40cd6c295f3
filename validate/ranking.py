"""Whether predictions put the plans of a sweep in their measured order: Kendall's tau, and the regret of the choice."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path

from validate.runs import Compared

SWEEPS = Path(__file__).parent / "sweeps.toml"


@dataclass(frozen=True, slots=True)
class Ranking:
    """One sweep: its runs from the fastest, how well they were ordered (-1 to 1), and what the predicted best costs
    over the measured best, as a fraction. `place`: of the measured best in the predicted order (1: first)."""

    name: str
    ids: tuple[str, ...]
    tau: float
    regret_fraction: float
    place: int


def rankings(entries: Sequence[Compared]) -> list[Ranking]:
    """Every sweep of which at least two runs are predicted, by seconds per sequence."""
    found = []
    for sweep in tomllib.loads(SWEEPS.read_text(encoding="utf-8"))["sweeps"]:
        inside = [
            (entry.row.id, entry.measured / batch, entry.predicted / batch)
            for entry in entries
            if entry.quantity == "step_time_s" and entry.measured is not None and entry.predicted is not None
            if any(fnmatchcase(entry.row.id, pattern) for pattern in sweep["ids"])
            if not any(fnmatchcase(entry.row.id, pattern) for pattern in sweep.get("without", ()))
            if (batch := entry.row.count("plan.global_batch_size"))
        ]
        if len(inside) > 1:
            found.append(ranking(sweep["name"], inside))
    return found


def ranking(name: str, runs: Sequence[tuple[str, float, float]]) -> Ranking:
    """Runs as (id, measured, predicted)."""
    by_time = sorted(runs, key=lambda run: run[1])
    by_prediction = sorted(runs, key=lambda run: run[2])
    fastest, chosen = by_time[0], by_prediction[0]
    return Ranking(
        name=name,
        ids=tuple(run[0] for run in by_time),
        tau=kendall_tau([(measured, predicted) for _, measured, predicted in runs]),
        regret_fraction=chosen[1] / fastest[1] - 1,
        place=1 + by_prediction.index(fastest),
    )


def share_within(found: Sequence[Ranking], place: int, more_than: int = 1) -> float:
    """Share of the sweeps of `more_than` runs whose measured best stands at this place of the predicted order, or
    before it."""
    large = [each for each in found if len(each.ids) > more_than]
    return sum(each.place <= place for each in large) / len(large)


def kendall_tau(pairs: Sequence[tuple[float, float]]) -> float:
    """Agreeing less disagreeing pairs over all pairs; ties count for nothing."""
    signs = [((a[0] > b[0]) - (a[0] < b[0])) * ((a[1] > b[1]) - (a[1] < b[1])) for a, b in combinations(pairs, 2)]
    return sum(signs) / len(signs)
