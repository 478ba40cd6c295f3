"""Names of schedules, optimizers, dispatchers, precisions and the like are compared in their own rooms alone.

Elsewhere code asks the record of the name; a new name then needs its record and nothing more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import pytest

from hardware.collectives import DISPATCHERS
from hardware.precisions import FORMATS, PRECISIONS
from simulator.optimizers import OPTIMIZERS
from simulator.plans.choices import CONTEXT_EXCHANGES, GRANULARITIES, SHARDINGS
from simulator.schedules import SCHEDULES
from simulator.stack.spec import Framework

ROOT = Path(__file__).parent.parent
# On one worker of pytest-xdist: every file is read once.
pytestmark = pytest.mark.xdist_group("names at home")
# Table: its words, the keys of a plan (or columns) that hold them, and the room where they may be spelled out.
TABLES: dict[str, tuple[frozenset[str], frozenset[str], str]] = {
    "schedule": (frozenset(SCHEDULES), frozenset({"schedule"}), "simulator/schedules/"),
    "optimizer": (frozenset(OPTIMIZERS), frozenset({"kind"}), "simulator/optimizers.py"),
    "dispatcher": (frozenset(DISPATCHERS), frozenset({"dispatcher"}), "hardware/collectives/dispatchers.py"),
    "precision": (
        frozenset(PRECISIONS) | frozenset(FORMATS),
        frozenset({"precision", "main_params", "moments", "grads", "grad_reduce"}),
        "hardware/precisions.py",
    ),
    "sharding": (frozenset(SHARDINGS), frozenset({"sharding"}), "simulator/plans/choices.py"),
    "granularity": (frozenset(GRANULARITIES), frozenset({"granularity"}), "simulator/plans/choices.py"),
    "cp_comm": (frozenset(CONTEXT_EXCHANGES), frozenset({"cp_comm"}), "simulator/plans/choices.py"),
    "framework": (frozenset(get_args(Framework)), frozenset({"framework"}), "simulator/stack/"),
}
# Words that mean other things too: they count where the other side is the plan's key, or where several of a
# table stand together and nothing else.
AMBIGUOUS = {"none", "full", "selective", "optimizer", *get_args(Framework)}
TEXT_TESTS = {"startswith", "endswith", "removeprefix", "removesuffix", "index", "count", "get"}

# (path, table; "": any): why its words are compared there.
EXEMPT = {
    ("validate/calibrate/", ""): "names what torch and NCCL run here; trains one kind of plan and refuses the others",
    ("validate/kernels/", "precision"): "number formats of published kernel measurements",
    ("hardware/collectives/compression.py", "precision"): "schemes of gradient compression, a table of its own",
    ("validate/collectives.py", "dispatcher"): "alltoall is nccl-tests' name of a collective",
    ("simulator/plans/rules.py", "framework"): "the framework decides whose legality rules hold",
}


class Finding(NamedTuple):
    """Words compared: where, and of which table."""

    path: str
    line: int
    table: str
    words: tuple[str, ...]


def words_in(node: ast.AST | None) -> list[str]:
    """String literals of an operand: itself, or the items of a tuple, list, set or dict."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return [word for item in node.elts for word in words_in(item)]
    if isinstance(node, ast.Dict):
        return [word for key in node.keys for word in words_in(key)]
    return []


