"""Nested dataclasses whose numbers are arrays with one element per plan: taken apart, gathered, scattered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any

import numpy as np

from simulator.planner.columns import Ints


@cache
def names_of(cls: Any) -> tuple[str, ...]:
    return tuple(spec.name for spec in fields(cls))


def mapped(change: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with every array in it changed; what is no array stays as it is."""
    if isinstance(tree, np.ndarray):
        return change(tree)
    if isinstance(tree, tuple):
        return tuple(mapped(change, item) for item in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        cls = type(tree)
        return cls(*(mapped(change, getattr(tree, name)) for name in names_of(cls)))
    return tree


def taken(tree: Any, index: Any) -> Any:
    """The elements at `index` (one, or many) of every array."""
    return mapped(lambda array: array[index] if array.ndim else array, tree)


def side_by_side(trees: Sequence[Any]) -> Any:
    """One tree of the same form whose numbers are arrays with an element for each tree."""
    first = trees[0]
    if isinstance(first, tuple):
        return tuple(side_by_side(parts) for parts in zip(*trees, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        parts = ([getattr(tree, name) for tree in trees] for name in names_of(type(first)))
        return type(first)(*(side_by_side(part) for part in parts))
    return np.array(trees)


def scattered(trees: Sequence[Any], rows: Sequence[Ints], lanes: Sequence[Ints], count: int) -> Any:
    """One tree of arrays [count] from several of the same form: tree i gives its elements `lanes[i]` to `rows[i]`.

    Numbers become arrays; words and flags must be alike in all trees.
    """
    first = trees[0]
    if isinstance(first, bool | str) or first is None:
        return first
    if isinstance(first, np.ndarray | int | float):
        found = np.zeros(count)
        for tree, row, lane in zip(trees, rows, lanes, strict=True):
            found[row] = tree[lane] if isinstance(tree, np.ndarray) and tree.ndim else tree
        return found
    if isinstance(first, tuple):
        return tuple(scattered(parts, rows, lanes, count) for parts in zip(*trees, strict=True))
    cls: Any = type(first)
    parts = ([getattr(tree, name) for tree in trees] for name in names_of(cls))
    return cls(*(scattered(part, rows, lanes, count) for part in parts))
