"""What the verbs share: their common arguments, and how problems and documents are written out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hardware.problems import InputError

ScenarioFile = Annotated[Path, typer.Argument(metavar="SCENARIO", help="The scenario file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one key, as plan.tp=2; may be given many times."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]
OutDir = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Also write result.json, scenario.yaml and report.txt here.")
]


def explain(error: InputError) -> str:
    """Every problem on a line of its own: `file:line: key message`."""
    return "".join(f"{line}\n" for line in map(located, error.problems))


def located(problem: Any) -> str:
    place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
    return ": ".join(part for part in (place, f"{problem.key} {problem.message}".strip()) if part)


def print_json(document: Mapping[str, Any]) -> None:
    """The document on stdout; NaN and infinity would not be JSON and are refused."""
    json.dump(document, sys.stdout, indent=2, allow_nan=False, ensure_ascii=False)
    sys.stdout.write("\n")
