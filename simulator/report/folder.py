"""Writes an evaluation into a folder: result.json, scenario.yaml (resolved, evaluates to the same), report.txt and
report.html.

Files are written aside and renamed, so that a reader sees the old or the new one, never half of one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from simulator.scenario.resolved import scenario_yaml
from simulator.scenario.spec import Scenario

MARK = ".traincast"


def evaluation_files(
    scenario: Scenario, document: Mapping[str, Any], drawn: Mapping[str, str] | None = None
) -> dict[str, str]:
    """What an evaluation leaves behind, by file name; `drawn`: pictures for the page, by its chapters."""
    from simulator.report.page import evaluation_page
    from simulator.report.terminal import evaluation_text

    return {
        "result.json": json_text(document),
        "scenario.yaml": scenario_yaml(scenario),
        "report.txt": evaluation_text(document),
        "report.html": evaluation_page(document, drawn or {}),
    }


def write_results(folder: Path, files: Mapping[str, str]) -> None:
    """Writes each named text into `folder`, making it if needed.

    A folder that holds anything is used only if it carries our mark, and then only our files are replaced; otherwise
    InputError.
    """
    try:
        claim_folder(folder)
        for name, text in files.items():
            write_text(folder / name, text)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(folder), None, "--out", f"cannot be written: {reason}")]) from None


def write_file(path: Path, data: bytes, option: str) -> None:
    """Writes one file; InputError naming the command line's option where it cannot be written."""
    try:
        write_bytes(path, data)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(path), None, option, f"cannot be written: {reason}")]) from None


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes aside, then renames over the old file."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def json_text(document: Mapping[str, Any]) -> str:
    """The document as JSON with a final newline; NaN and infinity, which are not JSON, raise ValueError."""
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def claim_folder(folder: Path) -> None:
    """Makes the folder ours; InputError where it holds anything else."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARK).exists():
        message = "holds files that are not ours; name an empty or a new folder"
        raise InputError([Problem(str(folder), None, "--out", message)])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
