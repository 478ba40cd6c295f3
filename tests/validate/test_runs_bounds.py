"""Errors over all published rows stay within validate/bounds.toml, and RESULTS.md leaves no large error unexplained."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import validate
from simulator.cost import constants
from simulator.predict import confidence, residuals
from tests.predicted import published
from validate.ranking import kendall_tau, ranking, rankings, share_within
from validate.report_results import (
    HERE,
    counted,
    coverage,
    explanation_of,
    figures,
    large_errors,
    left_out,
    results,
    unfitting,
)
from validate.runs import Compared, statistics

BOUNDS: dict[str, Any] = tomllib.loads((Path(validate.__file__).parent / "bounds.toml").read_text())
# All on one worker of pytest-xdist: every row is predicted once.
pytestmark = pytest.mark.xdist_group("published rows")
FIGURES = ("median_abs_error", "mean_abs_error", "p90_abs_error")


def in_small_sample(identifier: str) -> bool:
    """Whether a row is of vTrain's 240 iterations of small models on one node, which have a bound of their own."""
    return identifier.startswith("VTRAIN-")


@pytest.fixture(scope="module")
def entries() -> list[Compared]:
    return list(published())


def test_step_times_stay_within_bounds(entries: list[Compared]) -> None:
    times = counted(entries, "step_time_s")
    found, bounds = statistics([e for e in times if not in_small_sample(e.row.id)]), BOUNDS["step_time"]
    assert found["supported"] >= bounds["supported_fraction"] * found["n"]
    for figure in FIGURES:
        assert found[figure] <= bounds[figure], figure
    assert abs(found["bias"]) <= bounds["bias"]
    moe = statistics([e for e in times if e.row.kind == "moe"])
    assert moe["mean_abs_error"] <= BOUNDS["step_time_moe"]["mean_abs_error"]
    paper = statistics([e for e in times if e.row.id.startswith("KORTH-T5")])
    assert paper["mean_abs_error"] <= BOUNDS["korthikanti"]["mean_abs_error"]
    small = statistics([e for e in times if in_small_sample(e.row.id)])
    assert small["mean_abs_error"] <= BOUNDS["small_sample"]["mean_abs_error"]


def test_allocator_peaks_stay_within_bounds(entries: list[Compared]) -> None:
    sources = ("SIMUMAX", "MLMGOLD")
    metered = [e for e in counted(entries, "peak_memory_bytes") if e.row.id.split("-")[0] in sources]
    errors = np.abs([e.error_fraction for e in metered if e.error_fraction is not None])
    assert len(errors) >= 29
    assert errors.mean() <= BOUNDS["memory_allocator"]["mean_abs_error"]
    assert errors.max() <= BOUNDS["memory_allocator"]["worst_abs_error"]


def test_peaks_by_other_meters_stay_within_bounds(entries: list[Compared]) -> None:
    metered = [e for e in counted(entries, "peak_memory_bytes") if e.row.id.split("-")[0] in ("TT", "BS")]
    errors = np.abs([e.error_fraction for e in metered if e.error_fraction is not None])
    assert len(errors) >= 35
    assert errors.mean() <= BOUNDS["memory_reserved_or_device"]["mean_abs_error"]


def test_plans_of_a_sweep_are_ordered(entries: list[Compared]) -> None:
    found = rankings(entries)
    assert len(found) >= 25
    assert np.mean([each.regret_fraction for each in found]) <= BOUNDS["ranking"]["mean_regret"]
    assert np.mean([each.tau for each in found]) >= BOUNDS["ranking"]["least_mean_tau"]
    assert share_within(found, 1) >= BOUNDS["ranking"]["least_share_first"]
    assert share_within(found, 3, more_than=3) >= BOUNDS["ranking"]["least_share_in_three"]


def test_every_run_that_took_place_fits(entries: list[Compared]) -> None:
    assert [e.row.id for e in unfitting(entries) if explanation_of(e, "fits") is None] == []


def test_every_large_error_is_explained(entries: list[Compared]) -> None:
    times, memory = counted(entries, "step_time_s"), counted(entries, "peak_memory_bytes")
    assert [e.row.id for e in large_errors([*times, *memory]) if explanation_of(e) is None] == []


def test_errors_of_families_left_out_stay_within_bounds() -> None:
    others = [error for row, error in left_out().items() if not in_small_sample(row)]
    errors, bounds = np.array(others), BOUNDS["step_time_left_out"]
    size = np.abs(errors)
    assert np.median(size) <= bounds["median_abs_error"]
    assert size.mean() <= bounds["mean_abs_error"]
    assert np.quantile(size, 0.9) <= bounds["p90_abs_error"]
    assert abs(errors.mean()) <= bounds["bias"]


@pytest.mark.parametrize("together", ["source", "generation"])
def test_errors_of_sources_and_generations_left_out_stay_within_bounds(together: str) -> None:
    size = np.abs(np.array(list(left_out(together).values())))
    bounds = BOUNDS[f"step_time_{together}_left_out"]
    assert np.median(size) <= bounds["median_abs_error"]
    assert size.mean() <= bounds["mean_abs_error"]
    assert np.quantile(size, 0.9) <= bounds["p90_abs_error"]


def test_intervals_cover_what_they_say() -> None:
    assert BOUNDS["intervals"]["least_coverage"] <= coverage() <= BOUNDS["intervals"]["most_coverage"]


def test_intervals_are_wider_where_evidence_is_thin() -> None:
    known = residuals.residuals()
    common = residuals.Case("hopper", "dense", "megatron-core", 512)
    rare = residuals.Case("cdna3", "moe", "ddp", 100_000)
    width = [high - low for low, high in (confidence.log_interval(case, known) for case in (common, rare))]
    assert width[0] < width[1]
    low, high = confidence.log_interval(common, known)
    assert low < 0.1
    assert high > -0.1


def test_a_source_says_nothing_about_itself() -> None:
    known = residuals.residuals()
    own = residuals.source_of(known.families[0])
    weight = confidence.weights(known.cases[0], known, without=own)
    for each, family in zip(weight, known.families, strict=True):
        assert (each == 0) == (residuals.source_of(family) == own)


def test_every_constant_has_a_meaning_and_lies_in_its_interval() -> None:
    for entry in constants.entries():
        assert entry["meaning"], entry["name"]
        assert entry["low"] <= entry["value"] <= entry["high"], entry["name"]


def test_kendall_tau_and_regret() -> None:
    assert kendall_tau([(1, 10), (2, 20), (3, 30)]) == 1
    assert kendall_tau([(1, 30), (2, 20), (3, 10)]) == -1
    assert kendall_tau([(1, 10), (2, 30), (3, 20)]) == pytest.approx(1 / 3)
    found = ranking("x", [("a", 1.0, 5.0), ("b", 1.2, 4.0), ("c", 2.0, 9.0)])
    assert found.ids == ("a", "b", "c")
    assert found.regret_fraction == pytest.approx(0.2)
    assert found.place == 2
    other = ranking("y", [("a", 1.0, 1.0), ("b", 1.2, 4.0)])
    assert share_within([found, other], 1) == 0.5
    assert share_within([found, other], 2) == 1
    assert share_within([found, other], 1, more_than=2) == 0


def test_results_and_figures_are_those_of_the_rows(entries: list[Compared]) -> None:
    written = {"RESULTS.md": results(entries)} | {f"figures/{name}": svg for name, svg in figures(entries).items()}
    stale = [name for name, text in written.items() if (HERE / name).read_text(encoding="utf-8") != text]
    assert stale == [], "run python -m validate.report_results"
