"""Mutation tester: changes one term of a formula at a time and tells which changes the tests of its room notice.

    python -m tests.mutation --seed 1 --sample 30                   # every room
    python -m tests.mutation simulator/run --seed 2 --sample 10     # one room

Works in a copy of the tree, so that nothing here is touched. One process; half a minute for a change that nobody
notices. Prints every change that survives as a diff, then the share that was killed by room. A survivor is either a
term without a test, or a change that means the same: read the diff. No part of the suite or of CI.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A folder of formulas and the tests of its room, as patterns below tests/.
ROOMS: dict[str, tuple[str, ...]] = {
    "simulator/cost": (
        "simulator/test_cost*.py",
        "simulator/test_memory_laws.py",
        "simulator/test_optimizers.py",
        "simulator/test_recompute.py",
        "simulator/test_offload.py",
        "simulator/test_parallel_blocks.py",
        "simulator/test_chunked_loss.py",
        "simulator/test_host_memory.py",
        "simulator/test_traffic.py",
    ),
    "simulator/memory": (
        "simulator/test_memory*.py",
        "simulator/test_plan_choices.py",
        "simulator/test_expert_checkpoints.py",
        "simulator/test_host_memory.py",
        "simulator/test_chunked_loss.py",
        "simulator/test_offload.py",
        "simulator/test_step_memory.py",
    ),
    "simulator/step": ("simulator/test_step_*.py", "simulator/test_schedules.py"),
    "simulator/run": ("simulator/test_run_*.py",),
    "hardware/collectives": (
        "hardware/test_collectives*.py",
        "hardware/test_fabric_speed.py",
        "hardware/test_network_use.py",
    ),
}

# Test files that take long, and are run for changes of modules that they name alone.
SLOW = ("test_run_alternatives.py", "test_step_views.py", "test_fabric_speed.py")

# What is not worth a copy, or must not be in it.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "venv", "__pycache__", ".*_cache", ".hypothesis", "build", "dist")

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
OTHER_OPERATOR = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "/", "%": "*", "**": "*"}
COMPARISONS = {
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
}
BOUNDARIES = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
EXTREMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a source: the bytes from `start` to `end` become `text`."""

    line: int
    kind: str
    start: int
    end: int
    text: str

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


@dataclass(frozen=True, slots=True)
class Source:
    """A module's bytes, and where its syntax nodes lie in them."""

    text: bytes
    line_starts: tuple[int, ...]

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self.line_starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        return self.line_starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    def segment(self, node: ast.expr | ast.stmt) -> str:
        return self.text[self.start(node) : self.end(node)].decode()

    def replaced(self, node: ast.expr | ast.stmt, kind: str, text: str) -> Mutant:
        return Mutant(node.lineno, kind, self.start(node), self.end(node), text)

    def between(self, left: ast.expr, right: ast.expr, kind: str, old: str, new: str) -> Iterator[Mutant]:
        """Replaces an operator's sign, which stands between its operands."""
        start = self.text.find(old.encode(), self.end(left), self.start(right))
        if start >= 0:
            yield Mutant(right.lineno, kind, start, start + len(old), new)


def mutants(text: bytes) -> list[Mutant]:
    """Every single change of a module's formulas, in the order of the module; a few do not compile."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    source = Source(text, tuple(starts))
    changes = {change for node in formulas(ast.parse(text)) for change in node_mutants(node, source)}
    return sorted(changes, key=lambda change: (change.start, change.text, change.end))


def compiles(text: bytes) -> bool:
    try:
        compile(text, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def formulas(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that compute something: no annotation, decorator, docstring, text, check or error message."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not computes_nothing(child):
                yield from formulas(child)


def computes_nothing(node: ast.AST) -> bool:
    is_check = isinstance(node, ast.keyword) and node.arg == "strict"  # zip's check of lengths
    return is_check or isinstance(node, ast.JoinedStr | ast.Raise | ast.Assert)


def node_mutants(node: ast.AST, source: Source) -> Iterator[Mutant]:
    if isinstance(node, ast.BinOp):
        yield from operation_mutants(node, source)
    elif isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        sign = OPERATORS[type(node.op)]
        yield from source.between(node.target, node.value, "operator", f"{sign}=", f"{OTHER_OPERATOR[sign]}=")
    elif isinstance(node, ast.Compare):
        yield from comparison_mutants(node, source)
    elif isinstance(node, ast.BoolOp):
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from source.between(left, right, "and / or", old, new)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield source.replaced(node, "drop not", f"({source.segment(node.operand)})")
    elif isinstance(node, ast.IfExp):
        yield source.replaced(node, "swap arms", swapped_arms(node, source))
    elif isinstance(node, ast.Call):
        yield from extreme_mutants(node, source)
    elif isinstance(node, ast.comprehension):
        for condition in node.ifs:
            yield source.replaced(condition, "drop filter", "True")
    elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Continue):
        yield source.replaced(node.test, "drop early return", "False")
    elif isinstance(node, ast.Constant):
        yield from constant_mutants(node, source)


def operation_mutants(node: ast.BinOp, source: Source) -> Iterator[Mutant]:
    sign = OPERATORS.get(type(node.op))
    if sign is None or (isinstance(node.left, ast.Constant) and isinstance(node.left.value, str)):
        return
    yield from source.between(node.left, node.right, "operator", sign, OTHER_OPERATOR[sign])
    yield source.replaced(node, "drop term", f"({source.segment(node.left)})")
    if sign in "+*":
        yield source.replaced(node, "drop term", f"({source.segment(node.right)})")


def comparison_mutants(node: ast.Compare, source: Source) -> Iterator[Mutant]:
    left = node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        old, new = COMPARISONS[type(operator)]
        yield from source.between(left, right, "comparison", old, new)
        if old in BOUNDARIES and isinstance(right, ast.Constant) and type(right.value) is int:
            yield from source.between(left, right, "boundary", old, BOUNDARIES[old])
        left = right


def swapped_arms(node: ast.IfExp, source: Source) -> str:
    first, test, last = (source.segment(part) for part in (node.body, node.test, node.orelse))
    return f"(({last}) if ({test}) else ({first}))"


def extreme_mutants(node: ast.Call, source: Source) -> Iterator[Mutant]:
    called = node.func
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    if name in EXTREMES:
        end = source.end(called)
        yield Mutant(node.lineno, "min / max", end - len(name), end, EXTREMES[name])


def constant_mutants(node: ast.Constant, source: Source) -> Iterator[Mutant]:
    value = node.value
    if isinstance(value, bool):
        yield source.replaced(node, "constant", str(not value))
    elif isinstance(value, int):
        yield source.replaced(node, "constant", str(value + max(1, value // 2)))
    elif isinstance(value, float):
        yield source.replaced(node, "constant", repr(1.5 * value or 1.0))


# ---- trying them


def sampled(folder: str, seed: int, count: int, tree: Path) -> list[tuple[Path, Mutant]]:
    """A seeded sample of all changes of a folder's modules that compile, in their order."""
    modules = sorted(path.relative_to(tree) for path in (tree / folder).glob("*.py"))
    every = [(path, change) for path in modules for change in mutants((tree / path).read_bytes())]
    order = random.Random(f"{seed}:{folder}").sample(range(len(every)), len(every))
    possible = (index for index in order if compiles(every[index][1].applied((tree / every[index][0]).read_bytes())))
    return [every[index] for index in sorted(islice(possible, count))]


