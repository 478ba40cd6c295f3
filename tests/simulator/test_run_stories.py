"""Short runs under faults that are written down: what each loses, by hand, in both players."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulator.run.batch_player import play
from simulator.run.checkpoints import EVERYTHING, CheckpointTier, Saving
from simulator.run.durations import fixed
from simulator.run.event_player import play_one
from simulator.run.fault_source import FaultSource
from simulator.run.fault_timeline import FaultTimeline
from simulator.run.faults import CORRUPTION, CRASH, JOB, PLANNED, SLOW, FailureModel, FaultClass
from simulator.run.outcome import Outcome
from simulator.run.specs import Recovery, RunSpec
from simulator.run.summary import summarise
from tests.simulator.run_specs import DAY, crashes, quiet

# Saves every 1000 s of work that stop the job for 5 s and are safe 400 s later; loading takes 90 s.
STORAGE = CheckpointTier("storage", 1000.0, stall_s=5.0, lag_s=400.0, restore_s=90.0, survives_nodes=EVERYTHING)
MEMORY = CheckpointTier("memory", 200.0, stall_s=1.0, lag_s=0.0, restore_s=10.0, survives_nodes=1)
SAVING = Saving((STORAGE,), final_save_s=30.0)
Fault = dict[str, Any]


def fault(time_s: float, kind: int = CRASH, node: int = JOB, **more: Any) -> Fault:
    """A fault that stops the job and no node, found at once."""
    given = {"breadth": 0 if node == JOB else 1, "detect_s": 0.0, "repair_s": 0.0, "outage_s": 0.0, "lasts_s": 0.0}
    return {"time_s": time_s, "component": 0, "kind": kind, "node": node, "speed": 1.0, **given, **more}


def written(faults: list[Fault]) -> FaultSource:
    """The faults as every run meets them."""

    def source(run: int, window_s: tuple[float, float]) -> FaultTimeline:
        rows = [each for each in faults if window_s[0] <= each["time_s"] < window_s[1]]
        whole = ("component", "kind", "node", "breadth")
        columns = {
            name: np.array([row[name] for row in rows], int if name in whole else float)
            for name in FaultTimeline.__slots__
        }
        return FaultTimeline(**columns)

    return source


def spec_of(work_s: float = 5000.0, **recovery: Any) -> RunSpec:
    """Two nodes a replica on 64 nodes; a restart takes 100 s."""
    spec = quiet(days=work_s / DAY, nodes=64)
    model = FailureModel("written", (FaultClass("fault", "crash", 0.0, "node", fixed(0.0)),))
    return replace(spec, failures=model, recovery=Recovery(**recovery))


def lost(faults: list[Fault], saving: Saving = SAVING, spec: RunSpec | None = None) -> dict[str, float]:
    """Seconds by cause, the same in both players, which end when work and losses do."""
    spec = spec or spec_of()
    one, _ = play_one(spec, saving, written(faults))
    many = play(spec, saving, written(faults), np.arange(2))
    found = {cause: float(seconds[0]) for cause, seconds in one.lost_s.items() if seconds[0]}
    for cause, seconds in many.lost_s.items():
        assert seconds.tolist() == pytest.approx([found.get(cause, 0.0)] * 2, abs=1e-6), cause
    assert one.finish_s[0] == pytest.approx(spec.work_s + sum(found.values()))
    assert many.finish_s.tolist() == pytest.approx([one.finish_s[0]] * 2)
    return found


def losses(**seconds: float) -> Any:
    return pytest.approx(seconds)


def test_four_saves_of_five_seconds() -> None:
    assert lost([]) == losses(checkpoint=20.0)


@pytest.mark.parametrize(
    ("crash_s", "lost_s", "stalls"),
    [
        (900.0, 900.0, 4),  # before the first save
        (1002.0, 1000.0, 4.4),  # within its stall, which begins anew
        (1300.0, 1295.0, 5),  # it is not safe yet
        (1500.0, 495.0, 4),  # it is
        (2300.0, 2290.0 - 1000.0, 5),  # the second is not
    ],
)
def test_a_crash_falls_back_to_what_is_safe(crash_s: float, lost_s: float, stalls: float) -> None:
    assert lost([fault(crash_s)]) == losses(lost_work=lost_s, restart=190.0, checkpoint=5 * stalls)


def test_what_was_being_written_is_safe_in_the_end() -> None:
    """A spare breaks at 1200 s, while the first save is written, which nobody notices; the job at 1500 s."""
    spare = fault(1200.0, node=64, repair_s=3600.0)
    expected = losses(lost_work=495.0, restart=190.0, checkpoint=20.0)
    assert lost([spare, fault(1500.0)], spec=spec_of(hot_spares=1)) == expected


def test_two_saves_are_under_way() -> None:
    """Written for 1400 s: at 2500 s the first is safe, the second not; a spare breaks between."""
    slow = Saving((replace(STORAGE, lag_s=1400.0),), 30.0)
    spare = fault(2200.0, node=64, repair_s=3600.0)
    expected = losses(lost_work=2490.0 - 1000.0, restart=190.0, checkpoint=25.0)
    assert lost([spare, fault(2500.0)], slow, spec_of(hot_spares=1)) == expected
    assert lost([fault(2500.0)], slow) == expected


@pytest.mark.parametrize(("breadth", "lost_s", "restore_s"), [(1, 100.0, 10.0), (2, 500.0, 90.0)])
def test_copies_in_memory_survive_one_node(breadth: int, lost_s: float, restore_s: float) -> None:
    """At 1500 s of work, in a run with saves of 5 s behind copies of 1 s: back to 1400 s, or to 1000 s."""
    saving = Saving((MEMORY, replace(STORAGE, stall_s=0.0)), 30.0)
    crash_s = 1500.0 + 7
    found = lost([fault(crash_s, node=0, breadth=breadth, repair_s=60.0)], saving, spec_of(hot_spares=1))
    again = 24 + (0 if breadth == 1 else 2)
    assert found == losses(lost_work=lost_s, waiting=60.0, restart=100.0 + restore_s, checkpoint=float(again))


@pytest.mark.parametrize(
    ("recovery", "waiting_s"),
    [
        ({"hot_spares": 1}, 60.0),
        ({"cold_spares": 1}, 1800.0),
        ({}, 7200.0),
        ({"cold_spares": 1, "cold_start_s": 9e9}, 7200.0),
    ],
)
def test_a_node_is_replaced_by_whoever_is_first(recovery: dict[str, Any], waiting_s: float) -> None:
    """A hot spare, a cold one, or the node itself after two hours; it is missed after 30 s."""
    found = lost([fault(900.0, node=5, repair_s=7200.0, detect_s=30.0)], spec=spec_of(**recovery))
    assert found == losses(lost_work=900.0, detection=30.0, waiting=waiting_s, restart=190.0, checkpoint=20.0)


def test_a_second_fault_while_the_job_is_down() -> None:
    """At 950 s of the first's 190 s of restart, which begins anew."""
    found = lost([fault(900.0), fault(950.0)])
    assert found == losses(lost_work=900.0, restart=50.0 + 190.0, checkpoint=20.0)


