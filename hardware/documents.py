"""Reads one untrusted YAML 1.2 file into plain values with the line of every key; nothing in it is executed."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from hardware.problems import InputError, Place, Problem

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 100_000
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INTEGER = re.compile(r"[-+]?[0-9]+")
_REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_QUOTED = ("'", '"', "|", ">")
# What brackets cannot nest in (quoted text, comments), and the brackets themselves.
_BRACKETS = re.compile(r"""(?<![\w'"])(?:"(?:\\.|[^"\\])*"|'(?:[^']|'')*')|(?<!\S)#[^\n]*|[][{}]""", re.S)
_WORDS: dict[str, Any] = {"": None, "~": None} | {
    form: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for form in (word, word.capitalize(), word.upper())
}


@dataclass(frozen=True, slots=True)
class Document:
    """A file's values (mappings, lists, text, numbers, booleans, None) and the place of its top."""

    data: Any
    place: Place


def read_document(path: str | Path) -> Document:
    """The values of a YAML (or JSON) file, numbers and booleans as YAML 1.2 has them.

    Raises InputError, naming file and line, for a file that cannot be read, is no UTF-8 text or too large, breaks
    YAML's rules, repeats a key, uses aliases (a small file could unfold to a huge one) or tags, holds a number that
    is not finite or several documents, or nests too deep.
    """
    name = str(path)
    try:
        if Path(path).exists() and not Path(path).is_file():
            kind = "is a directory" if Path(path).is_dir() else "is no regular file"
            raise InputError([Problem(name, None, "", f"{kind}; name a YAML file")])
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise InputError([Problem(name, None, "", f"is larger than {MAX_BYTES >> 20} MiB; is it the right file?")])
        text = raw.decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError([Problem(name, None, "", f"there is no such file{_neighbour(Path(path))}")]) from None
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            line = raw.count(b"\n", 0, error.start) + 1
            raise InputError([Problem(name, line, "", "is not UTF-8 text; save it as UTF-8")]) from None
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError([Problem(name, None, "", f"cannot be read: {reason}")]) from None
    return parse_document(text, name)


def _neighbour(path: Path) -> str:
    """The file beside it whose name is nearest."""
    names = [each.name for each in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def parse_document(text: str, name: str = "text") -> Document:
    """As `read_document`, from text; `name` stands for the file in messages."""
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    try:
        loader = _LOADER(text)
        try:
            _check_events(text, name)
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        # Some versions of the library give up on deep nesting before they report the events that lead there.
        line = _too_deep_line(text)
        if line is not None or isinstance(error, RecursionError):
            raise InputError([_depth_problem(name, line)]) from None
        raise InputError([_syntax_problem(error, text, name)]) from None
    data = _value(root, Place(name, "", lines), lines, problems) if root is not None else None
    if problems:
        raise InputError(problems)
    return Document(data, Place(name, "", lines))


def _syntax_problem(error: yaml.YAMLError, text: str, name: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    remedy = "; indent with spaces, a tab is none" if "cannot start any token" in what else ""
    line = min(mark.line, text.count("\n")) + 1 if mark else None
    form = "JSON" if name.endswith(".json") else "YAML"
    if form == "JSON" and mark and mark.index >= len(text.rstrip()):
        remedy = "; the file ends too early, is it complete?"
    return Problem(name, line, "", f"is not valid {form}: {what}{remedy}")


def _depth_problem(name: str, line: int | None) -> Problem:
    return Problem(name, line, "", f"is nested deeper than {MAX_DEPTH} levels")


def _too_deep_line(text: str) -> int | None:
    """The line on which brackets outside quotes and comments first nest deeper than MAX_DEPTH; None where none do."""
    depth = 0
    for match in _BRACKETS.finditer(text):
        if match[0] in "[{":
            depth += 1
        elif match[0] in "]}":
            depth = max(0, depth - 1)
        if depth > MAX_DEPTH:
            return text.count("\n", 0, match.start()) + 1
    return None


def _check_events(text: str, name: str) -> None:
    """Refuses aliases, tags, a second document, deep nesting and masses of values before anything is built."""
    depth = documents = 0
    for number, event in enumerate(yaml.parse(text, Loader=_LOADER)):
        line = event.start_mark.line + 1 if event.start_mark else None
        if isinstance(event, yaml.AliasEvent):
            raise InputError([Problem(name, line, "", f"alias *{event.anchor}: write the value out instead")])
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise InputError([Problem(name, line, "", f"tag {tag}: tags are not read, write the plain value")])
        documents += isinstance(event, yaml.DocumentStartEvent)
        if documents > 1:
            raise InputError([Problem(name, line, "", "a second document begins here; keep one to a file")])
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if number > MAX_VALUES:
            raise InputError([Problem(name, line, "", f"holds more than {MAX_VALUES} values")])
        if depth > MAX_DEPTH:
            raise InputError([_depth_problem(name, line)])


def _value(node: Any, place: Place, lines: dict[str, int], problems: list[Problem]) -> Any:
    if isinstance(node, yaml.ScalarNode):
        value = _scalar(node)
        if isinstance(value, float) and not math.isfinite(value):
            message = f"{node.value[:40]} is not a finite number; the largest is about 1.8e308"
            problems.append(Problem(place.file, node.start_mark.line + 1, place.key, message))
        return value
    if isinstance(node, yaml.SequenceNode):
        values = []
        for number, item in enumerate(node.value):
            below = place.under(number)
            lines[below.key] = item.start_mark.line + 1
            values.append(_value(item, below, lines, problems))
        return values
    found: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
        line = key_node.start_mark.line + 1
        if key is None or key == "<<":
            problems.append(Problem(place.file, line, place.key, "a key must be plain text"))
            continue
        below = place.under(key)
        if key in found:
            first = lines[below.key]
            problems.append(Problem(place.file, line, below.key, f"is given twice, first on line {first}; keep one"))
            continue
        lines[below.key] = line
        found[key] = _value(value_node, below, lines, problems)
    return found


def _scalar(node: Any) -> Any:
    text = node.value
    if node.style in _QUOTED:
        return text
    if text in _WORDS:
        return _WORDS[text]
    # Python's int() takes quadratic time on very long digit strings; such a number overflows to inf anyway.
    if _INTEGER.fullmatch(text) and len(text) <= 300:
        return int(text)
    if _REAL.fullmatch(text) or _INTEGER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text
