"""Terms of the run's formulas one by one: each has a value worked out by hand that changes when the term does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hardware.problems import InputError
from simulator.run.bill import bill_of
from simulator.run.checkpoint_interval import (
    best_by_simulation_s,
    best_interval_s,
    daly_s,
    exact_wall_s,
    first_order,
    settle_intervals,
    whole,
)
from simulator.run.checkpoints import EVERYTHING, HOST_COPIES, POLICIES, CheckpointPolicy, CheckpointTier, Saving
from simulator.run.closed_form import best_every_s, closed_form_goodput
from simulator.run.durations import Duration, empirical, exponential, fixed, lognormal
from simulator.run.fault_log import LogRow, model_of, observed_s
from simulator.run.faults import (
    FailureModel,
    FaultClass,
    Machines,
    cumulative_hazard,
    mean_rate_per_s,
    mean_time_between_s,
    rate_at_age_per_s,
    scaled,
    settled,
)
from simulator.run.job_facts import JobFacts, run_spec
from simulator.run.money import carbon_kg, cost_usd, owned_usd, rent_usd
from simulator.run.outcome import Outcome, is_hopeless
from simulator.run.read import read_run
from simulator.run.spares import nodes_away
from simulator.run.specs import Power, Recovery, Restart, RunPrices, RunSpec, Segment
from tests.simulator.run_specs import STATE_BYTES, paths, quiet

DAY = 86400.0
FAST = CheckpointTier("memory", 100.0, stall_s=2.0, lag_s=30.0, restore_s=7.0, survives_nodes=1)
STORAGE = CheckpointTier("storage", 1000.0, stall_s=5.0, lag_s=400.0, restore_s=90.0, survives_nodes=EVERYTHING)
SAVING = Saving((FAST, STORAGE), final_save_s=11.0)


# ---- checkpoints


def test_goodput_to_first_order_by_hand() -> None:
    """Saves of 2 s every 100 and 5 s every 1000; three quarters of the failures lose 50 s and what 30 s of writing had
    not finished, the others 500 and 400; 200 s down for each in 10,000 s; a tenth planned."""
    found = first_order(SAVING, 1e4, 200.0, 0.1, 0.75)
    assert found.checkpoint_fraction == pytest.approx(0.02 + 0.005)
    assert found.lost_work_fraction == pytest.approx((0.75 * (50 + 30) + 0.25 * (500 + 400)) / 1e4)
    assert found.down_fraction == pytest.approx(0.02)
    assert found.goodput_fraction == pytest.approx(1 / (1 + 0.025 + 0.0285 + 0.02 + 0.1))
    assert first_order(SAVING, math.inf, 200.0).goodput_fraction == pytest.approx(1 / 1.025)


def test_daly_by_hand() -> None:
    """C = 100, M = 5000: sqrt(2 C M) = 1000, times 1 + 0.1 / 3 + 0.01 / 9, less 100; M from C = 2 M on."""
    assert daly_s(100.0, 5000.0) == pytest.approx(1000 * (1 + 0.1 / 3 + 0.01 / 9) - 100)
    assert [daly_s(100.0, m) for m in (50.0, 49.0)] == [50.0, 49.0]
    assert exact_wall_s(1e6, 900.0, 100.0, 200.0, 1000.0) == pytest.approx(1e9 * math.exp(0.2) * (math.e - 1) / 900)


def test_the_best_interval_is_daly_s_but_never_shorter_than_its_write() -> None:
    """sqrt(2 x 5 x 1e5) = 1000 less 5 and a little more, in steps of 10 s; a write of 3001 s; ten writes for a tier
    that stops nothing; all of the work where nothing fails."""
    tier = replace(STORAGE, stall_s=5.0, lag_s=0.0)
    assert best_interval_s(tier, 1e5, 1e7, 10.0) == 1000.0
    assert best_interval_s(replace(tier, lag_s=3001.0), 1e5, 1e7, 10.0) == 3010.0
    assert best_interval_s(replace(tier, stall_s=0.0, lag_s=301.0), 1e5, 1e7, 10.0) == 3010.0
    assert best_interval_s(tier, math.inf, 12345.0, 10.0) == 12350.0
    assert best_interval_s(tier, 1.0, 1e7, 10.0) == 10.0
    assert [whole(seconds, 7.0) for seconds in (14.0, 14.1, 20.9)] == [14.0, 21.0, 21.0]


def test_intervals_nest_and_say_where_they_were_stretched() -> None:
    """Copies every 100 s asked are 105 of 7 s; storage every 250 s becomes three of them, 26 % more; every 310 s three
    too, 315, which rounding explains; a write of 9.8 s stretches 5 s to 14."""
    slow = paths(2048, storage_write_bytes_per_s=STATE_BYTES / 9.8)
    asked = CheckpointPolicy("in-memory", every_s=250.0, fast_every_s=100.0)
    found = settle_intervals(asked, slow, 1e4, 1e7, 7.0)
    assert [tier.every_s for tier in found.tiers] == [105.0, 315.0]
    assert [warning.split(" of work")[0] for warning in found.warnings] == ["a storage checkpoint is taken every 315 s"]
    near = settle_intervals(replace(asked, every_s=310.0), slow, 1e4, 1e7, 7.0)
    assert near.tiers[1].every_s == 315.0
    assert near.warnings == ()
    short = settle_intervals(CheckpointPolicy("sharded", every_s=5.0), slow, 1e4, 1e7, 7.0)
    assert (short.tiers[0].every_s, short.warnings) == (7.0, ())
    behind = settle_intervals(CheckpointPolicy("async", every_s=5.0), slow, 1e4, 1e7, 7.0)
    assert behind.tiers[0].every_s == 14.0
    assert "takes 10 s to write: it is taken every 14 s of work, not every 5 s" in behind.warnings[0]
    kept_waiting = settle_intervals(CheckpointPolicy("async", least_every_s=5.0), slow, 1e4, 1e7, 7.0)
    assert kept_waiting.warnings == (), "the best interval is longer than the write"
    stuck = paths(2048, storage_write_bytes_per_s=STATE_BYTES / 9.8e6)
    (waits,) = settle_intervals(CheckpointPolicy("async"), stuck, 1e4, 1e9, 7.0).warnings
    assert "takes 113.4 d to write" in waits
    never = settle_intervals(CheckpointPolicy("none"), slow, 1e4, 1e7, 7.0)
    assert (never.tiers[0].every_s, never.warnings) == (math.inf, ())


def test_the_search_finds_the_peak_of_a_curve() -> None:
    for peak_s in (12.0, 70.0, 900.0):
        tried: list[float] = []

        def goodput(every_s: float, peak_s: float = peak_s, tried: list[float] = tried) -> float:
            tried.append(every_s)
            return -(math.log(every_s / peak_s) ** 2)

        assert best_by_simulation_s(goodput, 10.0, 1000.0, 1e-3) == pytest.approx(peak_s, rel=1e-3)
        # A golden section leaves 0.618 of the interval at each trial.
        assert len(tried) == 2 + math.ceil(math.log(1e-3 / math.log(100)) / math.log((math.sqrt(5) - 1) / 2))


def test_saves_stop_what_was_measured_elsewhere() -> None:
    """0.5 s beside the copy to host memory, in memory 0.02 s; drives and host link load the slower of two; the first
    replica's 16 writers push 2 GB/s each or what storage takes; reading is bound by NICs or storage."""
    given, share = paths(2048), STATE_BYTES / 2048
    tiers = {name: POLICIES[name](CheckpointPolicy(every_s=60.0, fast_every_s=30.0, least_every_s=50.0), given)
             for name in POLICIES}  # fmt: skip
    assert tiers["async"][0].stall_s == pytest.approx(0.5 + share / 50e9)
    assert tiers["in-memory"][0].stall_s == pytest.approx(0.02 + share / 50e9)
    assert tiers["tiered"][0].stall_s == pytest.approx(0.5 + share / 50e9)
    assert tiers["tiered"][0].restore_s == pytest.approx(share / 3e9)
    fast_drives = POLICIES["tiered"](CheckpointPolicy(), replace(given, local_bytes_per_s=1e12))[0]
    assert fast_drives.restore_s == pytest.approx(share / 50e9)
    wide = POLICIES["sync"](CheckpointPolicy(), replace(given, writer_bytes_per_s=1e12))[0]
    assert wide.stall_s == pytest.approx(STATE_BYTES / 100e9)
    narrow = POLICIES["async"](CheckpointPolicy(), replace(given, nic_bytes_per_s=1e6))[0]
    assert narrow.restore_s == pytest.approx(STATE_BYTES / (2048 * 1e6))
    assert [tier.stall_s for tier in (tiers["in-memory"][1], tiers["tiered"][1])] == [0.0, 0.0]
    assert [tier.lag_s for tier in (tiers["sync"][0], tiers["sharded"][0])] == [0.0, 0.0]
    assert tiers["in-memory"][1].lag_s == pytest.approx(STATE_BYTES / 100e9)
    for name in ("sync", "sharded", "async"):
        assert (tiers[name][0].every_s, tiers[name][0].least_every_s) == (60.0, 50.0)
    assert [tiers[name][0].every_s for name in ("in-memory", "tiered")] == [30.0, 30.0]
    assert dict(HOST_COPIES) == {"none": 0, "sync": 0, "sharded": 0, "async": 1, "in-memory": 2, "tiered": 1}


