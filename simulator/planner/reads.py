"""Runs what judges or prices one plan on many: once for every distinct combination of the keys that it reads.

A `PlanView` stands for a plan, or for several that differ in numbers only. It remembers what was read of it, so that
nobody has to list what a rule or a formula depends on. Several plans at once are arrays (`Lanes`); where a formula
branches on a number and the plans disagree, they are split and it runs again on either part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware.collectives import Group
from simulator.planner.columns import Columns, Ints, compact
from simulator.planner.trees import mapped, side_by_side
from simulator.plans.spec import Plan

PROPERTIES = {name: item for name, item in vars(Plan).items() if isinstance(item, property)}
# Keys whose values are numbers, of which formulas take arrays.
NUMBERS = ("tp", "cp", "ep", "etp", "dp", "pp", "vpp", "micro_batch_size", "global_batch_size", "microbatches")
NUMBERED = "lane of "


class Unbound(Exception):
    """A rule asks for a key that the plans do not have yet."""


class Varies(Exception):
    """Plans that run together differ in a key that was not known to be read."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class Split(Exception):
    """A formula branches on `truth` [lanes], which is not the same for all plans."""

    def __init__(self, truth: np.ndarray) -> None:
        super().__init__("plans differ where a formula branches")
        self.truth = truth


class Lanes(np.ndarray):
    """An array with one element per plan; where one value is asked for it stands for all plans, or raises Split."""

    def __bool__(self) -> bool:
        truth = np.ravel(np.asarray(self)).astype(bool)
        if truth.all() or not truth.any():
            return bool(truth.all())
        raise Split(truth)

    def _one(self) -> Any:
        values = np.ravel(np.asarray(self))
        if (values == values[0]).all():
            return values[0]
        raise Split(values == values[0])

    def __float__(self) -> float:
        return float(self._one())

    def __int__(self) -> int:
        return int(self._one())

    def __index__(self) -> int:
        return int(self._one())


class OverlapView:
    """The overlap switches of a plan that is looked at."""

    __slots__ = ("_view",)

    def __init__(self, view: PlanView) -> None:
        self._view = view

    def __getattr__(self, name: str) -> Any:
        return self._view.value(f"overlap.{name}", lambda base: getattr(base.overlap, name))