def compared(node: ast.AST) -> tuple[list[str], str]:
    """The literals that a node compares or looks up by, and the source of what they are compared with."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        words = [word for side in sides for word in words_in(side)]
        return words, " ".join(ast.unparse(side) for side in sides if not words_in(side))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TEXT_TESTS:
        first = node.args[0] if node.args else None
        return words_in(first), ast.unparse(node.func.value)
    if isinstance(node, ast.Subscript):
        return words_in(node.slice), ast.unparse(node.value)
    if isinstance(node, ast.Match):
        patterns = [part for case in node.cases for part in ast.walk(case.pattern) if isinstance(part, ast.MatchValue)]
        return [word for part in patterns for word in words_in(part.value)], ast.unparse(node.subject)
    if isinstance(node, ast.Dict):
        return words_in(node), ""
    if isinstance(node, ast.Assign):
        return words_in(node.value) if isinstance(node.value, ast.Tuple | ast.List | ast.Set) else [], ""
    return [], ""


def is_prefix_test(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith"


def of_table(node: ast.AST, table: str, literals: list[str], against: str) -> tuple[str, ...]:
    """The words of a table among the literals that a node compares."""
    words, keys, _ = TABLES[table]
    if is_prefix_test(node):
        starts = [each for each in literals if len(each) > 1 and any(word.startswith(each) for word in words)]
        return tuple(starts) if any(key in against for key in keys) else ()
    found = [each for each in literals if each in words]
    together = len(found) > 1 and len(found) == len(literals)
    if together or isinstance(node, ast.Dict | ast.Assign):
        return tuple(found) if together or set(found) - AMBIGUOUS else ()
    by_key = any(re.search(rf"\b{key}\b\W*$", against) for key in keys)
    return tuple(each for each in found if each not in AMBIGUOUS or by_key)


def is_at_home(path: str, words: tuple[str, ...]) -> bool:
    """Whether a file is the room of a table that has these words."""
    own = [known for known, _, room in TABLES.values() if room and path.startswith(room)]
    return any(known.issuperset(words) for known in own)


def findings(path: str, source: str) -> Iterator[Finding]:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        literals, against = compared(node)
        for table in TABLES if literals else ():
            found = of_table(node, table, literals, against)
            if found and not is_at_home(path, found):
                yield Finding(path, getattr(node, "lineno", 0), table, found)


@cache
def all_findings() -> list[Finding]:
    files = [
        file for package in ("hardware", "simulator", "validate") for file in sorted((ROOT / package).rglob("*.py"))
    ]
    found: list[Finding] = []
    for file in files:
        found += findings(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    return found


def falls_under(finding: Finding, exemption: tuple[str, str]) -> bool:
    path, table = exemption
    return finding.path.startswith(path) and table in ("", finding.table)


def test_names_are_compared_at_home() -> None:
    strangers = [
        f"{each.path}:{each.line} compares {', '.join(each.words)} ({each.table})"
        for each in all_findings()
        if not any(falls_under(each, exemption) for exemption in EXEMPT)
    ]
    assert not strangers, "\n".join(strangers)


def test_every_exemption_is_used() -> None:
    found = all_findings()
    for exemption in EXEMPT:
        assert any(falls_under(each, exemption) for each in found), f"{exemption} exempts nothing; take it out"


@pytest.mark.parametrize(
    ("line", "table"),
    [
        ("x = plan.schedule == 'none'", "schedule"),
        ("x = plan.schedule.startswith('zb')", "schedule"),
        ("x = kind in ('adamw', 'sgd')", "optimizer"),
        ("MOST = ('gpipe', '1f1b')", "schedule"),
        ("x = {'deepep': 1}.get(plan.dispatcher, 2)", "dispatcher"),
        ("x = peaks['bf16']", "precision"),
        ("x = {'none': 1, 'full': 2}[plan.sharding]", "sharding"),
        ("x = values.get('recompute.granularity') != 'selective'", "granularity"),
        ("x = plan.cp_comm != 'a2a'", "cp_comm"),
        ("match plan.stack.framework:\n    case 'ddp':\n        x = 1", "framework"),
    ],
)
def test_every_way_to_compare_is_seen(line: str, table: str) -> None:
    assert table in {finding.table for finding in findings("simulator/anywhere.py", line)}


@pytest.mark.parametrize("line", ["x = stack.cuda_graphs == 'full'", "x = spent['optimizer']", "x = note('bf16')"])
def test_other_uses_of_the_words_are_free(line: str) -> None:
    assert not list(findings("simulator/anywhere.py", line))
