"""The whole path on a CPU: microbenchmarks, collectives of four processes, fit, profile, prediction, training step."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.profile import read_profile
from simulator.predict.prediction import evaluate
from simulator.scenario.schema import load_scenario
from validate.calibrate.__main__ import main
from validate.calibrate.options import VerbOptions
from validate.calibrate.points import Points
from validate.calibrate.verb import run

ROOT = Path(__file__).parents[2]
VERB = [sys.executable, "-c", "from simulator.cli import main; main()", "calibrate"]
SCENARIO = {
    "model": {
        "name": "small",
        "hidden": 128,
        "vocab": 512,
        "layers": [
            {
                "mixer": {"kind": "attention", "heads": 4, "kv_heads": 2, "head_dim": 32},
                "ffn": {"kind": "dense", "width": 256},
            },
            {
                "mixer": {"kind": "attention", "heads": 4, "kv_heads": 2, "head_dim": 32},
                "ffn": {"kind": "moe", "experts": 4, "top_k": 2, "width": 128},
            },
        ],
    },
    "plan": {"micro_batch_size": 1, "global_batch_size": 2, "sharding": "none"},
    "run": {"seq_length": 128, "tokens": 1e6},
}


NO_END = "1e9"  # seconds of budget: everything is measured, however loaded the machine is
# On one worker of pytest-xdist, so that the machine is measured once.
pytestmark = [pytest.mark.xdist_group("calibrated"), pytest.mark.usefixtures("one_thread")]


def called(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    return subprocess.run([*VERB, *arguments], capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibrated") / "profile"


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    done = called(
        "--out",
        str(folder),
        "--device",
        "cpu",
        "--processes",
        "4",
        "--budget",
        NO_END,
        "--case",
        "0.004",
        "--shared",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scenario_file(folder: Path, result: dict[str, Any]) -> Path:
    file = folder.parent / "small.yaml"
    cluster = {"gpus": 1, "node": "profile/node.yaml", "fabric": "none"}
    file.write_text(yaml.safe_dump({**SCENARIO, "cluster": cluster, "hardware": {"profile": "profile"}}))
    return file


def test_kernels_and_collectives_were_measured(folder: Path, result: dict[str, Any]) -> None:
    counts = result["profile"]["summary"]["points"]
    assert {"gemm", "grouped_gemm", "attention", "streaming", "launch", "collective", "overlap", "jitter"} <= set(
        counts
    )
    points = Points(folder / "points.jsonl").usable()
    assert {point.shape["rank"] for point in points if point.family == "jitter"} == {0, 1, 2, 3}
    assert {(p.shape["n_gpus"], p.shape["at_once"]) for p in points if p.family == "collective"} >= {(4, 1)}
    for point in points:
        assert {"gpu", "torch", "driver", "date", "part"} <= set(point.where)


def test_every_fit_says_how_well_it_holds(result: dict[str, Any]) -> None:
    held_out = result["profile"]["summary"]["held_out"]
    assert {"gemm bf16", "attention bf16", "streaming copy"} <= set(held_out)
    assert any(name.startswith("collective cpu all_reduce") for name in held_out)
    assert all(entry["median"] >= 0 and entry["rows"] > 0 for entry in held_out.values())


def test_the_profile_is_valid(folder: Path, result: dict[str, Any]) -> None:
    profile = read_profile(folder)
    assert profile.part == "cpu"
    assert profile.collectives.endswith("collectives.json")


def test_a_prediction_rests_on_it(scenario_file: Path) -> None:
    prediction = evaluate(load_scenario(scenario_file))
    assert prediction.step_time_s > 0
    assert prediction.evidence["measured"] > 0.5


def test_collectives_of_the_machine_are_predicted_from_it(scenario_file: Path) -> None:
    """Four ranks of data parallelism cost more than one, by the gradients that gloo moved here."""
    overrides = ["cluster.gpus=4", "plan.global_batch_size=8"]
    assert evaluate(load_scenario(scenario_file, overrides)).breakdown_s["dp"] > 0


def test_measuring_again_goes_on_from_the_points(folder: Path, result: dict[str, Any], scenario_file: Path) -> None:
    """The scenario's own shapes are added, nothing is measured twice, and the step is trained beside its prediction."""
    before = Points(folder / "points.jsonl").by_key
    document = run(
        VerbOptions(folder, scenario_file, device="cpu", budget_s=float(NO_END), case_s=0.004, shared=True, step=True)
    )
    assert document["ok"]
    after = Points(folder / "points.jsonl").by_key
    assert all(after[key] == point for key, point in before.items() if point.usable)
    assert len(after) > len(before)
    assert document["prediction"]["step_time_after_s"] > 0
    rows = document["step"]
    assert rows[0]["name"] == "small", "the scenario's own model is trained first"
    assert len(rows) == 5
    assert all(row["step_time_measured_s"] > 0 and abs(row["peak_memory_error_fraction"]) < 0.15 for row in rows)
    assert json.loads((folder / "steps.json").read_text())["rows"] == rows


# ---- the command line


def test_help_needs_no_torch() -> None:
    code = "import sys; import simulator.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0


def test_bad_arguments_are_all_told(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("")
    done = called("--out", str(file), "--device", "tpu", "--import", str(tmp_path / "none.log"))
    assert done.returncode == 2
    for words in ("--device", "none.log", "is a file", "3 problems"):
        assert words in done.stderr


def test_logs_alone_make_a_profile(tmp_path: Path) -> None:
    table = ROOT / "validate/published/collectives.csv"
    done = called("--out", str(tmp_path / "h100"), "--import", str(table), "--part", "h100-sxm-80gb", "--json")
    assert done.returncode == 0, done.stderr
    assert "of other parts left out" in done.stderr
    profile = json.loads(done.stdout)["profile"]
    assert profile["part"] == "h100-sxm-80gb"
    tiny = ROOT / "scenarios/tiny.yaml"
    assert evaluate(load_scenario(tiny, [f"hardware.profile={tmp_path / 'h100'}"])).step_time_s > 0


def test_the_slurm_file_is_written(tmp_path: Path) -> None:
    done = called("--out", str(tmp_path / "p"), "--slurm", "4", "--processes", "8")
    assert done.returncode == 0, done.stderr
    assert "--nodes=4" in (tmp_path / "p" / "calibrate.sbatch").read_text()


def test_the_module_alone_goes_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As torchrun starts it: here one rank, with too little time for a profile; what was measured is kept."""
    arguments = ["--out", str(tmp_path / "p"), "--device", "cpu", "--shared", "--budget", "3", "--case", "0.001"]
    seconds = itertools.count()
    assert main(arguments, clock=lambda: float(next(seconds))) == 1
    told = capsys.readouterr().err
    assert "run again to go on" in told
    assert "no profile yet" in told
    assert len(Points(tmp_path / "p" / "points.jsonl").by_key) == 2, "of three seconds, two were left when one began"
