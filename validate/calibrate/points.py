"""What is measured: cases, their measured points, and the file that keeps every point as soon as it is there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.problems import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

Shape = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: a family of kernels or collectives, its number format, and its shape.

    `shape` maps dimensions (m, n, k, seq_len, size_bytes, ...) and choices (role, kind, operation) to plain values.
    """

    family: str
    dtype: str
    shape: Shape

    @property
    def key(self) -> str:
        """What tells one case from another, whatever the order of its dimensions."""
        return " ".join([self.family, self.dtype, *(f"{name}={self.shape[name]}" for name in sorted(self.shape))])


@dataclass(frozen=True, slots=True)
class Point:
    """A measured case: median seconds with the 10th and 90th percentile, or why there is none (`failed`).

    `where` says on what: part, driver, torch, collective library, clocks and power while running, date.
    """

    family: str
    dtype: str
    shape: Shape
    seconds: float = math.nan
    low_s: float = math.nan
    high_s: float = math.nan
    repetitions: int = 0
    failed: str = ""
    source: str = "measured here"
    where: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return Case(self.family, self.dtype, self.shape).key

    @property
    def usable(self) -> bool:
        return not self.failed and self.seconds > 0


NAMES: dict[str, Any] = {"family": str, "dtype": str, "shape": dict, "seconds": (int, float), "low_s": (int, float),
         "high_s": (int, float), "repetitions": int, "failed": str, "source": str, "where": dict}  # fmt: skip


class Points:
    """The points of one profile: a JSON Lines file that grows point by point, so that nothing measured is lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, Point] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        """Reads what an earlier run left. A torn last line (a run was killed) is dropped, any other is reported."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.splitlines()
        torn = bool(lines) and not text.endswith("\n")
        if torn:
            lines.pop()
            rewrite(self.path, lines)
        problems: list[Problem] = []
        for number, line in enumerate(lines, start=1):
            point, reason = parse_line(line)
            if point is not None:
                self.found[point.key] = point
            else:
                problems.append(Problem(str(self.path), number, "", f"{reason}; remove the line to go on without it"))
        if problems:
            raise InputError(problems)

    def add(self, point: Point) -> None:
        """Keeps a point, on disk at once."""
        self.found[point.key] = point
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(point))
            file.flush()

    def has(self, case: Case) -> bool:
        """Measured already, or known not to fit; other failures are tried again."""
        known = self.found.get(case.key)
        return known is not None and (known.usable or known.failed == OUT_OF_MEMORY)

    def usable(self) -> list[Point]:
        return [point for point in self.found.values() if point.usable]


OUT_OF_MEMORY = "out of memory"


def line_of(point: Point) -> str:
    """One JSON object on one line; what is not a number is left out."""
    values = {key: value for key, value in asdict(point).items() if value == value and value not in ("", {})}
    return json.dumps(values, allow_nan=False, ensure_ascii=False) + "\n"


def parse_line(line: str) -> tuple[Point | None, str]:
    """The point on a line, or what is wrong with it."""
    try:
        raw = json.loads(line)
    except ValueError:
        return None, "is not a JSON object"
    if not isinstance(raw, dict):
        return None, "is not a JSON object"
    for name, value in raw.items():
        if name not in NAMES:
            return None, f"{name}: is no field of a point"
        if not isinstance(value, NAMES[name]) or isinstance(value, bool):
            return None, f"{name}: {value!r} is of the wrong kind"
    if not {"family", "dtype", "shape"} <= raw.keys():
        return None, "lacks family, dtype or shape"
    if not all(isinstance(each, str | int | float) for each in raw["shape"].values()):
        return None, "shape: holds more than numbers and words"
    return Point(**raw), ""


def rewrite(path: Path, lines: Iterable[str]) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    aside.replace(path)


def frame(points: Iterable[Point], family: str, dtype: str | None = None) -> pd.DataFrame:
    """The points of one family as a table: one column per dimension, `latency_us`, its spread, and `gpu`."""
    import pandas as pd

    rows = [
        {**point.shape, "dtype": point.dtype, "latency_us": point.seconds * 1e6, "spread": spread_of(point),
         "gpu": point.where.get("gpu", ""), "source": point.source}
        for point in points
        if point.family == family and point.usable and dtype in (None, point.dtype)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def spread_of(point: Point) -> float:
    """Width of the middle four fifths over the median; NaN where only one value is known."""
    return (point.high_s - point.low_s) / point.seconds
