"""Models known by name: one JSON file each, a Hugging Face config or our own form, with its source."""

from __future__ import annotations

import json
from pathlib import Path

from hardware.problems import InputError, Place, known_name, one_of
from simulator.model.huggingface import from_huggingface
from simulator.model.inline import from_mapping
from simulator.model.spec import Model

DATA = Path(__file__).parent / "data"


def names() -> list[str]:
    """Every name that `load` knows."""
    return sorted(path.stem for path in DATA.glob("*.json"))


def load(name: str) -> Model:
    """The model called `name`. Raises InputError naming the nearest known ones."""
    name = known_name(name, names())
    if name not in names():
        raise InputError([Place("model", name).problem(one_of(name, names()))])
    path = DATA / f"{name}.json"
    entry = json.loads(path.read_text(encoding="utf-8"))
    if "config" in entry:
        return from_huggingface(entry["config"], name, Place(path.name, "config"), entry["source"])
    return from_mapping({**entry["model"], "source": entry["source"]}, name, Place(path.name, "model"))
