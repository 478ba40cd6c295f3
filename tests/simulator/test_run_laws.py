"""Laws of a whole run: closed forms in their limits, and that better machines never make it later."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from simulator.predict.prediction import evaluate
from simulator.report.document import evaluate_document
from simulator.report.terminal import evaluation_text
from simulator.run.checkpoint_interval import daly_s, exact_wall_s, first_order, young_s
from simulator.run.checkpoints import POLICIES, CheckpointPolicy
from simulator.run.closed_form import best_every_s, closed_form_goodput
from simulator.run.durations import exponential, fixed
from simulator.run.fault_timeline import draw
from simulator.run.faults import FailureModel, FaultClass, Machines, Scope, cumulative_hazard
from simulator.run.montecarlo import best_interval_by_simulation_s, outcomes, saving_of, simulate
from simulator.run.specs import Recovery, Restart, RunSpec, Simulation
from simulator.scenario.schema import load_scenario
from tests.simulator.run_specs import DAY, crashes, paths, quiet

TINY = Path(__file__).parents[2] / "scenarios" / "tiny.yaml"
LONG = ("run.tokens=1T", "run.failures={mtbf: 90 d}")


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_failures_only_saving_costs(policy: str) -> None:
    spec = quiet(policy=policy)
    saving = saving_of(spec)
    result = simulate(replace(spec, simulation=Simulation(runs=2)))
    stalls = sum(
        (math.ceil(spec.work_s / every - 1e-9) - 1) * stall
        for every, stall in zip(saving.grid.every_s, saving.grid.stall_s, strict=True)
        if math.isfinite(every)
    )
    assert result.finish_s.p10 == result.finish_s.p90 == pytest.approx(spec.work_s + stalls, rel=1e-12)
    assert result.lost_s["checkpoint"] == pytest.approx(stalls)
    assert sum(result.lost_s.values()) == pytest.approx(stalls)


def failing(mtbf_s: float, every_s: float | None, save_s: float, restart_s: float, days: float = 40.0) -> RunSpec:
    """Memoryless failures of the whole job, synchronous saves: the textbook's assumptions."""
    spec = quiet(days=days)
    write = paths(spec.job_gpus).state_bytes / save_s
    return replace(
        spec,
        checkpoint=CheckpointPolicy("sharded", every_s),
        paths=paths(
            spec.job_gpus, storage_write_bytes_per_s=write, storage_read_bytes_per_s=1e30, nic_bytes_per_s=1e30
        ),
        failures=crashes(mtbf_s, spec.job_gpus),
        restart=Restart(process_start_s=restart_s, init_s_per_gpu=0.0, warm_up_s=0.0),
        segments=(replace(spec.segments[0], step_time_s=1.0, tokens=days * DAY * 4e6),),
    )


@pytest.mark.parametrize(
    ("mtbf_h", "every_s", "save_s", "restart_s"), [(6.0, 1800.0, 60.0, 300.0), (1.0, 600.0, 30.0, 120.0)]
)
def test_mean_wall_time_is_dalys_exact_expression(
    mtbf_h: float, every_s: float, save_s: float, restart_s: float
) -> None:
    spec = failing(mtbf_h * 3600, every_s, save_s, restart_s)
    spec = replace(spec, simulation=Simulation(runs=400))
    outcome = outcomes(spec, saving_of(spec))
    exact = exact_wall_s(spec.work_s, every_s, save_s, restart_s, mtbf_h * 3600)
    error = outcome.finish_s.std() / math.sqrt(len(outcome.finish_s))
    assert outcome.finish_s.mean() == pytest.approx(exact, abs=4 * error + every_s)


def test_first_order_is_reached_when_failures_are_rare() -> None:
    misses = []
    for mtbf_h in (3.0, 30.0, 300.0):
        spec = replace(failing(mtbf_h * 3600, None, 60.0, 300.0, days=400.0), simulation=Simulation(runs=200))
        result = simulate(spec)
        assert result.first_order_goodput_fraction == pytest.approx(
            first_order(saving_of(spec), mtbf_h * 3600, 300.0).goodput_fraction
        )
        misses.append(abs(result.goodput_fraction - result.first_order_goodput_fraction))
    assert misses[0] > misses[1] > misses[2]
    assert misses[2] < 2e-4


def test_daly_and_young() -> None:
    assert young_s(40.0, 6 * 3600.0) == pytest.approx(math.sqrt(2 * 40 * 21600))
    assert daly_s(40.0, 30.0 * DAY) == pytest.approx(young_s(40.0, 30 * DAY) - 40.0, rel=2e-3)
    assert daly_s(100.0, 40.0) == 40.0


