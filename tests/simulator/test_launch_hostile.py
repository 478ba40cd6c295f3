"""Whatever a scenario's strings hold, launch files stay what they are; no secret of a launch is imported."""

from __future__ import annotations

import ast
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.launch import SCHEDULERS, TARGETS, Launch, launch, write_launch
from simulator.launch.importing.importer import import_launch
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS
from tests.simulator.test_launch_files import code_lines

# What shells, YAML, Python, jinja2, Markdown, Hydra and Slurm give a meaning to.
MEANINGFUL = "'\"`$(){}[]|&;<>\\\n\r\t\x00\x07\x85\u2028\u2029 #%!:*?-=~^@,/aZ9é字"
WORDS = ("$(touch pwned)", "`touch pwned`", "{{ 7 * 7 }}", "{% raw %}", "'''", '"""', "\nEOF\n", "\n#SBATCH -n1",
         "a  # b", "!!python/name:os.system", "${HOME}", "; exit 1", "../../x", "--flag", "\n- x: y")  # fmt: skip
HOSTILE = st.lists(st.one_of(st.text(MEANINGFUL, max_size=8), st.sampled_from(WORDS)), min_size=1, max_size=4).map(
    "".join
)


@pytest.fixture(scope="module")
def plain() -> Scenario:
    return load_scenario(SCENARIOS / "tiny.yaml")


def named(base: Scenario, name: str, text: str) -> Scenario:
    """The scenario with every string that its writer is free to choose replaced."""
    node = replace(base.cluster.node, name=text)
    cluster = replace(base.cluster, node=node, fabric=replace(base.cluster.fabric, name=text))
    model = replace(base.model, name=text, source=text)
    written = {**base.written, "name": name, "question": text, "source": text}
    return replace(
        base, name=name, question=text, source=text, model=model, cluster=cluster, written=written, file=f"{name}.yaml"
    )


def check_files(made: Launch, other: Launch, folder: Path) -> None:
    """Every file is read by what reads it, and a shell that sources them does nothing else than for `other`."""
    write_launch(made, folder / "run")
    scripts = [name for name in made.files if name.endswith((".sh", ".sbatch"))]
    sourced = [name for name in ("arguments.sh", "environment.sh", "fill_in.sh") if name in made.files]
    checks = [f"bash -n run/{name}" for name in scripts] + [f"source run/{name}" for name in sourced]
    subprocess.run(["bash", "-ec", "\n".join(checks)], cwd=folder, check=True)
    assert [each.name for each in folder.iterdir()] == ["run"]
    for name, text in made.files.items():
        if name.endswith(".yaml"):
            assert list(yaml.safe_load_all(text))
        if name.endswith(".json"):
            json.loads(text)
        if name.endswith(".py"):
            assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(other.files[name]))
        if name in sourced:
            assert code_lines(text) == code_lines(other.files[name])


@pytest.mark.parametrize("to", TARGETS)
@settings(deadline=None, max_examples=20)
@given(name=HOSTILE, text=HOSTILE, on=st.sampled_from(sorted(SCHEDULERS)))
def test_strings_of_a_scenario_stay_strings(plain: Scenario, to: str, name: str, text: str, on: str) -> None:
    made = launch(named(plain, name, text), to, on, partial=True, forecast=FORECAST)
    other = launch(plain, to, on, partial=True, forecast=FORECAST)
    with tempfile.TemporaryDirectory() as folder:
        check_files(made, other, Path(folder))
    back = yaml.safe_load(made.files["scenario.yaml"])
    assert (back["name"], back["question"], back["source"]) == (name, text, text)
    assert json.loads(made.files["manifest.json"])["scenario"]["name"] == name


NAMES = st.sampled_from(
    (
        "WANDB_API_KEY",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "PASSWORD",
        "NGC_API_KEY",
        "GITHUB_TOKEN",
        "MY_SETTING",
        "MODEL",
    )
)
SECRETS = st.text("abcdefghijkXYZ0123456789_-", min_size=12, max_size=40).map(lambda text: f"s3cr3t{text}")


def launch_files(name: str, secret: str) -> dict[str, str]:
    """The same secret in every form of launch that is read, beside settings that are."""
    argument = "--" + name.lower().replace("_", "-")
    flat = {"tensor_model_parallel_size": 2, "micro_batch_size": 1, name.lower(): secret}
    return {
        "config_DGXH100.sh": f"export {name}={secret}\nexport TENSOR_MODEL_PARALLEL=2\nexport DGXNNODES=2\n"
        f"export DATA_URL=https://user:{secret}@host/x\n",
        "run.sbatch": f"#SBATCH --nodes=2\n#SBATCH --comment={secret}\nexport {name}='{secret}'\n"
        f"srun python pretrain_gpt.py --tensor-model-parallel-size 2 {argument} {secret} --save /x/{secret}\n",
        "job.log": "".join(
            f"  {key} .................. {value}\n" for key, value in {**flat, "num_layers": 4, "seq_length": 8}.items()
        ),
        "ds.json": json.dumps(
            {
                "train_micro_batch_size_per_gpu": 1,
                "wandb": {"key": secret},
                "zero_optimization": {"stage": 1},
                name: secret,
            }
        ),
        "primus.yaml": yaml.safe_dump({"modules": {"pre_trainer": {"framework": "megatron", "overrides": flat}}}),
        "llama3.toml": f"[training]\nlocal_batch_size = 1\nseq_len = 8\n[parallelism]\ntensor_parallel_degree = 2\n"
        f'[metrics]\n{name.lower()} = "{secret}"\n',
        "recipe.py": f'import os\nos.environ["{name}"] = "{secret}"\ncfg.model.tensor_model_parallel_size = 2\n'
        f'cfg.logger.{name.lower()} = "{secret}"\n',
    }


@settings(deadline=None, max_examples=20)
@given(name=NAMES, secret=SECRETS)
def test_no_secret_of_a_launch_reaches_the_scenario(name: str, secret: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for file, text in launch_files(name, secret).items():
            path = Path(folder) / file
            path.write_text(text)
            found = import_launch([path])
            assert secret not in found.text, file
            assert not any(secret in note for note in found.notes), file
