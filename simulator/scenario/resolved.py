"""A scenario written back as a file that evaluates to the same wherever it lies: overrides in, plan spelled out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hardware.precisions import PRECISIONS
from hardware.profile import profile_folder
from simulator.fields import as_written
from simulator.plans.balancing import balancing_of, stated_imbalance
from simulator.scenario.precision_section import written_precision
from simulator.scenario.schema import Scenario
from simulator.scenario.site_section import site_file
from simulator.scenario.stack_section import written_stack

FILES = (".yaml", ".yml", ".json", ".csv")


def scenario_yaml(scenario: Scenario) -> str:
    """The resolved scenario as YAML."""
    data = resolved(scenario)
    return yaml.dump(data, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True)


def resolved(scenario: Scenario) -> dict[str, Any]:
    """The scenario's data as written, with its name, absolute paths of the files it names, every key of the plan."""
    folder = Path(scenario.file).parent
    data = {**scenario.written, "name": scenario.name}
    data["model"] = _anchored(data["model"], folder)
    data["cluster"] = _anchored(data["cluster"], folder)
    if "hardware" in data:
        data["hardware"] = _anchored_hardware(data["hardware"], scenario.file)
    if "distillation" in data:
        data["distillation"] = _anchored(data["distillation"], folder)
    if "spread" in data:
        data["spread"] = _anchored(data["spread"], folder)
    data["run"] = _anchored(data["run"], folder)
    plan = as_written(scenario.plan)
    if PRECISIONS[scenario.plan.precision].quantized:
        plan["precision"] = written_precision(scenario.plan)
    del plan["quantized"]
    kind = _balancing_kind(scenario)
    if scenario.plan.ep == 1 and stated_imbalance(scenario.written) is None:
        del plan["expert_imbalance"]  # nothing depends on it
    elif kind is not None:
        plan["expert_imbalance"] = kind
    data["plan"] = {**plan, "stack": written_stack(scenario.plan.stack, scenario.stack_choice)}
    return {"name": data.pop("name"), **data}


def _balancing_kind(scenario: Scenario) -> str | None:
    """The kind of balancing whose imbalance the plan has; None where the file states a number, or none is needed."""
    if stated_imbalance(scenario.written) is None and not scenario.model.has_experts:
        return None
    found = balancing_of(scenario.written, scenario.model.name)
    return found[0].kind if found is not None and found[0].hottest == scenario.plan.expert_imbalance else None


def _anchored_hardware(hardware: Mapping[str, Any], file: str) -> dict[str, str]:
    """The profile's folder and the site's file by absolute paths."""
    find = {"profile": profile_folder, "site": site_file}
    return {key: str(find[key](name, file)) for key, name in hardware.items()}


def _anchored(value: Any, folder: Path) -> Any:
    """The value with the paths of files in it made absolute."""
    if isinstance(value, Mapping):
        return {key: _anchored(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_anchored(item, folder) for item in value]
    return str((folder / value).resolve()) if isinstance(value, str) and value.endswith(FILES) else value
