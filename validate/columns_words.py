"""Reads the words of the older column layout by fixed vocabularies (columns.toml); what is not listed is reported."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

VOCABULARY = Path(__file__).parent / "columns.toml"
TRUTH = {"true": True, "false": False}
# From the widest graph to none.
GRAPHS = ("full", "partial", "router")
_BETWEEN_FLAGS = re.compile(r"[;,](?![^\[(]*[\])])")
_GROUPS = re.compile(r"gqa ?\d+")
_BLANKS = re.compile(r"[\s_-]+")


@cache
def vocabulary() -> Mapping[str, Any]:
    return tomllib.loads(VOCABULARY.read_text(encoding="utf-8"))


def normal(text: str) -> str:
    """The form in which words are compared: lower case; hyphens, underscores and blanks as one blank."""
    return _BLANKS.sub(" ", text.lower()).strip()


@dataclass(slots=True)
class CellReading:
    """What the cells of one row say so far: plan keys, dotted, what was assumed, and words not understood."""

    settings: dict[str, Any] = field(default_factory=dict)
    assumed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def assume(self, key: str, value: Any, why: str) -> None:
        self.settings[key] = value
        self.assumed.append(f"{key} = {value}: {why}")

    def look_up(self, table: Mapping[str, Any], text: str) -> Any:
        """The entry of a cell's text, or of what stands before its remark in parentheses; None where not listed.

        A remark that is not known to say nothing counts as not understood.
        """
        whole = normal(text)
        if whole in table:
            return table[whole]
        head, _, remark = whole.partition(" (")
        if not remark.endswith(")") or head not in table:
            self.unknown.append(text)
            return None
        if remark[:-1] not in vocabulary()["remarks"]:
            self.unknown.append(f"({text.partition('(')[2]}")
        return table[head]

    def read_word(self, key: str, column: str, text: str) -> None:
        """A column whose word is the value of one plan key."""
        if not text:
            self.assumed.append(f"{key}: not stated")
            return
        value = self.look_up(vocabulary()[column], text)
        if value:
            self.settings[key] = value

    def read_switch(self, key: str, text: str) -> None:
        """A column that turns one plan key on or off; empty where the source does not say."""
        value = self.look_up(vocabulary()["switches"], text) if text else None
        if value is not None:
            self.settings[key] = value

    def read_attention(self, text: str) -> None:
        """A column that names the kind of attention, which known models bring themselves: its word must be known."""
        word = normal(text)
        if word and not _GROUPS.fullmatch(word) and word not in vocabulary()["attentions"]["words"]:
            self.unknown.append(text)

    def read_recompute(self, text: str, framework: str) -> None:
        """What is recomputed: a word, which may mean something else in one framework, or `selective [module, ...]`."""
        if not text:
            self.assumed.append("recompute: not stated")
            return
        head, bracket, rest = text.partition("[")
        if bracket and normal(head) == "selective":
            self._read_modules(rest)
            return
        own = vocabulary()["recompute_of"].get(framework, {})
        self.settings |= self.look_up({**vocabulary()["recompute"], **own}, text) or {}

    def _read_modules(self, rest: str) -> None:
        listed, _, remark = rest.partition("]")
        modules = [self.look_up(vocabulary()["modules"], word) for word in listed.split(",")]
        known = [module for module in modules if module is not None]
        self.settings |= {"recompute.granularity": "selective", "recompute.modules": known}
        if remark.strip() and normal(remark).strip("()") not in vocabulary()["remarks"]:
            self.unknown.append(remark.strip())

    def read_flags(self, text: str) -> None:
        """Words and `key=value` pairs between commas or semicolons."""
        for token in filter(None, map(str.strip, _BETWEEN_FLAGS.split(text))):
            if not (self._read_assignment(token) or self._read_offload(token)):
                self._read_flag(token)

    def _read_offload(self, token: str) -> bool:
        """Reads `activation offload [module, ...]`; False where it is none."""
        head, bracket, rest = token.partition("[")
        if not bracket or normal(head) != "activation offload":
            return False
        modules = [normal(word).replace(" ", "_") for word in rest.rstrip("] ").split(",")]
        self.settings |= {"offload.activation": 1.0, "offload.modules": modules}
        return True

    def _read_flag(self, token: str) -> None:
        meaning = self.look_up(vocabulary()["flags"], token)
        if isinstance(meaning, str) and meaning:
            self.unknown.append(f"{token} ({meaning}: not modelled)")
        elif meaning:
            self.settings |= meaning

    def _read_assignment(self, token: str) -> bool:
        """Reads a `key=value` pair whose key is listed; False where it is none."""
        name, equals, value = token.partition("=")
        if not equals:
            return False
        if normal(name) == "cuda graph scope":
            self._read_graph_scopes(value)
            return True
        if normal(name) == "recompute modules":
            self._read_modules(value.strip("["))
            return True
        key = vocabulary()["assignments"].get(normal(name))
        if key is None:
            return False
        if value.lower() not in ("none", "null", ""):
            self.settings[key] = _value(value)
        return True

    def _read_graph_scopes(self, listed: str) -> None:
        words = filter(None, map(str.strip, listed.strip("[] ").split(",")))
        scopes = {self.look_up(vocabulary()["graph_scopes"], word) for word in words}
        self.settings["stack.cuda_graphs"] = next((graph for graph in GRAPHS if graph in scopes), "none")


def _value(text: str) -> Any:
    if text.lower() in TRUTH:
        return TRUTH[text.lower()]
    return int(text) if text.isdecimal() else text


def stack_entry(source: str, sharding: str) -> Mapping[str, Any]:
    """The entry of the stacks' table for a row: the first whose words all stand in its source or sharding column."""
    text = normal(f"{sharding} {source}")
    entries: Iterator[Mapping[str, Any]] = iter(vocabulary()["stacks"])
    return next(entry for entry in entries if all(word in text for word in entry["words"]))
