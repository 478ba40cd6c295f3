"""What a log gives: points, and the reasons for what was left out; with the text of a file that nobody vouches for."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from hardware.problems import InputError, Problem
from validate.calibrate.points import MeasuredPoint, problem_of

MOST_BYTES = 2 << 30  # of a log's text, unpacked
CHUNK_BYTES = 1 << 22


@dataclass(slots=True)
class Reading:
    """The points of one log by key (a later one takes an earlier one's place), and reason -> how much it left out."""

    points: dict[str, MeasuredPoint] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, point: MeasuredPoint) -> None:
        """Takes a point whose values can be right; of another the reason is counted."""
        reason = problem_of(point)
        if reason:
            self.leave_out(f"rows or events with an impossible value, as {reason}")
        elif not point.usable:
            self.leave_out("rows or events without a time")
        else:
            self.points[point.key] = point

    def leave_out(self, reason: str, count: int = 1) -> None:
        self.left_out[reason] += count

    @property
    def reasons(self) -> str:
        """Why something was left out, the most frequent reason first; "" where nothing was."""
        return "; ".join(f"{reason} ({count:,} of them)" for reason, count in self.left_out.most_common())


def refusal(path: Path, message: str, line: int | None = None) -> InputError:
    return InputError([Problem(str(path), line, "", message)])


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The file's text, unpacked where its name ends in .gz. Raises InputError for what is too large or no text."""
    import gzip

    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = read_at_most(file, most_bytes)
        if raw is None:
            raise refusal(path, f"holds more than {most_bytes / 2**30:.3g} GiB, unpacked; profile fewer steps")
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise refusal(path, f"cannot be read: {error}") from None


class ByteSource(Protocol):
    """A file opened for reading bytes, packed or not."""

    def read(self, size: int, /) -> bytes: ...


def read_at_most(file: ByteSource, most_bytes: int) -> bytes | None:
    """All of a file, None where it holds more: a small packed file could unfold to a huge one."""
    chunks = []
    count = 0
    while chunk := file.read(CHUNK_BYTES):
        count += len(chunk)
        if count > most_bytes:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


# ---- values of untrusted documents


def number_in(value: Any) -> float:
    """A finite number, or NaN for anything else."""
    if isinstance(value, bool):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def whole_in(value: Any) -> int:
    """A whole number of at least 0, or -1 for anything else."""
    number = number_in(value)
    return int(number) if number >= 0 and number == int(number) else -1


def mappings_in(value: Any) -> list[dict[str, Any]]:
    """The mappings of a list; empty for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def list_in(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def listed(names: Iterable[str]) -> str:
    """Names as people list them: "a, b or c"."""
    *first, last = names
    if not first:
        return last
    return f"{', '.join(first)} or {last}"