# ---- a run in one formula


def exposed(*classes: FaultClass, **changes: Any) -> RunSpec:
    """1024 GPUs on 128 nodes, four to a rack; restarts take 100 + 0.01 x 1024 + 20 s."""
    spec = quiet(nodes=128, every_s=1000.0)
    given: dict[str, Any] = {
        "failures": FailureModel("by hand", classes),
        "restart": Restart(process_start_s=100.0, init_s_per_gpu=0.01, warm_up_s=20.0),
        **changes,
    }
    return replace(spec, **given)


RATE = 1e-5 / 1024  # of the job: one in 1e5 s
NODE = FaultClass("node", "crash", 2 * RATE, "node", fixed(30.0), exponential(3600.0))
SOFTWARE = FaultClass("software", "hang", 5 * RATE, "job", fixed(600.0), None, fixed(50.0))
RACK = FaultClass("rack", "corruption", 3 * RATE, "rack", fixed(10.0), fixed(7200.0))
SLOW = FaultClass("slow", "slow", 100 * RATE, "node", fixed(600.0), None, None, fixed(10.0), 0.5)


@pytest.mark.parametrize(("spares", "swap_s"), [(1, 60.0), (0, 1800.0)])
def test_goodput_of_a_failure_model_by_hand(spares: int, swap_s: float) -> None:
    """Ten stops in 1e5 x 10 s: two of nodes, five of software, three of racks, which no peer's copy survives; slow
    parts stop nothing. Nodes are swapped, software holds the job up for 50 s."""
    spec = exposed(NODE, SOFTWARE, RACK, SLOW, recovery=Recovery(hot_spares=spares))
    down_s = 100 + 10.24 + 20 + 0.2 * (30 + swap_s) + 0.5 * (600 + 50) + 0.3 * (10 + swap_s) + 0.7 * 7 + 0.3 * 90
    rework_s = 0.7 * (50 + 30) + 0.3 * (500 + 400)
    assert closed_form_goodput(spec, SAVING) == pytest.approx(1 / (1.025 + (rework_s + down_s) * 10 * 1e-5))


