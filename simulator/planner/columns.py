"""Many plans of one model side by side: for every key of the plan its distinct values, and which of them each has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODE = np.int32
Ints = NDArray[np.integer[Any]]
# Codes of several keys are combined to one number, up to as many combinations as this.
MOST_COMBINED = 1 << 22


@dataclass(frozen=True, slots=True)
class Columns:
    """`values` by key are its distinct values, `codes` [plans] by key say which of them every plan has."""

    count: int
    values: Mapping[str, tuple[Any, ...]]
    codes: Mapping[str, Ints]

    def __len__(self) -> int:
        return self.count

    def take(self, rows: Ints) -> Columns:
        """The plans of these rows, in this order."""
        return Columns(len(rows), self.values, {key: code[rows] for key, code in self.codes.items()})

    def only(self, keys: Sequence[str]) -> Columns:
        """The same plans with fewer keys."""
        return Columns(self.count, {k: self.values[k] for k in keys}, {k: self.codes[k] for k in keys})

    def with_key(self, key: str, values: Sequence[Any], codes: Ints) -> Columns:
        """The same plans with one more key."""
        return Columns(self.count, {**self.values, key: tuple(values)}, {**self.codes, key: codes})

    def crossed(self, key: str, values: Sequence[Any]) -> Columns:
        """Every plan with every one of the values."""
        rows = np.repeat(np.arange(self.count), len(values))
        codes = np.tile(np.arange(len(values), dtype=CODE), self.count)
        return self.take(rows).with_key(key, values, codes)

    def crossed_with(self, other: Columns) -> Columns:
        """Every plan with everything that stands in a row of another table."""
        rows = np.repeat(np.arange(self.count), len(other))
        turns = np.tile(np.arange(len(other)), self.count)
        codes = {key: code[turns] for key, code in other.codes.items()}
        mine = self.take(rows)
        return Columns(len(rows), {**mine.values, **other.values}, {**mine.codes, **codes})

    def numbers(self, key: str) -> Any:
        """A number of every plan [plans]."""
        return np.array(self.values[key])[self.codes[key]]

    def listed(self, key: str, rows: Ints) -> list[Any]:
        """A key's values of these rows."""
        values = self.values[key]
        return [values[code] for code in self.codes[key][rows].tolist()]

    def row(self, index: int) -> dict[str, Any]:
        """The values of one plan."""
        return {key: self.values[key][self.codes[key][index]] for key in self.codes}

    def distinct(self, keys: Sequence[str]) -> tuple[Ints, Ints]:
        """A row of each distinct combination of the keys' values, and by plan which combination it has."""
        combined: Ints = np.zeros(self.count, dtype=np.int64)
        span = 1
        for key in keys:
            size = len(self.values[key])
            if span * size > MOST_COMBINED:
                _, combined = compact(combined, span)
                span = int(combined.max(initial=0)) + 1
            combined = combined * size + self.codes[key]
            span *= size
        return compact(combined, span)


NO_KEYS = Columns(1, {}, {})


def compact(codes: Ints, span: int) -> tuple[Ints, Ints]:
    """First row of every distinct code below `span`, in the order of codes, and the codes renumbered without gaps."""
    if span > 4 * len(codes) + 1024:
        _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
        return first, inverse.reshape(-1)
    first_row = np.full(span, -1)
    first_row[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    present = first_row >= 0
    number = np.cumsum(present) - 1
    return first_row[present], number[codes]
