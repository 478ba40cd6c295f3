"""Spare nodes: how many suffice, how many are worth their price, and that interruptions do not depend on them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from simulator.run.durations import Duration
from simulator.run.faults import FailureModel, FaultClass
from simulator.run.montecarlo import simulate
from simulator.run.spares import best_spares, spares_needed
from simulator.run.specs import RunSpec, Simulation
from tests.simulator.run_specs import DAY, crashes, quiet


@pytest.mark.parametrize("mean", [0.01, 1.0, 37.5, 4000.0])
@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99, 0.9999])
def test_spares_are_the_quantile_of_poisson(mean: float, confidence: float) -> None:
    from scipy.stats import poisson

    assert spares_needed(away(mean), 16384, confidence) == poisson.ppf(confidence, mean)


@pytest.mark.parametrize("mean", [1e6, 1e18, math.inf])
def test_spares_are_found_at_once_and_no_more_than_there_are_nodes(mean: float) -> None:
    assert spares_needed(away(mean), 1024) == 1024
    assert spares_needed(away(mean), 1024, most=128) == 128


@pytest.mark.parametrize("mean", [0.01, 1.0, 37.5])
def test_the_best_spares_take_the_fewest_node_hours_by_erlangs_loss(mean: float) -> None:
    """Erlang's loss of n + 1 places from Poisson's law: its weight at n + 1 over all up to there."""
    from scipy.stats import poisson

    def node_hours(spares: int) -> float:
        blocked = poisson.pmf(spares + 1, mean) / poisson.cdf(spares + 1, mean)
        return float((2048 + spares) / (1 - blocked))

    best = min(range(200), key=node_hours)
    assert best_spares(away(mean), 2048, 8, math.inf) == best


def test_best_spares_of_nothing_away_of_a_short_run_and_of_a_hopeless_one() -> None:
    model = away(4.0)
    assert best_spares(FailureModel("none", ()), 2048, 8, math.inf) == 0
    assert best_spares(model, 2048, 8, 1e-4) == 0  # a node is away for 1 s
    assert best_spares(away(1e6), 128, 8, math.inf) == 128


def test_the_best_spares_are_the_cheapest_when_played() -> None:
    """Half and twice as many cost more node-hours under the same faults."""
    spec = failing()
    best = best_spares(spec.failures, spec.job_nodes, spec.gpus_per_node, spec.work_s)

    def node_hours(spares: int) -> float:
        played = with_spares(spec, spares)
        result = simulate(played)
        return (spec.job_nodes + spares) * (result.ideal_s + sum(result.lost_s.values()))

    assert node_hours(best) < min(node_hours(best // 2), node_hours(2 * best))


def test_interruptions_of_gpus_at_work_do_not_depend_on_the_spares() -> None:
    """A crash every 8 hours: waiting for spares makes the run longer, not its nodes better."""
    few, many = (simulate(with_spares(failing(), spares)) for spares in (1, 8))
    assert few.lost_s["waiting"] > 5 * many.lost_s["waiting"]
    assert few.mean_time_between_interruptions_s == pytest.approx(many.mean_time_between_interruptions_s, rel=0.1)


def failing() -> RunSpec:
    """60 days of 64 nodes, of which one fails every 8 hours and is away for a day."""
    spec = replace(quiet(days=60, nodes=64), simulation=Simulation(runs=40))
    return replace(spec, failures=crashes(8 * 3600.0, spec.job_gpus, repair_s=DAY))


def with_spares(spec: RunSpec, spares: int) -> RunSpec:
    """The same faults with so many hot spares."""
    return replace(spec, recovery=replace(spec.recovery, hot_spares=spares), drawn_spares=16)


def away(mean: float) -> FailureModel:
    """Failures that keep so many nodes of 16,384 GPUs in repair."""
    fault = FaultClass("a", "crash", mean / 16384, "node", detect=Duration("fixed", 0.5), repair=Duration("fixed", 0.5))
    return FailureModel("away", (fault,))


def test_more_spares_than_the_job_has_nodes_may_be_needed() -> None:
    """A node of 64 breaks every 8 hours and is away for ten days: 30 are away in the mean, and 99 % of the time
    at most 43 by Poisson's law; for 40 days 120 and 146, more than the job's nodes."""
    from scipy.stats import poisson

    for days in (10, 40):
        spec = replace(quiet(days=5, nodes=64), simulation=Simulation(runs=20))
        spec = replace(spec, failures=crashes(8 * 3600.0, spec.job_gpus, repair_s=days * DAY))
        assert simulate(spec).spares_needed == poisson.ppf(0.99, 3 * days)


def test_a_job_that_waits_is_not_interrupted_again() -> None:
    """Without spares it waits 100 days for a node while others break, every 2 days of work as before."""
    spec = replace(quiet(days=1, nodes=64), simulation=Simulation(runs=400))
    spec = replace(spec, failures=crashes(2 * DAY, spec.job_gpus, repair_s=100 * DAY))
    result = simulate(with_spares(spec, 0))
    assert result.mean_time_between_interruptions_s == pytest.approx(2 * DAY, rel=0.2)


def test_few_runs_are_told() -> None:
    def told(runs: int) -> bool:
        spec = replace(quiet(), simulation=Simulation(runs=runs))
        return any("run.simulation.runs" in text for text in simulate(spec).warnings)

    assert told(1)
    assert told(19)
    assert not told(20)