def test_maintenance_stops_a_run_by_its_share() -> None:
    """Every day: 11 s of saving, an hour, 130.24 s of restart and 90 s of loading, of what is left between."""
    spec = exposed(recovery=Recovery(maintenance_every_s=DAY, maintenance_s=3600.0))
    stop_s = 11 + 3600 + 130.24 + 90
    assert closed_form_goodput(spec, SAVING) == pytest.approx(1 / (1.025 + stop_s / (DAY - stop_s)))
    assert closed_form_goodput(replace(spec, recovery=Recovery()), SAVING) == pytest.approx(1 / 1.025)
    always = replace(spec, recovery=Recovery(maintenance_every_s=1000.0, maintenance_s=3600.0))
    assert closed_form_goodput(always, SAVING) == 0


def test_the_best_interval_serves_crashes_and_hangs() -> None:
    """Seven of them in 1e5 s; saves of 2 s: Daly's interval in whole steps of 10 s."""
    found = best_every_s(exposed(NODE, SOFTWARE, RACK, SLOW), SAVING)
    assert found == whole(daly_s(2.0, 1e5 / 7), 10.0)
    assert best_every_s(exposed(SLOW), SAVING) == math.inf


def test_a_restart_takes_its_three_parts() -> None:
    assert Restart(process_start_s=100.0, init_s_per_gpu=0.01, warm_up_s=7.0).seconds(2048) == 100 + 20.48 + 7
    assert exposed().restart_s == pytest.approx(130.24)


