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
from simulator.run.budget import AMOUNTS
from simulator.scenario.overrides import write_key
from simulator.scenario.schema import Scenario, read_scenario
from simulator.stack import release
from validate.row import Row, Unsupported

# Steps of the run where a row does not say how much was trained: the one that it measured.
STEPS = 1
UNSAID_LENGTH = f"run.steps = {STEPS}: the source measured a step; how long the training was is not said"
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
    if _length_unsaid(row):
        data.setdefault("run", {})["steps"] = STEPS
    if row.measured:
        data["published"] = {"source": row.source, **_published(row)}
    return data


def _length_unsaid(row: Row) -> bool:
    return not any(f"run.{amount}" in row.settings for amount in AMOUNTS)


def _model_name(row: Row) -> str:
    model = row.settings.get("model")
    return str(model.get("name", "")) if isinstance(model, Mapping) else str(model)


def _published(row: Row) -> dict[str, str]:
    quantities = {}
    for measured in row.measured:
        key, unit = UNITS[measured.quantity]
        quantities[key] = f"{measured.value!r} {unit}"
        if measured.quantity == "peak_memory_bytes":
            quantities["memory_meter"] = measured.meter
    return quantities


def scenario_of(row: Row) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario of a row and what was assumed. Raises Unsupported with the reason."""
    try:
        scenario = read_scenario(Document(mapping_of(row), Place(row.place.file)), row.id)
    except InputError as error:
        reasons = [f"{problem.key}: {problem.message}" for problem in error.problems]
        raise Unsupported("; ".join(reasons), error.problems) from None
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
    """The row's scenario as a YAML file, with a comment on all that its source leaves unsaid.

    Raises Unsupported with the reason.
    """
    _, assumed = scenario_of(row)
    unsaid = (*assumed, UNSAID_LENGTH) if _length_unsaid(row) else assumed
    notes = [" ".join(text.split()) for text in unsaid]
    comment = "".join(f"# {note}\n" for note in ("What the source leaves unsaid, and what was taken:", *notes))
    return comment + str(yaml.safe_dump(mapping_of(row), sort_keys=False, allow_unicode=True, width=120))
