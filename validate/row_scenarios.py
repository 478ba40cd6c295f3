"""A published run as the scenario that a user could have written, and as its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hardware.documents import Document
from hardware.problems import InputError, Place
from simulator.scenario.overrides import write_key
from simulator.scenario.schema import Scenario, read_scenario
from simulator.stack import release
from validate.row import Row, Unsupported

# Tokens of the whole training where a row does not say; a step's time does not depend on it.
TOKENS = "1T"
MODELS = Path(__file__).parent / "published" / "models.json"
UNITS = {"step_time_s": ("step_time", "s"), "peak_memory_bytes": ("peak_memory", "B")}


@cache
def published_models() -> Mapping[str, Mapping[str, Any]]:
    """Models of published runs that the catalogue does not hold, written out, by name."""
    models: Mapping[str, Mapping[str, Any]] = json.loads(MODELS.read_text(encoding="utf-8"))
    return models


def mapping_of(row: Row) -> dict[str, Any]:
    """The data of the row's scenario file. Raises Unsupported where the row says that there is none."""
    if row.unsupported:
        raise Unsupported(row.unsupported)
    data: dict[str, Any] = {"name": row.id, "question": f"{_model_name(row)} on {row.gpu}", "source": row.source}
    shallow_first = sorted(row.settings, key=lambda key: key.count("."))
    for key in shallow_first:
        write_key(data, key, row.settings[key])
    if isinstance(data.get("model"), str):
        data["model"] = published_models().get(data["model"], data["model"])
    data.setdefault("run", {}).setdefault("tokens", TOKENS)
    if row.measured:
        data["published"] = {"source": row.source, **_published(row)}
    return data


def _model_name(row: Row) -> str:
    model = row.settings.get("model")
    return str(model.get("name", "")) if isinstance(model, Mapping) else str(model)


def _published(row: Row) -> dict[str, str]:
    quantities = {}
    for measured in row.measured:
        key, unit = UNITS[measured.quantity]
        quantities[key] = f"{measured.value!r} {unit}"
    return quantities


def scenario_of(row: Row) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario of a row and what was assumed. Raises Unsupported with the reason."""
    try:
        scenario = read_scenario(Document(mapping_of(row), Place(row.place.file)), row.id)
    except InputError as error:
        reasons = [f"{problem.key} {problem.message}" for problem in error.problems]
        raise Unsupported("; ".join(reasons)) from None
    return scenario, (*row.assumed, *_said_by_stack(scenario))


def step_only(scenario: Scenario) -> Scenario:
    """The scenario without the failures and checkpoints around its step, which no row measures and which cost time."""
    return replace(scenario, run=replace(scenario.run, policies=None))


def _said_by_stack(scenario: Scenario) -> list[str]:
    """The row's software stack and the settings of the plan that it decided, each with its source."""
    named = release(scenario.plan.stack.name)
    settings = dict(named.plan)
    if scenario.plan.pp > 1:
        settings |= named.plan_with_pipeline
    texts = [f"software stack: {named.title}"]
    for key, value in scenario.stack_settings.items():
        source = settings[key].source if key in settings else f"what {named.name} means by it"
        texts.append(f"{key} = {value}: {source}")
    return texts


def scenario_file(row: Row) -> str:
    """The row's scenario as a YAML file. Raises Unsupported with the reason."""
    scenario_of(row)
    return str(yaml.safe_dump(mapping_of(row), sort_keys=False, allow_unicode=True, width=120))
