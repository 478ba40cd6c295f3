"""The files of a launch: shells and parsers read them, hostile names stay text, nothing is overwritten or half made."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from hardware.problems import InputError
from simulator.launch import SCHEDULERS, TARGETS, Launch, launch, write_launch
from simulator.launch.environment import variables
from simulator.launch.tables import MISSING, as_text, table, table_names
from simulator.launch.text import job_name
from simulator.scenario.schema import Scenario, load_scenario
from tests.command import traincast
from tests.simulator.launch_draws import FORECAST, SCENARIOS

# A virtual environment's own, or the machine's.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
SHIPPED = sorted(SCENARIOS.glob("*.yaml"))
OBJECTS = json.loads((Path(__file__).parent / "data" / "kubernetes_objects.schema.json").read_text())
HOSTILE = (
    "x'\"`; $(touch pwned) ${HOME} \\ \n#SBATCH --nodes=1\n'''\"\"\" - {a: b} | & \u2028 %x #\t\x07 \r\n: *y "
    "!!python/name:os.system"
)


def made(path: Path, to: str, on: str, overrides: tuple[str, ...] = ()) -> Launch:
    return launch(load_scenario(path, overrides), to, on, partial=True, forecast=FORECAST)


def tiny(to: str = "megatron", on: str = "slurm") -> Launch:
    return made(SCENARIOS / "tiny.yaml", to, on)


def hostile_scenario() -> Scenario:
    base = load_scenario(SCENARIOS / "tiny.yaml")
    model = replace(base.model, name=HOSTILE, source=HOSTILE)
    written = {**base.written, "question": HOSTILE, "name": HOSTILE}
    return replace(base, name=HOSTILE, question=HOSTILE, source=HOSTILE, model=model, written=written)


@pytest.mark.parametrize(("modules", "told"), [("[core_attn, moe_act]", True), ("[whole_layer]", False)])
@pytest.mark.parametrize("to", ["megatron", "bridge"])
def test_values_that_a_target_lacks_are_named(to: str, modules: str, told: bool) -> None:
    overrides = ("plan.offload.activation=100%", f"plan.offload.modules={modules}")
    refused = {each.key: each for each in made(SCENARIOS / "tiny.yaml", to, "slurm", overrides).inexpressible}
    assert ("plan.offload.modules" in refused) is not told


# -- what reads them --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shells_and_parsers_read_every_file(path: Path, to: str, tmp_path: Path) -> None:
    for on in SCHEDULERS:
        folder = tmp_path / on
        write_launch(made(path, to, on), folder)
        scripts = [str(each) for each in folder.iterdir() if each.suffix in (".sh", ".sbatch")]
        for script in scripts:
            subprocess.run(["bash", "-n", script], check=True)
        if SHELLCHECK:
            subprocess.run([SHELLCHECK, *scripts], check=True)
        for each in folder.iterdir():
            if each.suffix == ".py":
                ast.parse(each.read_text())
            if each.suffix == ".json":
                json.loads(each.read_text())
            if each.suffix == ".yaml":
                list(yaml.safe_load_all(each.read_text()))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_kubernetes_objects_have_the_published_fields(path: Path) -> None:
    files = made(path, "megatron", "kubernetes").files
    documents = [each for name in ("trainjob.yaml", "jobset.yaml") for each in yaml.safe_load_all(files[name])]
    assert [each["kind"] for each in documents] == ["TrainingRuntime", "TrainJob", "JobSet"]
    for document in documents:
        jsonschema.validate(document, OBJECTS)


def test_the_schema_refuses_what_kubernetes_does_not_know() -> None:
    (job_set,) = yaml.safe_load_all(tiny(on="kubernetes").files["jobset.yaml"])
    job_set["spec"]["replicas"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job_set, OBJECTS)


def test_every_setting_names_a_key_of_the_scenario() -> None:
    for to in TARGETS:
        document = json.loads(tiny(to).files["manifest.json"])
        for setting in document["settings"]:
            assert re.fullmatch(r"(plan|run|model)\.[\w.]+|model", setting["key"]), setting
    arguments = tiny().files["arguments.sh"]
    assert "--tensor-model-parallel-size 1  # plan.tp = 1\n" in arguments


def test_the_manifest_ties_files_to_scenario_and_prediction() -> None:
    launched = tiny()
    document = json.loads(launched.files["manifest.json"])
    assert document["prediction"]["step_time_s"] == FORECAST.step_time_s
    for name, sha256 in document["files"].items():
        assert hashlib.sha256(launched.files[name].encode()).hexdigest() == sha256
    assert set(launched.files) == {*document["files"], "manifest.json"}
    assert document["scenario"]["sha256"] == document["files"]["scenario.yaml"]


def test_the_scenario_in_the_folder_is_launched_alike(tmp_path: Path) -> None:
    first = made(SCENARIOS / "kimi-k2-10240xh100.yaml", "megatron", "slurm")
    write_launch(first, tmp_path / "run")
    again = made(tmp_path / "run" / "scenario.yaml", "megatron", "slurm")
    assert again.files["arguments.sh"] == first.files["arguments.sh"]
    assert again.files["job.sbatch"] == first.files["job.sbatch"]


# -- hostile names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on", SCHEDULERS)
@pytest.mark.parametrize("to", TARGETS)
def test_hostile_names_stay_text(to: str, on: str, tmp_path: Path) -> None:
    launched = launch(hostile_scenario(), to, on, partial=True, forecast=FORECAST)
    write_launch(launched, tmp_path / "run")
    plain = tiny(to, on)
    assert set(launched.files) == set(plain.files)
    for name in launched.files:
        if name.endswith((".sh", ".sbatch")):
            renamed = re.sub(r"\btiny\b", job_name(HOSTILE), code_lines(plain.files[name]))
            assert code_lines(launched.files[name]) == renamed, name
    sourced = [name for name in ("arguments.sh", "environment.sh", "fill_in.sh") if name in launched.files]
    script = "; ".join(f"source run/{name}" for name in sourced)
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True)
    assert not (tmp_path / "pwned").exists()
    assert yaml.safe_load(launched.files["scenario.yaml"])["name"] == HOSTILE
    if "recipe.py" in launched.files:
        same = ast.dump(ast.parse(launched.files["recipe.py"]))
        assert same == ast.dump(ast.parse(plain.files["recipe.py"]))


def code_lines(script: str) -> str:
    """A script without its comments, but for those that Slurm reads."""
    lines = [line for line in script.split("\n") if not line.startswith("#") or line.startswith("#SBATCH")]
    return "\n".join(line.partition("  # ")[0] for line in lines)


@pytest.mark.parametrize("name", ["", "___", "9 lives", "A" * 200, "né", HOSTILE, "a-"])
def test_job_names_are_labels(name: str) -> None:
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", job_name(name))


# -- writing ----------------------------------------------------------------------------------------------------------


def test_an_existing_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists"):
        write_launch(tiny(), tmp_path / "run")
    assert [each.name for each in tmp_path.rglob("*")] == ["run", "mine.txt"]


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Path.write_text

    def fails(path: Path, text: str, **options: str) -> int:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        return written(path, text, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(InputError, match="no space left"):
        write_launch(tiny(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_exit_codes(tmp_path: Path) -> None:
    path = str(SCENARIOS / "tiny.yaml")
    done = traincast("launch", path, "--to", "megatron", "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "job.sbatch").is_file()
    again = traincast("launch", path, "--to", "megatron", "--out", str(tmp_path / "run"))
    assert again.returncode == 2
    assert "exists" in again.stderr
    refused = traincast("launch", path, "--to", "deepspeed", "--on", "torchrun", "--out", str(tmp_path / "ds"))
    assert refused.returncode == 1
    assert "plan.pp = 2" in refused.stdout
    assert "--set 'plan.pp=1'" in refused.stdout
    assert not (tmp_path / "ds").exists()
    partial = traincast(
        "launch", path, "--to", "deepspeed", "--on", "torchrun", "--out", str(tmp_path / "ds"), "--partial", "--json"
    )
    assert partial.returncode == 0, "the files that were asked for were written"
    assert json.loads(partial.stdout)["complete"] is False
    assert "warning: left out plan.pp = 2: JSON has no pipelines" in partial.stderr
    assert "| `plan.pp` | `2` |" in (tmp_path / "ds" / "README.md").read_text()
    assert (tmp_path / "ds" / "ds_config.json").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--to", "megatrn"), "megatron"), (("--to", "megatron@0.17"), "megatron@0.16"), (("--on", "lsf"), "slurm")],
)
def test_unknown_targets_and_schedulers_name_the_known(options: tuple[str, str], said: str, tmp_path: Path) -> None:
    chosen = {"--to": "megatron", "--out": str(tmp_path / "run"), **dict([options])}
    words = [word for pair in chosen.items() for word in pair]
    done = traincast("launch", str(SCENARIOS / "tiny.yaml"), *words)
    assert done.returncode == 2
    assert said in done.stderr


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", table_names())
def test_every_key_of_a_plan_is_spoken_of(name: str) -> None:
    """A plan's key is a setting, fixed, or no setting at all: none is dropped in silence."""
    from simulator.launch.facts import plan_facts

    scenario = load_scenario(SCENARIOS / "kimi-k2-10240xh100.yaml")
    facts = plan_facts(scenario.model, scenario.plan, scenario.run.seq_length)
    derived = {"plan.microbatches", "plan.local_batch_size", "plan.optimizer_instances", "plan.stage_modules"}
    derived |= {"plan.precision_aware_optimizer", "plan.shards", "plan.replicas", "plan.bf16_ends", "plan.filter_fqns"}
    own = {key for key in facts if not key.startswith(("plan.stack.", "plan.compile."))} - derived
    assert own - table(name).keys == set()


