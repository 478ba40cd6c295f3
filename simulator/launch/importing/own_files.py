"""Files that traincast writes itself beside a launch: its records, which state no launch, and scenarios."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem

WRITER = "traincast"
KEYS_SUFFIX = ".keys.json"
_SECTIONS = ("model", "cluster", "plan", "run")


def without_records(texts: Mapping[Path, str]) -> tuple[list[Path], list[str]]:
    """The files that may state a launch, and notes on those that are left out as traincast's own records.

    Raises InputError where a file is a scenario already, and where nothing but records is given.
    """
    scenarios = [path for path in texts if _is_scenario(path, texts[path])]
    if scenarios:
        why = f"is a scenario already; `traincast evaluate {scenarios[0]}` predicts it"
        raise InputError([Problem(str(scenarios[0]), None, "", why)])
    records = {path: _record(path, texts[path]) for path in texts}
    launches = [path for path, record in records.items() if not record]
    if texts and not launches:
        told = "; ".join(f"{path.name} is {record}" for path, record in records.items())
        raise InputError([Problem(_names(list(texts)), None, "", f"{told}: give the launch's own files")])
    return launches, [f"{path.name} is {record}, left out" for path, record in records.items() if record]


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)


def _record(path: Path, text: str) -> str:
    """What kind of record a file is; empty for other files."""
    if path.name.endswith(KEYS_SUFFIX):
        return "the list of the scenario keys behind a launch's settings"
    if path.suffix == ".json" and str(_json(text).get("written_by", "")).startswith(WRITER):
        return "the manifest of a launch that traincast wrote"
    return ""


def _json(text: str) -> Mapping[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, Mapping) else {}


def _is_scenario(path: Path, text: str) -> bool:
    """Whether a YAML file has the sections of a scenario at its top."""
    if path.suffix.lower() not in (".yaml", ".yml"):
        return False
    return all(re.search(rf"^{section}:", text, re.MULTILINE) for section in _SECTIONS)
