"""The two data files that the fit of the global constants writes, as text and onto the disk."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from pathlib import Path

from simulator.predict.residuals import Case
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


def residuals_text(points: Sequence[Point], left_out: Mapping[str, Mapping[str, float]]) -> str:
    """What the intervals are drawn from: every row's case and log(measured / predicted) without its family, without its
    source and without its accelerator generation (`left_out`: log(predicted / measured) by id under these names)."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    described = [each.name for each in fields(Case)]
    table.writerow(("id", "family", *described, *(f"without_{name}" for name in left_out)))
    for point in points:
        errors = [f"{-errors[point.id]:.4f}" for errors in left_out.values()]
        table.writerow((point.id, point.family, *astuple(point.case), *errors))
    return text.getvalue()


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    aside = path.with_suffix(".aside")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
