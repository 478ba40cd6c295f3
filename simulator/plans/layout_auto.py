"""An uneven split of a model over pipeline stages by dynamic programming over the costs and bytes of its items.

Items are what a layout string names, in model order: embedding, decoder layers, all MTP modules as one, head. A stage
holds one or more neighbours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

ROUNDING = 1e-9  # by how much, relatively, a stage may exceed the shortest possible longest stage


@dataclass(frozen=True, slots=True)
class Items:
    """The model's items in order, arrays (items,).

    `seconds`: forward and backward of one micro-batch; `state_bytes`: weights, gradients and optimizer states;
    `live_bytes`: what one micro-batch leaves between forward and backward.
    """

    symbols: tuple[str, ...]
    seconds: Floats
    state_bytes: Floats
    live_bytes: Floats


@dataclass(frozen=True, slots=True)
class Stages:
    """The virtual stages in the order of a micro-batch's way.

    `of_ranks`: the stages that each pipeline rank holds; `live`: the most micro-batches that a stage keeps at once,
    (stages,); `budget_bytes`: what a stage's states and activations may take together, (stages,).
    """

    of_ranks: tuple[tuple[int, ...], ...]
    live: Floats
    budget_bytes: Floats


def split(items: Items, stages: Stages) -> tuple[str, ...] | None:
    """The symbols of each stage: the longest stage as short as it can be, the others even, within the budgets.

    Among splits with the same longest stage the one with the least sum of squares over stages, then, where ranks hold
    several stages, over ranks. None where no split keeps the budgets.
    """
    seconds = _segments(items.seconds)
    allowed = _allowed(items, stages)
    longest_s = _shortest_longest_s(seconds, allowed)
    if longest_s is None:
        return None
    allowed &= seconds <= longest_s * (1 + ROUNDING)
    bounds = _most_even(seconds, allowed)
    if any(len(held) > 1 for held in stages.of_ranks):
        bounds = _even_ranks(bounds, seconds, allowed, stages.of_ranks)
    return _symbols(items.symbols, bounds)


def _symbols(symbols: Sequence[str], bounds: Sequence[int]) -> tuple[str, ...]:
    return tuple("".join(symbols[first:end]) for first, end in itertools.pairwise(bounds))


def _segments(values: Floats) -> Floats:
    """Sum of values[i:j] at [i, j]; infinite where a segment would be empty. Shape (items + 1, items + 1)."""
    before = np.concatenate([[0.0], np.cumsum(values)])
    sums: Floats = before[None, :] - before[:, None]
    sums[np.tril_indices(len(before))] = np.inf
    return sums


def _allowed(items: Items, stages: Stages) -> Bools:
    """Whether stage s has room for items[i:j], at [s, i, j]."""
    states, activations = _segments(items.state_bytes), _segments(items.live_bytes)
    rooms = [
        states + live * activations <= budget for live, budget in zip(stages.live, stages.budget_bytes, strict=True)
    ]
    return np.stack(rooms)


def _shortest_longest_s(seconds: Floats, allowed: Bools) -> float | None:
    """The least possible seconds of the longest stage; None where nothing fits."""
    last = len(seconds) - 1
    longest = np.full(last + 1, np.inf)
    longest[0] = 0.0
    for room in allowed:
        candidates = np.where(room, np.maximum(longest[:, None], seconds), np.inf)
        longest = candidates.min(axis=0)
    return float(longest[last]) if np.isfinite(longest[last]) else None


def _most_even(seconds: Floats, allowed: Bools) -> list[int]:
    """Bounds of the stages, the first 0 and the last the number of items, with the least sum of squared seconds."""
    last = len(seconds) - 1
    squares = np.full(last + 1, np.inf)
    squares[0] = 0.0
    begins: list[Ints] = []
    for room in allowed:
        candidates = np.where(room, squares[:, None] + seconds**2, np.inf)
        begins.append(candidates.argmin(axis=0))
        squares = candidates.min(axis=0)
    bounds = [last]
    for begin in reversed(begins):
        bounds.append(int(begin[bounds[-1]]))
    return bounds[::-1]


def _even_ranks(bounds: list[int], seconds: Floats, allowed: Bools, of_ranks: Sequence[Sequence[int]]) -> list[int]:
    """Bounds moved by one item as long as that evens out the ranks: between two stages, all between them shifted."""
    held = np.zeros((len(bounds) - 1, len(of_ranks)))
    for rank, of_rank in enumerate(of_ranks):
        held[list(of_rank), rank] = 1.0
    current = np.array(bounds)
    steps = _moves(len(bounds))
    for _ in range(4 * len(bounds)):
        tried = np.concatenate([current[None, :], current + steps])
        tried = tried[_are_allowed(tried, allowed)]
        best = _most_even_ranks(seconds[tried[:, :-1], tried[:, 1:]] @ held)
        if best == 0:
            break
        current = tried[best]
    return [int(bound) for bound in current]


def _moves(bounds: int) -> Ints:
    """What takes one item from one stage to another: a run of inner bounds up or down by one. Shape (moves, bounds)."""
    inner = range(1, bounds - 1)
    runs = np.zeros((len(inner) * (len(inner) + 1) // 2, bounds), dtype=np.int64)
    pairs = ((first, last) for first in inner for last in inner if first <= last)
    for run, (first, last) in zip(runs, pairs, strict=True):
        run[first : last + 1] = 1
    return np.concatenate([runs, -runs])


def _are_allowed(tried: Ints, allowed: Bools) -> Bools:
    """Which rows of bounds keep order and budgets, (rows,)."""
    stages = np.arange(tried.shape[1] - 1)
    kept: Bools = allowed[stages, tried[:, :-1], tried[:, 1:]]
    return np.asarray(kept.all(axis=1))


def _most_even_ranks(loads: Floats) -> int:
    """The row whose busiest rank has least to do, then whose squares add up to least; the first among equals.

    Rounded, so that noise of the last digits is no difference.
    """
    shares = loads / loads[0].mean()
    busiest = shares.max(axis=1).round(9)
    squares = (shares**2).sum(axis=1).round(9)
    return int(np.lexsort((squares, busiest))[0])
