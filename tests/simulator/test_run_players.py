"""The batch player of many runs and the SimPy player of one run tell the same story, whatever happens in it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from simulator.run.checkpoints import POLICIES
from simulator.run.event_player import play_one
from simulator.run.fault_source import fault_source
from simulator.run.faults import scaled
from simulator.run.montecarlo import outcomes, saving_of
from simulator.run.specs import RunSpec
from tests.simulator.run_specs import DAY, stormy

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
        one, story = play_one(spec, saving, fault_source(spec), run)
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
    spec = stormy("async", every_s=1800.0)
    spec = replace(spec, simulation=replace(spec.simulation, runs=6))
    together = outcomes(spec, saving_of(spec))
    apart = outcomes(replace(spec, simulation=replace(spec.simulation, runs=2)), saving_of(spec))
    np.testing.assert_array_equal(together.elapsed_s[:2], apart.elapsed_s)
    spread = outcomes(replace(spec, simulation=replace(spec.simulation, workers=2)), saving_of(spec))
    np.testing.assert_array_equal(together.elapsed_s, spread.elapsed_s)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_players_agree_on_anything(seed: int) -> None:
    """Clusters, spares, recoveries and rates drawn at random, hopeless ones among them."""
    luck = random.Random(seed)
    nodes, replicas = luck.choice([16, 64, 256]), luck.choice([2, 4, 8, 16])
    policy = luck.choice(sorted(POLICIES))
    spec = stormy(
        policy,
        luck.choice([None, 1800.0, 7200.0]) if policy != "none" else None,
        hot_spares=luck.choice([0, 1, 2, 5]),
        cold_spares=luck.choice([0, 1, 3, 10]),
        when_short=luck.choice(["wait", "shrink"]),
        regrow=luck.choice(["at-once", "at-restart"]),
        patience_s=luck.choice([0.0, 600.0, 5000.0]),
        evict_after=luck.choice([None, 1, 3]),
        evict_slow=luck.random() < 0.5,
        maintenance_every_s=luck.choice([None, DAY]),
        maintenance_s=luck.choice([0.0, 3600.0, 30000.0]),
        min_replicas=luck.choice([1, replicas - 1]),
        hot_swap_s=luck.choice([0.0, 60.0, 900.0]),
        cold_start_s=luck.choice([0.0, 1800.0]),
    )
    rate = luck.choice([0.2, 1, 3, 10]) * 256 / nodes
    segment = replace(spec.segments[0], tokens=luck.choice([2, 5]) * 8640 * 4e6)
    check_same(
        replace(
            spec,
            segments=(segment,),
            job_nodes=nodes,
            replicas=replicas,
            paths=replace(spec.paths, gpus=nodes * 8),
            failures=scaled(spec.failures, rate),
            simulation=replace(spec.simulation, seed=seed),
        )
    )