@pytest.mark.parametrize("name", table_names())
def test_no_row_contradicts_itself(name: str) -> None:
    for row in table(name).rows:
        assert row.words is None or row.words, row.name
        assert not (row.always and row.import_only), row.name
        assert row.words is None or row.default is MISSING or as_text(row.default) in {*row.words, "null"}, row.name


def test_every_variable_has_a_reason() -> None:
    for each in variables():
        assert len(each.why) > 40, each.name
        assert each.why.endswith("."), each.name


def test_a_setting_that_says_no_key_has_its_own_reason() -> None:
    """No line of arguments stands beside a key that it does not say."""
    made = launch(load_scenario(SCENARIOS / "tiny.yaml"), "megatron", forecast=FORECAST)
    lines = {
        line.split()[0]: line.partition("  # ")[2] for line in made.files["arguments.sh"].splitlines() if "--" in line
    }
    assert lines["--log-throughput"] == "prints TFLOP/s per GPU beside each step's time"
    assert lines["--rerun-mode"].startswith("a step whose loss is NaN is run again")
    assert lines["--exit-signal-handler"].startswith("saves and ends when the scheduler says")
    assert "`--log-throughput` | (flag) | prints TFLOP/s per GPU" in made.files["README.md"]


def test_the_loss_of_a_release_is_the_one_that_it_runs() -> None:
    """Core 0.19 refuses Transformer Engine's loss (arguments.py) and runs its own fused one; 0.16 runs either."""
    own, engine = "plan.stack.fused_loss=false", "plan.stack.fused_loss=true"
    said = {}
    for to, loss in ((to, loss) for to in ("megatron@0.19", "megatron@0.16") for loss in (own, engine)):
        stack = f"plan.stack.base={to.replace('megatron@', 'megatron-core-')}"
        launched = launch(load_scenario(SCENARIOS / "tiny.yaml", [stack, loss]), to, forecast=FORECAST)
        lines = launched.files.get("arguments.sh", "").splitlines()
        said[to, loss] = [line.split()[1] for line in lines if "--cross-entropy-fusion-impl" in line]
        if not launched.complete:
            said[to, loss] = [each.why for each in launched.inexpressible]
            assert launched.nearest is not None
            assert launched.nearest.overrides == [own]
    assert said["megatron@0.19", own] == said["megatron@0.16", own] == ["native"]
    assert said["megatron@0.16", engine] == ["te"]
    assert "refuses Transformer Engine's loss" in said["megatron@0.19", engine][0]
