"""The two data files that the fit of the global constants writes, as text and onto the disk."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from validate.fit_points import Floats, Point
from validate.fit_solve import Fitted

_FITTED_LINE = re.compile(r"(?m)^(value|low|high|mean_error_without) = .*\n?")


def constants_text(text: str, values: Sequence[Fitted], without: Floats) -> str:
    """The constants' data file with what was fitted put in, entry by entry; every other line stays as it is.

    Raises ValueError where the file does not hold one entry to a value.
    """
    head, *blocks = re.split(r"(?m)^(?=\[\[constants\]\]$)", text)
    if len(blocks) != len(values):
        raise ValueError(f"the file of constants holds {len(blocks)} entries and {len(values)} were fitted. Run again.")
    written = [head]
    for block, fitted, error in zip(blocks, values, without, strict=True):
        by_hand = _FITTED_LINE.sub("", block).rstrip("\n")
        bounds = f"value = {fitted.value:.4g}\nlow = {fitted.low:.4g}\nhigh = {fitted.high:.4g}"
        written.append(f"{by_hand}\n{bounds}\nmean_error_without = {error:.4g}\n\n")
    return "".join(written).rstrip("\n") + "\n"


def residuals_text(points: Sequence[Point], left_out: Mapping[str, float]) -> str:
    """What the intervals are drawn from: every row's case, family and log(measured / predicted) without its family."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "family", "generation", "kind", "stack", "gpus", "log_error"))
    for point in points:
        case = point.case
        log_error = f"{-left_out[point.id]:.4f}"
        table.writerow((point.id, point.family, case.generation, case.kind, case.stack, case.gpus, log_error))
    return text.getvalue()


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
