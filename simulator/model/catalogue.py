"""Models known by name: one JSON file each, a Hugging Face config or our own form, with its source."""

from __future__ import annotations

import json
from pathlib import Path

from simulator.model.huggingface import from_huggingface
from simulator.model.inline import from_mapping
from simulator.model.keys import finish
from simulator.model.spec import Model

DATA = Path(__file__).parent / "data"


def names() -> list[str]:
    """Every name that `load` knows."""
    return sorted(path.stem for path in DATA.glob("*.json"))


def load(name: str) -> Model:
    """The model called `name`. Raises an error that names the nearest known ones."""
    if name not in names():
        finish(name, [("model", f"not in the catalogue; {nearest(name)}")])
    entry = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    if "config" in entry:
        return from_huggingface(entry["config"], name, entry["source"])
    return from_mapping({**entry["model"], "name": name, "source": entry["source"]}, name)


def nearest(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name.lower(), names(), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names())}"