@pytest.mark.parametrize("mtbf_h", [2.0, 12.0])
def test_dalys_interval_minimises_the_exact_wall_time(mtbf_h: float) -> None:
    intervals = np.arange(60.0, 20000.0, 5.0)
    walls = [exact_wall_s(1e6, t, 90.0, 200.0, mtbf_h * 3600) for t in intervals]
    assert daly_s(90.0, mtbf_h * 3600) == pytest.approx(intervals[int(np.argmin(walls))], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("mtbf_h", "save_s"), [(2.0, 90.0), (6.0, 60.0)])
def test_best_interval_by_simulation_is_dalys(mtbf_h: float, save_s: float) -> None:
    spec = replace(failing(mtbf_h * 3600, None, save_s, 200.0, days=200.0), simulation=Simulation(runs=500))
    daly = daly_s(save_s, mtbf_h * 3600)
    assert best_interval_by_simulation_s(spec, daly / 3, daly * 3) == pytest.approx(daly, rel=0.05)


def test_more_spares_never_hurt() -> None:
    goodput = [goodput_with(hot_spares=spares) for spares in (0, 1, 2, 4, 8, 16)]
    assert all(b >= a - 1e-3 for a, b in pairwise(goodput))
    assert goodput[-1] > goodput[0] + 0.1


def test_faster_repair_and_shorter_detection_never_hurt() -> None:
    repairs = [goodput_with(repair_days=days, hot_spares=2) for days in (2.0, 1.0, 0.5, 0.1)]
    detections = [goodput_with(detect_s=seconds, hot_spares=16) for seconds in (3600.0, 600.0, 60.0, 1.0)]
    for goodput in (repairs, detections):
        assert all(b > a for a, b in pairwise(goodput))


def goodput_with(repair_days: float = 1.0, detect_s: float = 30.0, **recovery: int) -> float:
    """Goodput of 256 nodes that lose one every five hours."""
    spec = quiet()
    model = crashes(5 * 3600.0, spec.job_gpus, repair_days * DAY, detect_s)
    spec = replace(spec, failures=model, recovery=Recovery(**recovery), simulation=Simulation(runs=60))  # type: ignore[arg-type]
    return simulate(spec).goodput_fraction


def test_slower_speed_when_shrunk_is_what_the_table_says() -> None:
    """One node of the last replica away for ever: 31 of 32 replicas run at the given speed."""
    spec = quiet(days=5)
    model = replace(crashes(1.0, spec.job_gpus, 1e12), classes=())
    speed = tuple([0.0] * 31 + [0.9, 1.0])
    shrink = Recovery(when_short="shrink")
    log = log_of_one(at_day=1.0, end_day=math.inf)
    spec = replace(spec, failures=model, recovery=shrink, replica_speed=speed, fault_log=log)
    from simulator.run.fault_log import model_of

    spec = replace(spec, failures=model_of(log, 256, 8))
    result = simulate(spec)
    work_after = spec.work_s - 1.0 * DAY
    assert result.lost_s["shrunk"] == pytest.approx(work_after * (1 / 0.9 - 1), rel=0.01)


def log_of_one(at_day: float, end_day: float) -> tuple:
    from simulator.run.fault_log import LogRow

    return (LogRow(at_day * DAY, end_day * DAY, 255, "Hardware Failure", "GPU", "lost"),)


def test_cost_and_energy_follow_from_the_hours() -> None:
    from simulator.run.specs import Power, RunPrices

    spec = replace(
        quiet(days=2, policy="none", every_s=None), prices=RunPrices(gpu_hour_usd=2.0), power=Power(1000.0, 300.0, 1.2)
    )
    result = simulate(spec)
    hours = spec.work_s / 3600
    assert result.cost_usd == pytest.approx(2048 * 2.0 * hours)
    assert result.energy_j == pytest.approx(1.2 * 2048 * 1000.0 * spec.work_s)
    assert result.cost_usd_per_trillion_tokens == pytest.approx(2048 * 2.0 * hours / (spec.tokens / 1e12))
    owned = replace(
        spec, prices=RunPrices(capital_usd_per_gpu=30000.0, life_s=4 * 365.25 * DAY, electricity_usd_per_kwh=0.08)
    )
    cost = simulate(owned).cost_usd
    assert cost == pytest.approx(2048 * 30000 * 2 / (4 * 365.25) + result.energy_j / 3.6e6 * 0.08)


