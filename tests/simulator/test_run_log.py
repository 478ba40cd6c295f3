"""A user's fault log is read with all its faults named, and replayed event by event."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware.problems import InputError, Place
from simulator.run.alternatives import alternatives
from simulator.run.event_player import play_one
from simulator.run.fault_log import LogRow, model_of, observed_s, read_log, timeline_of
from simulator.run.fault_source import fault_source
from simulator.run.montecarlo import outcomes, saving_of, simulate
from simulator.run.read import read_run
from simulator.run.specs import Recovery, RunSpec
from tests.simulator.run_specs import DAY, quiet

HEADER = "start_day,end_day,node,level,class,description\n"
ROWS = """\
0.5,2.5,3,Hardware Failure,GPU,GPU Lost
1.25,1.75,17,Hardware Failure,NIC,NIC Lost
1.5,4.5,200,Hardware Failure,Power Supply,
2.0,2.0,40,Software Failure,Other Failures,Unknown Error
3.0,,256,Other Failure,Unknown Error,Unknown Error
3.5,3.6,3,Hardware Failure,GPU,GPU xid Error
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "log.csv"
    path.write_text(text)
    return path


def covered(spec: RunSpec, log: tuple[LogRow, ...]) -> RunSpec:
    """The run under a log that covers all of it: nothing is left to chance."""
    return replace(spec, fault_log=log, fault_log_s=100 * DAY, failures=model_of(log, 260, 8))


def test_replay_event_by_event(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + ROWS))
    spec = quiet(days=10, every_s=600.0)
    spec = covered(replace(spec, recovery=Recovery(hot_spares=4, hot_swap_s=0.0)), log)
    _, story = play_one(spec, saving_of(spec), fault_source(spec))
    faults = [(e.time_s / DAY, e.node, e.component, e.effect) for e in story if e.what == "crash"]
    assert faults == [
        (0.5, 3, "GPU", "stopped"),
        (1.25, 17, "NIC", "stopped"),
        (1.5, 200, "Power Supply", "stopped"),
        (2.0, 40, "Other Failures", "stopped"),
        (3.0, 256, "Unknown Error", "stopped"),  # it had taken over from node 3
        (3.5, 3, "GPU", "stopped"),  # back since day 2.5, it had taken over from node 256
    ]
    result = simulate(spec)
    # By hand: 30 s to notice, 100 s to start and 980 GB / 200 GB/s to load, six times; each stop loses the work since
    # the last save (600 s of work and 9.8 s of stall apart) as of its time in the run.
    assert result.lost_s["detection"] == pytest.approx(6 * 30.0)
    assert result.lost_s["restart"] == pytest.approx(6 * (100.0 + 4.9))
    assert result.lost_s["lost_work"] == pytest.approx(lost_by_hand([0.5, 1.25, 1.5, 2.0, 3.0, 3.5]), abs=1e-3)
    assert result.runs == 1
    assert result.interruptions["GPU"] == 2


def lost_by_hand(days: list[float]) -> float:
    """Work since the last complete save at each stop, walking from save to save."""
    lost, clock, phase = 0.0, 0.0, 0.0
    for day in days:
        cycle = 600.0 + 9.8
        since = (day * DAY - clock) % cycle
        lost += min(since, 600.0) + phase
        clock = day * DAY + 30.0 + 100.0 + 4.9
    return lost


def test_waiting_lasts_until_the_log_says(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + "1.0,1.5,7,Hardware Failure,GPU,GPU Lost\n"))
    spec = quiet(days=4, every_s=600.0)
    result = simulate(covered(spec, log))
    assert result.lost_s["detection"] + result.lost_s["waiting"] == pytest.approx(0.5 * DAY)


def test_both_players_replay_alike(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, HEADER + ROWS))
    spec = replace(
        quiet(days=10), fault_log=log, failures=model_of(log, 260, 8), recovery=Recovery(hot_spares=1, cold_spares=3)
    )
    one, _ = play_one(spec, saving_of(spec), fault_source(spec))
    many = outcomes(spec, saving_of(spec))
    assert one.elapsed_s[0] == pytest.approx(many.elapsed_s[0], abs=1e-3)


