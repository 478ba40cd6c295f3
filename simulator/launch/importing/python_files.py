"""Recipes in Python as statements, read from the syntax tree alone: assignments to attributes and named arguments."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hardware.problems import InputError, Problem
from simulator.launch.importing.statements import Origin, Reading, Statement

# Members of libraries that stand for a value: `torch.float32`, `AttnBackend.auto`.
_WORDS = re.compile(r"(?:torch|[A-Z]\w*)\.\w+")


def python_reading(name: str, text: str) -> Reading:
    """A recipe of Megatron-Bridge (`cfg.model.tensor_model_parallel_size = 4`) or of torchtitan
    (`Trainer.Config(parallelism=ParallelismConfig(tensor_parallel_degree=4))`)."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError([Problem(name, getattr(error, "lineno", None), "", f"is not valid Python: {error}")]) from None
    file = _File(name, _constants(tree))
    statements = tuple(each for node in ast.walk(tree) for each in _of_node(node, file))
    titan = any(each.name.startswith(("parallelism.", "training.")) for each in statements)
    words = (*_registered(tree), *(node.name.lower() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)))
    ordered = sorted(statements, key=lambda each: each.origin.line)
    return Reading(name, "torchtitan" if titan else "bridge", tuple(ordered), names=words)


def _registered(tree: ast.AST) -> Iterator[str]:
    """`llama3-405b` for `from torchtitan.models.llama3 import model_registry` and `model_registry("405B")`."""
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    families = [module.rpartition(".")[2] for module in imported if ".models." in module]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (_dotted(node.func) or "").endswith("model_registry") and node.args:
            flavor = node.args[0]
            if isinstance(flavor, ast.Constant) and isinstance(flavor.value, str):
                yield from (f"{family}-{flavor.value}".lower() for family in families)


@dataclass(frozen=True, slots=True)
class _File:
    """A file's name, and the values of names that are assigned once and plainly."""

    name: str
    constants: Mapping[str, ast.Constant]


def _constants(tree: ast.AST) -> dict[str, ast.Constant]:
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    return {name: values[0] for name, values in assigned.items()
            if len(values) == 1 and isinstance(values[0], ast.Constant)}  # fmt: skip


def _of_node(node: ast.AST, file: _File) -> Iterator[Statement]:
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        dotted = _dotted(node.targets[0])
        if dotted and "." in dotted:
            path = dotted.partition(".")[2]
            yield from _value(path, node.value, file)
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg:
                yield from _value(keyword.arg, keyword.value, file)


def _value(path: str, node: ast.expr, file: _File) -> Iterator[Statement]:
    """A plain value under a name, or the named arguments of a call as names below it.

    What is worked out while the file runs has no value.
    """
    name = file.name
    if isinstance(node, ast.Name):
        node = file.constants.get(node.id, node)
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript | ast.BinOp):
        dotted = _dotted(node) or ""
        yield Statement(path, dotted if _WORDS.fullmatch(dotted) else None, Origin(name, node.lineno))
        return
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg:
                yield from _value(f"{path}.{keyword.arg}", keyword.value, file)
        if path == "activation_checkpoint":
            yield Statement(path, _called(node), Origin(name, node.lineno))
        elif len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            yield Statement(path, node.args[0].value, Origin(name, node.lineno))
        return
    if isinstance(node, ast.List) and node.elts and all(isinstance(item, ast.Call) for item in node.elts):
        called = [_called(item) for item in node.elts if isinstance(item, ast.Call)]
        yield Statement(path, called, Origin(name, node.lineno))
        for item in node.elts:
            for keyword in item.keywords if isinstance(item, ast.Call) else ():
                if keyword.arg:
                    yield from _value(f"{path}.{keyword.arg}", keyword.value, file)
        return
    try:
        value: Any = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return
    if isinstance(value, list | tuple):
        if any(isinstance(item, dict | set | bytes) for item in value):
            return
        value = [item if isinstance(item, list | tuple) else str(item) for item in value]
    if isinstance(value, str | int | float | list):
        yield Statement(path, value, Origin(name, node.lineno))


def _called(node: ast.Call) -> str:
    """The class that a call makes: `FullAC` of `torchtitan.x.FullAC.Config()`."""
    return (_dotted(node.func) or "").removesuffix(".Config").rpartition(".")[2]


def _dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text; None for anything else."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(names)])
