"""Names of schedules, optimizers, dispatchers, precisions and the like are compared in their own rooms alone.

Elsewhere code asks the record of the name; a new name then needs its record and nothing more.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, get_args, get_type_hints

import pytest

from hardware.collectives import DISPATCHERS
from hardware.precisions import FORMATS, PRECISIONS
from simulator.optimizers import OPTIMIZERS
from simulator.plan.choices import CONTEXT_EXCHANGES, GRANULARITIES, SHARDINGS
from simulator.plan.spec import Stack
from simulator.schedules import SCHEDULES

ROOT = Path(__file__).parent.parent
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
    "sharding": (frozenset(SHARDINGS), frozenset({"sharding"}), "simulator/plan/choices.py"),
    "granularity": (frozenset(GRANULARITIES), frozenset({"granularity"}), "simulator/plan/choices.py"),
    "cp_comm": (frozenset(CONTEXT_EXCHANGES), frozenset({"cp_comm"}), "simulator/plan/choices.py"),
    "framework": (frozenset(get_args(get_type_hints(Stack)["framework"])), frozenset({"framework"}), ""),
}
# Words that mean other things too: they count where the other side is the plan's key, or all keys of a dict are words.
AMBIGUOUS = {"none", "full", "selective", "optimizer"}
TEXT_TESTS = {"startswith", "endswith", "removeprefix", "removesuffix", "index", "count", "get"}

# (path, table; "": any): why its words are compared there.
EXEMPT = {
    ("validate/calibrate/", ""): "names what torch and NCCL run here; trains one kind of plan and refuses the others",
    ("validate/kernels/", "precision"): "number formats of published kernel measurements",
    ("hardware/collectives/gradients.py", "precision"): "schemes of gradient compression, a table of its own",
    ("validate/collectives.py", "dispatcher"): "alltoall is nccl-tests' name of a collective",
    ("simulator/model/families.py", "framework"): "deepseek is a family of models",
    ("simulator/model/flops.py", "framework"): "conventions of counting FLOPs bear the names of who counts so",
}
# Places that still compare the framework's name, with what stands on the same line: (file, function).
FRAMEWORKS: set[tuple[str, str]] = {
    ("simulator/cost/blocks.py", ""),
    ("simulator/cost/recompute.py", ""),
    ("simulator/cost/recompute.py", "chooses_operators"),
    ("simulator/cost/step_times.py", "sent_bytes"),
    ("simulator/cost/updates.py", "gathers_lists"),
    ("simulator/memory/activations.py", "checkpoints_operators"),
    ("simulator/memory/report.py", ""),
    ("simulator/memory/report.py", "accumulates_unsharded"),
    ("simulator/memory/report.py", "caches_quantized_weights"),
    ("simulator/memory/report.py", "frees_logits_before_layers"),
    ("simulator/memory/report.py", "memory_report"),
    ("simulator/memory/report.py", "outside_bytes"),
    ("simulator/memory/report.py", "state_bytes"),
    ("simulator/plan/rules.py", ""),
    ("simulator/plan/rules.py", "_in_force"),
    ("simulator/plan/spec.py", ""),
    ("simulator/workload/ends.py", "embedding_work"),
    ("simulator/workload/ends.py", "has_fused_loss"),
    ("simulator/workload/ends.py", "head_working_bytes"),
    ("simulator/workload/ends.py", "logit_bytes"),
    ("simulator/workload/ends.py", "loss_pass"),
    ("simulator/workload/linears.py", "casts"),
    ("simulator/workload/linears.py", "has_tensor_scales"),
    ("simulator/workload/mixers.py", "rope"),
    ("simulator/workload/shape.py", "kept_input_tokens"),
    ("simulator/workload/torchao.py", "uses_torchao"),
}


class Finding(NamedTuple):
    """A word compared: where, in which function, and of which table."""

    path: str
    line: int
    function: str
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
    if isinstance(node, ast.MatchValue):
        return words_in(node.value), ""
    if isinstance(node, ast.Dict):
        return words_in(node), ""
    if isinstance(node, ast.Assign):
        return words_in(node.value) if isinstance(node.value, ast.Tuple | ast.List | ast.Set) else [], ""
    return [], ""


def is_prefix_test(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "startswith"


def of_table(node: ast.AST, table: str) -> tuple[str, ...]:
    """The words of a table that a node compares."""
    words, keys, _ = TABLES[table]
    literals, against = compared(node)
    if is_prefix_test(node):
        starts = [each for each in literals if len(each) > 1 and any(word.startswith(each) for word in words)]
        return tuple(starts) if any(key in against for key in keys) else ()
    found = [each for each in literals if each in words]
    if isinstance(node, ast.Dict | ast.Assign):
        whole = len(found) > 1 and len(found) == len(literals)
        return tuple(found) if whole or set(found) - AMBIGUOUS else ()
    by_key = any(re.search(rf"\b{key}\b\W*$", against) for key in keys)
    return tuple(each for each in found if each not in AMBIGUOUS or by_key)


def is_at_home(path: str, words: tuple[str, ...]) -> bool:
    """Whether a file is the room of a table that has these words."""
    own = [known for known, _, room in TABLES.values() if room and path.startswith(room)]
    return any(known.issuperset(words) for known in own)


def findings(path: str, source: str) -> Iterator[Finding]:
    tree = ast.parse(source)
    function_of: dict[int, str] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            function_of |= {id(node): function.name for node in ast.walk(function)}
    for node in ast.walk(tree):
        for table in TABLES:
            found = of_table(node, table)
            if found and not is_at_home(path, found):
                yield Finding(path, getattr(node, "lineno", 0), function_of.get(id(node), ""), table, found)


def all_findings() -> list[Finding]:
    found: list[Finding] = []
    for package in ("hardware", "simulator", "validate"):
        for file in sorted((ROOT / package).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            of_file = findings(path, file.read_text(encoding="utf-8"))
            found += [each for each in of_file if not is_exempt(each)]
    return found


def is_exempt(finding: Finding) -> bool:
    return any(finding.path.startswith(path) and table in ("", finding.table) for path, table in EXEMPT)


def test_names_are_compared_at_home() -> None:
    found = all_findings()
    framework_lines = {(each.path, each.line) for each in found if each.table == "framework"}
    strangers = [
        f"{each.path}:{each.line} compares {', '.join(each.words)} ({each.table})"
        for each in found
        if not ((each.path, each.function) in FRAMEWORKS and (each.path, each.line) in framework_lines)
    ]
    assert not strangers, "\n".join(strangers)


def test_no_framework_exemption_is_stale() -> None:
    assert {(each.path, each.function) for each in all_findings() if each.table == "framework"} == FRAMEWORKS


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
