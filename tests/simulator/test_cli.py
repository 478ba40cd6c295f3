"""The command line as a user meets it: its output, its errors, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from simulator.stack import DEFAULT
from tests.command import ROOT, traincast

TINY = ROOT / "scenarios" / "tiny.yaml"


def traincast_process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from simulator.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
    )


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    done = traincast_process("--help")
    assert done.returncode == 0
    for verb in ("compare", "evaluate", "hardware", "models", "schema", "size"):
        assert f"  {verb} " in done.stdout
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, simulator.cli; print(*sys.modules)"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    ).stdout.split()  # fmt: skip
    assert not {"numpy", "pandas", "scipy", "simpy", "networkx", "pydantic", "yaml", "rich.console"} & set(loaded)


def test_json_is_one_document_and_nothing_else(tmp_path: Path) -> None:
    first = traincast_process("evaluate", str(TINY), "--json", "--out", str(tmp_path / "out"))
    assert first.returncode == 0
    assert all(line.startswith("warning: ") for line in first.stderr.splitlines())
    document = json.loads(first.stdout)
    assert document["fits"] is True
    assert (tmp_path / "out" / "result.json").read_text() == first.stdout
    assert traincast_process("evaluate", str(TINY), "--json", PYTHONHASHSEED="7").stdout == first.stdout
    assert traincast("evaluate", str(TINY), "--json").stdout == first.stdout


def test_the_scenario_of_a_published_run_is_printed_and_evaluates(tmp_path: Path) -> None:
    done = traincast("validate", "--scenario", "TT-8b-8-2")
    assert done.returncode == 0
    file = tmp_path / "run.yaml"
    file.write_text(done.stdout)
    document = json.loads(traincast("evaluate", str(file), "--json").stdout)
    assert document["scenario"]["published"]["step_time_s"] == 1.9203
    unknown = traincast("validate", "--scenario", "TT-8b-8-3")
    assert unknown.returncode == 2
    assert "did you mean" in unknown.stderr
    refused = traincast("validate", "--scenario", "OPT-175B")
    assert refused.returncode == 2
    assert "global batch" in refused.stderr


def test_the_report_is_plain_in_a_pipe() -> None:
    done = traincast("evaluate", str(TINY), "--set", "plan.micro_batch_size=4")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "4 micro-batches of 4 on each of 4 replicas" in done.stdout
    ascii_only = traincast_process("evaluate", str(TINY), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert ascii_only.returncode == 0
    assert ascii_only.stdout.isascii()


def test_what_does_not_fit_ends_with_one() -> None:
    done = traincast("evaluate", str(TINY), "--set", "plan.micro_batch_size=16", "--set", "run.seq_length=131072")
    assert done.returncode == 1
    assert "does not fit" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "scenarios/tinny.yaml"], "did you mean scenarios/tiny.yaml?"),
        (["evaluate", "scenarios"], "is a directory"),
        (["evaluate", str(TINY), "--set", "plan.tpp=2"], "--set plan.tpp=2: plan.tpp: 'tpp' is not known"),
        (["evaluate", str(TINY), "--set", "plan.pp=3", "--set", "cluster.node=h9"], "2 problems; nothing was run"),
        (["evaluate", str(TINY), "--out", str(TINY)], "cannot be written"),
        (["evaluate"], "Missing argument"),
        (["evaluat", str(TINY)], "evaluat"),
        (["models", "deepseek-v33"], "did you mean deepseek-v3"),
        (["hardware", "h1000"], "did you mean"),
        (["schema", "evaluat"], "did you mean evaluate"),
    ],
)
def test_bad_input_ends_with_two_and_no_traceback(arguments: list[str], words: str) -> None:
    done = traincast(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_catalogues_list_and_show() -> None:
    assert "deepseek-v3 " in traincast("models").stdout
    shown = json.loads(traincast("models", "deepseek-v3", "--json").stdout)
    assert [stack["repeat"] for stack in shown["layers_in_order"]] == [3, 58]
    assert "ndr-rail-2tier" in traincast("hardware").stdout
    parts = json.loads(traincast("hardware", "h800", "--json").stdout)["parts"]
    assert [part["kind"] for part in parts] == ["accelerator", "node"]
    assert json.loads(traincast("schema", "scenario").stdout)["title"] == "traincast scenario"


def test_a_network_is_shown_with_cost_and_power_or_refused_by_name(tmp_path: Path) -> None:
    shown = traincast("hardware", "show", "h100-1024").stdout
    for words in ("32 switches", "bisection 25.6 TB/s", "diameter 4 links", "cost 4.603 million USD (assumed", "power"):
        assert words in shown
    refused = traincast("hardware", "show", "h100-1024", "--fabric", "azure-mrc")
    assert refused.returncode == 2
    assert refused.stderr.startswith("--fabric: fabric azure-mrc: 8 planes")
    nodes = [{"id": name, "kind": "leaf" if name == "s" else "gpu"} for name in "abs"]
    links = [{"source": name, "target": "s", "bandwidth": "400 Gb/s", "latency": "1 us"} for name in "ab"]
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps({"nodes": nodes, "links": links}))
    assert "2 GPUs, 1 switches" in traincast("hardware", "show", str(graph)).stdout
    graph.write_text(json.dumps({"nodes": nodes, "links": links[:1]}))
    refused = traincast("hardware", "show", str(graph))
    assert (refused.returncode, "not connected: b cannot reach a" in refused.stderr) == (2, True)


def test_the_report_names_the_bottleneck_of_the_network() -> None:
    shown = traincast("evaluate", str(TINY)).stdout
    assert "Network  busiest: within domains" in shown
    assert "GPU to leaf" in shown


HOPELESS = "run.failures={base: llama-3, rate_multiplier: 100000}"


def test_alternatives_are_a_table_and_a_key() -> None:
    few = ["--set", "run.simulation={runs: 4}"]
    assert "What would change" in traincast("evaluate", str(TINY), "--alternatives", *few).stdout
    rows = json.loads(traincast("evaluate", str(TINY), "--alternatives", "--json", *few).stdout)["alternatives"]
    assert rows[0]["kind"] == "planned"
    assert {"interval", "spares", "policy", "restart"} <= {row["kind"] for row in rows}


def test_a_hopeless_run_ends_with_one_and_a_document_that_keeps_its_contract() -> None:
    import jsonschema

    done = traincast("evaluate", str(ROOT / "scenarios" / "kimi-k2-10240xh100.yaml"), "--set", HOPELESS, "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["fits"] is True
    assert document["run"]["finish_s"]["p50"] is None
    jsonschema.validate(document, json.loads(traincast("schema", "evaluate").stdout))


def test_the_progress_bar_shows_on_terminals_and_only_for_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from simulator.cli.common import progress_bar

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for pieces, drawn in (((1, 2), True), ((2,), False)):
        monkeypatch.setattr(sys, "stderr", Terminal())
        with progress_bar("runs") as told:
            assert told is not None
            for piece in pieces:
                told(piece, 2)
        assert ("runs" in sys.stderr.getvalue()) is drawn
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress_bar("runs") as told:
        assert told is None


def test_a_stack_says_what_is_assumed_overruled_and_impossible() -> None:
    eager = json.loads(traincast("stacks", "show", "torchtitan-0.3", "--json").stdout)["behaviours"]
    assert eager["dropout"]["assumed"]
    assert not eager["sharding_engine"]["assumed"]
    assert "own_loss runs" in eager["fused_loss"]["overruled"]
    text = " ".join(traincast("stacks", "show", "pytorch-ddp-2021").stdout.split())
    assert "pp: torch.nn.parallel.DistributedDataParallel has no pipeline" in text


def test_stacks_are_listed_and_shown_with_their_sources() -> None:
    import jsonschema

    listing = json.loads(traincast("stacks", "--json").stdout)["stacks"]
    assert [each["name"] for each in listing if each["default"]] == [DEFAULT]
    shown = json.loads(traincast("stacks", "show", "torchtitan-2024-12", "--json").stdout)
    assert shown["behaviours"]["joint_ends"]["value"] is True
    assert "9dec370" in shown["behaviours"]["joint_ends"]["source"]
    schema = json.loads(traincast("schema", "stacks").stdout)
    jsonschema.validate({"stacks": listing}, schema)
    jsonschema.validate(shown, schema)
    assert "torchtitan-2024-12" in traincast("stacks").stdout
    refused = traincast("stacks", "torchtitan-2024")
    assert refused.returncode == 2
    assert "did you mean torchtitan-2024-12" in refused.stderr


def test_a_matrix_of_nvidia_smi_is_shown(tmp_path: Path) -> None:
    matrix = tmp_path / "server.txt"
    matrix.write_text("\tGPU0\tGPU1\nGPU0\t X \tNV12\nGPU1\tNV12\t X \n")
    assert "2 links of 300 GB/s" in traincast("hardware", "show", str(matrix)).stdout


def test_collective_takes_an_operation_before_or_after_its_options_and_refuses_unknown_ones() -> None:
    sizes = ("--gpus", "16", "--min", "1MiB", "--max", "4MiB", "--json")
    after = traincast("collective", "--cluster", "h100-64", "all_reduce", *sizes)
    before = traincast("collective", "all_reduce", "--cluster", "h100-64", *sizes)
    assert before.returncode == 0
    assert before.stdout == after.stdout
    assert [row["size_bytes"] for row in json.loads(before.stdout)["rows"]] == [2**20, 2**21, 2**22]
    wrong = traincast("collective", "all_redcue", "--cluster", "h100-64", "--gpus", "16")
    assert wrong.returncode == 2
    assert "did you mean all_reduce" in wrong.stderr


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--gpus", "0"), "--gpus"),
        (("--gpus", "2", "--stride", "0"), "--stride"),
        (("--gpus", "64", "--compression", "int8", "--keep", "0.5"), "nothing to keep"),
        (("--gpus", "64", "--compression", "powersgd", "--keep", "1e8"), "beyond the sides"),
    ],
)
def test_collective_gradients_of_nothing_are_refused(more: tuple[str, ...], words: str) -> None:
    done = traincast("collective", "gradients", "--cluster", "h100-64", "--layers", "1MiB", *more)
    assert done.returncode == 2
    assert words in done.stderr


def test_a_layout_that_is_chosen_later_is_no_problem_beside_another() -> None:
    done = traincast("evaluate", "scenarios/tiny.yaml", "--set", "plan.layout=auto", "--set", "cluster.pue=0.5")
    assert done.returncode == 2
    assert "layout" not in done.stderr
    assert "1 problem" in done.stderr


def test_collective_gradients_prints_buckets_and_what_is_exposed() -> None:
    what = ("collective", "gradients", "--cluster", "h100-64", "--gpus", "64", "--layers", "1MiB,2x30MiB")
    document = json.loads(traincast(*what, "--backward", "10 ms", "--json").stdout)
    assert [row["tensors"] for row in document["rows"]] == [1, 1, 1]
    assert document["size_bytes"] == 61 * 2**20
    assert document["exposed_s"] == document["rows"][-1]["exposed_s"] > 0
    table = traincast(*what, "--backward", "10 ms", "--compression", "powersgd", "--scheme", "horovod")
    assert table.returncode == 0
    assert "gradients by horovod, compression powersgd, 64 ranks" in table.stdout
    assert "busbw" in table.stdout
    assert traincast(*what, "--scheme", "push_pull", "--compression", "fp8").returncode == 2
    assert "write e.g. 64MiB,32x400MiB" in traincast(*what, "--layers", "ax3MiB").stderr


def test_a_full_stdout_is_no_answer() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from simulator.cli import main; main()", "evaluate", str(TINY)],
            stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    assert done.returncode == 70
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_of_the_program_is_no_answer() -> None:
    broken = "import simulator.scenario.schema as s; s.load_scenario = lambda *a: 1 / 0; "
    done = subprocess.run(
        [sys.executable, "-c", broken + "from simulator.cli import main; main()", "evaluate", str(TINY)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 70
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_terminal_is_not_steered_by_names() -> None:
    done = traincast("evaluate", str(TINY), "--set", 'name="a\\e[31mb"')
    assert "\x1b" not in done.stdout
    assert "a\\x1b[31mb" in done.stdout
