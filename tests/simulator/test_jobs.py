"""Jobs that share a cluster: who waits for whom, when the last ends, what stands idle, and what all of it costs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.predict.job_schedule import JobsReport
from simulator.predict.prediction import Prediction, evaluate
from simulator.report.job_rows import job_rows
from simulator.run.jobs import TimedJob, idle_fraction, makespan_s, scheduled
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
OWN = "{name: train, after: [prepare]}"
PREPARE = "{name: prepare, gpus: 0, lasts: 1 h}"


def predicted(jobs: str, *overrides: str) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / "tiny.yaml", [f"run.jobs={jobs}", "run.failures=none", *overrides]))


def report_of(prediction: Prediction) -> JobsReport:
    assert prediction.jobs is not None
    return prediction.jobs


def starts(jobs: list[TimedJob], gpus: int) -> dict[str, float]:
    return {job.name: job.start_s for job in scheduled(jobs, gpus)}


def test_jobs_run_beside_each_other_as_far_as_gpus_go_round() -> None:
    """On 8 GPUs: a and b at once; c needs 6 and waits for a; d needs 2 and does not wait for c."""
    jobs = [
        TimedJob("a", (), 4, 10.0),
        TimedJob("b", (), 2, 30.0),
        TimedJob("c", (), 6, 5.0),
        TimedJob("d", (), 2, 1.0),
    ]
    assert starts(jobs, 8) == {"a": 0.0, "b": 0.0, "d": 0.0, "c": 10.0}


def test_a_job_waits_for_all_before_it_and_work_elsewhere_holds_no_gpu() -> None:
    jobs = [
        TimedJob("train", ("prepare",), 8, 10.0),
        TimedJob("prepare", (), 0, 4.0),
        TimedJob("tune", ("train", "collect"), 4, 2.0),
        TimedJob("collect", (), 0, 20.0),
    ]
    assert starts(jobs, 8) == {"prepare": 0.0, "collect": 0.0, "train": 4.0, "tune": 20.0}
    plan = scheduled(jobs, 8)
    assert makespan_s(plan) == 22.0
    assert idle_fraction(plan, 8) == pytest.approx(1 - (8 * 10 + 4 * 2) / (8 * 22))


def test_what_waits_for_an_endless_job_never_starts() -> None:
    plan = scheduled([TimedJob("a", (), 8, math.inf), TimedJob("b", ("a",), 8, 1.0)], 8)
    assert starts([TimedJob("a", (), 8, math.inf), TimedJob("b", ("a",), 8, 1.0)], 8)["b"] == math.inf
    assert makespan_s(plan) == math.inf
    assert idle_fraction(plan, 8) == 0.0


def test_the_run_stands_in_the_schedule_with_its_own_time() -> None:
    prediction = predicted(f"[{PREPARE}, {OWN}]")
    found, run = report_of(prediction), prediction.run
    assert run is not None
    assert [job.start_s for job in found.jobs] == [0.0, 3600.0]
    assert found.makespan_s.p50 == pytest.approx(3600 + run.finish_s.p50)
    assert found.makespan_s.p90 == pytest.approx(3600 + run.finish_s.p90)


def test_the_cluster_is_paid_for_while_any_job_runs() -> None:
    """An hour more of the run's 8 GPUs and its spares, at the same rent; the run's own figures stay."""
    prediction = predicted(f"[{PREPARE}, {OWN}]", "run.prices={gpu_hour: 2 USD/h}")
    found, run = report_of(prediction), prediction.run
    assert run is not None
    assert found.cost_usd == pytest.approx(run.paid_gpus * 2 * (1 + run.finish_s.p50 / 3600))
    assert run.cost_usd == predicted("[{name: train}]", "run.prices={gpu_hour: 2 USD/h}").run.cost_usd


def test_longer_and_more_jobs_end_later_use_more_and_cost_more() -> None:
    both = (PREPARE, PREPARE.replace("1 h", "5 h"))
    short, long = (report_of(predicted(f"[{prepare}, {OWN}]")) for prepare in both)
    tuned = report_of(predicted(f"[{PREPARE}, {OWN}, {{name: tune, after: [train], lasts: 6 h}}]"))
    for more in (long, tuned):
        assert more.makespan_s.p50 > short.makespan_s.p50
        assert more.cost_usd > short.cost_usd
        assert more.energy_j > short.energy_j
    assert long.idle_fraction > short.idle_fraction > tuned.idle_fraction


def test_a_job_runs_a_scenario_of_its_own() -> None:
    """The example's two tunings take their scenario's time, beside each other."""
    prediction = evaluate(load_scenario(SCENARIOS / "examples" / "jobs.yaml"))
    tuning = evaluate(load_scenario(SCENARIOS / "examples" / "parts" / "tune-8b.yaml")).run
    assert tuning is not None
    by_name = {job.name: job for job in report_of(prediction).jobs}
    chat, code = by_name["tune to chat"], by_name["tune to code"]
    assert chat.start_s == code.start_s == by_name["train"].end_s
    assert chat.end_s - chat.start_s == pytest.approx(tuning.finish_s.p50)
    assert (chat.gpus, by_name["evaluate"].start_s) == (16, chat.end_s)


def test_the_report_names_every_job() -> None:
    document = {
        "jobs": [
            {"name": "prepare", "gpus": 0, "start_s": 0.0, "end_s": 3600.0},
            {"name": "train", "gpus": 8, "start_s": 3600.0, "end_s": None},
        ],
        "makespan_s": {"p10": 7200.0, "p50": None, "p90": None},
        "idle_fraction": 0.25,
        "cost_usd": None,
        "energy_j": None,
    }
    assert job_rows(document) == [
        ("Job", "prepare: from the start to 1 h on no GPU"),
        ("Job", "train: from 1 h to never on 8 GPUs"),
        ("All jobs", "never (P10 2 h, P90 never); 25.0 % of the cluster's GPU-hours idle"),
    ]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        (f"[{PREPARE}]", "need exactly one with neither lasts nor scenario"),
        (f"[{PREPARE}, {OWN}, {{name: again}}]", "need exactly one with neither lasts nor scenario"),
        ("[{name: train, after: [prepare]}]", "names no job: prepare. Write some of train"),
        (f"[{PREPARE}, {PREPARE}, {OWN}]", "prepare is the name of two jobs"),
        ("[{name: a, after: [b], lasts: 1 h}, {name: b, after: [a]}]", "wait for each other in a circle: a, b"),
        ("[{name: train}, {name: tune, gpus: 16, lasts: 1 h}]", "tune holds 16 GPUs, and the cluster has 8"),
        ("[{name: train, gpus: 4}]", "own run takes all 8 of cluster.gpus. Leave it out"),
        ("[{name: train}, {name: tune, scenario: none.yaml}]", "none.yaml"),
        ("[{name: train}, {name: tune, scenario: examples/jobs.yaml}]", "jobs.yaml lists jobs of its own"),
        ("[{name: train}, {name: tune, scenario: examples/parts/tune-8b.yaml}]", "tune holds 16 GPUs"),
        ("[{name: train}, {name: tune, lasts: 1 h, scenario: tiny.yaml}]", "and scenario exclude each other"),
    ],
)
def test_jobs_that_cannot_be_scheduled_are_refused(jobs: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(SCENARIOS / "tiny.yaml", [f"run.jobs={jobs}"])
