"""Shell scripts, sbatch files and argument lists as statements: flags, overrides, exports and `#SBATCH` lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from hardware.problems import InputError, Problem
from simulator.launch.importing.dialects import dialects
from simulator.launch.importing.shell import Script, Variable, Word, read_script
from simulator.launch.importing.statements import Origin, Reading, Statement

_SBATCH = re.compile(r"#SBATCH\s+(-{1,2}[A-Za-z][\w-]*)(?:[= ]\s*(.*?))?\s*(?:#.*)?$")
_OVERRIDE = re.compile(r"\+{0,2}([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+)=(.*)", re.DOTALL)
_SHORT = {"-N": "--nodes", "-n": "--ntasks", "-G": "--gpus", "-C": "--constraint", "-p": "--partition"}
# What Slurm sets in a job, by the sbatch option that decides it.
FROM_SBATCH = {
    "--nodes": ("SLURM_NNODES", "SLURM_JOB_NUM_NODES"),
    "--ntasks": ("SLURM_NTASKS", "SLURM_NPROCS"),
    "--ntasks-per-node": ("SLURM_NTASKS_PER_NODE",),
    "--gpus-per-node": ("SLURM_GPUS_PER_NODE", "SLURM_GPUS_ON_NODE"),
}
LAUNCHERS = (
    *("--nnodes", "--nproc-per-node", "--nproc_per_node", "--num_nodes", "--num_gpus", "--nodes", "--ntasks"),
    *("--gpus-per-node", "--ntasks-per-node", "-N", "-n"),
)
MOST_DEPTH = 8
# Dialects that scripts are written in.
IN_SHELL = ("megatron", "mlperf", "bridge", "torchtitan")


def shell_reading(path: Path, text: str, beside: Callable[[str], tuple[str, str] | None]) -> Reading:
    """What a script states. Files that it sources by a plain name are read too where `beside` has them."""
    name, notes = path.name, []
    origins: dict[int, str] = {}

    def sourcing(word: Word, depth: int = 0) -> Script | None:
        base = Path(word.text).name if word.text else ""
        found = beside(base) if base else None
        if found is None:
            notes.append(
                f"{name}:{word.line}: {base or 'a file'} is sourced and was not given; name it beside this one"
            )
            return None
        if depth >= MOST_DEPTH:
            return None
        inner = _script(found[1], base, lambda deeper: sourcing(deeper, depth + 1))
        inner = _standing_in(inner, base)
        for variable in inner.variables.values():
            origins.setdefault(id(variable), base)
        return inner

    try:
        sbatch = list(_sbatch(text, name))
        script = read_script(text, dict(_set_by_slurm(sbatch)), sourcing)
    except (ValueError, RecursionError) as error:
        raise InputError([Problem(str(path), None, "", f"cannot be read as a shell script: {error}")]) from None
    exports = [_export(key, value, origins.get(id(value), name)) for key, value in script.variables.items()]
    commands = [each for words in script.commands for each in _of_command(words, name)]
    statements = [*sbatch, *exports, *commands]
    if not script.commands or not commands:
        statements += [each for value in script.variables.values() for each in _of_command(_words(value), name)]
    return Reading(name, dialect_of(statements), tuple(statements), tuple(notes))


def _standing_in(script: Script, file: str) -> Script:
    """The script with the file that its words stand in, unless they come from a file that it sources itself."""

    def marked(words: Iterable[Word]) -> tuple[Word, ...]:
        return tuple(replace(word, file=word.file or file) for word in words)

    script.variables = {key: replace(each, words=marked(each.words)) for key, each in script.variables.items()}
    script.commands = [marked(words) for words in script.commands]
    return script


def _set_by_slurm(sbatch: Iterable[Statement]) -> Iterator[tuple[str, Variable]]:
    """The variables that Slurm sets in a job with these options."""
    for each in sbatch:
        for variable in FROM_SBATCH.get(each.name, ()):
            yield variable, Variable((Word(str(each.value), each.origin.line),), each.origin.line)


def _script(text: str, name: str, sourcing: Callable[[Word], Script | None]) -> Script:
    return read_script(text, None, sourcing)


def _words(value: Variable) -> list[Word]:
    """A variable's words, as a command would get them."""
    return [replace(word, text=part) for word in value.words for part in (word.text or "").split()]


def _export(key: str, value: Variable, file: str) -> Statement:
    return Statement(key, value.text, Origin(file, value.line, value.branch))


def _sbatch(text: str, name: str) -> Iterator[Statement]:
    for number, line in enumerate(text.splitlines(), 1):
        found = _SBATCH.match(line.strip())
        if found:
            yield Statement(_SHORT.get(found[1], found[1]), found[2] or True, Origin(name, number))


def _of_command(words: Sequence[Word], name: str) -> Iterator[Statement]:
    """Flags with their values, and overrides `a.b=c`."""
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.text is None:
            continue
        origin = Origin(word.file or name, word.line, word.branch)
        override = _OVERRIDE.fullmatch(word.text)
        if override:
            yield Statement(override[1], _list_or_text(override[2]), origin)
            continue
        if not _is_flag(word.text):
            continue
        flag, equals, value = word.text.partition("=")
        if equals:
            unknown = not value and at < len(words) and words[at].text is None
            yield Statement(_SHORT.get(flag, flag), None if unknown else _list_or_text(value), origin)
            continue
        end = at
        while end < len(words) and not (words[end].text or "").startswith("--") and not _starts_option(words[end].text):
            end += 1
        values = [each.text for each in words[at:end]]
        at = end
        yield Statement(_SHORT.get(flag, flag), _value(values), origin)


def _is_flag(text: str) -> bool:
    return bool(re.fullmatch(r"--?[A-Za-z][\w.-]*(=.*)?", text, re.DOTALL))


def _starts_option(text: str | None) -> bool:
    """Whether a word begins another option or override, and is no value (as -1 or -0.5 are)."""
    return text is not None and (bool(re.fullmatch(r"-[A-Za-z].*", text)) or _OVERRIDE.fullmatch(text) is not None)


def _value(values: Sequence[str | None]) -> str | list[str] | bool | None:
    if not values:
        return True
    if any(value is None for value in values):
        return None
    texts = [value or "" for value in values]
    return texts[0] if len(texts) == 1 else texts


def _list_or_text(value: str) -> str | list[str]:
    if value.startswith("[") and value.endswith("]") and not value.startswith("[["):
        return [part.strip(" '\"") for part in value[1:-1].split(",") if part.strip()]
    return value.strip("'\"")


def dialect_of(statements: Iterable[Statement]) -> str:
    """Whose words a script uses: of those that it has most of."""
    names = [statement.name for statement in statements]
    counts = {name: sum(each in _tell_tale(name) for each in names) for name in IN_SHELL}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else "slurm"


def _tell_tale(dialect: str) -> frozenset[str]:
    """Names that only this dialect has."""
    from simulator.launch.tables import table

    about = dialects()[dialect]
    if dialect == "mlperf":
        return frozenset(about.names)
    own = {row.name for row in table(about.table).rows} | set(about.names)
    if dialect == "torchtitan":
        own |= {f"--{name}" for name in own}
    return frozenset(own - set(LAUNCHERS))
