"""The sweep over many runs and the SimPy player of one run tell the same story, whatever happens in it."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.run.chances import chances_of
from simulator.run.checkpoints import POLICIES
from simulator.run.engine import play_one
from simulator.run.montecarlo import outcomes, saving_of
from simulator.run.specs import RunSpec
from tests.simulator.run_specs import stormy

NO_SPARES: dict[str, object] = {"hot_spares": 0, "cold_spares": 0, "evict_after": None}
SHRINK: dict[str, object] = {"hot_spares": 1, "cold_spares": 2, "when_short": "shrink"}
RECOVERIES: dict[str, dict[str, object]] = {
    "spares": {},
    "few spares": {"hot_spares": 3, "cold_spares": 4, "evict_after": None},
    "cold spares only": {"hot_spares": 0, "cold_spares": 25},
    "hot spares only": {"hot_spares": 25, "cold_spares": 0},
    "no spares": NO_SPARES,
    "shrink": SHRINK,
    "shrink, regrow": {**SHRINK, "regrow": "at-once", "patience_s": 1800.0},
    "shrink, no spares": {**SHRINK, **NO_SPARES, "regrow": "at-once"},
    "shrink to a floor": {**SHRINK, **NO_SPARES, "min_replicas": 31},
    "slow nodes stay": {"evict_slow": False},
}


def check_same(spec: RunSpec) -> None:
    saving = saving_of(spec)
    many = outcomes(spec, saving)
    for run in range(spec.simulation.runs):
        one, story = play_one(spec, saving, chances_of(spec), run)
        assert one.elapsed_s[0] == pytest.approx(many.elapsed_s[run], abs=1e-3)
        assert np.isfinite(one.finish_s[0]) == np.isfinite(many.finish_s[run])
        for cause, lost in many.lost_s.items():
            assert one.lost_s[cause][0] == pytest.approx(lost[run], abs=1e-3), cause
        np.testing.assert_array_equal(one.stops_by_component[0], many.stops_by_component[run])
        np.testing.assert_allclose(one.lost_by_component_s[0], many.lost_by_component_s[run], atol=1e-3)
        assert story


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_players_agree_for_each_checkpoint_policy(policy: str) -> None:
    check_same(stormy(policy, every_s=3600.0 if policy != "none" else None))


@pytest.mark.parametrize("name", sorted(RECOVERIES))
def test_players_agree_for_each_recovery(name: str) -> None:
    check_same(stormy("in-memory", every_s=3600.0, **RECOVERIES[name]))


@pytest.mark.parametrize("name", sorted(RECOVERIES))
def test_time_adds_up(name: str) -> None:
    spec = stormy("async", every_s=1800.0, **RECOVERIES[name])
    outcome = outcomes(spec, saving_of(spec))
    total = outcome.work_s + sum(outcome.lost_s.values())
    np.testing.assert_allclose(total, outcome.elapsed_s, rtol=1e-12)
    assert all((lost >= -1e-6).all() for lost in outcome.lost_s.values())


def test_runs_do_not_depend_on_batches_or_workers() -> None:
    from dataclasses import replace

    spec = stormy("async", every_s=1800.0)
    spec = replace(spec, simulation=replace(spec.simulation, runs=6))
    together = outcomes(spec, saving_of(spec))
    apart = outcomes(replace(spec, simulation=replace(spec.simulation, runs=2)), saving_of(spec))
    np.testing.assert_array_equal(together.elapsed_s[:2], apart.elapsed_s)
    spread = outcomes(replace(spec, simulation=replace(spec.simulation, workers=2)), saving_of(spec))
    np.testing.assert_array_equal(together.elapsed_s, spread.elapsed_s)
