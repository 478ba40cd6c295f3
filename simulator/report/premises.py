"""Terminal rows of what a prediction rests on: what the scenario states and all that is assumed, with sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[str, str]


def premise_rows(document: Mapping[str, Any]) -> list[Row]:
    """One row for each premise, those stated first."""
    stated = [("Stated", _written(each)) for each in document.get("stated", ())]
    assumed = [("Assumed", _written(each)) for each in document.get("assumed", ())]
    return stated + assumed


def _written(premise: Mapping[str, Any]) -> str:
    source = premise["source"].removeprefix("assumed: ").removeprefix("assumed; ")
    return f"{premise['topic']}: {premise['text']} [{source}]"
