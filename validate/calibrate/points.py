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
OUT_OF_MEMORY = "out of memory"
LARGEST = 2**60  # of any dimension or size: an exbibyte
LONGEST_S = 1e6  # of any time: eleven days
# Family -> what its shape must hold: numbers and words.
DIMENSIONS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "gemm": (("m", "n", "k"), ("role",)),
    "grouped_gemm": (("groups", "m", "n", "k"), ("role",)),
    "attention": (("batch", "seq_len", "heads", "kv_heads", "qk_dim", "v_dim", "causal"), ("role",)),
    "streaming": (("rows", "width"), ("op",)),
    "collective": (("size_bytes", "n_gpus", "n_nodes"), ("operation",)),
    "overlap": (("size_bytes", "n_gpus"), ("operation", "slowed")),
    "jitter": (("m", "n", "k", "rank"), ()),
    "transfer": (("size_bytes",), ("direction",)),
    "launch": ((), ("mode",)),
}
FROM_ZERO = ("rank", "causal")  # dimensions that may be 0


@dataclass(frozen=True, slots=True)
class BenchCase:
    """One thing to measure: a family of kernels or collectives, its number format, and its shape.

    `shape` maps dimensions (m, n, k, seq_len, size_bytes, ...) and choices (role, kind, operation) to plain values.
    """

    family: str
    dtype: str
    shape: Shape

    @property
    def key(self) -> str:
        """What tells one case from another, whatever the order of its dimensions."""
        dimensions = [f"{name}={self.shape[name]}" for name in sorted(self.shape)]
        return " ".join([self.family, self.dtype, *dimensions])


@dataclass(frozen=True, slots=True)
class Timing:
    """Median and 10th and 90th percentile of the repetitions, seconds."""

    seconds: float
    low_s: float
    high_s: float
    repetitions: int


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
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

    @classmethod
    def timed(cls, case: BenchCase, timing: Timing, where: Mapping[str, Any]) -> MeasuredPoint:
        """The point of a case that was timed here."""
        return cls(
            case.family,
            case.dtype,
            case.shape,
            timing.seconds,
            timing.low_s,
            timing.high_s,
            timing.repetitions,
            where=where,
        )

    @classmethod
    def logged(cls, case: BenchCase, seconds: float, source: str, where: Mapping[str, Any]) -> MeasuredPoint:
        """The point of a case of which a log tells one time; what `where` leaves empty is dropped."""
        stated = {key: value for key, value in where.items() if value}
        return cls(case.family, case.dtype, case.shape, seconds, seconds, seconds, 1, source=source, where=stated)

    @property
    def key(self) -> str:
        return BenchCase(self.family, self.dtype, self.shape).key

    @property
    def usable(self) -> bool:
        return not self.failed and self.seconds > 0


# Field of a point -> what its value must be in a file.
FIELDS: dict[str, Any] = {
    "family": str,
    "dtype": str,
    "shape": dict,
    "seconds": (int, float),
    "low_s": (int, float),
    "high_s": (int, float),
    "repetitions": int,
    "failed": str,
    "source": str,
    "where": dict,
}


class Points:
    """The points of one profile: a JSON Lines file that grows point by point, so that nothing measured is lost."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.by_key: dict[str, MeasuredPoint] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        """Reads what an earlier run left. A torn last line (a run was killed) is dropped, any other is reported."""
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = text.split("\n")
        if lines.pop():
            rewrite(self.path, lines)
        problems: list[Problem] = []
        for number, line in enumerate(lines, start=1):
            point, reason = parse_line(line)
            if point is not None:
                self.by_key[point.key] = point
            else:
                problems.append(Problem(str(self.path), number, "", f"{reason}; remove the line to go on without it"))
        if problems:
            raise InputError(problems)

    def add(self, point: MeasuredPoint) -> None:
        """Keeps a point, on disk at once."""
        self.by_key[point.key] = point
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line_of(point))
            file.flush()

    def has(self, case: BenchCase) -> bool:
        """Measured already, or known not to fit; other failures are tried again."""
        known = self.by_key.get(case.key)
        return known is not None and (known.usable or known.failed == OUT_OF_MEMORY)

    def usable(self) -> list[MeasuredPoint]:
        return [point for point in self.by_key.values() if point.usable]


def line_of(point: MeasuredPoint) -> str:
    """One JSON object on one line; what is not a number is left out."""
    values = asdict(point)
    stated = {key: value for key, value in values.items() if value == value and value not in ("", {})}
    return json.dumps(stated, allow_nan=False, ensure_ascii=False) + "\n"


def parse_line(line: str) -> tuple[MeasuredPoint | None, str]:
    """The point on a line, or what is wrong with it."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return None, "is not a JSON object"
    if not isinstance(raw, dict):
        return None, "is not a JSON object"
    for name, value in raw.items():
        if name not in FIELDS:
            return None, f"{name}: is no field of a point"
        if not isinstance(value, FIELDS[name]) or isinstance(value, bool):
            return None, f"{name}: {repr(value)[:20]} is of the wrong kind"
    if not {"family", "dtype", "shape"} <= raw.keys():
        return None, "lacks family, dtype or shape"
    point = MeasuredPoint(**raw)
    reason = problem_of(point)
    return (None, reason) if reason else (point, "")


def problem_of(point: MeasuredPoint) -> str:
    """What is wrong with a point's values, "" where nothing is: its dimensions, its times and where it was measured."""
    if not all(isinstance(each, str | int | float) for each in point.shape.values()):
        return "shape: holds more than numbers and words"
    if not all(isinstance(each, str | int | float) for each in point.where.values()):
        return "where: holds more than numbers and words"
    for name in ("seconds", "low_s", "high_s"):
        seconds = getattr(point, name)
        if seconds == seconds and not 0 <= seconds <= LONGEST_S:
            return f"{name}: {repr(seconds)[:20]} is no time; write one of 0 to {LONGEST_S:g} s"
    if point.family not in DIMENSIONS:
        return f"family: {point.family[:20]!r} is not known; write one of {', '.join(DIMENSIONS)}"
    numbers, words = DIMENSIONS[point.family]
    for name in numbers:
        value = point.shape.get(name)
        lowest = 0 if name in FROM_ZERO else 1
        if not isinstance(value, int | float) or not lowest <= value <= LARGEST:
            return f"shape.{name}: must be a number of {lowest} to {LARGEST:.2g}, not {repr(value)[:20]}"
    for name in words:
        if not isinstance(point.shape.get(name), str):
            return f"shape.{name}: must be a word, not {repr(point.shape.get(name))[:20]}"
    return ""


def rewrite(path: Path, lines: Iterable[str]) -> None:
    aside = path.with_name(f".{path.name}.part")
    aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    aside.replace(path)


def frame(points: Iterable[MeasuredPoint], family: str, dtype: str | None = None) -> pd.DataFrame:
    """The points of one family as a table: one column per dimension, `latency_us`, its spread, and `gpu`."""
    import pandas as pd

    rows = []
    for point in points:
        if point.family != family or not point.usable or dtype not in (None, point.dtype):
            continue
        row = {
            **point.shape,
            "dtype": point.dtype,
            "latency_us": point.seconds * 1e6,
            "spread": spread_of(point),
            "gpu": point.where.get("gpu", ""),
            "source": point.source,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def spread_of(point: MeasuredPoint) -> float:
    """Width of the middle four fifths over the median; NaN where only one value is known."""
    return (point.high_s - point.low_s) / point.seconds
