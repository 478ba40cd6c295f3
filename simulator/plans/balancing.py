"""How routers keep experts evenly loaded: how hot the hottest expert rank runs by kind of balancing, and who uses it.

The figures live in `data/balancing.toml`, each with its source.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hardware.problems import known_name
from hardware.sections import Section

DATA = Path(__file__).parent / "data" / "balancing.toml"


@dataclass(frozen=True, slots=True)
class Balancing:
    """A kind of balancing: tokens of the hottest expert rank over the mean, over a run (`hottest`) and where 80 % of
    runs are taken to lie (`low` to `high`)."""

    kind: str
    hottest: float
    low: float
    high: float
    source: str


@cache
def _data() -> Mapping[str, Any]:
    return tomllib.loads(DATA.read_text(encoding="utf-8"))


@cache
def kinds() -> Mapping[str, Balancing]:
    """Every kind of balancing by its name."""
    return {name: Balancing(name, **entry) for name, entry in _data()["kinds"].items()}


def read_imbalance(section: Section, key: str) -> float:
    """A number of at least 1, or the name of a kind of balancing, which stands for its own."""
    written = section.data.get(key)
    if not isinstance(written, str):
        value = section.quantity(key, "count")
        return value if value is not None else 1.0
    kind = kind_named(written)
    if kind is not None:
        section.seen.add(key)
        return kind.hottest
    if any(letter.isdigit() for letter in written):
        return float(section.quantity(key, "count"))
    section.seen.add(key)
    section.report_unreadable(key, f"{written!r} is not known; write {', '.join(kinds())}, or a number of at least 1")
    return 1.0


def kind_named(text: str) -> Balancing | None:
    """The kind of balancing that a text names, in any case and with spaces or dashes for underscores."""
    return kinds().get(known_name(text, kinds()))


def stated_imbalance(written: Mapping[str, Any]) -> Any:
    """What a scenario's file says of it: a number, a kind, or None."""
    plan = written.get("plan")
    return plan.get("expert_imbalance") if isinstance(plan, Mapping) else None


def balancing_of(written: Mapping[str, Any], model_name: str) -> tuple[Balancing, str] | None:
    """The kind of balancing that a scenario's file names, else its model's, and the source; None where it states a
    number."""
    stated = stated_imbalance(written)
    if stated is None:
        return balancing_of_model(model_name)
    kind = kind_named(str(stated))
    return None if kind is None else (kind, "given: plan.expert_imbalance")


def balancing_of_model(name: str) -> tuple[Balancing, str]:
    """The balancing that a model was trained with, by its catalogue name, and the source; else auxiliary losses."""
    for entry in _data()["models"]:
        if any(fnmatchcase(name.lower(), pattern) for pattern in entry["names"]):
            return kinds()[entry["kind"]], entry["source"]
    return kinds()["aux_loss"], "assumed: an auxiliary loss, as most routers have it"
