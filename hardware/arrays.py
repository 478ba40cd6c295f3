"""The types of quantities that formulas take one at a time or many at once, as arrays that broadcast."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Number: TypeAlias = float | NDArray[Any]
Index: TypeAlias = int | NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]


def floats(value: Number) -> Number:
    """A scalar as float, anything else as an array of float64 (products of integer shapes would overflow)."""
    return float(value) if isinstance(value, int | float) else np.asarray(value, dtype=float)


def plain(value: Number) -> Number:
    """A scalar result, or an array without axes, as float; an array with axes as it is."""
    return float(value) if np.ndim(value) == 0 else value