def room_tests(folder: str, tree: Path) -> list[Path]:
    """The test files of a folder's room."""
    found = (path for pattern in ROOMS[folder] for path in sorted((tree / "tests").glob(pattern)))
    return list(dict.fromkeys(found))


def nearest_first(files: list[Path], module: Path) -> list[Path]:
    """The test files that may notice a change of a module: those that name it first, slow ones only if they do."""
    name = ".".join(module.with_suffix("").parts)
    near = [path for path in files if name in path.read_text(encoding="utf-8")]
    return near + [path for path in files if path not in near and path.name not in SLOW]


def passes(files: list[Path], tree: Path, limit_s: float | None, write_bytecode: bool = False) -> bool:
    """Whether the tests pass in the copy; one that never ends does not.

    Only the unchanged tree writes bytecode: a change within the same second and of the same length would go unseen.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *map(str, files)]
    environment = dict(os.environ)
    if not write_bytecode:
        environment["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        done = subprocess.run(command, cwd=tree, env=environment, timeout=limit_s, capture_output=True)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def survives(path: Path, change: Mutant, files: list[Path], tree: Path, limit_s: float) -> bool:
    """Whether no test notices the change; the module is whole again afterwards."""
    module = tree / path
    original, times = module.read_bytes(), module.stat()
    module.write_bytes(change.applied(original))
    try:
        return passes(nearest_first(files, path), tree, limit_s)
    finally:
        module.write_bytes(original)
        os.utime(module, ns=(times.st_atime_ns, times.st_mtime_ns))


def difference(path: Path, change: Mutant, source: bytes) -> str:
    before, after = source.decode().splitlines(), change.applied(source).decode().splitlines()
    lines = difflib.unified_diff(before, after, str(path), str(path), lineterm="", n=0)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def try_room(folder: str, seed: int, count: int, tree: Path) -> tuple[int, int]:
    """Killed and tried changes of one room; prints each survivor."""
    files = room_tests(folder, tree)
    began = time.monotonic()
    if not passes(files, tree, None, write_bytecode=True):
        raise SystemExit(f"The tests of {folder} fail without any change. Mend them first.")
    took_s = time.monotonic() - began
    print(f"{folder}: {len(files)} test files pass in {took_s:.0f} s", flush=True)
    limit_s = 60 + 5 * took_s
    sample = sampled(folder, seed, count, tree)
    killed = 0
    for number, (path, change) in enumerate(sample, 1):
        alive = survives(path, change, files, tree, limit_s)
        killed += not alive
        verdict = "ALIVE" if alive else "killed"
        print(f"{number}/{len(sample)} {path}:{change.line} {change.kind}: {verdict}", flush=True)
        if alive:
            print(difference(path, change, (tree / path).read_bytes()), flush=True)
    return killed, len(sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=list(ROOMS), help=f"of {', '.join(ROOMS)}; all if none is named")
    parser.add_argument("--seed", type=int, default=1, help="which sample is drawn")
    parser.add_argument("--sample", type=int, default=30, help="changes of each folder")
    asked = parser.parse_args()
    if unknown := [folder for folder in asked.folders if folder not in ROOMS]:
        parser.error(f"{unknown[0]} has no room of tests. Use {', '.join(ROOMS)}.")
    with tempfile.TemporaryDirectory(prefix="mutants-") as temporary:
        tree = Path(temporary) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        shares = {folder: try_room(folder, asked.seed, asked.sample, tree) for folder in asked.folders}
    for folder, (killed, tried) in shares.items():
        print(f"{folder}: {killed} of {tried} killed ({killed / max(1, tried):.0%})")


if __name__ == "__main__":
    main()
