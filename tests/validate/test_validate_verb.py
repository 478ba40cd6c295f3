"""`traincast validate`: a table of one's own beside its predictions, as text and as a document."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from simulator.report.document import document_schema
from tests.command import traincast
from validate.columns_cells import COLUMNS

MINIMAL = {"id": "T-1", "model_name": "Llama-3.1-8B", "seq_len": "8192", "gpu_type": "H100-80G SXM", "n_gpus": "8",
           "tp": "1", "cp": "2", "pp": "1", "dp": "4", "micro_batch": "1", "global_batch_sequences": "128",
           "precision": "bf16", "measured_step_time_s": "10", "dense_or_moe": "dense"}  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A run with time and memory, the same measured twice as slow, one of quality C, and one on an unknown part."""
    path = tmp_path / "runs.csv"
    rows = [
        {"measured_peak_memory_GiB": "40"},
        {"id": "T-2", "measured_step_time_s": "20"},
        {"id": "T-3", "measured_step_time_s": "1000", "quality": "C"},
        {"id": "T-4", "gpu_type": "TPU v5p"},
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(MINIMAL | row for row in rows)
    return path


def test_the_document_has_every_row_and_counts_those_of_known_layout(table: Path) -> None:
    done = traincast("validate", "--runs", str(table), "--processes", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, document_schema("validate"))
    rows = {(row["id"], row["quantity"]): row for row in document["rows"]}
    assert len(rows) == 5
    first, second = rows["T-1", "step_time_s"], rows["T-2", "step_time_s"]
    assert first["predicted"] == second["predicted"]
    assert first["error_fraction"] == pytest.approx(first["predicted"] / 10 - 1)
    low, high = first["interval"]
    assert low < first["predicted"] < high
    assert sum(first["breakdown_s"].values()) == pytest.approx(first["predicted"])
    assert rows["T-1", "peak_memory_bytes"]["measured"] == 40 * 2**30
    assert rows["T-1", "peak_memory_bytes"]["interval"] is None
    refused = rows["T-4", "step_time_s"]
    assert (refused["status"], refused["predicted"], refused["interval"]) == ("unsupported", None, None)
    assert "TPU v5p" in refused["reason"]
    # The row of quality C, off by a factor of a hundred, does not count.
    summary = document["summary"]
    assert (summary["n"], summary["supported"]) == (3, 2)
    assert summary["bias"] == pytest.approx((first["error_fraction"] + second["error_fraction"]) / 2)
    assert document["memory_summary"]["n"] == 1


def test_the_text_has_a_line_to_a_row_and_the_summary_by_group(table: Path) -> None:
    document = json.loads(traincast("validate", "--runs", str(table), "--processes", "1", "--json").stdout)
    lines = traincast("validate", "--runs", str(table), "--processes", "1").stdout.splitlines()
    row = document["rows"][0]
    assert lines[1].split() == ["T-1", "step", "time", "s", "10", f"{row['predicted']:.4g}",
                                f"{100 * row['error_fraction']:+.1f}%"]  # fmt: skip
    memory = next(line for line in lines if "peak memory GiB" in line)
    assert memory.split()[4] == "40"
    assert any(line.startswith("T-4 ") and "unsupported: " in line for line in lines)
    assert "step time: 2 of 3 supported" in lines
    assert "peak memory: 1 of 1 supported" in lines
    assert "  gpu TPU                         1 rows, none supported" in lines
    assert f"bias {100 * document['summary']['bias']:+6.1f}%" in lines[lines.index("step time: 2 of 3 supported") + 1]


def test_one_table_at_a_time(table: Path) -> None:
    done = traincast("validate", "--runs", str(table), "--collectives", "published")
    assert (done.returncode, done.stdout) == (2, "")
    assert "one at a time" in done.stderr
    done = traincast("validate", "--plot", "sweeps.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--plot needs --collectives" in done.stderr


def test_rows_in_scenario_keys_that_cannot_be_read_end_with_two(tmp_path: Path) -> None:
    """After the table of the others."""
    path = tmp_path / "own.csv"
    path.write_text(
        "id,model,cluster.gpus,cluster.node,cluster.fabric,run.seq_length,plan.micro_batch_size,plan.global_batch_size,"
        "plan.precision,measured.step_time_s\n"
        "A-1,llama-3.1-8b,8,hgx-h100,none,8192,1,128,bf16,10\n"
        "A-2,llama-9,8,hgx-h100,none,8192,1,128,bf16,10\n"
    )
    done = traincast("validate", "--runs", str(path), "--processes", "1", "--json")
    assert done.returncode == 2
    assert [row["status"] for row in json.loads(done.stdout)["rows"]] == ["ok", "unsupported"]
    assert f"{path}: line 3, model: 'llama-9' is not known" in done.stderr


def test_the_scenario_of_a_row_is_yaml_or_json() -> None:
    text = traincast("validate", "--scenario", "TT-8b-8-2").stdout
    document = json.loads(traincast("validate", "--scenario", "TT-8b-8-2", "--json").stdout)
    assert document == yaml.safe_load(text)


def test_files_that_cannot_be_read_end_with_two(tmp_path: Path) -> None:
    for option in ("--runs", "--collectives", "--failures"):
        done = traincast("validate", option, str(tmp_path / "none.csv"))
        assert (done.returncode, done.stdout) == (2, ""), option
        assert "none.csv" in done.stderr, option
        assert "Errno" not in done.stderr, option
