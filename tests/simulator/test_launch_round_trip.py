"""Launches imported again are the plan that was launched: drawn plans and shipped scenarios, for every target.

A plan that a target cannot be told is replaced by the nearest that it can. What no setting of a target says (`free` in
its table) is left out of the comparison, as are values that act on nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulator.launch import Launch, launch
from simulator.launch.facts import plan_facts
from simulator.launch.importing.importer import import_launch
from simulator.launch.tables import Table
from simulator.model.catalogue import load, names
from simulator.plans.layout import stages
from simulator.plans.spec import Plan
from simulator.scenario.schema import Scenario, load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS, acting, base, drawn
from tests.simulator.test_launch_rules import broken_rules

DRAWN, DRAWN_SLOWLY = 40, 500


@dataclass(frozen=True)
class Way:
    """A target, and the file of its launch that is imported again."""

    to: str
    file: str
    # What the files of this target leave to the training script.
    gives_model: bool = False


WAYS = {
    "megatron": Way("megatron@0.19", "arguments.sh"),
    "megatron-0.16": Way("megatron@0.16", "arguments.sh"),
    "bridge-overrides": Way("bridge", "overrides.txt"),
    "bridge-recipe": Way("bridge", "recipe.py"),
    "torchtitan": Way("torchtitan", "recipe.py"),
    "deepspeed": Way("deepspeed", "ds_config.json", gives_model=True),
}
# Shipped scenarios that a target can be told neither as they are nor nearly: why stands in its answer.
NOWHERE_NEAR = {
    "megatron": ("bert-large-64xv100", "gpt3-175b-1024xa100"),
    "megatron-0.16": ("bert-large-64xv100", "gpt3-175b-1024xa100"),
    "bridge-overrides": ("bert-large-64xv100", "gpt3-175b-1024xa100", "tiny"),
    "bridge-recipe": ("bert-large-64xv100", "gpt3-175b-1024xa100", "tiny"),
    "torchtitan": (
        "bert-large-64xv100",
        "deepseek-v3-2048xh800",
        "gpt3-175b-1024xa100",
        "gpt3-175b-v100",
        "kimi-k2-10240xh100",
        "tiny",
    ),
    "deepspeed": ("deepseek-v3-2048xh800",),
}


def told(way: Way, scenario: Scenario) -> Launch:
    """The launch of a scenario, or of the nearest plan that the target can be told."""
    made = launch(scenario, way.to, "torchrun", forecast=FORECAST)
    if made.nearest is None:
        return made
    return launch(replace(scenario, plan=made.nearest.plan), way.to, "torchrun", forecast=FORECAST)


def again(way: Way, made: Launch, folder: Path) -> Scenario:
    """What import makes of the launch's file."""
    (folder / way.file).write_text(made.files[way.file])
    cluster = made.scenario.cluster
    given = [
        f"cluster.gpus={cluster.gpus}",
        f"cluster.node={cluster.node.name}",
        f"cluster.fabric={cluster.fabric.name}",
    ]
    if way.gives_model:
        given.append(f"run.seq_length={made.scenario.run.seq_length}")
        written = yaml.safe_load(made.files["scenario.yaml"])["model"]
        name = made.scenario.model.name
        given.append(f"model={name if name in names() else json.dumps(written)}")
    (folder / "again.yaml").write_text(import_launch([folder / way.file], given).text)
    return load_scenario(folder / "again.yaml")


def meant(scenario: Scenario, table: Table) -> dict[str, Any]:
    """The plan by key, as far as it acts and the target's settings say it, and the layers of every stage."""
    plan = acting(scenario)
    facts = plan_facts(scenario.model, plan, scenario.run.seq_length)
    free = {each.key for each in table.fixed.values() if each.free}
    unsaid = {*free, "plan.expert_imbalance", "plan.compile.enable", "plan.compile.components"}
    said = {key: value for key, value in facts.items() if key not in unsaid and not key.startswith("plan.stack.")}
    if table.syntax == "python" and plan.dp * plan.cp == 1:
        del said["plan.sharding"]  # FSDP of one rank shards nothing
    return said | {"stages": tuple(stage.symbols for stage in stages(scenario.model, plan))}


