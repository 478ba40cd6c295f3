"""Tells the kinds of launch files apart and reads each into statements; nothing in them is executed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hardware.documents import parse_document
from hardware.problems import InputError, Problem
from simulator.launch.importing.python_files import python_reading
from simulator.launch.importing.shell_files import shell_reading
from simulator.launch.importing.statements import Origin, Reading, Statement
from simulator.launch.importing.structured import structured_reading, toml_reading

MOST_BYTES = 4 << 20
# The arguments that Megatron-LM prints when a job starts: `  tensor_model_parallel_size ...................... 8`.
_PRINTED = re.compile(r"^\s*(?:\[[^\]]*\]:?\s*|\d+:\s*)*([a-z][a-z0-9_]*) \.{2,} ?(.*?)\s*$")
_LEAST_PRINTED = 5
KINDS = (
    "Megatron-LM arguments (a script, or as a job prints them), MLPerf config_*.sh, Megatron-Bridge overrides, "
    "torchtitan's Trainer.Config or TOML, DeepSpeed's JSON, Primus YAML, sbatch files, NCCL's topology XML, "
    "'nvidia-smi topo -m', Slurm's topology.conf and topology.yaml"
)


def file_text(path: Path) -> str:
    """A file's text. Raises InputError where it cannot be read, or is too large to be a launch file."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except IsADirectoryError:
        raise InputError([Problem(str(path), None, "", "is a folder; name the files in it")]) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(path), None, "", f"cannot be read: {reason}")]) from None
    if len(raw) > MOST_BYTES:
        raise InputError([Problem(str(path), None, "", f"is larger than {MOST_BYTES >> 20} MiB; is it a launch file?")])
    return raw.decode("utf-8", errors="replace").lstrip("\ufeff")


def is_cluster_file(path: Path, text: str) -> bool:
    """Whether a file describes a machine or a network: NCCL's XML, `nvidia-smi topo -m`, Slurm's topology."""
    if path.suffix.lower() == ".xml":
        return True
    if re.search(r"^\s*GPU0\s+X\b", _plain(text), re.MULTILINE):
        return True
    if re.search(r"^\s*(?:SwitchName|BlockName)\s*=", text, re.MULTILINE | re.IGNORECASE):
        return True
    return path.suffix in (".yaml", ".yml") and bool(re.search(r"^\s*(?:-\s+)?(?:tree|block):", text, re.MULTILINE))


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)


def read_launch_file(path: Path, text: str, beside: Callable[[str], tuple[str, str] | None]) -> Reading:
    """What a launch file states. `beside` gives (name, text) of a file that it sources, where that is at hand.

    Raises InputError for a file that is no launch file that is known.
    """
    suffix = path.suffix.lower()
    if suffix == ".json":
        return structured_reading(path.name, parse_document(text, str(path)))
    if suffix == ".toml":
        return toml_reading(path.name, text)
    if suffix in (".yaml", ".yml"):
        return structured_reading(path.name, parse_document(_without_placeholders(text), str(path)))
    if suffix == ".py":
        return python_reading(path.name, text)
    printed = list(_printed_arguments(path.name, text))
    if len(printed) >= _LEAST_PRINTED:
        return Reading(path.name, "megatron", tuple(printed))
    return shell_reading(path, text, beside)


def _without_placeholders(text: str) -> str:
    """YAML whose values have placeholders with defaults, `${NAME:8}` as Primus writes them, with the defaults."""
    return re.sub(r"\$\{[A-Za-z_][A-Za-z0-9_]*:([^{}\n]*)\}", lambda found: found[1], text)


def _printed_arguments(name: str, text: str) -> Iterator[Statement]:
    for number, line in enumerate(text.splitlines(), 1):
        found = printed_argument(line)
        if found:
            yield Statement(*found, Origin(name, number))


def printed_argument(line: str) -> tuple[str, str | list[str]] | None:
    """Name and value of an argument that Megatron-LM prints as it starts; None for a line of another kind."""
    found = _PRINTED.match(line)
    return ("--" + found[1].replace("_", "-"), _printed_value(found[2])) if found else None


def _printed_value(text: str) -> str | list[str]:
    if text.startswith("[") and text.endswith("]"):
        return [word.strip(" '\"") for word in text[1:-1].split(",") if word.strip()]
    return text


def names_in(path: Path) -> tuple[str, ...]:
    """Words of a file's and its nearest folders' names, in small letters."""
    parts = [*path.absolute().parts[-4:-1], path.stem]
    return tuple(part.lower() for part in parts)


def unknown_file(path: str, why: str) -> InputError:
    """The error for a file that says nothing that a scenario needs."""
    return InputError([Problem(path, None, "", f"{why}; what is read: {KINDS}")])
