"""`traincast plan`: its document, its files, its exit codes."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable
from itertools import combinations
from math import inf
from pathlib import Path

import jsonschema
import pytest
import yaml

from hardware.units import format_count, format_energy, format_usd
from simulator.cli.common import progress_line
from simulator.planner.planning import Progress
from simulator.report.document import document_schema
from simulator.report.plans import progress_words
from tests.command import ROOT, traincast

TINY = "scenarios/tiny.yaml"
KEEP = [f"--keep=plan.{key}" for key in ("tp", "cp", "sequence_parallel", "dispatcher", "micro_batch_size", "pp", "ep")]


def auto_scenario(folder: Path, **plan: object) -> str:
    data = yaml.safe_load((ROOT / TINY).read_text())
    data["plan"] = plan
    file = folder / "auto.yaml"
    file.write_text(yaml.safe_dump(data))
    return str(file)


def test_the_document_keeps_its_contract_and_the_best_evaluates_to_the_same(tmp_path: Path) -> None:
    done = traincast("plan", TINY, *KEEP, "--top", "3", "--json", "--out", str(tmp_path / "out"))
    assert done.returncode == 0
    document = json.loads(done.stdout)
    jsonschema.validate(document, document_schema("plan"))
    assert len(document["plans"]) == 3
    assert document["legal"] >= document["fitting"] >= len(document["plans"])
    assert [row["rank"] for row in document["plans"]] == [1, 2, 3]
    best = document["plans"][0]
    assert best["step_time_s"] <= document["start"]["step_time_s"]
    again = json.loads(traincast("evaluate", str(tmp_path / "out" / "best.yaml"), "--json").stdout)
    assert again["step_time_s"] == pytest.approx(best["step_time_s"], rel=1e-12)
    assert again["peak_memory_bytes"] == pytest.approx(best["peak_memory_bytes"], rel=1e-12)
    rows = list(csv.DictReader((tmp_path / "out" / "plans.csv").read_text().splitlines()))
    assert [float(row["step_time_s"]) for row in rows] == [row["step_time_s"] for row in document["plans"]]
    assert json.loads((tmp_path / "out" / "result.json").read_text())["plans"] == document["plans"]


def test_the_table_is_written_as_parquet_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pandas as pd

    done = traincast("plan", TINY, *KEEP, "--top", "3", "--json", "--out", str(tmp_path / "out"))
    assert done.returncode == 0
    table = pd.read_parquet(tmp_path / "out" / "plans.parquet")
    rows = json.loads(done.stdout)["plans"]
    assert table["step_time_s"].tolist() == [row["step_time_s"] for row in rows]
    assert table["line"].tolist() == [row["line"] for row in rows]
    written = pd.read_csv(tmp_path / "out" / "plans.csv")
    assert list(table.columns) == list(written.columns)


def test_without_pyarrow_the_other_files_are_written_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from simulator.cli.plan import write_parquet

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    write_parquet(tmp_path, None)  # type: ignore[arg-type]
    assert 'pip install "traincast[parquet]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_report_names_the_start_first_and_what_was_covered() -> None:
    done = traincast("plan", TINY, *KEEP, "--top", "2")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Start")
    assert "legal plans covered" in lines[1]
    assert "Why 2 is behind 1" in done.stdout
    assert "Step time against free memory" in done.stdout


def test_lines_hold_the_keys_that_were_freed() -> None:
    done = traincast("plan", TINY, *KEEP, "--free", "plan.precision=bf16,fp8-delayed", "--top", "2")
    assert re.search(r"\n +1 .* precision=(bf16|fp8-delayed)", done.stdout)


def test_the_front_holds_the_keys_that_were_freed() -> None:
    done = traincast("plan", TINY, *KEEP, "--free", "plan.precision=bf16,fp8-delayed", "--top", "2")
    front = done.stdout.split("Step time against free memory\n")[1]
    points = re.findall(r"^ *[\d.]+ %", front, flags=re.MULTILINE)
    assert points
    assert len(re.findall(r"\bprecision=(?:bf16|fp8-delayed)", front)) == len(points)


@pytest.mark.parametrize(
    ("objective", "head", "key", "words"),
    [("time", " mean USD ", "cost_usd", format_count), ("energy", " mean energy ", "energy_j", format_energy)],
)
def test_the_table_says_what_the_mean_run_comes_to(
    objective: str, head: str, key: str, words: Callable[[float], str]
) -> None:
    arguments = ("plan", TINY, *KEEP, "--keep", "plan.recompute", "--top", "2", "--objective", objective)
    best = json.loads(traincast(*arguments, "--json").stdout)["plans"][0]
    lines = traincast(*arguments).stdout.splitlines()
    row = next(line for line in lines if re.match(r" +1 +\d", line))
    assert f" {words(best[key])} " in row
    assert any(head in line for line in lines)


@pytest.mark.untraced
def test_plans_that_differ_in_nothing_are_shown_once() -> None:
    rows = json.loads(traincast("plan", TINY, *KEEP[:-2], "--top", "30", "--json").stdout)["plans"]
    pairs = [(row["step_time_s"], row["device_memory_bytes"]) for row in rows]
    assert len(rows) == 30
    assert not any(one == pytest.approx(other, rel=1e-9) for one, other in combinations(pairs, 2))


def test_progress_says_how_much_is_done_how_fast_and_what_is_left() -> None:
    progress = Progress(done=250, total=1000, covered=120_000, best_s=4.5, seconds=10.0)
    assert progress_words(progress) == "25.0 % of the space, 120,000 legal plans, 12,000/s, best 4.5 s, 30 s left"
    assert progress_words(Progress(0, 1000, 0, inf, 0.0)) == "0.0 % of the space, 0 legal plans, 0/s"


def test_the_progress_line_stands_on_a_terminal_from_the_first_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_line("making plans") as told:
        assert told is not None
        told(0.25, "a quarter")
    shown = sys.stderr.getvalue()
    assert "making plans" in shown
    assert "a quarter" in shown
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_line("making plans") as told:
        assert told is None


def test_a_plan_of_only_batch_and_precision_is_enough(tmp_path: Path) -> None:
    file = auto_scenario(tmp_path, global_batch_size=64, precision="bf16")
    done = traincast("plan", file, *KEEP[:-2], "--keep", "plan.recompute", "--json", "--top", "1")
    assert done.returncode == 0
    assert json.loads(done.stdout)["plans"][0]["plan"]["global_batch_size"] == 64


def test_nothing_that_fits_is_exit_code_1() -> None:
    arguments = ("--set", "model={base: kimi-k2}", *KEEP, "--keep", "plan.recompute", "--json")
    done = traincast("plan", TINY, *arguments)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    jsonschema.validate(document, document_schema("plan"))
    assert document["plans"] == []
    assert document["nearest"]["memory_free_bytes"] < 0
    assert document["remedies"]


@pytest.mark.untraced
def test_plans_fit_that_leave_the_memory_asked_for() -> None:
    arguments = ("plan", TINY, *KEEP, "--keep", "plan.recompute", "--top", "1000")
    whole = json.loads(traincast(*arguments, "--json").stdout)
    used = sorted(row["device_memory_bytes"] for row in whole["plans"])
    assert whole["legal"] == whole["fitting"]
    capacity = used[0] + next(
        row["memory_free_bytes"] for row in whole["plans"] if row["device_memory_bytes"] == used[0]
    )
    middle = used[len(used) // 2]
    part = json.loads(traincast(*arguments, "--headroom", f"{1 - middle / capacity:.9f}", "--json").stdout)
    assert 0 < part["fitting"] < whole["fitting"]
    assert all(row["device_memory_bytes"] <= middle * (1 + 1e-6) for row in part["plans"])
    none = traincast(*arguments, "--headroom", "99%")
    assert none.returncode == 1
    assert f"{whole['legal']:,} legal plans covered" in none.stdout
    assert "0 leave 99 % of memory free\n" in none.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--keep", "plan.tq"], "did you mean"),
        (["--keep", "tp"], "must name a key of the plan"),
        (["--free", "plan.layout"], "follows from the other keys"),
        (["--free", "plan.precision=foo"], "'foo' is not known; choose from bf16"),
        (["--free", "plan.optimizer=foo,muon"], "plan.optimizer.kind: 'foo' is not known"),
        (["--free", "plan.ep=2,abc"], "--free plan.ep=2,abc: plan.ep: must be a whole number of at least 1, not 'abc'"),
        (["--keep", "plan.ep=abc"], "--keep plan.ep=abc: plan.ep: must be a whole number of at least 1, not 'abc'"),
        (["--set", "plan.ep=abc"], "--set plan.ep=abc: plan.ep: must be a whole number of at least 1, not 'abc'"),
        (["--headroom", "much"], "write a share of the memory"),
        (["--keep", "plan.schedule", "--keep", "plan.pp", "--free", "plan.vpp=7"], "no plan is legal"),
    ],
)
def test_bad_options_are_exit_code_2(arguments: list[str], words: str) -> None:
    done = traincast("plan", TINY, *arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_folder_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "theirs.txt").write_text("kept")
    done = traincast("plan", TINY, *KEEP, "--out", str(tmp_path))
    assert done.returncode == 2
    assert [file.name for file in tmp_path.iterdir()] == ["theirs.txt"]


@pytest.mark.untraced
def test_another_objective_says_what_plans_that_were_not_evaluated_come_to() -> None:
    arguments = ("plan", TINY, *KEEP, "--keep", "plan.recompute", "--top", "1", "--objective", "cost")
    found = json.loads(traincast(*arguments, "--json").stdout)
    jsonschema.validate(found, document_schema("plan"))
    assert 0 < found["others_least"] < found["plans"][0]["cost_usd"]
    assert not found["is_proven_best"]
    told = " ".join(traincast(*arguments).stdout.split())
    assert f"any other comes to {format_usd(found['others_least'])} or more, without a failure; this one to" in told


ENDLESS = ["--set", "run.failures={base: llama-3, mtbf: 30 s}", "--set", "run.simulation={runs: 20}"]


@pytest.mark.parametrize("objective", ["time", "cost"])
def test_a_run_that_never_ends_has_no_cost_and_says_why(tmp_path: Path, objective: str) -> None:
    """A job that crashes every 30 s and restarts for two minutes; document, CSV and report agree."""
    out = tmp_path / "out"
    arguments = ("plan", TINY, *ENDLESS, *KEEP, "--top", "2", "--objective", objective)
    rows = json.loads(traincast(*arguments, "--json", "--out", str(out)).stdout)["plans"]
    for row in rows:
        assert (row["cost_usd"], row["energy_j"], row["finish_s"]) == (None, None, None)
        assert "cannot finish" in row["never_ends"]
    written = list(csv.DictReader((out / "plans.csv").read_text().splitlines()))
    assert [row["cost_usd"] for row in written] == ["", ""]
    assert [row["never_ends"] for row in written] == [row["never_ends"] for row in rows]
    assert "The whole run of 1, 2 does not finish: every run cannot finish" in " ".join(
        traincast(*arguments).stdout.split()
    )


def test_no_plan_is_chosen_by_a_cost_that_nobody_knows() -> None:
    """The catalogue has no rent of MI300X."""
    on = ("--set", "cluster.node=mi300x-platform", "--set", "cluster.fabric=ndr-rail-2tier")
    arguments = ("plan", TINY, *on, *KEEP, "--keep", "plan.recompute", "--top", "1", "--objective", "cost")
    refused = traincast(*arguments)
    assert refused.returncode == 2
    assert "--objective: is cost, and no price of MI300X is known; give run.prices" in refused.stderr
    assert traincast(*arguments, "--set", "run.prices={gpu_hour: 2 USD/h}").returncode == 0


@pytest.mark.parametrize(("phase", "batch"), [("main", 64), ("long", 16)])
def test_a_phase_of_the_run_is_searched_by_its_name(tmp_path: Path, phase: str, batch: int) -> None:
    phases = "run.phases=[{name: main}, {name: long, tokens: 1e8, seq_length: 8192, global_batch_size: 16}]"
    out = tmp_path / "out"
    done = traincast("plan", TINY, *KEEP, "--set", phases, "--phase", phase, "--json", "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["start"]["plan"]["global_batch_size"] == batch
    again = json.loads(traincast("evaluate", str(out / "best.yaml"), "--json").stdout)
    best = json.loads(done.stdout)["plans"][0]
    assert again["step_time_s"] == pytest.approx(best["step_time_s"], rel=1e-12)


def test_a_value_that_the_gpu_cannot_run_is_refused_and_the_others_are_searched() -> None:
    lacking = "plan.precision: H100-SXM-80GB cannot compute in nvfp4"
    keep = [*KEEP, "--keep", "plan.recompute", "--top", "1"]
    done = traincast("plan", TINY, *keep, "--free", "plan.precision=bf16,nvfp4", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["refused"]) == 1
    assert document["refused"][0].startswith(lacking)
    assert document["plans"][0]["plan"]["precision"] == "bf16"
    jsonschema.validate(document, document_schema("plan"))
    told = traincast("plan", TINY, *keep, "--free", "plan.precision=bf16,nvfp4")
    assert f"Refused: {lacking}" in told.stdout


@pytest.mark.parametrize("option", ["--free", "--set"])
def test_a_search_without_a_value_that_the_gpu_runs_is_exit_code_2(option: str) -> None:
    done = traincast("plan", TINY, *KEEP, option, "plan.precision=nvfp4")
    assert done.returncode == 2
    assert "cannot compute in nvfp4; it can in" in done.stderr
