"""The manifest of a launch: which scenario and prediction its files belong to, and the digest of each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from simulator.launch.answer import Answer
from simulator.launch.environment import Variable
from simulator.launch.forecast import Forecast
from simulator.launch.tables import Table
from simulator.plain import plain
from simulator.report.folder import json_text
from simulator.scenario.schema import Scenario

PACKAGE = "traincast"


def manifest(
    scenario: Scenario,
    table: Table,
    scheduler: str,
    said: Answer,
    forecast: Forecast,
    variables: tuple[Variable, ...],
    files: Mapping[str, str],
) -> str:
    """The manifest as JSON; `files` are all others of the launch."""
    document: dict[str, Any] = {
        "written_by": f"{PACKAGE} {_version()}",
        "scenario": {"name": scenario.name, "sha256": digest(files["scenario.yaml"])},
        "target": {"name": table.name, "title": table.title, "release": table.release, "source": table.source},
        "scheduler": scheduler,
        "prediction": forecast.to_dict(scenario.plan.stack.name),
        "settings": [
            {"name": each.name, "value": plain(each.value), "key": each.key, "scenario": plain(each.stated)}
            for each in said.expressed.settings
        ],
        "environment": [{"name": each.name, "value": each.value, "why": each.why} for each in variables],
        "inexpressible": [
            {"key": each.key, "value": plain(each.value), "why": each.why} for each in said.inexpressible
        ],
        "files": {name: digest(text) for name, text in sorted(files.items())},
    }
    return json_text(document)


def digest(text: str) -> str:
    """SHA-256 of a file's text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "(not installed)"