def test_all_problems_at_once(tmp_path: Path) -> None:
    text = HEADER + "1,2,3,Other,b,c\nx,2,3,Other,b,c\n5,4,1,,b,c\n1,2,2.5,,b,c\n-1,2,3,,b,c\n"
    with pytest.raises(InputError) as error:
        read_log(write(tmp_path, text))
    lines = [(p.line, p.key) for p in error.value.problems]
    assert lines == [(3, "start_day"), (4, "end_day"), (5, "node"), (6, "start_day")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("start_day,node\n1,2\n", "end_day, level, class, description"),
        (HEADER, "holds no faults"),
        ("", "end_day"),
        ("\0\1\2", "end_day"),
    ],
)
def test_unusable_files(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_log(write(tmp_path, text))


def test_missing_file_and_missing_nodes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_log(tmp_path / "none.csv")
    log = read_log(write(tmp_path, HEADER + ROWS))
    with pytest.raises(ValueError, match="names node 256"):
        timeline_of(log, 256)


# -- a log that is shorter than the run ---------------------------------------------------------------------------


def short_log(days: float = 20.0) -> tuple[LogRow, ...]:
    """A fault every half a day on another of 256 nodes, each away for 4.8 hours."""
    count = int(days * 2)
    return tuple(
        LogRow((i + 0.5) * DAY / 2, (i + 0.5) * DAY / 2 + DAY / 5, (7 * i) % 256, "", "GPU", "") for i in range(count)
    )


def under_log(log: tuple[LogRow, ...], days: float) -> RunSpec:
    spec = quiet(days=days, every_s=600.0)
    return replace(
        spec,
        fault_log=log,
        failures=model_of(log, 256, 8),
        recovery=Recovery(hot_spares=0),
        simulation=replace(spec.simulation, runs=40),
    )


def test_faults_go_on_at_the_logs_rate_beyond_its_end() -> None:
    """A run eight times as long as the log loses as large a share as one that the log covers."""
    within = simulate(replace(under_log(short_log(160.0), 40.0)))
    beyond = simulate(under_log(short_log(20.0), 40.0))
    assert within.goodput_fraction < 0.8
    assert beyond.goodput_fraction == pytest.approx(within.goodput_fraction, abs=0.1)
    assert beyond.interruptions["GPU"] > 40
    assert beyond.finish_s.p10 < beyond.finish_s.p50 < beyond.finish_s.p90
    assert any("log covers" in warning for warning in beyond.warnings)


def test_a_log_that_covers_the_run_leaves_nothing_to_chance() -> None:
    result = simulate(under_log(short_log(160.0), 20.0))
    assert result.runs == 1
    assert not any("log covers" in warning for warning in result.warnings)


def test_the_part_that_the_log_covers_is_the_same_in_every_run() -> None:
    spec = under_log(short_log(), 40.0)
    source, window = fault_source(spec), (0.0, 40 * DAY)
    first, second = source(0, window), source(1, window)
    logged = int((first.time_s < 20 * DAY).sum())
    assert logged == 40
    np.testing.assert_array_equal(first.time_s[:logged], second.time_s[:logged])
    assert len(first) > logged
    assert first.time_s[logged:].tolist() != second.time_s[logged : len(first)].tolist()


def test_the_logs_rates_are_its_counts_over_what_it_covers() -> None:
    model = model_of(short_log(), 256, 8, covers_s=100 * DAY)
    assert model.classes[0].rate_per_gpu_s == pytest.approx(40 / (100 * DAY * 2048))
    repair = model.classes[0].repair
    assert repair is not None
    assert repair.mean_s() == pytest.approx(DAY / 5 - 30.0)


def test_a_class_without_a_finished_repair_takes_those_of_all() -> None:
    rows = (LogRow(DAY, 3 * DAY, 1, "", "GPU", ""), LogRow(2 * DAY, math.inf, 2, "", "NIC", ""))
    gpu, nic = model_of(rows, 10, 8).classes
    assert nic.repair == gpu.repair


def test_alternatives_under_a_log_that_names_spares_and_covers_the_planned_run_alone() -> None:
    """Without its spares the run outlasts the log, and meets chance; with them it does not."""
    log = short_log(25.0)
    names_spare = LogRow(DAY, 2 * DAY, 257, "", "GPU", "")
    spec = replace(under_log((*log, names_spare), 20.0), recovery=Recovery(hot_spares=2), replicas=1)
    rows = {row.change: row for row in alternatives(replace(spec, failures=model_of(log, 258, 8)))}
    assert rows["as planned"].result.runs == 1
    without = rows["0 spare nodes"]
    assert without.result.runs == 40
    assert without.later_s is not None
    assert without.later_s > DAY


@pytest.mark.parametrize(
    ("level", "known"),
    [
        ("Hardware Failure", "Hardware Failure"),
        ("software", "Software Failure"),
        ("", ""),
        (" OTHER FAILURE ", "Other Failure"),
    ],
)
def test_levels_in_any_case_with_or_without_failure(tmp_path: Path, level: str, known: str) -> None:
    (row,) = read_log(write(tmp_path, f"{HEADER}1,2,3,{level},GPU,x\n"))
    assert row.level == known


def test_an_unknown_level_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose from Hardware Failure, Other Failure, Software Failure"):
        read_log(write(tmp_path, HEADER + "1,2,3,foo,GPU,x\n"))


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("1e308,,3,Other,GPU,x", "start_day"),
        ("1,1e300,3,Other,GPU,x", "end_day"),
        ("1,2,1e300,Other,GPU,x", "node"),
        ("1,2,nan,Other,GPU,x", "node"),
        ("inf,2,3,Other,GPU,x", "start_day"),
        ("true,2,3,Other,GPU,x", "start_day"),
        ("1", "node"),
    ],
)
def test_numbers_that_no_log_holds_are_named(tmp_path: Path, row: str, column: str) -> None:
    with pytest.raises(InputError) as error:
        read_log(write(tmp_path, f"{HEADER}{row}\n"))
    assert column in {problem.key for problem in error.value.problems}


