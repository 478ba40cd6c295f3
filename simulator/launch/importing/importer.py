"""Files of a launch, in any number, to the text of one scenario."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardware.problems import InputError, Problem
from simulator.launch.importing.assemble import Imported, entries, plan_defaults
from simulator.launch.importing.backwards import add_defaults, read_back
from simulator.launch.importing.clusters import Server, Switches, read_server, read_switches
from simulator.launch.importing.contradictions import NICS, contradictions
from simulator.launch.importing.derived import (
    EVALUATION,
    GPUS,
    MLPERF_SETTINGS,
    NODES,
    PER_NODE,
    WORD_NAMES,
    add_gpus,
    derive,
    node_of,
)
from simulator.launch.importing.dialects import DATA, dialects, in_table_words
from simulator.launch.importing.files import file_text, is_cluster_file, names_in, read_launch_file, unknown_file
from simulator.launch.importing.given import Given, read_given, with_given
from simulator.launch.importing.models import model_of
from simulator.launch.importing.own_files import without_records
from simulator.launch.importing.statements import GIVEN, Found, Keys, Origin, Reading, Statement, typed
from simulator.launch.importing.titan import FLOAT8_RECIPE, command_line_last
from simulator.launch.importing.valid import check_values
from simulator.launch.importing.written import scenario_text
from simulator.launch.tables import table
from simulator.model.catalogue import load
from simulator.stack import DEFAULT
from simulator.stack import names as stack_names

# Dialects that say how a job is laid out, rather than only where it runs.
LAYOUTS = ("megatron", "primus", "mlperf", "bridge", "torchtitan", "deepspeed")


@dataclass(frozen=True, slots=True)
class ImportedScenario:
    """The scenario's text; `fill_in` names the keys that the launch does not tell, `notes` what was not followed."""

    text: str
    fill_in: tuple[str, ...]
    notes: tuple[str, ...]


def import_launch(paths: Sequence[Path], given: Sequence[str] = (), folder: Path | None = None) -> ImportedScenario:
    """The scenario that launch files describe; `given` (`key=value`) fills in what they do not tell.

    `folder`: where the scenario will lie, for the paths that it holds (None: the current one).

    Raises InputError for files that cannot be read, say nothing, or use the words of several frameworks, and
    for a given key that no scenario has.
    """
    wanted = read_given(given)
    texts = {path: file_text(path) for path in paths}
    paths, records = without_records(texts)
    launches = [path for path in paths if not is_cluster_file(path, texts[path]) and not _is_config(texts[path], path)]
    configs = [path for path in paths if _is_config(texts[path], path)]
    readings, overridden = _ordered([_read(path, texts) for path in launches])
    server, switches = _machines([path for path in paths if is_cluster_file(path, texts[path])], texts)
    keys, dialect, words = _keys(readings, launches, wanted)
    statements = [each for reading in readings for each in reading.statements]
    node = keys.found.get("cluster.node") or node_of(statements, words)
    if server is not None and not launches and "cluster.gpus" not in keys.found:
        hosts = switches.hosts if switches else 1
        keys.add("cluster.gpus", server.gpus * hosts, (), f"{hosts} x {server.gpus}")
    add_gpus(keys, statements, dialect, str(node.value) if node else server.base if server else None)
    derive(keys, statements, dialect)
    model = keys.found.get("model") or model_of(keys, words, _from_folder(configs[0], folder) if configs else None)
    if dialect == "mlperf":
        model = _benchmark(keys, statements, words, model)
    about = dialects().get(dialect)
    stack = _stack(keys, dialect)
    told = f"assumed: {about.title}, release not told" if about else "assumed: no framework is told"
    against = contradictions(keys, statements, server, switches, node)
    keys.notes += against.values()
    imported = Imported(keys, model, node, server, switches, stack, told, _source(paths), against)
    lines = with_given(list(entries(imported)), wanted)
    notes = [*records, *(note for reading in readings for note in reading.notes), *overridden, *keys.notes]
    head = [
        f"Imported by traincast from {', '.join(path.name for path in paths)}.",
        "Each line says whence it came (file:line); lines marked TO FILL IN say what the launch does not tell.",
        *(f"Note: {' '.join(note.split())}" for note in dict.fromkeys(notes)),
    ]
    missing = tuple(line.key for line in lines if line.missing and not line.optional)
    return ImportedScenario(scenario_text(lines, head), missing, tuple(dict.fromkeys(notes)))