def test_nodes_in_repair_by_little() -> None:
    """1024 GPUs x rate x (an hour of repair and 30 s until it is noticed); jobs' faults and racks take no node here,
    stops that are announced and what is not repaired none either."""
    classes = (NODE, SOFTWARE, RACK, replace(NODE, kind="planned"), replace(NODE, repair=None))
    assert nodes_away(FailureModel("by hand", classes), 1024) == pytest.approx(2e-5 * 3630)
    gpu = replace(NODE, scope="gpu", kind="slow", rate_per_gpu_s=RATE)
    assert nodes_away(FailureModel("by hand", (NODE, gpu)), 1024) == pytest.approx(3e-5 * 3630)


# ---- rates


def test_hazard_of_an_ageing_cluster_by_hand() -> None:
    """Shape 2 at an age of 100 s: the rate grows with age, the hazard with its square."""
    fault = replace(NODE, rate_per_gpu_s=0.01, shape=2.0, reference_age_s=100.0)
    assert cumulative_hazard(fault, 300.0) == pytest.approx(0.01 * 100 / 2 * 9)
    assert mean_rate_per_s(fault, 8, 100.0, 200.0, 100.0) == pytest.approx(8 * 0.5 * (9 - 4) / 100)
    assert rate_at_age_per_s(fault, 8, 300.0) == pytest.approx(8 * 0.01 * 3)
    model = FailureModel("by hand", (fault, replace(fault, kind="hang"), SLOW), age_s=200.0)
    assert mean_time_between_s(model, 8) == pytest.approx(1 / (2 * 8 * 0.01 * 2))
    assert mean_time_between_s(replace(model, classes=(SLOW,)), 8) == math.inf


def test_rates_settle_on_the_time_between_failures_that_is_named() -> None:
    model = FailureModel("by hand", (NODE, SOFTWARE, SLOW), mtbf_s=5000.0)
    found = settled(model, 128, 8)
    assert mean_time_between_s(found, 1024) == pytest.approx(5000.0)
    assert found.mtbf_s is None
    assert found.classes[2].rate_per_gpu_s / SLOW.rate_per_gpu_s == pytest.approx(1e5 / 7 / 5000)
    of_node = settled(replace(model, mtbf_s=None, node_mtbf_s=1e6), 128, 8)
    assert mean_time_between_s(of_node, 8) == pytest.approx(1e6)
    doubled = scaled(replace(model, node_mtbf_s=10.0), 2.0)
    assert (doubled.mtbf_s, doubled.node_mtbf_s) == (2500.0, 5.0)
    assert doubled.classes[0].rate_per_gpu_s == 2 * NODE.rate_per_gpu_s
    assert scaled(model, 0.0).mtbf_s == math.inf
    assert settled(replace(model, mtbf_s=None), 128, 8) == replace(model, mtbf_s=None)


