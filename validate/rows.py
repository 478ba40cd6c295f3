"""Published training runs as rows of a table: the columns, the cells, and reading them from CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware.problems import InputError, Place, Problem

PUBLISHED = Path(__file__).parent / "published" / "runs"
COLUMN_WORDS = """
    id source source_read model_name params_total_B params_active_B layers hidden heads kv_heads_or_attention
    ffn_hidden n_experts topk moe_ffn_hidden shared_experts dense_layers vocab seq_len gpu_type n_gpus gpus_per_node
    internode_network tp cp pp vp ep etp dp zero_stage_or_distopt micro_batch global_batch_sequences precision recompute
    sequence_parallel schedule overlap_flags measured_step_time_s measured_tflops_per_gpu measured_mfu_pct
    measured_hfu_pct measured_tokens_per_s_per_gpu measured_peak_memory_GiB derived_step_time_s dense_or_moe quality
    group notes
"""
# Cells of these columns must be numbers where they are not empty; other columns carry words beside them.
NUMBER_WORDS = """
    params_total_B params_active_B layers hidden heads ffn_hidden n_experts topk moe_ffn_hidden dense_layers vocab
    seq_len n_gpus gpus_per_node tp cp pp ep etp dp micro_batch global_batch_sequences measured_step_time_s
    measured_tflops_per_gpu measured_mfu_pct measured_hfu_pct measured_tokens_per_s_per_gpu measured_peak_memory_GiB
    derived_step_time_s
"""
COLUMNS, NUMBERS = tuple(COLUMN_WORDS.split()), tuple(NUMBER_WORDS.split())
_LEADING_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")


class Unsupported(Exception):
    """A row that cannot become a scenario; the message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """One published measurement: its cells as text, by column; an empty cell is something the source does not say."""

    cells: Mapping[str, str]
    place: Place

    @property
    def id(self) -> str:
        return self.cells["id"]

    def text(self, column: str) -> str:
        return self.cells[column].strip()

    def number(self, column: str) -> float | None:
        """The number that a cell begins with; None where it is empty or begins with a word."""
        found = _LEADING_NUMBER.match(self.cells[column])
        return float(found[1]) if found else None

    def count(self, column: str) -> int | None:
        number = self.number(column)
        return None if number is None else round(number)

    def need(self, column: str) -> int:
        """A count without which there is no scenario. Raises Unsupported."""
        count = self.count(column)
        if count is None:
            raise Unsupported(f"the source does not say {column}")
        return count


def read_rows(paths: Iterable[Path] | None = None) -> list[Row]:
    """The rows of CSV files in the published column layout (None: all that ship with the project).

    Raises InputError naming every missing or unknown column, repeated id and cell that should be a number.
    """
    problems: list[Problem] = []
    rows: list[Row] = []
    for path in sorted(PUBLISHED.glob("*.csv")) if paths is None else paths:
        rows += _read_file(Path(path), problems)
    seen: set[str] = set()
    for row in rows:
        if row.id in seen:
            problems.append(row.place.problem(f"the id {row.id!r} appears twice"))
        seen.add(row.id)
    if problems:
        raise InputError(problems)
    return rows


def _read_file(path: Path, problems: list[Problem]) -> list[Row]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), None, "", f"cannot be read as UTF-8 text: {error}"))
        return []
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = list(reader.fieldnames or [])
    missing, unknown = [c for c in COLUMNS if c not in columns], [c for c in columns if c not in COLUMNS]
    if missing or unknown or len(columns) != len(set(columns)):
        problems.append(Problem(str(path), 1, "", f"columns must be the published ones, each once; missing {missing}, "
                                f"unknown {unknown}"))  # fmt: skip
        return []
    rows = []
    for cells in reader:
        row = Row({column: cells[column] or "" for column in COLUMNS}, Place(str(path), f"line {reader.line_num}"))
        problems += _cell_problems(row, extra=None in cells)
        rows.append(row)
    return rows


def _cell_problems(row: Row, extra: bool) -> list[Problem]:
    found = [row.place.problem("has more cells than columns")] if extra else []
    if not row.id:
        found.append(row.place.problem("has no id"))
    for column in NUMBERS:
        text = row.text(column)
        if text and not _LEADING_NUMBER.match(text):
            found.append(row.place.problem(f"{column} must begin with a number, not {text!r}"))
        elif text and column not in ("layers", "dense_layers", "params_active_B") and row.number(column) == 0:
            found.append(row.place.problem(f"{column} must not be zero; leave it empty where it is not known"))
    return found
