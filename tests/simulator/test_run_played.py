"""Whole runs as they are played: spares that earn their hours, the median at the prediction, runs that only pause."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.run.auto_spares import with_best_spares, with_hot_spares
from simulator.run.montecarlo import simulate
from simulator.run.quantiles import quantiles
from simulator.run.result import RunResult
from simulator.run.specs import Recovery, Simulation
from simulator.run.uncertainty import Uncertainty, step_factors
from tests.simulator.run_specs import DAY, crashes, quiet

NODES = 64
ERRORS = Uncertainty(0.8, 1.3, 0.0)


def gpu_hours(result: RunResult) -> float:
    """GPU-seconds of the mean run, the spares' included."""
    return result.paid_gpus * (result.ideal_s + sum(result.lost_s.values()))


def test_the_median_run_without_failures_is_the_prediction() -> None:
    """Half of the runs are slower and half faster, by mirrored quantiles, whatever the seed and the two widths."""
    for seed in range(4):
        factors = step_factors(ERRORS, seed, np.arange(200))
        assert quantiles(factors).p50 == pytest.approx(1.0, abs=1e-3)
        assert (factors > 1).sum() == 100
    spec = replace(quiet(every_s=math.inf), uncertainty=ERRORS, simulation=Simulation(runs=200))
    assert simulate(spec).finish_s.p50 == pytest.approx(spec.work_s, rel=1e-3)


def test_quantiles_of_endless_runs_are_endless() -> None:
    values = np.array([1.0, 2.0, math.inf, math.inf])
    assert quantiles(values).to_dict() == {"p10": 1.0, "p50": None, "p90": None}
    assert quantiles(np.array([1.0, 2.0, 3.0, 4.0])).p50 == 2.5


def test_runs_that_mostly_save_do_not_finish() -> None:
    """A save of 0.98 TB to 100 GB/s takes some 10 s at least; every 1 s of work leaves less than a tenth for it."""
    spec = quiet(days=0.1, every_s=10.0, policy="sync")
    slow = replace(spec.paths, storage_write_bytes_per_s=1e9)
    stalls = simulate(replace(spec, paths=slow, simulation=Simulation(runs=2)))
    assert not stalls.finishes
    assert "most of it went into checkpoint" in str(stalls.reason)
    assert simulate(replace(spec, simulation=Simulation(runs=2, give_up_fraction=0.001))).finishes


def test_runs_that_mostly_evaluate_do_not_finish() -> None:
    """An hour of evaluation behind every step of 10 s."""
    spec = quiet(days=0.1, every_s=math.inf)
    (segment,) = spec.segments
    every_step = replace(segment, evaluation_pause_s=3600.0, evaluation_every_steps=1)
    result = simulate(replace(spec, segments=(every_step,), simulation=Simulation(runs=2)))
    assert not result.finishes
    assert "most of it went into evaluation" in str(result.reason)


def test_spares_are_taken_while_they_save_more_hours_than_they_take() -> None:
    """Twelve nodes are away in the mean; two spares make the job wait, and each further one pays until few waits are
    left. What is chosen is played as it would be if it were written."""
    model = crashes(DAY / 12, NODES * 8, repair_s=DAY)
    spec = replace(quiet(days=10, nodes=NODES), failures=model, recovery=Recovery(hot_spares=8),
                   simulation=Simulation(runs=20))  # fmt: skip
    best = simulate(with_best_spares(spec))
    assert best.spares > 8
    assert gpu_hours(best) < gpu_hours(simulate(spec))
    again = simulate(with_hot_spares(spec, best.spares))
    assert again.finish_s == best.finish_s


def test_no_spares_are_taken_where_nothing_waits() -> None:
    spec = replace(quiet(days=1), recovery=Recovery(hot_spares=0), simulation=Simulation(runs=2))
    result = simulate(with_best_spares(spec))
    assert result.lost_s["waiting"] == 0
    assert result.spares == 0


def test_a_batch_tells_of_its_runs_as_they_end() -> None:
    """Sixty runs of ten days are one batch, played in windows; what is told grows to all of them."""
    model = crashes(DAY / 4, NODES * 8, repair_s=DAY)
    spec = replace(quiet(days=10, nodes=NODES), failures=model, recovery=Recovery(hot_spares=4),
                   simulation=Simulation(runs=60))  # fmt: skip
    told: list[int] = []
    simulate(spec, lambda done, total: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 60
    assert len(told) > 2