def _from_folder(path: Path, folder: Path | None) -> str:
    """A path as a file of that folder names it; absolute ones stay."""
    return str(path) if folder is None or path.is_absolute() else os.path.relpath(path, folder)


def _stack(keys: Keys, dialect: str) -> str:
    """The release that runs the launch: the dialect's, or its compiled form where not the loss alone is compiled."""
    about = dialects().get(dialect)
    if about is None:
        return DEFAULT
    name = about.stack or table(about.table).stack
    compiled = f"{name}-compiled"
    components = keys.value("plan.compile.components")
    compiles_model = keys.value("plan.compile.enable") is True and (components is None or "model" in components)
    return compiled if compiles_model and compiled in stack_names() else name


def _is_config(text: str, path: Path) -> bool:
    """Whether a file is a Hugging Face config.json."""
    return path.suffix == ".json" and '"architectures"' in text and '"vocab_size"' in text


def _source(paths: Sequence[Path]) -> str:
    return f"imported from {', '.join(path.name for path in paths)}"


def _read(path: Path, texts: dict[Path, str]) -> Reading:
    """One launch file; what it sources is looked for among the given files, then beside it."""

    def beside(name: str) -> tuple[str, str] | None:
        for other, text in texts.items():
            if other.name == name:
                return name, text
        neighbour = path.parent / name
        return (name, file_text(neighbour)) if neighbour.is_file() else None

    return read_launch_file(path, texts[path], beside)


def _ordered(readings: list[Reading]) -> tuple[list[Reading], list[str]]:
    """Readings in the order in which settings override those before, and notes of what is overridden."""
    is_titan = any(reading.dialect == "torchtitan" for reading in readings)
    return command_line_last(readings) if is_titan else (readings, [])


def _machines(paths: Sequence[Path], texts: dict[Path, str]) -> tuple[Server | None, Switches | None]:
    server, switches = None, None
    for path in paths:
        if path.suffix.lower() == ".xml" or "GPU0" in texts[path]:
            server = read_server(path, texts[path])
        else:
            switches = read_switches(path)
    return server, switches


def _keys(readings: Sequence[Reading], paths: Sequence[Path], given: Sequence[Given]) -> tuple[Keys, str, list[str]]:
    """Scenario keys from all readings, the dialect of the launch, and words that may name a model or a machine."""
    keys = Keys()
    layouts = [reading for reading in readings if reading.dialect in LAYOUTS]
    kinds = list(dict.fromkeys(reading.dialect for reading in layouts))
    if len(kinds) > 1:
        titles = ", ".join(f"{reading.file} ({dialects()[reading.dialect].title})" for reading in layouts)
        raise InputError(
            [Problem(titles, None, "", "use the words of several frameworks; import one launch at a time")]
        )
    statements = [each for reading in readings for each in reading.statements]
    if readings and not layouts and not any(_tells_machine(each) for each in statements):
        notes = [note for reading in readings for note in reading.notes]
        why = "; ".join(["states nothing that a scenario needs", *dict.fromkeys(notes)])
        raise unknown_file(", ".join(reading.file for reading in readings), why)
    dialect = kinds[0] if kinds else "slurm"
    if kinds:
        _read_layout(keys, layouts, dialect)
    for each in given:
        keys.found[each.key] = Found(each.value, (), GIVEN)
    words = [word for reading in readings for word in reading.names]
    words += _stated_words(statements)
    words += [word for path in paths for word in names_in(path)]
    return keys, dialect, words


def _read_layout(keys: Keys, layouts: Sequence[Reading], dialect: str) -> None:
    about = dialects()[dialect]
    target = table(about.table)
    statements = [_plain_name(each, dialect) for reading in layouts for each in reading.statements]
    in_words = in_table_words(statements, about)
    known = read_back(target, in_words, keys) | about.names.keys()
    check_values(keys, target, in_words)
    # Variables of a script are its own; those of an MLPerf configuration are its settings.
    _tell_of_unread(keys, statements, known, named_variables=dialect == "mlperf")
    if about.silent:
        defaults = plan_defaults()
        if "model.hidden" in keys.found:
            defaults |= {row.key: None for row in target.rows if row.key.startswith("model.")}
        add_defaults(target, keys, defaults, about.title)


# Arguments of torchrun, srun and sbatch, which say on what machines a job runs.
STARTERS = ("--nproc", "--nnodes", "--node", "--rdzv", "--master", "--ntasks", "--gpus", "--gres")
# A job that prints every argument has hundreds that nobody set: so many are named.
MOST_NAMED = 60


