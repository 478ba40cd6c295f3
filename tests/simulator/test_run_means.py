"""Means over runs: weights that put right what chance drew, and how far off a mean still is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hardware.units import format_seconds, format_usd
from simulator.report.printing import with_error
from simulator.run.durations import Duration, exponential, fixed, lognormal
from simulator.run.fault_source import fault_source, mean_repairs_s, repairs_s, window_s
from simulator.run.faults import FailureModel
from simulator.run.montecarlo import outcomes, saving_of, simulate
from simulator.run.outcome import Outcome
from simulator.run.result import RunResult
from simulator.run.run_means import run_weights, standard_error
from simulator.run.specs import Recovery, RunPrices, RunSpec, Simulation
from simulator.run.uncertainty import (
    Uncertainty,
    mean_rate_factor,
    mean_step_factor,
    rate_factors,
    step_factors,
)
from tests.simulator.run_specs import DAY, crashes, quiet

UNCERTAIN = Uncertainty(0.8, 1.3, 0.5)


def rare(seed: int = 0, runs: int = 200, burst_mean: float = 0.0) -> RunSpec:
    """Ten days of 8 nodes without spares, of which every third run loses one, for an hour or for weeks."""
    spec = replace(quiet(days=10, nodes=32), job_nodes=8, replicas=8, uncertainty=UNCERTAIN, recovery=Recovery())
    (fault,) = crashes(30 * DAY, spec.job_gpus, repair_s=DAY).classes
    long = replace(fault, repair=lognormal(0.85 * DAY, 5.54 * DAY))
    model = FailureModel("rare", (long,), burst_mean=burst_mean, burst_window_s=DAY)
    return replace(spec, failures=model, simulation=Simulation(runs=runs, seed=seed), prices=RunPrices(2.0))


def mean_s(result: RunResult) -> float:
    return result.ideal_s + sum(result.lost_s.values())


@pytest.mark.parametrize(
    "duration",
    [
        fixed(3.0),
        exponential(4.0),
        lognormal(1.0, 5.0),
        Duration("quantiles", points=((0.0, 1.0), (0.5, 2.0), (1.0, 9.0))),
    ],
)
@pytest.mark.parametrize("most_s", [0.5, 1.5, 2.5, 6.0])
def test_the_mean_of_a_time_or_a_limit_is_that_of_its_draws(duration: Duration, most_s: float) -> None:
    drawn = np.minimum(duration.sample_s(200_000, np.random.default_rng(1)), most_s)
    assert duration.mean_below_s(most_s) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / 447 + 1e-12)
    assert duration.mean_below_s(1e12) == pytest.approx(duration.mean_s(), rel=1e-3)


def test_mean_factors_are_those_of_their_laws() -> None:
    """Over 4,000 points that fill the unit square evenly."""
    runs = np.arange(4000)
    assert step_factors(UNCERTAIN, 0, runs).mean() == pytest.approx(mean_step_factor(UNCERTAIN), rel=1e-3)
    assert rate_factors(UNCERTAIN, 0, runs).mean() == pytest.approx(mean_rate_factor(UNCERTAIN), rel=2e-3)
    assert mean_rate_factor(UNCERTAIN) == pytest.approx(math.exp(0.125))
    assert mean_step_factor(Uncertainty()) == mean_rate_factor(Uncertainty()) == 1.0


@pytest.mark.parametrize("burst_mean", [0.0, 2.0])
def test_repairs_are_expected_as_they_are_drawn(burst_mean: float) -> None:
    """Of the first window of 3,000 runs at the predicted rate; of the faults of a burst some come after it."""
    spec = replace(rare(burst_mean=burst_mean), uncertainty=Uncertainty())
    source, window = fault_source(spec), (0.0, window_s(spec))
    drawn_s = np.array([repairs_s(spec, source(run, window)) for run in range(3000)])
    assert mean_repairs_s(spec) == pytest.approx(drawn_s.mean(), abs=3 * drawn_s.std() / math.sqrt(3000))


def test_one_class_of_repairs_by_hand() -> None:
    """11.5 days with a crash every 30, each 5 days of repair; none counts beyond the 100 days that a run may take."""
    (fault,) = rare().failures.classes
    spec = replace(rare(), failures=FailureModel("one", (replace(fault, repair=fixed(5 * DAY)),)))
    assert mean_repairs_s(spec) == pytest.approx(11.5 / 30 * 5 * DAY)
    never_back = FailureModel("one", (replace(fault, repair=fixed(500 * DAY)),))
    assert mean_repairs_s(replace(spec, failures=never_back)) == pytest.approx(11.5 / 30 * 100 * DAY)


def test_weights_put_right_what_the_runs_drew() -> None:
    """The means of both factors and of the repairs become the known ones; nothing counts below zero."""
    spec, runs = rare(), np.arange(200)
    outcome = outcomes(spec, saving_of(spec))
    weights = run_weights(spec, outcome)
    rates = rate_factors(UNCERTAIN, 0, runs)
    assert outcome.repairs_s is not None
    assert weights.sum() == pytest.approx(1)
    assert weights.min() >= 0
    assert weights @ step_factors(UNCERTAIN, 0, runs) == pytest.approx(mean_step_factor(UNCERTAIN), rel=1e-9)
    assert weights @ rates == pytest.approx(mean_rate_factor(UNCERTAIN), rel=1e-9)
    assert weights @ outcome.repairs_s == pytest.approx(weights @ rates * mean_repairs_s(spec), rel=1e-9)


def test_weighted_means_hang_less_on_the_seed() -> None:
    plain, weighted = [], []
    for seed in range(8):
        spec = rare(seed)
        outcome = outcomes(spec, saving_of(spec))
        plain.append(float(outcome.elapsed_s.mean()))
        weighted.append(float(run_weights(spec, outcome) @ outcome.elapsed_s))
    assert np.std(weighted) < 0.7 * np.std(plain)


def test_parts_of_the_mean_still_add_up() -> None:
    (fault,) = rare().failures.classes
    short = FailureModel("short", (replace(fault, repair=exponential(DAY)),))
    spec = replace(rare(), failures=short)  # so that all runs end
    result, outcome = simulate(spec), outcomes(spec, saving_of(spec))
    weights = run_weights(spec, outcome)
    assert mean_s(result) == pytest.approx(float(weights @ outcome.elapsed_s))
    assert mean_s(result) != pytest.approx(float(outcome.elapsed_s.mean()), rel=1e-6)
    assert result.cost_usd == pytest.approx(mean_s(result) / 3600 * result.paid_gpus * 2.0)
    assert result.cost_error_usd is not None
    assert result.mean_error_s is not None
    assert result.cost_error_usd / result.cost_usd == pytest.approx(result.mean_error_s / mean_s(result))


def test_without_failures_the_mean_is_exact() -> None:
    """All that differs between runs is their step, whose mean is known."""
    spec = replace(quiet(days=1, every_s=math.inf), uncertainty=UNCERTAIN, simulation=Simulation(runs=50))
    result = simulate(spec)
    assert mean_s(result) == pytest.approx(spec.work_s * mean_step_factor(UNCERTAIN))
    assert result.mean_error_s == pytest.approx(0, abs=1e-6 * spec.work_s)


def test_the_error_of_a_plain_mean_is_its_deviation_over_the_root_of_the_runs() -> None:
    """Where step and rate are certain and nodes are replaced at once."""
    spec = replace(quiet(days=10), failures=crashes(DAY, 2048), simulation=Simulation(runs=40))
    outcome = outcomes(spec, saving_of(spec))
    wanted = outcome.elapsed_s.std(ddof=1) / math.sqrt(40)
    assert simulate(spec).mean_error_s == pytest.approx(wanted)
    few = replace(spec, simulation=Simulation(runs=5))
    assert simulate(few).mean_error_s == pytest.approx(outcome.elapsed_s[:5].std(ddof=1) / math.sqrt(5))
    assert simulate(replace(spec, simulation=Simulation(runs=1))).mean_error_s is None


def test_repairs_that_no_run_met_are_in_the_error() -> None:
    """Ten runs in 100,000 would lose a node; of twenty none does, and without spares each waits for it."""
    (fault,) = rare().failures.classes
    seldom = FailureModel("seldom", (replace(fault, rate_per_gpu_s=fault.rate_per_gpu_s / 4000),))
    spec = replace(rare(runs=20), failures=seldom)
    outcome = outcomes(spec, saving_of(spec))
    assert outcome.repairs_s is not None
    assert not outcome.repairs_s.any()
    unseen_s = mean_rate_factor(UNCERTAIN) * mean_repairs_s(spec)
    assert standard_error(spec, outcome, outcome.elapsed_s) == pytest.approx(unseen_s, rel=1e-6)
    spare = replace(spec, recovery=Recovery(hot_spares=1))
    assert standard_error(spare, outcome, outcome.elapsed_s) < 1e-6 * unseen_s  # type: ignore[operator]


def test_stated_errors_are_as_large_as_means_differ() -> None:
    """Over eight seeds of runs with many short waits."""
    means, errors = [], []
    for seed in range(8):
        spec = replace(rare(seed, runs=60), failures=crashes(2 * DAY, 64, repair_s=DAY / 4))
        result = simulate(spec)
        assert result.mean_error_s is not None
        means.append(mean_s(result))
        errors.append(result.mean_error_s)
    assert 0.4 < np.std(means, ddof=1) / np.mean(errors) < 1.8


def test_few_runs_count_alike() -> None:
    spec = rare(runs=19)
    outcome: Outcome = outcomes(spec, saving_of(spec))
    assert run_weights(spec, outcome).tolist() == [1 / 19] * 19


def test_a_mean_is_rounded_in_the_unit_that_is_written() -> None:
    """20,214 s are 5.615 h: 20,000 s would be 5.556 h, which are fewer than their parts."""
    assert with_error(20214.0, 6000.0, format_seconds) == "5.6 h +- 30 %"
    assert with_error(126_717.8, 467.7, format_usd) == "126,700 USD +- 0.37 %"
    assert with_error(1_267_178.0, 4677.0, format_usd) == "1.267 million USD +- 0.37 %"


@pytest.mark.parametrize(
    ("mean", "error", "words"),
    [
        (1234.5, None, "1234.5 h"),
        (1234.5, 0.1, "1234.5 h"),
        (1234.5, 2.0, "1234 h +- 0.16 %"),
        (1234.5, 20.0, "1230 h +- 1.6 %"),
        (1234.5, 200.0, "1200 h +- 16 %"),
        (0.0, 1.0, "0 h"),
    ],
)
def test_a_mean_is_written_in_the_digits_that_its_error_leaves(mean: float, error: float | None, words: str) -> None:
    assert with_error(mean, error, lambda value: f"{value:g} h") == words
