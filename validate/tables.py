"""CSV files as rows of named cells, with every problem of the file collected."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from hardware.problems import Place, Problem


@dataclass(frozen=True, slots=True)
class Table:
    """The columns of a CSV file and its lines: cells by column, and where each line stands."""

    columns: tuple[str, ...]
    lines: tuple[tuple[dict[str, str], Place], ...]


def why_unreadable(error: Exception) -> str:
    """In words why a CSV file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file; name a CSV file"
    if isinstance(error, IsADirectoryError):
        return "is a directory; name a CSV file"
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text; save it as UTF-8"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def read_table(path: Path, problems: list[Problem]) -> Table | None:
    """The table in a CSV file with its cells stripped; None, with the reason in `problems`, where there is none."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), None, "", why_unreadable(error)))
        return None
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = tuple(reader.fieldnames or ())
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        problems.append(Problem(str(path), 1, "", f"columns {repeated} appear twice; keep one of each"))
        return None
    lines = []
    for cells in reader:
        place = Place(str(path), f"line {reader.line_num}")
        if None in cells:
            problems.append(place.problem("has more cells than columns"))
        lines.append(({column: (cells[column] or "").strip() for column in columns}, place))
    return Table(columns, tuple(lines))