def test_a_log_of_the_first_day_alone_needs_to_say_what_it_covers(tmp_path: Path) -> None:
    write(tmp_path, HEADER + "0,,3,Other,GPU,x\n")
    at = Place(str(tmp_path / "scenario.yaml"), "run")
    with pytest.raises(InputError, match="Say how long it covers"):
        read_run({"fault_log": "log.csv"}, at)
    policies = read_run({"fault_log": {"file": "log.csv", "covers": "90 d"}}, at)
    assert policies.fault_log_s == 90 * DAY
    write(tmp_path, HEADER + "100,,3,Other,GPU,x\n")
    with pytest.raises(InputError, match="is less than"):
        read_run({"fault_log": {"file": "log.csv", "covers": "90 d"}}, at)


def test_no_broken_log_traces_back(tmp_path: Path) -> None:
    """Logs with characters cut, swapped and put in at random are read or refused, and those read are played."""
    luck = random.Random(1)
    good = HEADER + ROWS
    parts = ["", ",", "\n", '"', "-", "1e999", "9" * 400, "x", "\0", "é", "end_day", "0"]
    played = 0
    for _ in range(300):
        text = good
        for _ in range(luck.randint(1, 4)):
            low = luck.randrange(len(text) + 1)
            high = min(low + luck.choice([0, 1, 5, 40]), len(text))
            text = text[:low] + luck.choice(parts) + text[high:]
        try:
            log = read_log(write(tmp_path, text))
        except InputError:
            continue
        nodes = max(256, 1 + max(row.node for row in log))
        if observed_s(log) > 0 and nodes < 2000:
            model = model_of(log, nodes, 8)
            spec = replace(quiet(days=2), job_nodes=nodes, replicas=1, fault_log=log, failures=model)
            assert (
                outcomes(replace(spec, simulation=replace(spec.simulation, runs=2)), saving_of(spec)).elapsed_s[0] > 0
            )
            played += 1
    assert played > 5
