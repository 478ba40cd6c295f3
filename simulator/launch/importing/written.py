"""Writes a scenario file in which every line says whence it came, and marks what is to be filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

FILL_IN = "TO FILL IN"
COMMENT_COLUMN = 44


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a scenario: a dotted key, its value, what stands beside it; `missing`: to be filled in.

    What is missing and `optional` is a comment, which the scenario does without.
    """

    key: str
    value: Any
    about: str = ""
    missing: bool = False
    optional: bool = False


def scenario_text(entries: Sequence[Entry], head: Iterable[str]) -> str:
    """The file: `head` as comments on top, entries grouped by section in the order given."""
    lines = [f"# {line}".rstrip() for line in head]
    for section in dict.fromkeys(entry.key.partition(".")[0] for entry in entries):
        of_section = [entry for entry in entries if entry.key.partition(".")[0] == section]
        lines += ["", *_lines(of_section, 0, section)]
    return "\n".join(lines) + "\n"


def _lines(entries: Sequence[Entry], depth: int, above: str) -> list[str]:
    """The lines of the entries at or below the key `above`."""
    indent = "  " * depth
    name = above.rpartition(".")[2]
    if len(entries) == 1 and entries[0].key == above:
        mark = "# " if entries[0].optional else ""
        return [_line(f"{indent}{mark}{name}:", entries[0])]
    lines = [f"{indent}{name}:"]
    steps = dict.fromkeys(".".join(entry.key.split(".")[: depth + 2]) for entry in entries)
    for step in steps:
        below = [entry for entry in entries if entry.key == step or entry.key.startswith(f"{step}.")]
        lines += _lines(below, depth + 1, step)
    return lines


def _line(key: str, entry: Entry) -> str:
    written = key if entry.value is None and entry.missing else f"{key} {flow(entry.value)}"
    about = f"{FILL_IN}: {entry.about}" if entry.missing else entry.about
    # What an imported file says cannot end a comment's line.
    about = " ".join(about.split())
    return f"{written:<{COMMENT_COLUMN}} # {about}" if about else written


def flow(value: Any) -> str:
    """A value on one line of YAML, quoted where it must be."""
    text = yaml.safe_dump(_plain(value), default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**9)
    return text.removesuffix("\n...\n").rstrip("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