class PlanView:
    """Plans of some `rows` as formulas see one; `reads` are the keys that were looked at, with their values.

    Keys that are no columns are those of `base`; those of `unbound` raise Unbound. `lanes` are the rows that stand for
    the others where numbers are read (None: the plan is one); `numbers`: those known to be read (None: all).
    """

    __slots__ = ("_base", "_columns", "_lanes", "_numbers", "_rows", "_unbound", "overlap", "reads")

    def __init__(
        self,
        base: Plan,
        columns: Columns,
        rows: Ints,
        lanes: Ints | None = None,
        numbers: Sequence[str] | None = (),
        unbound: frozenset[str] = frozenset(),
    ) -> None:
        self._base, self._columns, self._rows, self._unbound = base, columns, rows, unbound
        self._lanes, self._numbers = lanes, numbers
        self.reads: dict[str, Any] = {}
        self.overlap = OverlapView(self)

    def value(self, key: str, otherwise: Callable[[Plan], Any]) -> Any:
        """A key's value, or the array of it where plans differ in a number. Raises Varies, Unbound."""
        if key in self.reads:
            return self.reads[key]
        if key in self._columns.codes:
            found = self.reads[key] = self._read(key)
            return found
        if key in self._unbound:
            raise Unbound(key)
        return otherwise(self._base)

    def _read(self, key: str) -> Any:
        codes, values = self._columns.codes[key], self._columns.values[key]
        if len(values) == 1 or self._lanes is None:
            return values[codes[self._rows[0]]]
        own = codes[self._rows]
        if (own == own[0]).all():
            return values[own[0]]
        known = is_number(self._columns, key) if self._numbers is None else key in self._numbers
        if not known:
            raise Varies(key)
        lanes = codes[self._lanes]
        if isinstance(values[0], Group):
            first, own = compact(lanes, len(values))
            return mapped(lambda part: part[own].view(Lanes), side_by_side([values[code] for code in lanes[first]]))
        return np.array(values)[lanes].view(Lanes)

    def column(self, key: str) -> Any:
        """The value of a column that is no key of the plan."""
        return self.value(key, lambda base: None)

    def __getattr__(self, name: str) -> Any:
        found = None if name in self._columns.codes else PROPERTIES.get(name)
        if found is not None and found.fget is not None:
            return found.fget(self)
        return self.value(name, lambda base: getattr(base, name))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What came out of each distinct combination, and by plan which of them is its own."""

    results: tuple[Any, ...]
    index: Ints

    def array(self, values: Sequence[Any]) -> np.ndarray:
        """Numbers given by outcome, by plan."""
        return np.array(values)[self.index]


@dataclass(slots=True)
class Memory:
    """What is known from earlier plans: the keys that were read, and the outcome by their values."""

    keys: list[str] = field(default_factory=list)
    outcomes: dict[tuple[Any, ...], Any] = field(default_factory=dict)


def one_by_one(
    base: Plan,
    columns: Columns,
    run: Callable[[Any], Any],
    unbound: frozenset[str] = frozenset(),
    memory: Memory | None = None,
) -> Outcomes:
    """`run` on every distinct combination of what it reads, each as one plan; what is in `memory` is not run again."""
    memory = memory or Memory()
    while True:
        known = [key for key in memory.keys if key in columns.codes]
        rows, index = columns.distinct(known)
        read: set[str] = set()
        results = []
        values = zip(*(columns.listed(key, rows) for key in known), strict=True) if known else [()] * len(rows)
        for row, own in zip(rows, values, strict=True):
            if own not in memory.outcomes:
                view = PlanView(base, columns, np.array([row]), unbound=unbound)
                memory.outcomes[own] = run(view)
                read |= view.reads.keys()
            results.append(memory.outcomes[own])
        more = [key for key in columns.codes if key in read and key not in known and len(columns.values[key]) > 1]
        if not more:
            return Outcomes(tuple(results), index)
        memory.keys += more
        memory.outcomes.clear()


@dataclass(frozen=True, slots=True)
class Batch:
    """One run over several plans at once: its result, whose arrays have an element per distinct combination of numbers.

    `rows` are all plans that it stands for, `lane` by row the element that is its own.
    """

    result: Any
    rows: Ints
    lane: Ints


@dataclass(frozen=True, slots=True)
class Batches:
    """Runs that together stand for every plan once."""

    items: tuple[Batch, ...]
    count: int

    def array(self, of: Callable[[Any], Any]) -> np.ndarray:
        """A number of every plan [plans]; `of` takes it from a result."""
        found = np.zeros(self.count)
        for item in self.items:
            value = np.asarray(of(item.result), dtype=float)
            found[item.rows] = value[item.lane] if value.ndim else value
        return found

    def places(self) -> tuple[Ints, Ints]:
        """Which run stands for each plan, and which of its elements [plans]."""
        batch, lane = np.zeros(self.count, dtype=np.int64), np.zeros(self.count, dtype=np.int64)
        for number, item in enumerate(self.items):
            batch[item.rows], lane[item.rows] = number, item.lane
        return batch, lane


def together(
    base: Plan,
    columns: Columns,
    run: Callable[[Any, Ints], Any],
    apart: Sequence[str] = (),
    own: bool = False,
    unbound: frozenset[str] = frozenset(),
) -> Batches:
    """`run(plans, rows)` on as many plans at once as do not differ in anything but numbers; `rows` are those in its
    arrays.

    `apart`: keys in which plans that run together never differ. `own`: every plan has its own element, though what is
    read of it be the same (`run` looks at more than the plan).
    """
    words, numbers = list(apart), list[str]()
    waiting: list[tuple[Ints, int]] = [(np.arange(len(columns)), 0)]
    items = []
    while waiting:
        rows, depth = waiting.pop()
        if depth < len(words):
            waiting += [(part, len(words)) for part in alike(columns, rows, words[depth:])]
            continue
        lanes, lane = (rows, np.arange(len(rows))) if own else representatives(columns, rows, numbers)
        view = PlanView(base, columns, rows, lanes, None if own else numbers, unbound)
        try:
            items.append(Batch(run(view, lanes), rows, lane))
        except Varies as varies:
            (numbers if is_number(columns, varies.key) else words).append(varies.key)
            waiting.append((rows, depth))
        except Split as split:
            truth = split.truth if len(split.truth) == len(lanes) else np.arange(len(lanes)) == 0
            side = truth[lane]
            waiting += [(rows[side], depth), (rows[~side], depth)]
    return Batches(tuple(items), len(columns))


def is_number(columns: Columns, key: str) -> bool:
    """Whether plans that differ in this key run together, as arrays."""
    return key in NUMBERS or key.startswith(NUMBERED) or isinstance(columns.values[key][0], Group)


def alike(columns: Columns, rows: Ints, keys: Sequence[str]) -> list[Ints]:
    """The rows in groups that do not differ in any of the keys."""
    _, group = columns.only(keys).take(rows).distinct(list(keys))
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))[:-1]
    return [rows[part] for part in np.split(order, ends)]


def representatives(columns: Columns, rows: Ints, keys: Sequence[str]) -> tuple[Ints, Ints]:
    """One row for each distinct combination of the keys, and by row which of them stands for it."""
    first, lane = columns.only(keys).take(rows).distinct(list(keys))
    return rows[first], lane
