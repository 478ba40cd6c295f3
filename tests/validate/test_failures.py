"""Published failures are met by the simulation, and the fit finds again what a log was made of."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.run.faults import mean_time_between_s
from simulator.run.read_failures import preset
from validate.failures import FailureRow, read_figures, rows

DAY = 86400.0
HOUR = 3600.0


@pytest.fixture(scope="module")
def figures() -> dict[str, FailureRow]:
    return {row.id: row for row in rows(runs=100)[0]}


def test_llama_3_interruptions_by_cause(figures: dict[str, FailureRow]) -> None:
    """419 +- 20 in 54 days on 16,384 GPUs, split as in the table: each cause within its Poisson spread."""
    total = figures["llama-3-unexpected"]
    assert total.predicted == pytest.approx(419, abs=4 * math.sqrt(419 / 100))
    assert total.interval[0] == pytest.approx(419 - 1.28 * math.sqrt(419), abs=8)
    assert total.interval[1] == pytest.approx(419 + 1.28 * math.sqrt(419), abs=8)
    causes = [row for name, row in figures.items() if row.quantity == "count" and name != "llama-3-unexpected"]
    assert sum(row.measured for row in causes) == 419
    for row in causes:
        assert row.predicted == pytest.approx(row.measured, abs=4 * math.sqrt(row.measured / 100)), row.id


def test_llama_3_effective_time_is_above_nine_tenths(figures: dict[str, FailureRow]) -> None:
    assert figures["llama-3-effective-time"].interval[0] > 0.90


def test_rsc_mean_times_to_failure_are_exact() -> None:
    """1 / (nodes x 6.50 per 1,000 node-days)."""
    assert mean_time_between_s(preset("rsc-1"), 16384) / HOUR == pytest.approx(1.80, abs=0.005)
    assert mean_time_between_s(preset("rsc-1"), 131072) / HOUR == pytest.approx(0.225, abs=0.0005)
    assert mean_time_between_s(preset("rsc-2"), 8) / DAY == pytest.approx(1000 / 2.34)


def test_rsc_effective_time_with_five_minute_checkpoints(figures: dict[str, FailureRow]) -> None:
    assert figures["rsc-1-ettr-5min"].predicted == pytest.approx(0.93, abs=0.005)


def test_rsc_effective_time_with_hourly_checkpoints(figures: dict[str, FailureRow]) -> None:
    assert figures["rsc-1-ettr-60min"].predicted > 0.9
    # By hand: one failure in 7.2 h costs half an hour and five minutes.
    assert figures["rsc-1-ettr-60min"].predicted == pytest.approx(1 / (1 + 35 / 60 / 7.21), abs=0.01)


def test_rsc_small_jobs_are_reported_as_missed(figures: dict[str, FailureRow]) -> None:
    """The observed times of small jobs contradict the projections' rate; no model of one rate meets both."""
    assert figures["rsc-1-mttf-1024"].error_fraction > 2


def test_bloom_checkpoint_overhead(figures: dict[str, FailureRow]) -> None:
    assert figures["bloom-checkpoint-overhead"].predicted == pytest.approx(0.0037, abs=0.00005)


def test_stepfun_year_from_its_first_half(figures: dict[str, FailureRow]) -> None:
    assert figures["stepfun-faults"].error_fraction == pytest.approx(0, abs=0.10)
    assert figures["stepfun-nodes-hit"].error_fraction == pytest.approx(0, abs=0.05)
    assert figures["stepfun-nodes-hit"].interval[0] < 231 < figures["stepfun-nodes-hit"].interval[1]
    # Poisson alone would hit 307 of the 400 nodes: lemons are what brings it down.
    assert 400 * (1 - math.exp(-584 / 400)) > 300


def test_every_row_is_plain() -> None:
    row = rows(runs=2)[0][0].to_dict()
    assert set(row) >= {
        "id",
        "status",
        "quantity",
        "measured",
        "predicted",
        "error_fraction",
        "interval",
        "assumptions",
    }


def test_another_file_is_read_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(
        "study,metric,value,conditions,source\n"
        'BLOOM-176B,checkpoint write,80,"every 3 h, 0.74% of time",somewhere\n'
        "Meta RSC,MTTF 8 GPUs,47.7,observed,elsewhere\n"
        "Nobody,anything,1,,nowhere\n"
    )
    found, unsupported = rows(runs=2, path=other)
    assert [row.id for row in found] == ["bloom-checkpoint-overhead"]
    assert found[0].predicted == pytest.approx(80 / (3 * HOUR), rel=0.01)
    assert unsupported == [
        "Meta RSC: the file lacks Meta RSC / MTTF 1024 GPUs, as a number",
        "Nobody: no model of this study (1 figures)",
    ]
    other.write_text("study,metric\n")
    with pytest.raises(InputError, match="columns missing: value"):
        read_figures(other.rename(tmp_path / "short.csv"))


def test_any_study_is_predicted_from_its_own_columns(tmp_path: Path) -> None:
    """1,000 GPUs that fail every 10 h: 72 interruptions in 30 days. With saves of 36 s every hour 1 % goes to saves
    and half an hour of work and 6 min of restart to every failure: 93 % is left."""
    file = tmp_path / "studies.csv"
    file.write_text(
        "study,gpus,days,mtbf_h,checkpoint_every_s,checkpoint_write_s,restart_s,interruptions,effective_fraction\n"
        "Ours,1000,30,10,3600,36,360,80,0.9\n"
    )
    found, unsupported = rows(runs=50, path=file)
    assert unsupported == []
    interruptions, effective = found
    assert interruptions.predicted == pytest.approx(72)
    assert effective.predicted == pytest.approx(1 / (1.01 + 0.06), rel=0.02)


def test_studies_that_state_no_rate_span_the_shipped_models(tmp_path: Path) -> None:
    file = tmp_path / "studies.csv"
    file.write_text("study,gpus,mttf_h\nTheirs,1024,10\n")
    low, high = rows(runs=2, path=file)[0][0].interval
    assert high > 2 * low
    file.write_text("study,gpus,model,speed\nTheirs,many,nobody,1\n")
    with pytest.raises(InputError) as caught:
        rows(runs=2, path=file)
    assert {problem.key for problem in caught.value.problems} == {"", "line 2.gpus", "line 2.model"}
