"""A job that lost replicas or bandwidth: its step simulated anew, once for each state, and only when asked."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from simulator.predict import degraded
from simulator.predict.degraded import ReplicaSpeeds, shrunk, speed_with_links
from simulator.predict.run_spec import whole_run_spec
from simulator.predict.simulate import Simulated, simulate
from simulator.run.montecarlo import simulate as simulate_run
from simulator.run.specs import Recovery, RunSpec
from simulator.scenario.schema import load_scenario
from tests.simulator.run_specs import DAY

SCENARIO = Path(__file__).parents[2] / "scenarios" / "deepseek-v3-2048xh800.yaml"
ELASTIC = ["run.recovery={when_short: shrink}", "run.spares={hot: 0}", "run.simulation={runs: 6}"]
LINKS = (
    "run.failures={exposure: {gpus: 2048, time: 1 d}, classes: {cable: {kind: slow, count: 2, links: 50%, "
    "lasts: {mean: 2 h}, detect: 10 min}}}"
)


@pytest.fixture(scope="module")
def done() -> Simulated:
    return simulate(load_scenario(SCENARIO))


def speeds_of(done: Simulated) -> ReplicaSpeeds:
    spec = whole_run_spec(done)
    assert spec is not None
    assert isinstance(spec.replica_speed, ReplicaSpeeds)
    return spec.replica_speed


def test_all_replicas_run_at_full_speed_and_nothing_is_simulated(done: Simulated) -> None:
    speeds = speeds_of(done)
    assert speeds[speeds.replicas] == 1.0
    assert speeds[0] == 0.0
    assert len(speeds) == speeds.replicas + 1
    with pytest.raises(IndexError):
        speeds[speeds.replicas + 1]


def test_fewer_replicas_take_more_micro_batches(done: Simulated) -> None:
    """The fullest replica decides: speed is near micro-batches before over micro-batches after, bubble aside."""
    plan, speeds = done.scenario.plan, speeds_of(done)
    assert plan.dp % speeds.replicas == plan.expert_dp % speeds.replicas == 0
    for count in range(speeds.replicas // 2, speeds.replicas):
        fewer = shrunk(plan, count, speeds.replicas)
        assert fewer.dp == plan.dp * count // speeds.replicas
        assert fewer.global_batch_size >= plan.global_batch_size > fewer.global_batch_size - 2 * fewer.dp * plan.pp
        assert plan.microbatches / fewer.microbatches <= speeds[count] < 1


def test_each_state_is_simulated_once(done: Simulated, monkeypatch: pytest.MonkeyPatch) -> None:
    speeds, calls = speeds_of(done), []
    real = degraded.simulate_step
    monkeypatch.setattr(degraded, "simulate_step", lambda *given: calls.append(1) or real(*given))
    assert speeds[speeds.replicas - 1] == speeds[speeds.replicas - 1]
    assert len(calls) == 1


def test_only_states_that_occur_are_simulated() -> None:
    waiting, elastic = (run_spec(sets) for sets in (ELASTIC[1:], ELASTIC))
    simulate_run(waiting)
    assert waiting.replica_speed.known == {}
    result = simulate_run(elastic)
    assert result.lost_s["shrunk"] > 0
    assert 0 < len(elastic.replica_speed.known) <= elastic.replicas // 2 + 1
    proportional = simulate_run(replace(elastic, replica_speed=None))
    assert result.lost_s["shrunk"] != pytest.approx(proportional.lost_s["shrunk"], rel=1e-3)


def test_both_players_ask_for_the_same_speeds() -> None:
    from simulator.run.event_player import play_one
    from simulator.run.fault_source import fault_source
    from simulator.run.montecarlo import outcomes, saving_of

    spec = run_spec(ELASTIC)
    one, _ = play_one(spec, saving_of(spec), fault_source(spec), 0)
    assert outcomes(spec, saving_of(spec)).finish_s[0] == pytest.approx(one.finish_s[0], rel=1e-9)


def run_spec(sets: list[str]) -> RunSpec:
    spec = whole_run_spec(simulate(load_scenario(SCENARIO, sets)))
    assert spec is not None
    return spec


def test_a_run_with_simulated_speeds_goes_to_other_processes() -> None:
    spec = run_spec(ELASTIC)
    again = pickle.loads(pickle.dumps(spec))
    assert again.replica_speed[spec.replicas - 1] == spec.replica_speed[spec.replicas - 1]


def test_weaker_links_slow_the_job_no_more_than_in_proportion(done: Simulated) -> None:
    speeds = [speed_with_links(done.scenario, done.step.step_time_s, share) for share in (1.0, 0.75, 0.5, 0.25)]
    assert speeds[0] == pytest.approx(1.0)
    assert speeds == sorted(speeds, reverse=True)
    assert speeds[1] < 1
    assert all(speed >= share for speed, share in zip(speeds, (1.0, 0.75, 0.5, 0.25), strict=True))


def test_a_degraded_link_of_the_failure_model_is_simulated(done: Simulated) -> None:
    spec = run_spec([LINKS])
    expected = speed_with_links(done.scenario, done.step.step_time_s, 0.5)
    assert spec.failures.classes[0].speed == pytest.approx(expected)
    result = simulate_run(replace(spec, recovery=Recovery(evict_slow=False)))
    assert result.lost_s["slow"] > 0
    assert result.ideal_s > DAY


@pytest.mark.parametrize(
    ("cable", "words"),
    [
        ("kind: slow, count: 2, links: 2, lasts: 1 h", "between 0 and 1"),
        ("kind: slow, count: 2, links: 0.5, speed: 0.9, lasts: 1 h", "exclude each other"),
        ("kind: crash, count: 2, links: 0.5", "belongs to kind slow"),
        ("kind: slow, count: 2, lasts: 1 h", "the job's speed while the fault lasts"),
    ],
)
def test_links_are_checked(cable: str, words: str) -> None:
    from hardware.problems import InputError

    sets = [f"run.failures={{exposure: {{gpus: 8, time: 1 d}}, classes: {{cable: {{{cable}}}}}}}"]
    with pytest.raises(InputError, match=words):
        load_scenario(SCENARIO, sets)
