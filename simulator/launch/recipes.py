"""Recipes in Python: Megatron-Bridge's overrides of a shipped recipe, and torchtitan's function of a Trainer.Config.

Both start from a model that the framework's own registry has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import gcd
from typing import Any

from simulator.launch.express import Inexpressible, Setting
from simulator.launch.model_facts import model_facts
from simulator.launch.tables import Table
from simulator.launch.text import python_literal, render
from simulator.launch.told import Told
from simulator.model.catalogue import load
from simulator.model.catalogue import names as catalogue_names
from simulator.plans.choices import SHARDINGS
from simulator.plans.spec import Plan
from simulator.scenario.schema import Scenario

# Values that are names in the recipe's Python, not strings.
_NAMES = re.compile(r"(torch|AttnBackend)\.\w+")
# Settings of torchtitan's table that the recipe writes itself: classes, and arguments of the model's registry.
_OF_REGISTRY = ("moe_comm_backend", "num_mtp_layers")
_CONVERTERS = {
    "Float8LinearConverter": (
        'Float8LinearConverter.Config(recipe_name="rowwise", {filters}model_compile_enabled={compiled})'
    ),
    "MXFP8LinearConverter": "MXFP8LinearConverter.Config(model_compile_enabled={compiled})",
    "NVFP4LinearConverter": 'NVFP4LinearConverter.Config(fqns=["layers"], model_compile_enabled={compiled})',
}
# What a catalogue model with changes adds to its name (simulator.model.overrides).
_CHANGED = ", changed"
_SECTIONS = ("training", "parallelism", "checkpoint", "compile", "debug")


def registered(table: Table, scenario: Scenario, facts: Mapping[str, Any]) -> list[Inexpressible]:
    """Whether the framework's registry has the model, as the scenario has it."""
    name = catalogue_name(table, scenario, facts)
    if name is not None:
        return []
    why = f"{table.title} has no such model in its registry; there are {', '.join(sorted(table.models))}"
    return [Inexpressible("model", scenario.model.name, why)]


def fits_torchtitan(table: Table, scenario: Scenario, facts: Mapping[str, Any]) -> list[Inexpressible]:
    """What torchtitan's mesh, trainer and registry cannot be told of a plan."""
    plan, seq_length = scenario.plan, scenario.run.seq_length
    found = registered(table, scenario, facts)
    found += _unpipelined(plan, len(scenario.model.mtp))
    if not SHARDINGS[plan.sharding].shards_optimizer and plan.cp > 1:
        why = "FSDP shards over the context-parallel ranks"
        found.append(Inexpressible("plan.sharding", plan.sharding, why, "full"))
    ranks = facts["plan.shards"] * plan.cp * plan.tp
    if ranks % plan.ep:
        why = f"experts are spread over dp_shard x cp x tp = {ranks} ranks, which {plan.ep} does not divide"
        found.append(Inexpressible("plan.ep", plan.ep, why, gcd(plan.ep, ranks)))
    if seq_length % (plan.tp * 2 * plan.cp):
        why = f"is not a multiple of 2 x tp x cp = {2 * plan.tp * plan.cp}"
        found.append(Inexpressible("run.seq_length", seq_length, why))
    if plan.stack.cuda_graphs == "full" and (plan.pp > 1 or plan.ep > 1):
        why = "CUDA graphs go neither with pipelines nor with dispatchers that wait for the host"
        found.append(Inexpressible("plan.stack.cuda_graphs", plan.stack.cuda_graphs, why, "none"))
    return found


def _unpipelined(plan: Plan, modules: int) -> list[Inexpressible]:
    """Prediction modules raise NotImplementedError beside pipelines and context parallelism (deepseek_v3/mtp.py)."""
    if not modules:
        return []
    why = "prediction modules (MTP) go neither with pipelines nor with context parallelism in this release"
    degrees = {"plan.pp": plan.pp, "plan.cp": plan.cp}
    return [Inexpressible(key, degree, why, 1) for key, degree in degrees.items() if degree > 1]


def catalogue_name(table: Table, scenario: Scenario, facts: Mapping[str, Any]) -> str | None:
    """The catalogue's name of the scenario's model, where it differs from it in nothing that the table cannot say."""
    name = scenario.model.name.removesuffix(_CHANGED)
    if name not in table.models or name not in catalogue_names():
        return None
    shipped, _ = model_facts(load(name), scenario.run.seq_length)
    own = {key: value for key, value in facts.items() if key.startswith("model.")}
    settable = {row.key for row in table.rows}
    changed = [key for key in {**shipped, **own} if shipped.get(key) != own.get(key)]
    return name if all(key in settable for key in changed) else None


def bridge_files(told: Told) -> dict[str, str]:
    """`recipe.py` and `overrides.txt`: the same settings as attributes of a config, and as Hydra overrides."""
    settings = sorted(told.expressed.settings, key=lambda each: "." in each.name)
    name = catalogue_name(told.table, told.scenario, told.facts)
    place = told.table.models[name] if name else {"module": "my_recipes", "recipe": "pretrain_config"}
    recipe = render(
        "bridge_recipe.py.j2", place=place, settings=[(each, in_python(each)) for each in settings], told=told
    )
    return {
        "recipe.py": recipe,
        "overrides.txt": render("overrides.txt.j2", settings=settings, title=told.table.title),
        "train.sh": _train(told, '"$here/recipe.py"', ()),
    }


def torchtitan_files(told: Told) -> dict[str, str]:
    """`recipe.py`: a function `launch_config` that returns a Trainer.Config."""
    name = catalogue_name(told.table, told.scenario, told.facts)
    place = told.table.models[name] if name else {"module": "my_models", "flavor": "my_flavor"}
    sections = {section: _section(told, section) for section in _SECTIONS}
    registry = [each for each in told.expressed.settings if each.name in _OF_REGISTRY]
    recipe = render(
        "torchtitan_recipe.py.j2",
        told=told,
        place=place,
        sections=sections,
        registry=[(each, in_python(each)) for each in registry],
        converter=_converter(told),
    )
    return {
        "recipe.py": recipe,
        "train.sh": _train(told, "-m torchtitan.train --module recipe --config launch_config", ("HF_ASSETS_PATH",)),
    }


def _section(told: Told, section: str) -> list[tuple[Setting, str]]:
    """Settings below one field of the config, each with its name there and its value in Python."""
    prefix = f"{section}."
    return [(each, in_python(each)) for each in told.expressed.settings if each.name.startswith(prefix)]


def _converter(told: Told) -> str | None:
    """The constructor of the converter that casts linears down; None in 16 bit."""
    chosen = told.value("converters")
    compiled = "model" in told.value("compile.components", ())
    left = told.value("filter_fqns", ())
    filters = f"filter_fqns={python_literal(list(left))}, " if left else ""
    return _CONVERTERS[chosen].format(compiled=compiled, filters=filters) if chosen else None


def in_python(setting: Setting) -> str:
    """A setting's value as Python writes it."""
    value = setting.value
    return value if isinstance(value, str) and _NAMES.fullmatch(value) else python_literal(value)


def _train(told: Told, command: str, needed: tuple[str, ...]) -> str:
    return render(
        "train_recipe.sh.j2",
        job=told.job,
        fault_tolerant=told.fault_tolerant,
        command=command,
        needed=needed,
        fill_in=list(told.table.fill_in),
    )