def test_how_many_nodes_go_down_together() -> None:
    machines = Machines(120, 8, 8, nodes_per_rack=4, nodes_per_pod=32)
    assert [machines.breadth(scope) for scope in ("job", "gpu", "node", "rack", "pod")] == [0, 1, 1, 4, 32]
    assert machines.nodes == 128


def test_a_log_by_its_counts() -> None:
    """Two GPUs and a NIC lost in ten days of 4 nodes of 8; repairs less the 30 s in which they are noticed."""
    rows = [
        LogRow(0.0, 1030.0, 0, "", "gpu", ""),
        LogRow(2 * DAY, 2 * DAY + 3030.0, 1, "", "gpu", ""),
        LogRow(10 * DAY, math.inf, 2, "", "nic", ""),
    ]
    assert observed_s(rows) == 10 * DAY
    assert observed_s(rows[:2]) == 2 * DAY + 3030
    model = model_of(rows, 4, 8)
    gpu, nic = model.classes
    assert (gpu.name, nic.name) == ("gpu", "nic")
    assert gpu.rate_per_gpu_s == pytest.approx(2 / (10 * DAY * 32))
    assert nic.rate_per_gpu_s == pytest.approx(1 / (10 * DAY * 32))
    assert gpu.detect.mean_s() == 30.0
    for fault in model.classes:
        assert fault.repair is not None
        assert fault.repair.mean_s() == pytest.approx(2000.0)
    assert model_of(rows, 4, 8, 20 * DAY).classes[0].rate_per_gpu_s == pytest.approx(1 / (10 * DAY * 32))


# ---- durations


def test_durations_by_hand() -> None:
    """A log-normal time of median 100 and mean 200 s: sigma^2 = 2 ln 2. A polygon from 0 over (1/2, 10) to (1, 30)."""
    law = lognormal(100.0, 200.0)
    assert law.sigma == pytest.approx(math.sqrt(2 * math.log(2)))
    assert law.mean_s() == pytest.approx(200.0)
    assert law.scaled(3.0).mean_s() == pytest.approx(600.0)
    polygon = Duration("quantiles", points=((0.0, 0.0), (0.5, 10.0), (1.0, 30.0)))
    assert polygon.mean_s() == 0.5 * 5 + 0.5 * 20
    assert polygon.scaled(2.0).mean_s() == 25.0
    assert (fixed(7.0).mean_s(), exponential(7.0).mean_s(), fixed(7.0).scaled(2.0).scale_s) == (7.0, 7.0, 14.0)
    assert empirical([5.0, 1.0, 3.0]).points == ((0.0, 1.0), (0.5, 3.0), (1.0, 5.0))
    assert empirical([5.0]) == fixed(5.0)
    with pytest.raises(ValueError, match="at least its median"):
        lognormal(2.0, 1.0)
    drawn = polygon.sample_s(4000, np.random.default_rng(1))
    assert (drawn.min(), drawn.max()) == pytest.approx((0.0, 30.0), abs=0.1)
    assert np.median(drawn) == pytest.approx(10.0, abs=0.5)
    assert np.log(law.sample_s(4000, np.random.default_rng(2)) / 100).std() == pytest.approx(law.sigma, rel=0.03)
    assert fixed(3.0).sample_s(2, np.random.default_rng(3)).tolist() == [3.0, 3.0]


# ---- the bill