def _tell_of_unread(keys: Keys, statements: Sequence[Statement], known: frozenset[str], named_variables: bool) -> None:
    """Notes settings that no scenario key says, by name: what a typing error would turn into is seen there."""
    unread: dict[str, dict[str, None]] = {}
    # A recipe's class names its arguments once more without the part of the configuration that they stand in.
    nested = {(each.origin, each.name.rpartition(".")[2]) for each in statements if "." in each.name}
    for each in statements:
        if (each.origin, each.name) in nested:
            continue
        if not each.name or each.name in known or each.name in READ_ELSEWHERE or each.name.startswith(STARTERS):
            continue
        if not each.name.isupper() or named_variables:
            unread.setdefault(each.origin.file, {})[each.name] = None
    for file, names in unread.items():
        told = list(names)[:MOST_NAMED]
        more = f" and {len(names) - len(told)} more" if len(names) > len(told) else ""
        keys.notes.append(f"{file}: no key of a scenario comes from {', '.join(told)}{more}")


def _plain_name(statement: Statement, dialect: str) -> Statement:
    """Command-line spellings of nested names: torchtitan's `--parallelism.tensor_parallel_degree`."""
    if dialect == "torchtitan" and statement.name.startswith("--"):
        name = statement.name[2:].replace("-", "_") if "." in statement.name else statement.name
        return Statement(name, statement.value, statement.origin)
    if dialect == "megatron" and statement.name.startswith("--"):
        return Statement(statement.name.replace("_", "-"), statement.value, statement.origin)
    return statement


def _tells_machine(statement: Statement) -> bool:
    return statement.name in ("--nodes", "--gpus-per-node", "--ntasks", "--nnodes", "--gres")


# Statements whose value may name the model.
MODEL_NAMES = (
    *("MODEL_SIZE", "MODEL_NAME", "MODEL", "--hf-model", "--model", "--model_name", "--recipe", "--module", "--config"),
    *("model_spec", "model.name", "model.flavor", "model.hf_assets_path", "hf_assets_path", "--model_family_name"),
    *("--model_recipe_name", "-m", "-mr"),
)


# Names that rules read beside a dialect's table.
READ_ELSEWHERE = frozenset(
    (*MODEL_NAMES, *EVALUATION, *FLOAT8_RECIPE, *GPUS, *NODES, *PER_NODE, *WORD_NAMES, *MLPERF_SETTINGS, NICS)
)


def _stated_words(statements: Sequence[Statement]) -> list[str]:
    """Model names that the launch states, the last of each setting; a family and its size stand together."""
    stated: dict[str, str] = {}
    for each in statements:
        # A command line's `--model.flavor` is a file's `model.flavor`.
        name = each.name.removeprefix("--") if "." in each.name else each.name
        if name in MODEL_NAMES and isinstance(each.value, str):
            stated[name] = each.value.lower()
    sized = [stated[name] for name in ("model.name", "model.flavor") if name in stated]
    return ["-".join(sized), "-".join(stated.values()), *stated.values()]


def _benchmark(keys: Keys, statements: Sequence[Statement], words: Sequence[str], model: Found | None) -> Found | None:
    """Model and sequence length of an MLPerf benchmark, by the rules."""
    known = tomllib.loads((DATA / "mlperf.toml").read_text(encoding="utf-8"))["benchmarks"]
    sizes = [(str(typed(each.value)).lower(), (each.origin,)) for each in statements if each.name == "MODEL_SIZE"]
    places: list[tuple[str, tuple[Origin, ...]]] = [*reversed(sizes), *((word, ()) for word in words)]
    for text, origins in places:
        for word, rules in known.items():
            if text == word or f"_{word}" in f"_{text}_" or text.endswith(word):
                _add_length(keys, rules["seq_length"], word)
                depth = keys.value("model.layers")
                own = {"base": rules["model"], "layers": depth}
                changed = depth and depth != len(load(rules["model"]).layers)
                return Found(own if changed else rules["model"], origins, f"MLPerf benchmark {word}")
    for rules in known.values():
        if model is not None and model.value == rules["model"]:
            _add_length(keys, rules["seq_length"], rules["model"])
    return model


def _add_length(keys: Keys, seq_length: int, word: str) -> None:
    if "run.seq_length" not in keys.found:
        keys.add("run.seq_length", seq_length, (), f"rules of the MLPerf benchmark ({word})")
