"""What is wrong with an input, where, and what would be right: collected, then raised all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

FEW = 3  # choices that are soon listed: only a slip of the pen is matched


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in one input: the file, its line where known, the dotted key, and the remedy in words.

    `is_unreadable`: the key is not known or its value is none at all, whatever the other keys say.
    """

    file: str
    line: int | None
    key: str
    message: str
    is_unreadable: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class InputError(Exception):
    """Input that cannot be used; `problems` holds every reason found, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a value stands: its file, its dotted key, the line of every key of that file, and the options `key=value`
    that were written over it."""

    file: str
    key: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    def under(self, key: object) -> Place:
        return replace(self, key=f"{self.key}.{key}" if self.key else str(key))

    def problem(self, message: str, is_unreadable: bool = False) -> Problem:
        return attributed(Problem(self.file, self.line, self.key, message, is_unreadable), self.overrides)

    @property
    def line(self) -> int | None:
        """The line of the key, or of the nearest key above it that has one; `a[1]` is `a.1`."""
        key = self.key.replace("[", ".").replace("]", "")
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return self.lines.get(key)


def attributed(problem: Problem, overrides: Sequence[str]) -> Problem:
    """The problem, laid at the door of the last override that wrote its key, if one did."""
    for override in reversed(overrides):
        key = override.partition("=")[0].strip()
        if problem.key == key or problem.key.startswith(f"{key}."):
            return replace(problem, file=f"--set {override}", line=None)
    return problem


def known_name(text: str, names: Collection[str]) -> str:
    """The name that the text spells in any case, with spaces or underscores for dashes; else the text itself."""
    if text in names:
        return text
    spelled = _plain(text)
    return next((name for name in names if _plain(name) == spelled), text)


def _plain(text: str) -> str:
    return text.strip().lower().replace(" ", "-").replace("_", "-")


def one_of(value: object, choices: Iterable[str]) -> str:
    """Words for a value that is none of the choices: the close matches, else all of them."""
    names = sorted(choices)
    cutoff = 0.5 if len(names) > FEW else 0.6
    close = get_close_matches(str(value).lower(), names, n=4, cutoff=cutoff)
    if close:
        return f"{value!r} is not known; did you mean {' or '.join(close)}?"
    return f"{value!r} is not known; choose from {', '.join(names)}"


def printable(text: str) -> str:
    """The text on one line, without what would steer a terminal: control characters stand as Python escapes."""
    words = " ".join(text.split("\n")).replace("\t", " ").replace("\r", " ")
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in words)
