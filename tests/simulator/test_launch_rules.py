"""Exported Megatron arguments obey Megatron's rules by a checker of their own, for shipped and for drawn plans."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from simulator.launch import Launch, launch
from simulator.plans.layout import parse_layout, stages
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS, drawn
from tests.simulator.megatron_rules import expanded, problems, read

SHIPPED = sorted(SCENARIOS.glob("*.yaml"))
DRAWN = 500


def arguments(made: Launch) -> list[str]:
    """The words of arguments.sh, as a shell reads them."""
    body = made.files["arguments.sh"].partition("ARGUMENTS=(\n")[2].rpartition(")\n")[0]
    return shlex.split(body, comments=True)


def environment(made: Launch) -> dict[str, str]:
    return {each["name"]: each["value"] for each in json.loads(made.files["manifest.json"])["environment"]}


def broken_rules(made: Launch) -> list[str]:
    cluster = made.scenario.cluster
    return problems(arguments(made), made.scenario.plan.gpus, environment(made), cluster.accelerator.generation)


def check_means_the_plan(made: Launch) -> None:
    """The arguments describe the same degrees, batch and split as the plan."""
    plan, model = made.scenario.plan, made.scenario.model
    said = read(arguments(made), plan.gpus, {}, "")
    assert (said.tp, said.cp, said.pp, said.vpp) == (plan.tp, plan.cp, plan.pp, plan.vpp)
    if said.experts:
        assert (said.ep, said.etp) == (plan.ep, plan.etp)
    assert said.microbatches == plan.microbatches
    if said.stages is not None:
        assert said.stages == [stage.symbols for stage in stages(model, plan)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
@pytest.mark.parametrize("to", ["megatron@0.19", "megatron@0.16"])
def test_shipped_scenarios_obey_every_rule(path: Path, to: str) -> None:
    made = launch(load_scenario(path), to, "torchrun", forecast=FORECAST)
    if made.complete:
        assert broken_rules(made) == []
        check_means_the_plan(made)
        return
    assert made.files == {}
    assert made.nearest is not None or path.stem in ("bert-large-64xv100", "gpt3-175b-1024xa100")


@pytest.mark.untraced
def test_drawn_plans_obey_every_rule() -> None:
    said = 0
    for number, scenario in enumerate(drawn(DRAWN)):
        made = launch(scenario, "megatron@0.19", "torchrun", forecast=FORECAST)
        assert made.complete, (number, [each.text for each in made.inexpressible])
        assert broken_rules(made) == [], (number, scenario.name)
        check_means_the_plan(made)
        said += 1
    assert said == DRAWN


NEAR = {
    "deepseek-v3-2048xh800": ("megatron", "bridge", "megatron@0.16"),
    "deepseek-v3-256xgb200": ("megatron@0.16", "torchtitan", "deepspeed"),
    "kimi-k2-10240xh100": ("megatron@0.16",),
    "llama-3.1-405b-16384xh100": ("megatron", "torchtitan"),
    "tiny": ("deepspeed",),
}


@pytest.mark.parametrize(("name", "to"), [(name, to) for name, targets in NEAR.items() for to in targets])
def test_the_nearest_plan_can_be_told(name: str, to: str) -> None:
    """Its overrides make a scenario that loads, is the plan that was meant, and leaves nothing unsaid."""
    path = SCENARIOS / f"{name}.yaml"
    asked = launch(load_scenario(path), to, "torchrun", forecast=FORECAST)
    assert asked.nearest is not None
    near = launch(load_scenario(path, asked.nearest.overrides), to, "torchrun", forecast=FORECAST)
    assert near.complete, [each.text for each in near.inexpressible]
    assert near.scenario.plan == asked.nearest.plan
    if "arguments.sh" in near.files:
        assert broken_rules(near) == []


def test_what_cannot_be_told_is_listed_by_name() -> None:
    asked = launch(load_scenario(SCENARIOS / "deepseek-v3-2048xh800.yaml"), "megatron", forecast=FORECAST)
    assert asked.files == {}
    assert {each.key for each in asked.inexpressible} == {
        "plan.schedule",
        "plan.dispatch_fp8",
        "plan.activation_fp8_input_store",
        "plan.overlap.moe_ep",
        "plan.stack",
    }


def test_the_checker_sees_what_is_wrong() -> None:
    """Each change to a right list breaks the rule that it is about: a checker that never objects proves nothing."""
    made = launch(load_scenario(SCENARIOS / "kimi-k2-10240xh100.yaml"), "megatron", "torchrun", forecast=FORECAST)
    right, env = arguments(made), environment(made)
    changes = {
        "experts % ep": ("--expert-model-parallel-size", "20"),
        "world % (etp ep pp)": ("--expert-tensor-parallel-size", "3"),
        "heads % tp": ("--num-attention-heads", "63"),
        "global batch % (micro batch x dp)": ("--global-batch-size", "15361"),
        "layers of the layout": ("--num-layers", "60"),
        "expert overlap: dispatcher": ("--moe-token-dispatcher-type", "allgather"),
        "positions below the sequence": ("--max-position-embeddings", "2048"),
    }
    for text, (flag, value) in changes.items():
        wrong = list(right)
        wrong[wrong.index(flag) + 1] = value
        assert text in problems(wrong, 10240, env, "hopper"), text
    without_sp = [word for word in right if word != "--sequence-parallel"]
    assert "experts at tp > 1 need sequence parallelism" in problems(without_sp, 10240, env, "hopper")
    without_overlap = [
        word for word in right if word not in ("--overlap-moe-expert-parallel-comm", "--delay-wgrad-compute")
    ]
    assert "one connection before Blackwell" in problems(without_overlap, 10240, {}, "hopper")


@pytest.mark.parametrize("text", ["Et|(tt|)*30mL", "Et*4|(t,t|)*2(t|)*3mL", "E|t*3|L"])
def test_layouts_expand_as_the_simulator_reads_them(text: str) -> None:
    assert tuple(expanded(text).split("|")) == parse_layout(text)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shell_reads_the_arguments_as_they_were_meant(path: Path) -> None:
    scenario: Scenario = load_scenario(path)
    made = launch(scenario, "megatron", "torchrun", forecast=FORECAST, partial=True)
    script = made.files["arguments.sh"] + "\nprintf '%s\\0' \"${ARGUMENTS[@]}\""
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert shell.stdout.split("\0")[:-1] == arguments(made)
