"""The fit finds again the constants that made up its rows, and weighs rows, priors and families as it says."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.problems import Place
from simulator.cost import constants
from simulator.cost.constants import NEUTRAL, combined, constants_for
from simulator.predict import residuals
from simulator.predict.simulate import simulate_step
from simulator.scenario.schema import Scenario, load_scenario
from validate import fit as command
from validate.columns import row_of
from validate.columns_cells import Cells
from validate.fit_files import constants_text, replace_file, residuals_text
from validate.fit_points import Observation, Point, design, linearised, observation_of, points_of
from validate.fit_solve import (
    Fit,
    Fitted,
    coordinates,
    errors_at,
    errors_without,
    fitted_values,
    left_out_errors,
    log_errors,
    solve,
    weights,
)
from validate.row import Row

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
CASE = residuals.Case("hopper", "dense", "megatron", 8)

# Steps that between them answer to every planted constant: large and small products, exchanges with and without,
# gathers of sharded parameters between nodes, and micro-batches so small that the host sets the pace.
SMALL_SCENARIOS = (
    (),
    ("plan.ep=1",),
    ("plan.pp=1", "plan.ep=8"),
    ("plan.pp=4", "plan.ep=2"),
    ("run.seq_length=8192",),
    ("run.seq_length=512", "plan.micro_batch_size=1"),
    ("model.hidden=2048", "plan.micro_batch_size=4"),
    ("model.hidden=4096", "plan.micro_batch_size=4", "plan.ep=1"),
    ("model.hidden=8192", "plan.pp=1"),
    ("model.hidden=4096", "plan.sharding=full", "plan.pp=1", "plan.micro_batch_size=1", "cluster.gpus=64"),
)
PLANTED = {
    "gemm_rate": 0.72,
    "streaming_rate": 0.85,
    "ep_rate": 0.6,
    "dp_rate": 0.5,
    "host_s_per_kernel": 2e-5,
}


@pytest.fixture(scope="module")
def tiny() -> Scenario:
    return load_scenario(TINY)


def entry(constant: str, value: float, spread: float = 1.0, prior: float | None = None, **where: Any) -> dict[str, Any]:
    prior = value if prior is None else prior
    return {"name": constant, "constant": constant, "value": value, "prior": prior, "spread": spread, **where}


def point(name: str, family: str, error: float, entries: Sequence[int] = (0,), **slopes: float) -> Point:
    """A point predicted `error` too long, in logarithms."""
    return Point(name, family, 1.0, math.exp(error), slopes, tuple(entries), CASE)


def measured_with(planted: Mapping[str, float], noise: float) -> list[Observation]:
    """The small scenarios with the step times that planted constants make, each off by `noise` (a deviation)."""
    rng = np.random.default_rng(7)
    observations = []
    for number, overrides in enumerate(SMALL_SCENARIOS):
        scenario = load_scenario(TINY, overrides)
        truth = replace(NEUTRAL, **planted)
        step = simulate_step(scenario, constants=truth)
        measured_s = step.step_time_s * math.exp(rng.normal(0.0, noise))
        observations.append(Observation(f"S{number}-row", f"S{number}", scenario, measured_s))
    return observations


def fitted_until_still(observations: Sequence[Observation], entries: list[dict[str, Any]]) -> list[Fitted]:
    """The fit, run again at its own values as its command says; the values and intervals of the last run."""
    for _ in range(5):
        points = [linearised(each, entries) for each in observations]
        values = fitted_values(solve(points, design(points, entries), entries), entries)
        entries = [{**each, "value": fitted.value} for each, fitted in zip(entries, values, strict=True)]
    return values


def weak_entries() -> list[dict[str, Any]]:
    """Entries that start where nothing is known, under priors too wide to matter."""
    return [
        entry(
            name, getattr(NEUTRAL, name), spread=10.0 if name.endswith("_rate") else 1e-3, prior=getattr(NEUTRAL, name)
        )
        for name in PLANTED
    ]


@pytest.mark.untraced
def test_planted_constants_are_found_exactly_without_noise() -> None:
    values = fitted_until_still(measured_with(PLANTED, noise=0.0), weak_entries())
    assert [fitted.value for fitted in values] == pytest.approx(list(PLANTED.values()), rel=2e-3)


@pytest.mark.untraced
def test_planted_constants_are_found_through_noise() -> None:
    """Steps measured to 0.5 % give every constant to 5 %, and the interval of a 5 % fit holds it with room."""
    values = fitted_until_still(measured_with(PLANTED, noise=0.005), weak_entries())
    assert [fitted.value for fitted in values] == pytest.approx(list(PLANTED.values()), rel=0.05)
    for planted, fitted in zip(PLANTED.values(), values, strict=True):
        assert fitted.low < planted < fitted.high


def test_a_planted_factor_of_one_part_is_told_from_that_of_all() -> None:
    """Two entries of one rate multiply: the one for all parts and the one for a framework share the planted 0.72."""
    entries = [
        entry("gemm_rate", 0.9, spread=1e-6),
        entry("gemm_rate", 1.0, spread=10.0, stacks=["megatron*"]),
    ]
    values = fitted_until_still(measured_with({"gemm_rate": 0.72}, noise=0.0), entries)
    assert [fitted.value for fitted in values] == pytest.approx([0.9, 0.8], rel=1e-3)


def test_slopes_are_those_of_the_simulator() -> None:
    observation = measured_with({}, noise=0.0)[0]
    entries = [entry("gemm_rate", 0.8), entry("rank_noise", 0.01)]
    point = linearised(observation, entries)
    further = linearised(observation, [entry("gemm_rate", 0.8 * 1.02), entries[1]])
    expected = point.slopes["gemm_rate"] * math.log(1.02)
    assert math.log(further.predicted_s / point.predicted_s) == pytest.approx(expected, rel=0.05)
    # The slowest of 8 ranks is 1.42360 spreads late: step = s (1 + 1.42360 noise).
    waiting = 1.4236003
    grown = math.log((1 + 0.0105 * waiting) / (1 + 0.01 * waiting)) / 0.0005
    assert point.slopes["rank_noise"] == pytest.approx(grown, rel=1e-6)


def test_only_entries_that_hold_have_slopes() -> None:
    observation = measured_with({}, noise=0.0)[0]
    entries = [
        entry("gemm_rate", 0.8, parts=["h100*"]),
        entry("gemm_rate", 0.7, parts=["a100*"]),
        entry("host_s_per_kernel", 1e-5),
        entry("host_s_per_kernel", 2e-5, shardings=["optimizer"]),
        entry("host_s_per_kernel", 3e-5, shardings=["full"]),
    ]
    point = replace(linearised(observation, entries), slopes={"gemm_rate": -0.5, "host_s_per_kernel": 7.0})
    assert point.entries == (0, 2, 3)
    # Rates of several entries multiply, so each moves; of other constants the last that holds counts.
    assert design([point], entries).tolist() == [[-0.5, 0.0, 0.0, 7.0, 0.0]]


def test_rates_share_a_slope() -> None:
    entries = [entry("gemm_rate", 0.8), entry("gemm_rate", 0.9), entry("dp_rate", 1.0)]
    each = point("A-1", "A m", 0.0, entries=(0, 1, 2), gemm_rate=-0.5, dp_rate=-0.1)
    assert design([each], entries).tolist() == [[-0.5, -0.5, -0.1]]


def test_constants_of_the_data_file_are_the_entries_combined(tiny: Scenario) -> None:
    accelerator, plan = tiny.cluster.accelerator, tiny.plan
    assert combined(constants.entries(), accelerator, plan) == constants_for(accelerator, plan)
    assert combined([], accelerator, plan) == NEUTRAL
    entries = [entry("gemm_rate", 0.8), entry("gemm_rate", 0.5), entry("rank_noise", 0.1), entry("rank_noise", 0.2)]
    expected = replace(NEUTRAL, gemm_rate=0.4, rank_noise=0.2)
    assert combined(entries, accelerator, plan) == expected


def test_a_family_weighs_the_square_root_of_its_rows() -> None:
    points = [point(f"A-{n}", "A m", 0.0) for n in range(16)] + [point("B-1", "B m", 0.0)]
    found = weights(points)
    assert found[:16] == pytest.approx([0.5] * 16)
    assert found[16] == 1.0
    assert (found[:16] ** 2).sum() == pytest.approx(4.0)


def test_sources_kept_apart_decide_nothing() -> None:
    entries = [entry("gemm_rate", 1.0)]
    seen = [point("A-1", "A m", 0.01, gemm_rate=-1.0)]
    apart = [point("DSV3-1", "DSV3 m", 0.5, gemm_rate=-1.0), point("KORTH-1", "KORTH m", -0.5, gemm_rate=-1.0)]
    assert weights([*seen, *apart]).tolist() == [1.0, 0.0, 0.0]
    alone = solve(seen, design(seen, entries), entries)
    together = solve([*seen, *apart], design([*seen, *apart], entries), entries)
    assert together.at == pytest.approx(alone.at, abs=1e-9)
    # A source whose name only begins alike is seen.
    assert weights([point("DSV32-1", "DSV32 m", 0.0)]).tolist() == [1.0]


def test_prior_and_row_are_averaged_by_their_weights() -> None:
    """A row that asks for a rate 0.2 % higher (of deviation 0.05 / slope 1) against a prior of deviation 0.05 / 2."""
    entries = [entry("gemm_rate", 1.0, spread=0.025)]
    points = [point("A-1", "A m", 0.002, gemm_rate=-1.0)]
    fit = solve(points, design(points, entries), entries)
    # Minimise ((0.002 - x) / 0.05)^2 + (x / 0.025)^2: x = 0.002 * 400 / (400 + 1600).
    assert fit.at == pytest.approx([0.0004], rel=1e-3)
    assert fit.covariance == pytest.approx(np.array([[1 / 2000]]), rel=2e-3)


def test_where_no_row_speaks_the_prior_decides() -> None:
    entries = [entry("gemm_rate", 1.0), entry("dp_rate", 0.9, spread=0.1, prior=0.7)]
    points = [point("A-1", "A m", 0.01, gemm_rate=-1.0)]
    fit = solve(points, design(points, entries), entries)
    fitted = fitted_values(fit, entries)[1]
    assert fitted.value == pytest.approx(0.7)
    # The 80 % interval of the prior: 1.2816 deviations of 0.1 in the logarithm.
    assert (fitted.low, fitted.high) == pytest.approx((0.7 * math.exp(-0.12816), 0.7 * math.exp(0.12816)), rel=1e-6)


def test_one_odd_row_moves_little() -> None:
    """Nine rows agree and one is off by a factor of three: the mean would move by 0.11, the fit by under 0.02."""
    entries = [entry("gemm_rate", 1.0, spread=10.0)]
    points = [point(f"A-{n}", f"A m{n}", 0.0, gemm_rate=-1.0) for n in range(9)]
    points.append(point("A-9", "A m9", math.log(3), gemm_rate=-1.0))
    fit = solve(points, design(points, entries), entries)
    assert 0 < fit.at[0] < 0.02


def test_no_constant_is_fitted_below_zero() -> None:
    entries = [entry("rank_noise", 0.01, spread=1.0)]
    points = [point("A-1", "A m", 0.5, rank_noise=2.0)]
    fit = solve(points, design(points, entries), entries)
    (fitted,) = fitted_values(fit, entries)
    assert 0.0 <= fitted.value < 1e-6
    assert fitted.low == 0.0


def test_errors_at_the_fit_follow_the_slopes() -> None:
    entries = [entry("gemm_rate", 0.5)]
    points = [point("A-1", "A m", 0.1, gemm_rate=-1.0), point("B-1", "B m", 0.3, gemm_rate=-0.5)]
    fit = Fit(np.array([math.log(0.5) + 0.2]), np.eye(1))
    assert log_errors(points) == pytest.approx([0.1, 0.3])
    assert errors_at(fit, points, design(points, entries), entries) == pytest.approx([-0.1, 0.2])


def test_a_family_is_judged_by_constants_that_never_saw_it() -> None:
    entries = [entry("gemm_rate", 1.0, spread=0.3)]
    rest = [point("B-1", "B m", 0.02, gemm_rate=-1.0), point("C-1", "C m", 0.04, gemm_rate=-0.8)]
    for error in (0.1, 0.7):
        points = [point("A-1", "A m", error, gemm_rate=-1.0), point("A-2", "A m", 0.0, gemm_rate=-0.5), *rest]
        errors = left_out_errors(points, design(points, entries), entries)
        without = solve(rest, design(rest, entries), entries)
        assert errors["A-1"] == pytest.approx(error - without.at[0])
        assert errors["A-2"] == pytest.approx(-0.5 * without.at[0])
        assert set(errors) == {"A-1", "A-2", "B-1", "C-1"}


def test_mean_errors_without_a_constant() -> None:
    """With the rate at 1 instead of the fitted 0.5 a step that answers wholly is predicted at half its time."""
    entries = [entry("gemm_rate", 0.5), entry("rank_noise", 0.1)]
    points = [point("A-1", "A m", 0.0, entries=(0, 1), gemm_rate=-1.0, rank_noise=2.0)]
    fit = Fit(coordinates(entries, "value"), np.eye(2))
    without = errors_without(fit, points, design(points, entries), entries)
    assert without == pytest.approx([0.5, 1 - math.exp(-0.2)])


HEAD = "# By hand.\n\n"
FIRST = '[[constants]]\nname = "a"\nconstant = "gemm_rate"\nmeaning = "low = 1 in words"\nprior = 0.9\nspread = 0.1\n'
SECOND = '[[constants]]\nname = "b"\nconstant = "rank_noise"\nprior = 0.01\nspread = 0.003\n'


def test_the_data_file_takes_the_values_and_keeps_the_rest() -> None:
    old = "value = 0.5\nlow = 0.4\nhigh = 0.6\nmean_error_without = 0.1\n"
    values = [Fitted(0.81234567, 0.8, 0.825), Fitted(0.0107249, 0.0071, 0.014)]
    written = constants_text(HEAD + FIRST + old + "\n" + SECOND, values, np.array([0.0802, 0.0639512]))
    new = ("value = 0.8123\nlow = 0.8\nhigh = 0.825\nmean_error_without = 0.0802\n",
           "value = 0.01072\nlow = 0.0071\nhigh = 0.014\nmean_error_without = 0.06395\n")  # fmt: skip
    assert written == HEAD + FIRST + new[0] + "\n" + SECOND + new[1]
    assert constants_text(written, values, np.array([0.0802, 0.0639512])) == written
    assert [each["value"] for each in tomllib.loads(written)["constants"]] == [0.8123, 0.01072]


def test_a_file_with_other_entries_is_not_written() -> None:
    with pytest.raises(ValueError, match="holds 2 entries and 1 were fitted"):
        constants_text(HEAD + FIRST + "\n" + SECOND, [Fitted(1, 1, 1)], np.array([0.1]))


def test_the_shipped_file_is_in_the_form_that_is_written() -> None:
    entries = constants.entries()
    values = [Fitted(each["value"], each["low"], each["high"]) for each in entries]
    without = np.array([each["mean_error_without"] for each in entries])
    text = constants.DATA.read_text(encoding="utf-8")
    assert constants_text(text, values, without) == text


def test_residuals_are_read_back_with_the_sign_of_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [point("A-1", "A m", 0.1), point("B-1", "B m, large", -0.2)]
    path = tmp_path / "data" / "residuals.csv"
    left_out = {"family": {"A-1": 0.2, "B-1": -0.3}, "source": {"A-1": 0.1, "B-1": -0.25}}
    replace_file(path, residuals_text(points, left_out))
    monkeypatch.setattr(residuals, "DATA", path)
    known = residuals.residuals.__wrapped__()
    assert known.cases == (CASE, CASE)
    assert known.families == ("A m", "B m, large")
    assert known.errors.tolist() == [-0.1, 0.25]
    assert [each.name for each in path.parent.iterdir()] == ["residuals.csv"]


MINIMAL = {"id": "T-1", "model_name": "Llama-3.1-8B", "seq_len": "8192", "gpu_type": "H100-80G SXM", "n_gpus": "8",
           "tp": "1", "cp": "2", "pp": "1", "dp": "4", "micro_batch": "1", "global_batch_sequences": "128",
           "precision": "bf16", "measured_step_time_s": "10", "quality": "A"}  # fmt: skip


def row(**cells: str) -> Row:
    return row_of(Cells({**MINIMAL, **cells}), Place("test"))


def test_rows_become_observations_or_nothing() -> None:
    observation = observation_of(row())
    assert observation is not None
    assert (observation.id, observation.source, observation.measured_s) == ("T-1", "T", 10.0)
    assert observation.family == f"T {observation.scenario.model.name}"
    assert observation_of(row(gpu_type="TPU v5p")) is None
    assert observation_of(row(measured_step_time_s="")) is None


def test_points_keep_the_order_of_their_rows() -> None:
    rows = [row(id="T-1"), row(id="T-2", gpu_type="TPU v5p"), row(id="U-1", measured_step_time_s="20")]
    points = points_of(rows, constants.entries(), processes=1)
    assert [(each.id, each.source, each.measured_s) for each in points] == [("T-1", "T", 10.0), ("U-1", "U", 20.0)]


def test_the_command_prints_and_writes_what_was_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of quality C are left out; the constants' file then holds the fitted values, the residuals' the errors."""
    rows = [row(id="T-1"), row(id="U-1", measured_step_time_s="11"), row(id="V-1", quality="C")]
    monkeypatch.setattr(command, "read_rows", lambda: rows)
    shipped = constants.DATA.read_text(encoding="utf-8")
    monkeypatch.setattr(constants, "DATA", tmp_path / "constants.toml")
    monkeypatch.setattr(residuals, "DATA", tmp_path / "residuals.csv")
    constants.DATA.write_text(shipped, encoding="utf-8")

    command.main(["--processes", "1"])
    assert constants.DATA.read_text(encoding="utf-8") == shipped
    command.main(["--processes", "1", "--write"])

    points = points_of(rows[:2], constants.entries(), processes=1)
    fit = solve(points, design(points, constants.entries()), constants.entries())
    values = fitted_values(fit, constants.entries())
    written = tomllib.loads(constants.DATA.read_text(encoding="utf-8"))["constants"]
    assert [each["value"] for each in written] == [float(f"{fitted.value:.4g}") for fitted in values]
    assert [line.split(",")[0] for line in residuals.DATA.read_text().splitlines()] == ["id", "T-1", "U-1"]
    printed = capsys.readouterr().out
    assert "(2 rows)" in printed
    name, value = constants.entries()[0]["name"], values[0].value
    assert f"{name:<46} {constants.entries()[0]['value']:>9.4g} -> {value:>9.4g}" in printed
