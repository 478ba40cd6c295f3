"""Published training runs read from CSV files, in scenario keys or in the older column layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from hardware.documents import parse_document
from hardware.problems import InputError, Place, Problem
from simulator.scenario.spec import Meter
from validate import columns
from validate.row import QUALITIES, Measured, Row
from validate.tables import Table, read_table

PUBLISHED = Path(__file__).parent / "published" / "runs"
SECTIONS = ("cluster.", "plan.", "run.")
MEASURED = ("measured.step_time_s", "measured.how", "measured.peak_memory_bytes", "measured.meter")
LABELS = ("source", "gpu", "network", "kind", "quality", "group", "family", "notes", "unsupported", "ambiguous")
ASSUMED = "assumed"
# Between two texts of one `assumed` cell.
SEPARATOR = " | "


def read_rows(paths: Iterable[Path] | None = None) -> list[Row]:
    """The rows of CSV files in either layout, told apart by their columns (None: all that ship with the project).

    Raises InputError naming every missing or unknown column, repeated id and cell that should be a number.
    """
    problems: list[Problem] = []
    rows: list[Row] = []
    for path in sorted(PUBLISHED.glob("*.csv")) if paths is None else paths:
        table = read_table(Path(path), problems)
        if table is not None:
            read = columns.read_rows if "model_name" in table.columns else _read_rows
            rows += read(table, str(path), problems)
    problems += _repeated_ids(rows)
    if problems:
        raise InputError(problems)
    return rows


def _repeated_ids(rows: Iterable[Row]) -> list[Problem]:
    seen: set[str] = set()
    problems = []
    for row in rows:
        if row.id in seen:
            problems.append(row.place.problem(f"the id {row.id!r} appears twice"))
        seen.add(row.id)
    return problems


def _read_rows(table: Table, file: str, problems: list[Problem]) -> list[Row]:
    """The rows of a table in scenario keys."""
    known = ("id", "model", *MEASURED, *LABELS, ASSUMED)
    unknown = [name for name in table.columns if name not in known and not name.startswith(SECTIONS)]
    missing = [name for name in ("id", "model") if name not in table.columns]
    if unknown or missing:
        what = f"columns must be scenario keys (model, cluster.gpus, plan.tp, ...) or {', '.join(known)}"
        problems.append(Problem(file, 1, "", f"{what}; missing {missing}, unknown {unknown}"))
        return []
    return [row for cells, place in table.lines if (row := _read_row(cells, place, problems)) is not None]


def _read_row(cells: Mapping[str, str], place: Place, problems: list[Problem]) -> Row | None:
    before = len(problems)
    if not cells["id"]:
        problems.append(place.problem("has no id"))
    quality = cells.get("quality", "")
    if quality not in QUALITIES:
        problems.append(
            place.problem(f"quality must be A, B or C, not {quality!r}; leave it empty where it is unknown")
        )
    measured = _measured(cells, place, problems)
    settings = {}
    for key, text in cells.items():
        if text and (key == "model" or key.startswith(SECTIONS)):
            try:
                settings[key] = parse_document(text, place.file).data
            except InputError as error:
                problems += [place.under(key).problem(each.message) for each in error.problems]
    if len(problems) > before:
        return None
    assumed = tuple(filter(None, cells.get(ASSUMED, "").split(SEPARATOR)))
    labels: dict[str, Any] = {name: cells.get(name, "") for name in LABELS}
    if "plan.precision" not in settings:
        labels["unsupported"] = labels["unsupported"] or "the row does not say plan.precision"
    return Row(cells["id"], place, settings, measured, assumed=assumed, in_scenario_keys=True, **labels)


def _measured(cells: Mapping[str, str], place: Place, problems: list[Problem]) -> tuple[Measured, ...]:
    found = []
    step_time_s = _number(cells, "measured.step_time_s", place, problems)
    if step_time_s is not None:
        found.append(Measured("step_time_s", step_time_s, cells.get("measured.how", "")))
    peak_bytes = _number(cells, "measured.peak_memory_bytes", place, problems)
    if peak_bytes is not None:
        meter: Meter = cells.get("measured.meter") or "allocated"  # type: ignore[assignment]
        if meter not in get_args(Meter):
            problems.append(place.problem(f"measured.meter {meter!r} is none of {', '.join(get_args(Meter))}"))
        found.append(Measured("peak_memory_bytes", peak_bytes, f"printed, {meter}", meter))
    return tuple(found)


def _number(cells: Mapping[str, str], column: str, place: Place, problems: list[Problem]) -> float | None:
    """A positive number; None where the cell is empty or holds something else, which is a problem."""
    text = cells.get(column, "")
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        problems.append(place.problem(f"{column} must be a positive number, not {text!r}"))
        return None
    return value
