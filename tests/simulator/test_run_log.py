"""A user's fault log is read with all its faults named, and replayed event by event."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.run.event_player import play_one
from simulator.run.fault_log import LogRow, model_of, read_log, timeline_of
from simulator.run.fault_source import fault_source
from simulator.run.montecarlo import outcomes, saving_of, simulate
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