def check_round(way: Way, made: Launch, folder: Path) -> None:
    back = again(way, made, folder)
    assert meant(back, made.table) == meant(made.scenario, made.table)
    assert back.run.seq_length == made.scenario.run.seq_length
    if way.file == "arguments.sh":
        assert back.model.layers == made.scenario.model.layers
        assert back.model.mtp == made.scenario.model.mtp
        assert broken_rules(made) == []


def launches(way: Way, count: int) -> Iterator[Launch]:
    """As many launches of drawn plans as asked for, without those that have no plan near."""
    every = (told(way, scenario) for scenario in drawn(4 * count))
    complete = (made for made in every if made.complete)
    for _, made in zip(range(count), complete, strict=False):
        yield made


def check_drawn(name: str, expected: int, folder: Path) -> None:
    """So many drawn plans come back from the launch files of one target."""
    count = 0
    for made in launches(WAYS[name], expected):
        check_round(WAYS[name], made, folder)
        count += 1
    assert count == expected


@pytest.mark.untraced
@pytest.mark.parametrize("name", WAYS)
def test_drawn_plans_come_back(name: str, tmp_path: Path) -> None:
    check_drawn(name, DRAWN, tmp_path)


def test_every_catalogue_model_comes_back_from_megatrons_arguments(tmp_path: Path) -> None:
    """By its name, or that of an equal: Llama 3 and 3.1 differ in no size."""
    others = {}
    for name in names():
        plan = Plan(dp=8, micro_batch_size=1, global_batch_size=8, stack=base().plan.stack)
        made = launch(
            replace(base(), model=load(name), plan=plan), "megatron", "torchrun", forecast=FORECAST, partial=True
        )
        if any(each.key.startswith("model") for each in made.inexpressible):
            continue
        (tmp_path / "arguments.sh").write_text(made.files["arguments.sh"])
        text = import_launch([tmp_path / "arguments.sh"]).text
        found = next(line.split("#")[0].split()[1] for line in text.splitlines() if line.startswith("model:"))
        if found != name:
            others[name] = found
    assert others == {"llama-3.1-8b": "llama-3-8b", "llama-3.1-70b": "llama-3-70b"}
    assert all(load(one).layers == load(other).layers for one, other in others.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_many_drawn_plans_come_back(name: str, tmp_path: Path) -> None:
    check_drawn(name, DRAWN_SLOWLY, tmp_path)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_scenarios_come_back(name: str, path: Path, tmp_path: Path) -> None:
    made = told(WAYS[name], load_scenario(path))
    assert made.complete is (path.stem not in NOWHERE_NEAR[name])
    if made.complete:
        check_round(WAYS[name], made, tmp_path)


# -- shipped scenarios as they are ----------------------------------------------------------------------------------

SHIPPED = ("deepseek-v3-256xgb200", "gpt3-175b-v100", "kimi-k2-10240xh100", "qwen3-235b-256xh100", "tiny")


ROUNDS = [(name, "megatron", "arguments.sh") for name in SHIPPED]
# Bridge's overrides leave the vocabulary to the tokenizer: a model that no recipe names stays to be filled in.
ROUNDS += [(name, "bridge", "overrides.txt") for name in SHIPPED if name != "tiny"]


@pytest.mark.parametrize(("name", "target", "file"), ROUNDS)
def test_what_a_launch_says_is_imported_as_the_same_plan(tmp_path: Path, name: str, target: str, file: str) -> None:
    shipped = load_scenario(SCENARIOS / f"{name}.yaml")
    made = launch(shipped, target, "slurm", partial=True)
    if any(each.key.startswith("plan") for each in made.inexpressible):
        pytest.skip(f"{target} cannot be told {made.inexpressible[0].key}")
    cluster = shipped.cluster
    given = [
        f"cluster.gpus={cluster.gpus}",
        f"cluster.node={cluster.node.name}",
        f"cluster.fabric={cluster.fabric.name}",
    ]
    (tmp_path / file).write_text(made.files[file])
    (tmp_path / "again.yaml").write_text(import_launch([tmp_path / file], given).text)
    back = load_scenario(tmp_path / "again.yaml")
    assert launched(back.plan) == launched(made.scenario.plan)
    assert back.run.seq_length == shipped.run.seq_length
    if target == "megatron":
        assert back.model.layers == shipped.model.layers


def launched(plan: Plan) -> dict[str, object]:
    """The plan without what no launch carries: the imbalance of data, and the release that its writer chose."""
    kept = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
    return {name: value for name, value in kept.items() if name not in ("expert_imbalance", "stack")}