PRICES = RunPrices(
    gpu_hour_usd=3.0, life_s=1e8, electricity_usd_per_kwh=0.1, network_usd_per_gpu_hour=0.05, storage_usd_per_hour=40.0,
    carbon_kg_per_kwh=0.4,
)  # fmt: skip


def test_what_two_hours_of_ten_gpus_cost() -> None:
    """Network 10 x 0.05 and storage 40 dollars an hour on top of either; 36 MJ are 10 kWh."""
    extras = 2 * (10 * 0.05 + 40)
    assert rent_usd(7200.0, 10, PRICES) == pytest.approx(10 * 2 * 3 + extras)
    assert owned_usd(7200.0, 36e6, 10, PRICES) is None
    owner = replace(PRICES, capital_usd_per_gpu=1e6)
    capital = 10 * 1e6 * 7200 / 1e8
    assert owned_usd(7200.0, 36e6, 10, owner) == pytest.approx(capital + 10 * 0.1 + extras)
    assert owned_usd(7200.0, None, 10, owner) == pytest.approx(capital + extras)
    assert cost_usd(7200.0, 36e6, 10, owner) == owned_usd(7200.0, 36e6, 10, owner)
    assert cost_usd(7200.0, 36e6, 10, PRICES) == rent_usd(7200.0, 10, PRICES)
    assert cost_usd(7200.0, 36e6, 10, replace(PRICES, gpu_hour_usd=None)) == pytest.approx(extras)
    assert carbon_kg(36e6, PRICES) == pytest.approx(4.0)
    assert carbon_kg(36e6, replace(PRICES, carbon_kg_per_kwh=None)) is None


def outcome_of(work_s: list[float], lost_s: list[float], finish: bool = True) -> Outcome:
    work, lost = np.array(work_s), np.array(lost_s)
    none = np.zeros((len(work), 1))
    return Outcome(work + lost if finish else np.full(len(work), np.inf), work + lost, work, {"restart": lost}, none,
                   none.astype(int), np.zeros(len(work), int), np.zeros(len(work), bool))  # fmt: skip


def test_the_bill_of_two_runs_by_hand() -> None:
    """1024 GPUs at 1000 W for 3600 s of steps, standing at 300 W for none or 7200 s."""
    spec = exposed(prices=replace(PRICES, network_usd_per_gpu_hour=0.0, storage_usd_per_hour=0.0),
                   power=Power(1000.0, 300.0, 1.5))  # fmt: skip
    bill = bill_of(spec, outcome_of([3600.0, 3600.0], [0.0, 7200.0]))
    energies = [1.5 * 1024 * 3.6e6, 1.5 * 1024 * (3.6e6 + 300 * 7200)]
    assert bill.energy_j == pytest.approx(sum(energies) / 2)
    assert bill.energy_quantiles_j is not None
    assert (bill.energy_quantiles_j.p10, bill.energy_quantiles_j.p90) == pytest.approx(tuple(energies))
    assert bill.cost_usd == pytest.approx(1024 * 2 * 3)
    assert bill.cost_usd_per_trillion_tokens == pytest.approx(bill.cost_usd / (spec.tokens / 1e12))
    assert bill.lost_cost_usd == pytest.approx({"restart": 1024 * 3})
    assert bill.carbon_kg == pytest.approx(bill.energy_j / 3.6e6 * 0.4)
    endless = bill_of(spec, outcome_of([3600.0, 3600.0], [0.0, 7200.0], finish=False))
    assert endless.cost_usd_per_trillion_tokens is None
    assert endless.cost_quantiles_usd is not None
    assert endless.cost_quantiles_usd.p50 == math.inf
    unmetered = bill_of(replace(spec, power=None), outcome_of([3600.0], [0.0]))
    assert (unmetered.energy_j, unmetered.carbon_kg) == (None, None)


