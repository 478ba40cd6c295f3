"""The spares of a run that leaves them open: nodes away by hand, and the count against what is played."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from simulator.report.run_rows import run_rows
from simulator.run.absences import absences, pace_fraction, speeds_when_short, wall_time_s
from simulator.run.auto_spares import _most_of_the_best, with_best_spares, with_hot_spares
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.faults import CRASH, JOB, SLOW
from simulator.run.montecarlo import simulate
from simulator.run.specs import Recovery, RunSpec, Simulation
from simulator.run.uncertainty import Uncertainty
from tests.simulator.run_specs import DAY, crashes, quiet

NODES = 64
# Node 0 is found after 5 s and back at 115; its second fault falls into the repair. Node 1 is away from 20 to 60.
FAULTS = ((10.0, 0, 5.0, 100.0), (20.0, 1, 0.0, 40.0), (50.0, 0, 5.0, 100.0), (70.0, JOB, 5.0, 100.0))
WAITS = np.array([1.0, 0.0, 0.0, 0.0, 0.0])


def timeline(kind: int = CRASH, lasts_s: float = 0.0) -> FaultTimeline:
    time_s, node, detect_s, repair_s = (np.array(column) for column in zip(*FAULTS, strict=True))
    nothing, count = np.zeros(len(time_s)), np.zeros(len(time_s), int)
    return FaultTimeline(
        time_s=time_s,
        component=count,
        kind=np.full(len(time_s), kind),
        node=node,
        breadth=count + 1,
        detect_s=detect_s,
        repair_s=repair_s,
        outage_s=nothing,
        lasts_s=np.full(len(time_s), lasts_s),
        speed=nothing,
    )


def test_nodes_are_away_from_when_their_fault_is_found_until_they_are_repaired() -> None:
    known = absences(Recovery(), timeline(), 200.0)
    assert known.since_s.tolist() == [0, 15, 20, 60, 115]
    assert known.away.tolist() == [0, 1, 2, 1, 0]
    assert known.lasts_s.tolist() == [15, 5, 40, 55, 85]
    assert known.most(200.0) == 2
    assert known.most(20.0) == 1


def test_a_node_that_failed_too_often_stays_away() -> None:
    known = absences(Recovery(evict_after=1), timeline(), 200.0)
    assert known.since_s.tolist() == [0, 15, 20]
    assert known.away.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("lasts_s", "evict_slow", "most"), [(10.0, True, 2), (10.0, False, 0), (0.0, True, 0)])
def test_slow_nodes_leave_where_they_are_found_in_time_and_replaced(
    lasts_s: float, evict_slow: bool, most: int
) -> None:
    """None is found before it is over where it lasts no time."""
    known = absences(Recovery(evict_slow=evict_slow), timeline(SLOW, lasts_s), 200.0)
    assert known.most(200.0) == most


@pytest.mark.parametrize(("spares", "end_s"), [(0, 130.0), (1, 70.0), (2, 30.0)])
def test_the_work_is_done_when_the_time_with_enough_spares_is_over(spares: int, end_s: float) -> None:
    """30 s of work: without spares 15 s before the first fault, 15 s from 115; with one, 20 s and 10 s from 60."""
    known = absences(Recovery(), timeline(), 200.0)
    assert wall_time_s(known, spares, 30.0, WAITS) == end_s


def test_work_beyond_what_is_known_has_no_end() -> None:
    """Of 200 s a job without spares stands 100 s."""
    known = absences(Recovery(), timeline(), 200.0)
    assert wall_time_s(known, 0, 100.0, WAITS) == 200
    assert wall_time_s(known, 0, 101.0, WAITS) == math.inf
    assert pace_fraction(known, 0, WAITS) == pytest.approx(0.5)


def test_a_job_that_shrinks_goes_on_with_whole_replicas() -> None:
    """Two replicas of two nodes: one or two missing leave one that is whole, three none."""
    spec = replace(quiet(nodes=64), job_nodes=4, replicas=2)
    assert speeds_when_short(spec).tolist() == [1, 0, 0, 0, 0]
    shrinks = replace(spec, recovery=Recovery(when_short="shrink"))
    assert speeds_when_short(shrinks).tolist() == [1, 0.5, 0.5, 0, 0]
    whole = replace(shrinks, recovery=Recovery(when_short="shrink", min_replicas=2))
    assert speeds_when_short(whole).tolist() == [1, 0, 0, 0, 0]
    known = absences(Recovery(), timeline(), 200.0)
    assert wall_time_s(known, 0, 30.0, speeds_when_short(shrinks)) == 45.0  # 15 s whole, then 30 s at half


def failing(**changes: object) -> RunSpec:
    """20 days of 64 nodes, of which one fails every 8 hours; they are away for 2 days, 6 in the mean."""
    spec = replace(quiet(days=20, nodes=NODES), simulation=Simulation(runs=40), uncertainty=Uncertainty(0.9, 1.2, 0.5))
    spec = replace(spec, failures=crashes(8 * 3600.0, spec.job_gpus, repair_s=2 * DAY))
    return replace(spec, recovery=Recovery(hot_spares=6, **changes))  # type: ignore[arg-type]


def played_gpu_s(spec: RunSpec) -> float:
    """GPU-seconds of the mean run as it is played."""
    result = simulate(spec)
    return result.paid_gpus * (result.ideal_s + sum(result.lost_s.values()))


def test_the_spares_taken_cost_no_more_than_any_others_when_played() -> None:
    """Under the same faults, to a part in two hundred: what else failures cost is taken to first order."""
    best = with_best_spares(failing())
    assert best.recovery.spares > 6
    same_faults = replace(best, drawn_spares=best.recovery.spares)
    others = [with_hot_spares(same_faults, best.recovery.spares + more) for more in (-4, -2, -1, 1, 2, 4)]
    assert played_gpu_s(best) <= 1.005 * min(map(played_gpu_s, others))


def test_runs_that_lose_nodes_for_good_have_spares_for_all_of_them() -> None:
    """Each of some 30 failures takes a node for good: with six spares no run ends."""
    spec = replace(failing(evict_after=1), segments=quiet(days=10).segments, uncertainty=Uncertainty(0.9, 1.2, 0.0))
    assert simulate(spec).finishing_fraction == 0
    best = with_best_spares(spec)
    assert best.recovery.spares > 30
    assert simulate(best).finishing_fraction > 0.9


def test_a_job_that_shrinks_takes_fewer_spares_than_one_that_waits() -> None:
    waits = with_best_spares(failing())
    shrinks = with_best_spares(replace(failing(when_short="shrink"), replicas=NODES))
    assert shrinks.recovery.spares < waits.recovery.spares


def test_cold_spares_are_kept_and_counted() -> None:
    spec = failing()
    cold = replace(spec, recovery=Recovery(hot_spares=0, cold_spares=40))
    assert with_best_spares(cold).recovery == cold.recovery
    few = with_best_spares(replace(spec, recovery=Recovery(hot_spares=2, cold_spares=4)))
    assert few.recovery.spares == with_best_spares(spec).recovery.spares
    assert few.recovery.cold_spares == 4


def test_unused_slots_that_are_paid_anyway_stand_in_as_spares() -> None:
    """As many as are ever needed, where they cost nothing."""
    spec = failing()
    free = replace(spec, unused_gpus=32 * 8)
    best, bought = with_best_spares(free), with_best_spares(spec)
    assert bought.recovery.spares < best.recovery.spares <= 32


@pytest.mark.parametrize(("mtbf_days", "spares"), [(70.0, 0), (20.0, 1)])
def test_a_spare_is_taken_where_the_job_would_stand_longer_than_its_share(mtbf_days: float, spares: int) -> None:
    """Of 64 nodes a spare is 1.6 %; a crash that takes a day to repair stops a job for 1.4 % of its time every 70 days,
    for 5 % every 20, of which one spare leaves the square."""
    spec = replace(quiet(days=100, nodes=NODES), simulation=Simulation(runs=20))
    spec = replace(spec, failures=crashes(mtbf_days * DAY, spec.job_gpus, repair_s=DAY))
    assert with_best_spares(spec).recovery.spares == spares


def test_the_spares_taken_do_not_hang_on_the_seed() -> None:
    """Nor on the number of runs that are played."""
    spec = failing()
    counts = [
        with_best_spares(replace(spec, simulation=Simulation(runs=runs, seed=seed))).recovery.spares
        for runs, seed in ((40, 0), (20, 0), (40, 1), (40, 2))
    ]
    assert counts[0] == counts[1]
    assert max(counts) - min(counts) <= 0.15 * max(counts)


@pytest.mark.parametrize("mtbf_hours", [16.0, 4.0])
def test_small_jobs_take_more_spares_than_they_have_nodes_where_nodes_are_nearly_always_away(mtbf_hours: float) -> None:
    """Of 8 nodes one fails every 16 or 4 hours and is away for 4 days: three in seven and six in seven of their time.
    None beside the best, each under faults of its own, costs less by a twentieth when played."""
    spec = replace(quiet(days=20, nodes=64), job_nodes=8, replicas=8, simulation=Simulation(runs=60))
    spec = replace(spec, failures=crashes(mtbf_hours * 3600.0, spec.job_gpus, repair_s=4 * DAY))
    best = with_best_spares(spec)
    assert best.recovery.spares > (8 if mtbf_hours == 4 else 4)
    assert simulate(best).finishing_fraction == 1
    few, many = (with_hot_spares(spec, round(part * best.recovery.spares)) for part in (0.75, 1.25))
    assert played_gpu_s(best) <= 1.05 * min(played_gpu_s(few), played_gpu_s(many))
    fewest = with_hot_spares(spec, round(0.5 * best.recovery.spares))
    assert played_gpu_s(best) < played_gpu_s(fewest)


def test_a_run_that_does_not_finish_shows_its_spares() -> None:
    run = {"finishes": False, "reason": "every run waits", "spares": 8, "spares_needed": 24, "job_gpus": 64}
    assert run_rows(run, 1e12)[1:] == [("Spares", "8 nodes; 24 suffice 99 % of the time")]


def test_of_two_counts_that_chance_does_not_tell_apart_the_larger_is_taken() -> None:
    """A spare that costs 1 in the mean and is worth 80 in one sample of 20 has not been told to be too many; one that
    costs 1 in every sample has."""
    few = np.full(20, 100.0)
    few[0] = 180.0
    assert _most_of_the_best({0: few, 1: np.full(20, 105.0)}) == 1
    assert _most_of_the_best({0: np.full(20, 100.0), 1: np.full(20, 101.0)}) == 0
    assert _most_of_the_best({0: few, 1: np.full(20, 150.0)}) == 0
    assert _most_of_the_best({0: few}) == 0