def test_a_run_that_cannot_finish_says_so() -> None:
    """A failure every five minutes, restarts of twenty."""
    spec = replace(failing(300.0, 600.0, 10.0, 1200.0), simulation=Simulation(runs=5))
    result = simulate(spec)
    assert not result.finishes
    assert result.finishing_fraction == 0
    assert result.finish_s.p50 == math.inf
    assert result.to_dict()["finish_s"]["p50"] is None
    assert "cannot finish" in str(result.reason)


def test_waiting_for_a_node_that_never_returns_says_so() -> None:
    from simulator.run.fault_log import model_of

    log = log_of_one(at_day=1.0, end_day=math.inf)
    result = simulate(replace(quiet(days=3), fault_log=log, failures=model_of(log, 256, 8)))
    assert not result.finishes
    assert "never come back" in str(result.reason)


def test_the_waterfall_adds_up() -> None:
    table = simulate(replace(failing(3 * 3600.0, None, 60.0, 300.0), simulation=Simulation(runs=5))).to_frame()
    assert table["fraction"].sum() == pytest.approx(1.0)


def test_weibull_and_bursts_keep_the_mean_rate() -> None:

    rng = np.random.default_rng(1)
    machines = Machines(512, 0, 8)
    model = crashes(3600.0, 4096, DAY)
    aged = replace(model.classes[0], shape=0.6, reference_age_s=10 * DAY)
    infant = replace(model, classes=(aged,), age_s=0.0, burst_mean=0.3, burst_window_s=60.0, swing_variance=0.2)
    window = (0.0, 40 * DAY)
    counts = [len(draw(infant, machines, window, np.empty(0, int), rng)) for _ in range(300)]
    expected = 4096 * float(cumulative_hazard(aged, 40 * DAY))
    assert np.mean(counts) == pytest.approx(expected, abs=4 * np.std(counts) / math.sqrt(300))
    first = draw(infant, machines, window, np.empty(0, int), rng).time_s
    assert (first < 10 * DAY).mean() == pytest.approx((10 / 40) ** 0.6, abs=0.15)


def test_exponential_durations_have_their_mean() -> None:
    rng = np.random.default_rng(2)
    assert exponential(5.0).sample_s(20000, rng).mean() == pytest.approx(5.0, rel=0.05)


def test_what_stops_the_job_alone_does_not_strike_spares() -> None:
    """10 nodes train beside 90 spares: a fault of a node strikes all 100, one of the job only those that train; 8 GPUs
    a node, 0.1 a GPU-second, 100 s: 8,000 and 800 faults, within five standard deviations."""
    cases: tuple[tuple[Scope, int], ...] = (("node", 8000), ("job", 800))
    for scope, expected in cases:
        fault = FaultClass("fault", "crash", 0.1, scope, fixed(0.0))
        model = FailureModel("one", (fault,))
        found = draw(model, Machines(10, 90, 8), (0.0, 100.0), np.empty(0, int), np.random.default_rng(5))
        assert len(found) == pytest.approx(expected, abs=5 * expected**0.5)


def test_without_saves_a_failure_loses_half_of_the_work_to_first_order() -> None:
    """Ten days of work, a failure every 40: 1 / (1 + (5 + restart) / 40). Saves that are none have no best."""
    spec = replace(failing(40 * DAY, None, 60.0, 0.01 * DAY, days=10.0), checkpoint=CheckpointPolicy("none"))
    down_s = spec.restart_s + spec.failures.classes[0].detect.mean_s()
    expected = 1 / (1 + (5 * DAY + down_s) / (40 * DAY))
    assert closed_form_goodput(spec, saving_of(spec)) == pytest.approx(expected)
    assert best_every_s(spec, saving_of(spec)) == math.inf
    often = first_order(saving_of(failing(40 * DAY, 20 * DAY, 1.0, 0.0)), 40 * DAY, 0.0, total_s=10 * DAY)
    assert often.lost_work_fraction == pytest.approx(5 / 40, rel=0.01)


@pytest.mark.parametrize("policy", ["none", "async"])
def test_every_policy_can_leave_the_spares_open(policy: str) -> None:
    scenario = load_scenario(TINY, [f"run.checkpoint={{policy: {policy}}}", "run.simulation={runs: 5}", *LONG])
    prediction = evaluate(scenario)
    assert prediction.run is not None
    assert 0 < prediction.run.first_order_goodput_fraction < 1
    assert ("Daly's best" in evaluation_text(evaluate_document(prediction))) == (policy != "none")