def test_a_cold_spare_warms_up_where_a_hot_one_left() -> None:
    """The hot one goes in after 60 s; the cold one, ready 1800 s after the first fault, follows after 60 s more."""
    faults = [fault(900.0, node=5, repair_s=1e6), fault(2000.0, node=6, repair_s=1e6)]
    found = lost(faults, spec=spec_of(hot_spares=1, cold_spares=1))
    # 850 s after the first restart at 1150 s; the spare is warm at 2700 s.
    assert found == losses(lost_work=900.0 + 850.0, waiting=60.0 + 700.0 + 60.0, restart=380.0, checkpoint=20.0)


def test_planned_stops_save_first() -> None:
    """30 s of saving and an hour; nothing is lost, storage is loaded."""
    found = lost([fault(2505.0 + 5, PLANNED, outage_s=3600.0)])
    assert found == losses(planned=3630.0, restart=190.0, checkpoint=20.0)


def test_a_slow_part_costs_its_share_until_it_is_over() -> None:
    """1000 s at 4/5: 200 s lost, as faults that nobody finds."""
    found = lost([fault(100.0, SLOW, node=5, lasts_s=1000.0, detect_s=1e9, speed=0.8)])
    assert found == losses(slow=200.0, checkpoint=20.0)


def test_a_slow_node_is_replaced_once_it_is_found() -> None:
    """300 s at 4/5, then a clean stop: 30 s of saving, a minute for the spare."""
    slow = fault(100.0, SLOW, node=5, lasts_s=1e6, detect_s=300.0, repair_s=3600.0, speed=0.8)
    found = lost([slow], spec=spec_of(hot_spares=1))
    assert found == losses(slow=60.0, planned=30.0, waiting=60.0, restart=190.0, checkpoint=20.0)
    stays = lost([{**slow, "lasts_s": 1000.0}], spec=spec_of(hot_spares=1, evict_slow=False))
    assert stays == losses(slow=200.0, checkpoint=20.0)


def test_the_slowest_of_two_slow_parts_governs() -> None:
    """From 100 s on at 4/5, from 400 s at 1/2, until both are over at 1100 s."""
    faults = [fault(100.0, SLOW, node=5, lasts_s=1000.0, detect_s=1e9, speed=0.8),
              fault(400.0, SLOW, node=6, lasts_s=200.0, detect_s=1e9, speed=0.5)]  # fmt: skip
    assert lost(faults) == losses(slow=300 * 0.2 + 700 * 0.5, checkpoint=20.0)


def test_corruption_makes_all_since_the_last_save_worthless() -> None:
    """It strikes at 1600 s, when 1000 s of work are safe, and is found at 3000 s; what was saved since is not used."""
    found = lost([fault(1600.0, CORRUPTION, node=5, detect_s=1400.0, repair_s=60.0)], spec=spec_of(hot_spares=1))
    assert found == losses(lost_work=2990.0 - 1000.0, waiting=60.0, restart=190.0, checkpoint=20.0 + 5.0 * 1)


