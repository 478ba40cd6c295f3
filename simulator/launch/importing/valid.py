"""Values of a launch that no framework would take: sizes that are no numbers above 0, words that a table has not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hardware.problems import InputError, Problem
from simulator.launch.importing.statements import Keys, Origin, Statement, typed
from simulator.launch.tables import Row, Table

# Keys whose values count something that there is at least one of.
COUNTS = (
    *("plan.tp", "plan.pp", "plan.cp", "plan.ep", "plan.etp"),
    *("plan.micro_batch_size", "plan.global_batch_size", "plan.local_batch_size", "plan.microbatches"),
    *("model.layers", "model.hidden", "model.vocab", "model.dense.width", "model.moe.width"),
    *("model.mixer.heads", "model.mixer.kv_heads", "model.mixer.head_dim"),
    *("run.seq_length", "run.steps", "run.samples"),
)
# Words for a count that a framework works out: DeepSpeed's, and torchtitan's for the batch of a step.
WORKED_OUT = {
    "plan.global_batch_size": ("auto", -1),
    "plan.micro_batch_size": ("auto",),
    "plan.microbatches": ("auto",),
}
# DeepSpeed's setting whose 0 switches tensor parallelism off.
OFF_AT_ZERO = "tensor_parallel.autotp_size"


def check_values(keys: Keys, table: Table, statements: Sequence[Statement]) -> None:
    """Raises InputError with every value, by file, line and setting, that the framework could not start with."""
    problems = [*_counts(keys), *_choices(table.rows, statements)]
    if problems:
        raise InputError(problems)


def _counts(keys: Keys) -> Iterator[Problem]:
    for key in COUNTS:
        found = keys.found.get(key)
        if found is None or found.value is None or isinstance(found.value, list | tuple):
            continue
        if found.value in WORKED_OUT.get(key, ()) or (found.value == 0 and found.comment == OFF_AT_ZERO):
            continue
        if not _is_count(found.value):
            message = f"{_shown(found.value)} is not a whole number above 0. Write one, as 8."
            yield _problem(found.origins[0], found.comment, message)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _choices(rows: Iterable[Row], statements: Sequence[Statement]) -> Iterator[Problem]:
    """Settings whose words are numbers, as ZeRO's stages, with another one."""
    stated = {each.name: each for each in statements}
    for row in rows:
        words = list(row.words.values()) if row.words else []
        statement = stated.get(row.name)
        if statement is None or not words or not all(type(word) is int for word in words):
            continue
        value = typed(statement.value)
        if value is not None and value not in words:
            choices = ", ".join(map(str, words[:-1])) + f" or {words[-1]}"
            yield _problem(statement.origin, row.name, f"{_shown(value)} is not known. Write {choices}.")


def _shown(value: Any) -> str:
    return "nothing" if value is True else " ".join(str(value).split())


def _problem(origin: Origin, name: str, message: str) -> Problem:
    return Problem(origin.file, origin.line or None, name, message)
