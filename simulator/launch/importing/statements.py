"""What an imported file states: a name, a value, and where it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Origin:
    """A file and line; `branch`: the line stands in a condition or loop, and may not run."""

    file: str
    line: int
    branch: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" + (" (in a branch)" if self.branch else "")


@dataclass(frozen=True, slots=True)
class Statement:
    """One setting as written: texts, numbers, flags, lists of texts. None: its value could not be worked out."""

    name: str
    value: Any
    origin: Origin


@dataclass(frozen=True, slots=True)
class Reading:
    """What one file states. `dialect` names whose words these are (simulator.launch.importing.dialects).

    `notes` tell of what was not followed: files that are sourced and not there, values of commands.
    `names`: words from the file's and its folder's names, which may name a model or a machine.
    """

    file: str
    dialect: str
    statements: tuple[Statement, ...]
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


# What a value that the user gives beside the files is known by.
GIVEN = "given by --set"


@dataclass(frozen=True, slots=True)
class Found:
    """A scenario key's value and what it was taken from; `comment` says how where that is not plain."""

    value: Any
    origins: tuple[Origin, ...] = ()
    comment: str = ""

    @property
    def about(self) -> str:
        """The comment that stands beside the line in the scenario."""
        places = ", ".join(dict.fromkeys(str(origin) for origin in self.origins))
        return ": ".join(part for part in (places, self.comment) if part)


@dataclass(slots=True)
class Keys:
    """Scenario keys as far as they were found, and what could not be used; lives for one import."""

    found: dict[str, Found] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def value(self, key: str, default: Any = None) -> Any:
        return self.found[key].value if key in self.found else default

    def add(self, key: str, value: Any, origins: Iterable[Origin] = (), comment: str = "") -> None:
        self.found[key] = Found(value, tuple(origins), comment)

    def origins(self, *keys: str) -> tuple[Origin, ...]:
        """Where several keys were found."""
        return tuple(origin for key in keys if key in self.found for origin in self.found[key].origins)


def typed(text: Any) -> Any:
    """A text as the number, truth value or nothing that it spells; anything else as it is."""
    if not isinstance(text, str):
        return text
    word = text.strip().strip("'\"")
    plain = {"true": True, "false": False, "none": None, "null": None, "": None}
    if word.lower() in plain:
        return plain[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