def test_a_job_that_shrinks_runs_on_with_fewer_replicas() -> None:
    """A node of 32 replicas never comes back: 31/32 of the speed from 1150 s on."""
    crash = fault(900.0, node=5, repair_s=1e12)
    found = lost([crash], spec=spec_of(when_short="shrink", hot_swap_s=60.0))
    assert found == losses(lost_work=900.0, restart=190.0, checkpoint=20.0, shrunk=5000 / 31)


def test_the_summary_of_a_story() -> None:
    """Two runs alike: one crash in 5705 s."""
    spec, faults = spec_of(), written([fault(1500.0)])
    result = summarise(spec, SAVING, play(spec, SAVING, faults, np.arange(2)))
    at_work_s, restart_s = (5000.0, 495.0, 20.0), 190.0  # work, what was lost of it, and saves
    whole_s = sum(at_work_s) + restart_s
    assert result.finish_s.p50 == pytest.approx(whole_s)
    assert result.goodput_fraction == result.goodput_quantiles.p10 == pytest.approx(5000 / whole_s)
    assert result.lost_by_component_s == pytest.approx({"fault": 495.0 + 190.0})
    assert result.interruptions == {"fault": 1.0}
    assert result.mean_time_between_interruptions_s == pytest.approx(sum(at_work_s))
    assert result.checkpoint_every_s == {"storage": 1000.0}
    assert (result.finishes, result.finishing_fraction, result.reason, result.ideal_s) == (True, 1.0, None, 5000.0)
    assert result.best_every_saves_s == 0.0
    calm = summarise(spec, SAVING, play(spec, SAVING, written([]), np.arange(1)))
    assert calm.mean_time_between_interruptions_s == math.inf
    assert calm.interruptions == {}


def test_the_best_interval_would_save_what_first_order_says() -> None:
    """Saves every 1000 s where the job fails every 1e6: Daly's interval is longer, and the run so much shorter."""
    from simulator.run.closed_form import best_every_s, closed_form_goodput

    spec = replace(spec_of(1e6), failures=crashes(1e6, 512))
    result = summarise(spec, SAVING, play(spec, SAVING, written([]), np.arange(1)))
    best = Saving((replace(STORAGE, every_s=best_every_s(spec, SAVING)),), 30.0)
    now, then = closed_form_goodput(spec, SAVING), closed_form_goodput(spec, best)
    assert then > now
    assert result.best_every_saves_s == pytest.approx(1e6 / now - 1e6 / then)
    assert result.first_order_goodput_fraction == now


def outcome_of(
    finish: list[float], work: list[float], restart: list[float], waits: bool = False, components: int = 2
) -> Outcome:
    done, lost_s = np.array(work), np.array(restart)
    none = np.zeros((len(work), components))
    return Outcome(np.array(finish), done + lost_s, done, {"restart": lost_s, "lost_work": 0 * lost_s}, none,
                   none.astype(int), np.zeros(len(work), int), np.full(len(work), waits))  # fmt: skip


def test_reasons_why_runs_do_not_finish() -> None:
    """Of three runs two gave up after a day and three with 5 and 4 % of useful time: after 2 days, 4.25 % of them."""
    spec = spec_of()
    finish, work = [100.0, math.inf, math.inf], [90.0, 0.05 * DAY, 0.12 * DAY]
    found = summarise(spec, SAVING, outcome_of(finish, work, [10.0, 0.95 * DAY, 2.88 * DAY]))
    assert found.reason == (
        "2 of 3 runs cannot finish: after 2 days only 4.2 % of the time was useful (given up below 10 %); most of it "
        "went into restart"
    )
    assert not found.finishes
    stuck = summarise(spec, SAVING, outcome_of([math.inf], [1.0], [1.0], waits=True))
    assert str(stuck.reason).startswith("every run wait for nodes that never come back")


def test_what_a_reader_of_a_run_must_know() -> None:
    """Slow nodes are replaced by nobody; nothing is saved."""
    slow = FaultClass("slow", "slow", 1e-9, "node", fixed(60.0), None, None, fixed(60.0), 0.5)
    bare = replace(spec_of(), failures=FailureModel("slow", (slow,)), assumptions=("assumed",))
    unsaved = Saving((replace(STORAGE, every_s=None),), 0.0, ("stretched",))
    outcome = outcome_of([100.0], [90.0], [10.0])
    words = summarise(bare, unsaved, outcome).warnings
    assert words[:2] == ("assumed", "stretched")
    assert ["no spares" in text for text in words[2:]] == [True, False]
    assert ["starts the run over" in text for text in words[2:]] == [False, True]
    for calm in (replace(bare, recovery=Recovery(hot_spares=1)), replace(bare, recovery=Recovery(evict_slow=False))):
        assert summarise(calm, SAVING, outcome).warnings == ("assumed",)
    never = "nothing is saved: each failure starts the run over"
    assert summarise(spec_of(), unsaved, outcome).warnings == ("stretched", never)
    sound = outcome_of([100.0], [90.0], [10.0], components=1)
    assert summarise(quiet(), unsaved, sound).warnings == ("stretched",)