def test_watts_of_a_gpu_apart_from_its_server() -> None:
    power = Power(1000.0, 300.0, server_w=120.0, fabric_w=30.0)
    assert (power.gpu_step_w, power.gpu_idle_w, power.gpu_spinning_w) == ({"training": 850.0}, 150.0, 150.0)
    assert replace(power, waiting_w=500.0).gpu_spinning_w == 350.0


# ---- the run as a whole


def test_a_run_is_given_up_when_luck_is_no_excuse() -> None:
    """20 days of work, given up below a tenth: not before 200 days or 256 faults, whichever comes first."""
    spec = quiet(days=20.0)
    late, early = 200 * DAY, 199 * DAY
    assert is_hopeless(spec, 0, late, 19.9 * DAY)
    assert not is_hopeless(spec, 0, late, 20.1 * DAY)
    assert not is_hopeless(spec, 255, early, 0.0)
    assert is_hopeless(spec, 256, 1.0, 0.0)


def test_segments_add_up() -> None:
    """Steps of 10 tokens: 101 tokens take 11 of 3 s, 20 take 2 of 5 s."""
    spec = replace(exposed(), segments=(Segment("a", 101.0, 10.0, 3.0), Segment("b", 20.0, 10.0, 5.0)))
    assert [part.steps for part in spec.segments] == [11, 2]
    assert (spec.work_s, spec.tokens, spec.longest_step_s) == (43.0, 121.0, 5.0)
    assert spec.speeds()[16] == 0.5


def test_facts_of_the_job_reach_the_run() -> None:
    """64 replicas of 16 GPUs: one replica's 16 write, each at 2 GB/s, or as its NIC can; the catalogue's rent where the
    scenario gives none; as many spares as a run of 100 days is best with."""
    facts = JobFacts(
        segments=(Segment("main", 8.64e11, 1e6, 10.0),),
        job_nodes=128,
        gpus_per_node=8,
        replicas=32,
        dp=64,
        state_bytes=1e12,
        storage_write_bytes_per_s=1e11,
        storage_read_bytes_per_s=2e11,
        host_bytes_per_s=5e10,
        nic_bytes_per_s=1e9,
        price_usd_per_gpu_hour=2.5,
        unused_gpus=24,
    )
    given: dict[str, Any] = {"failures": {"exposure": {"gpus": 1024, "time": "1 d"}, "classes": {
        "node": {"kind": "crash", "count": 4, "repair": "1 d", "detect": "1 s"}}}}  # fmt: skip
    spec = run_spec(read_run({**given, "spares": {"hot": "auto"}}), facts)
    assert (spec.paths.writers, spec.paths.writer_bytes_per_s, spec.paths.gpus) == (16, 1e9, 1024)
    assert spec.recovery.hot_spares == 9  # 137 / (1 - 0.0053), Erlang's loss of 4 in 10 places; 8: 137.8, 10: 138.3
    assert spec.prices == RunPrices(gpu_hour_usd=2.5)
    assert spec.unused_gpus == 24
    fast = run_spec(read_run({**given, "spares": {"hot": 0}}), replace(facts, nic_bytes_per_s=5e10, dp=4096))
    assert (fast.paths.writer_bytes_per_s, fast.paths.writers, fast.recovery.hot_spares) == (2e9, 1, 0)
    rented = run_spec(read_run({**given, "prices": {"carbon": "380 g/kWh"}}), facts)
    assert rented.prices == RunPrices(gpu_hour_usd=2.5, carbon_kg_per_kwh=0.38)
    with pytest.raises(InputError, match=r"prices\.gpu_hour: is missing, and no rent of these GPUs is known"):
        run_spec(read_run({**given, "prices": {"carbon": "380 g/kWh"}}), replace(facts, price_usd_per_gpu_hour=None))
    own = run_spec(read_run({**given, "prices": {"gpu_hour": "4 USD/h", "pay_unused_slots": False}}), facts)
    assert own.prices is not None
    assert (own.prices.gpu_hour_usd, own.unused_gpus) == (4.0, 0)
