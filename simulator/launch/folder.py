"""Writes a launch into a new folder: all of its files or none, and never over another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from hardware.problems import InputError, Problem

_RUNNABLE = (".sh", ".sbatch")


def check_free(folder: Path) -> None:
    """InputError where the folder holds anything, or is no folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError([Problem(str(folder), None, "--out", "exists; name a new folder, or remove it first")])


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Writes the files aside and renames the whole; InputError where the folder holds anything or cannot be written."""
    check_free(folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        for name, text in files.items():
            path = aside / name
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755 if name.endswith(_RUNNABLE) else 0o644)
        aside.replace(folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(folder), None, "--out", f"cannot be written: {reason}")]) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
