"""YAML 1.2 as people write it, the line of every key, and files that mean harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hardware import documents
from hardware.documents import MAX_BYTES, MAX_DEPTH, parse_document, read_document
from hardware.problems import InputError, Place, one_of

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcdef", min_size=1), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e9", 1e9),
        ("1.5e+3", 1500.0),
        ("-.5", -0.5),
        ("7", 7),
        ("on", "on"),
        ("yes", "yes"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("'7'", "7"),
        ("TRUE", True),
        ("~", None),
        ("400 Gb/s", "400 Gb/s"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_document(f"key: {text}").data["key"]
    assert found == value
    assert type(found) is type(value)


@given(PLAIN)
def test_json_reads_as_json_reads_it(value: object) -> None:
    text = json.dumps({"key": value}, ensure_ascii=False)
    assert parse_document(text).data == json.loads(text)


def test_every_key_has_its_line() -> None:
    document = parse_document("a: 1\nb:\n  c: 2\n  d: [3,\n    4]\n", "job.yaml")
    assert document.place.lines == {"a": 1, "b": 2, "b.c": 3, "b.d": 4, "b.d.0": 4, "b.d.1": 5}
    assert str(document.place.under("b").under("c").problem("is odd")) == "job.yaml:3: b.c: is odd"
    assert document.place.under("b").under("missing").line == 2
    assert Place("job.yaml").under("x").line is None


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 2\na: 3", 3, "a: is given twice, first on line 1"),
        ("a: {x: 1, x: 2}", 1, "a.x: is given twice"),
        ("a: &bomb [1]\nb: [*bomb, *bomb]", 2, "alias *bomb"),
        ("? [1, 2]\n: 3", 1, "plain text"),
        ("a: 1\nb: [", 2, "not valid YAML"),
        ("a: 1\n--- \nb: 2", 2, "a second document"),
        ("{" * 100, 1, "nested deeper"),
        ("a: 1\nb: [" + "1," * 100_000 + "1]", 2, "more than 100000 values"),
        ("a: .inf", 1, "not a finite number"),
        ("a: " + "9" * 5000, 1, "not a finite number"),
        ("a: \x07", None, "not valid YAML"),
    ],
)
def test_refusals(text: str, line: int | None, words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_document(text, "job.yaml")
    (problem,) = error.value.problems
    assert words in str(problem)
    assert problem.line == line


class GivesUpEarly(yaml.SafeLoader):
    """A YAML library that refuses any nesting of brackets in words of its own, before it reports an event."""

    def fetch_flow_collection_start(self, TokenClass: type) -> None:
        raise yaml.scanner.ScannerError(None, None, "these are the words of some version", self.get_mark())


class RunsOutOfStack(yaml.SafeLoader):
    """A YAML library that nests its own calls as deep as the file."""

    def get_event(self) -> object:
        raise RecursionError


DEEP = {
    "brackets": "a: 1\nb: " + "[" * 5000,
    "braces": "a: 1\nb: " + "{x: " * 1500,
    "a line each": "a: 1\n" + "[" + "\n[" * 3000,
}


@pytest.mark.parametrize("loader", [yaml.SafeLoader, documents._LOADER, GivesUpEarly, RunsOutOfStack])
@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_deep_nesting_is_found_whatever_the_library_says(
    text: str, loader: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "_LOADER", loader)
    with pytest.raises(InputError) as error:
        parse_document(text)
    (problem,) = error.value.problems
    assert problem.message == f"is nested deeper than {MAX_DEPTH} levels"
    assert problem.line == (MAX_DEPTH + 2 if text == DEEP["a line each"] else 2)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, documents._LOADER])
@pytest.mark.parametrize("text", ["- " * 2000, "\n".join(" " * level + "a:" for level in range(1400))])
def test_deep_blocks_are_refused(text: str, loader: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_LOADER", loader)
    with pytest.raises(InputError, match="nested deeper than"):
        parse_document(text)


def test_a_library_without_stack_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_LOADER", RunsOutOfStack)
    with pytest.raises(InputError, match="nested deeper than"):
        parse_document("- - - 1")


OPEN = "[" * (MAX_DEPTH + 1)


@pytest.mark.parametrize(
    "text",
    [
        f"a: '{OPEN}'\nb: [",
        f"a: 'it''s {OPEN}'\nb: [",
        f'a: "\\" {OPEN}"\nb: [',
        f"a: 1  # {OPEN}\nb: [",
        f"# don't\n# {OPEN}\nb: [",
        "a: " + "[], " * MAX_DEPTH + "[",
        "a: " + "[" * (MAX_DEPTH - 1),
    ],
)
def test_brackets_that_do_not_nest_are_another_error(text: str) -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        parse_document(text)


def test_two_repeated_keys_are_two_problems() -> None:
    with pytest.raises(InputError) as error:
        parse_document("a: 1\na: 2\nb: 1\nb: 2\n")
    assert [problem.key for problem in error.value.problems] == ["a", "b"]


def test_too_large_a_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("a: 1\n" + "# " + "x" * MAX_BYTES)
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_document(path)


def test_byte_order_mark_and_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).data == {"a": 1}
    path.write_bytes(b"")
    assert read_document(path).data is None


def test_close_matches_or_all_choices() -> None:
    assert one_of("bandwith", ["bandwidth", "latency"]) == "'bandwith' is not known; did you mean bandwidth?"
    assert one_of("zzz", ["b", "a"]) == "'zzz' is not known; choose from a, b"


@pytest.mark.parametrize("text", ['{"a": 1, "b', '{"a": 1, "b": 2', '{"a": [1, 2', '{"a": {'])
def test_a_truncated_json_file_is_called_one(text: str) -> None:
    with pytest.raises(InputError, match=r"not valid JSON: .*; the file ends too early, is it complete"):
        parse_document(text, "config.json")
