"""The policies in a scenario's `run` section, and its JSON Schema: both from the fields of the dataclasses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from hardware import units
from hardware.problems import InputError, Place, Problem
from hardware.sections import Section
from simulator.fields import METADATA, Form, Setting, object_schema, read_fields, read_values, setting
from simulator.run.budget import AMOUNTS, Budget
from simulator.run.checkpoints import CheckpointPolicy
from simulator.run.evaluation import Evaluation
from simulator.run.fault_log import LogRow, observed_s, read_log
from simulator.run.faults import FailureModel
from simulator.run.jobs import RunJob, job_faults
from simulator.run.read_failures import DEFAULT_FAILURES, NO_FAILURES, failure_model, failures_schema, preset
from simulator.run.specs import Recovery, Restart, RunPrices, Simulation

INLINE = Place("inline")


def _read_changes(section: Section, key: str) -> Mapping[str, Any]:
    """Keys of the plan as written, which whoever reads the plan checks."""
    return dict(section.section(key).data)


CHANGES = Form(_read_changes, {"type": "object"})
STALLING = ("none", "sync", "sharded")  # policies whose saves stop the job for as long as they are written
WITH_COPIES = ("in-memory", "tiered")


@dataclass(frozen=True, slots=True)
class RunPhase:
    """A stretch of the run with its own batch or sequence length; `tokens` None: all that the other phases leave."""

    name: str = setting(MISSING, Setting("What the phase is called.", "long context"))
    tokens: float | None = setting(
        None, Setting("Its tokens; exactly one phase leaves them out, and takes what the others leave.", "800B")
    )
    global_batch_size: int | None = setting(None, Setting("Its batch in sequences; without it, the plan's.", 512))
    seq_length: int | None = setting(None, Setting("Its tokens of a sequence; without it, the run's.", 32768))
    plan: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={
            METADATA: Setting(
                "Keys of the plan that differ in this phase; dp follows.",
                {"cp": 8, "recompute": {"granularity": "full"}},
                form=CHANGES,
            )
        },
    )


@dataclass(frozen=True, slots=True)
class LogFile:
    """A fault log of the user's own, replayed as far as it goes; beyond, faults are drawn at its rates."""

    file: str = setting(
        MISSING,
        Setting("CSV file with columns start_day, end_day, node, level, class and description.", "incidents.csv"),
    )
    covers_s: float | None = setting(
        None, Setting("How long the log covers; without it, to its last fault or finished repair.", "90 d")
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A section of `run`: the fields of a class that it holds (None: all of them)."""

    cls: type
    fields: tuple[str, ...] | None
    description: str
    example: Any


PARTS: Mapping[str, Part] = {
    "checkpoint": Part(
        CheckpointPolicy, None, "How the training state is saved.", {"policy": "in-memory", "every": "30 min"}
    ),
    "spares": Part(
        Recovery,
        ("hot_spares", "cold_spares", "spares_within_cluster", "hot_swap_s", "cold_start_s"),
        "Nodes that stand by for those that fail.",
        {"hot": 16, "cold": 32},
    ),
    "recovery": Part(
        Recovery,
        ("when_short", "patience_s", "min_replicas", "regrow", "evict_after", "evict_slow"),
        "What the job does when nodes fail or slow down.",
        {"when_short": "shrink", "regrow": "at-once"},
    ),
    "restart": Part(
        Restart,
        None,
        "From nodes in place to the first useful step, without loading.",
        {"warm_up": "30 s"},
    ),
    "maintenance": Part(
        Recovery,
        ("maintenance_every_s", "maintenance_s"),
        "Planned stops at regular times.",
        {"every": "7 d", "lasts": "1 h"},
    ),
    "evaluation": Part(Evaluation, None, "Pauses in which the model is evaluated.", {"every": 500, "tokens": "20M"}),
    "prices": Part(RunPrices, None, "What machines, network, storage and electricity cost.", {"gpu_hour": "2.5 USD/h"}),
    "simulation": Part(Simulation, None, "How many runs are drawn and played.", {"runs": 1000, "seed": 7}),
}
KEYS = ("phases", "failures", "fault_log", "jobs", *PARTS)


@dataclass(frozen=True, slots=True)
class RunPolicies:
    """What a user decides about a run; with `auto_spares` the hot spares are settled when the job is known.

    `fault_log` rows replace the failure model where given, and cover `fault_log_s` (None: as far as they were seen
    to). `place` is where the section stands, for messages.
    """

    phases: tuple[RunPhase, ...]
    checkpoint: CheckpointPolicy
    failures: FailureModel
    fault_log: tuple[LogRow, ...]
    fault_log_s: float | None
    recovery: Recovery
    auto_spares: bool
    restart: Restart
    prices: RunPrices | None
    simulation: Simulation
    evaluation: Evaluation | None = None
    jobs: tuple[RunJob, ...] = ()
    place: Place = field(default=INLINE, compare=False)


def read_run(data: Mapping[str, Any], at: Place = INLINE) -> RunPolicies:
    """The policies of a `run` section; the keys of its budget (tokens, seq_length ...) are left to others.

    Every part may be left out; the defaults are those of the specs, failures those of Llama 3. Raises InputError
    with every problem found.
    """
    policies, problems = read_run_in_part(data, at)
    if problems:
        raise InputError(problems)
    return policies


def read_run_in_part(data: Mapping[str, Any], at: Place) -> tuple[RunPolicies, list[Problem]]:
    """The policies as far as they can be read, with stand-ins for the rest, and every problem found."""
    top = Section({key: data[key] for key in KEYS if key in data}, at)
    log, log_s = _read_fault_log(top, at)
    recovery, auto_spares = _read_recovery(top)
    policies = RunPolicies(
        phases=_read_phases(top, data.get("tokens")),
        checkpoint=_read_checkpoint(top),
        failures=NO_FAILURES if "fault_log" in top.data else _read_failures(top),
        fault_log=log,
        fault_log_s=log_s,
        recovery=recovery,
        auto_spares=auto_spares,
        restart=Restart(**_read_part(top, "restart")),
        prices=_read_prices(top) if "prices" in top.data else None,
        simulation=Simulation(**_read_part(top, "simulation")),
        evaluation=_read_evaluation(top) if "evaluation" in top.data else None,
        jobs=_read_jobs(top) if "jobs" in top.data else (),
        place=at,
    )
    top.seen.update(KEYS)
    top.done()
    return policies, top.problems


def _read_part(top: Section, key: str) -> dict[str, Any]:
    """The fields of a part of the section, by name; their defaults where it is left out."""
    section, part = _section(top, key), PARTS[key]
    values = read_values(part.cls, section, part.fields)
    section.done()
    return values


def _section(top: Section, key: str) -> Section:
    """A section that may be left out."""
    return top.section(key) if key in top.data else Section({}, top.place.under(key), top, key)


def _read_checkpoint(top: Section) -> CheckpointPolicy:
    policy = CheckpointPolicy(**_read_part(top, "checkpoint"))
    if policy.fast_every_s is not None and policy.policy not in WITH_COPIES:
        message = f"belongs to policy in-memory or tiered; {policy.policy} writes to storage only"
        top.report("checkpoint.fast_every", message)
    written = top.data.get("checkpoint")
    if policy.every_s is not None and isinstance(written, Mapping) and "least_every" in written:
        top.report(
            "checkpoint.least_every", "bounds an interval that is left open, and every gives one. Drop one of them"
        )
    if policy.overhead_s is not None and policy.policy in STALLING:
        message = f"belongs to policy async, in-memory or tiered; {policy.policy} waits for the whole write"
        top.report("checkpoint.overhead", message)
    return policy


def _read_recovery(top: Section) -> tuple[Recovery, bool]:
    """The recovery from three sections, and whether the number of hot spares was left open."""
    values = _read_part(top, "spares") | _read_part(top, "recovery")
    if "maintenance" in top.data:
        values |= _read_part(top, "maintenance")
    auto_spares = values["hot_spares"] is None
    if auto_spares and values["spares_within_cluster"]:
        message = "is auto; with spares.within they are taken from cluster.gpus: give their number, e.g. hot: 4"
        top.report("spares.hot", message)
    hot_spares = values.pop("hot_spares") or 0
    min_replicas = values.pop("min_replicas") or 1
    return Recovery(hot_spares=hot_spares, min_replicas=min_replicas, **values), auto_spares


def _read_prices(top: Section) -> RunPrices:
    return RunPrices(**_read_part(top, "prices"))


def _read_evaluation(top: Section) -> Evaluation:
    evaluation = Evaluation(**_read_part(top, "evaluation"))
    if evaluation.tokens is None and evaluation.pause_s is None:
        top.report("evaluation.tokens", "is missing: say what one evaluation takes, tokens: 20M or lasts: 2 min")
    elif evaluation.tokens is not None and evaluation.pause_s is not None:
        top.report("evaluation.lasts", "and tokens exclude each other: with tokens the pause is simulated")
    return evaluation


def _read_jobs(top: Section) -> tuple[RunJob, ...]:
    before = len(top.problems)
    jobs = tuple(read_fields(RunJob, section) for section in top.sections("jobs"))
    if len(top.problems) == before:
        for key, message in job_faults(jobs):
            top.report(f"jobs.{key}" if key else "jobs", message)
    return jobs


def _read_failures(top: Section) -> FailureModel:
    """The failure model; the default stands in for one that cannot be read."""
    try:
        return failure_model(top.take("failures", DEFAULT_FAILURES), top.place.under("failures"))
    except InputError as error:
        top.problems += error.problems
        return preset(DEFAULT_FAILURES)


def _read_fault_log(top: Section, at: Place) -> tuple[tuple[LogRow, ...], float | None]:
    """The rows of the log and how long they cover; a text is the file's name alone."""
    written = top.take("fault_log", None)
    if written is None:
        return (), None
    if "failures" in top.data:
        top.report("fault_log", "and failures exclude each other: a log is replayed as it is")
    section = Section({"file": written}, top.place, top) if isinstance(written, str) else top.section("fault_log")
    given = read_fields(LogFile, section)
    if top.problems or not given.file:
        return (), None
    try:
        rows = read_log(Path(at.file).parent / given.file)
    except InputError as error:
        top.problems += error.problems
        return (), None
    _check_coverage(top, rows, given.covers_s)
    return rows, given.covers_s


def _check_coverage(top: Section, rows: tuple[LogRow, ...], covers_s: float | None) -> None:
    seen_s = observed_s(rows)
    if covers_s is not None and covers_s < max(row.start_s for row in rows):
        message = f"is less than the {seen_s / 86400:.4g} d to the log's last fault"
        top.report("fault_log.covers", message)
    if covers_s is None and seen_s == 0:
        message = "has no rate: all faults start at day 0. Say how long it covers: {file: log.csv, covers: 90 d}"
        top.report("fault_log", message)


def _read_phases(top: Section, tokens: object) -> tuple[RunPhase, ...]:
    """The phases in order; exactly one of them takes the tokens that the others leave."""
    if "phases" not in top.data:
        return ()
    before = len(top.problems)
    phases = tuple(read_fields(RunPhase, section) for section in top.sections("phases"))
    if len(top.problems) > before:
        return ()
    repeated = [name for name, count in Counter(phase.name for phase in phases).items() if count > 1]
    if repeated:
        told = ", ".join(repeated)
        top.report("phases", f"have {told} more than once: reports and launches know a phase by its name")
    if sum(phase.tokens is None for phase in phases) != 1:
        top.report("phases", "need exactly one without tokens: it takes what the others leave")
    given = sum(phase.tokens or 0.0 for phase in phases)
    try:
        in_all = units.parse(tokens, "tokens")
    except units.QuantityError:
        return phases  # whoever reads the tokens reports them
    if given >= in_all:
        main = next((phase.name for phase in phases if phase.tokens is None), "the main one")
        held = units.format_count(given)
        top.report(
            "phases", f"hold {held} tokens of the run's {tokens}: nothing is left for phase {main}, which gives none"
        )
        return ()
    return phases


# -- JSON Schema ----------------------------------------------------------------------------------------------------


def run_schema() -> dict[str, Any]:
    """The JSON Schema of the `run` section."""
    schema = object_schema(Budget)
    schema["description"] = "How much is trained, and how the run is kept up."
    schema["oneOf"] = [{"required": [amount]} for amount in AMOUNTS]
    for key, part in PARTS.items():
        section = object_schema(part.cls, part.fields, part.description)
        schema["properties"][key] = {**section, "examples": [part.example]}
    schema["properties"]["phases"] = {
        "type": "array",
        "items": object_schema(RunPhase),
        "description": "Stretches of the run with a batch or sequence length of their own, in order.",
        "examples": [[{"name": "main"}, {"name": "long context", "tokens": "800B", "seq_length": 32768}]],
    }
    schema["properties"]["jobs"] = {
        "type": "array",
        "items": object_schema(RunJob),
        "description": "Jobs that share the cluster with this run, which is the one without lasts or scenario.",
        "examples": [[{"name": "prepare", "gpus": 0, "lasts": "2 d"}, {"name": "train", "after": ["prepare"]}]],
    }
    schema["properties"]["failures"] = failures_schema()
    log = object_schema(LogFile)
    schema["properties"]["fault_log"] = {
        "anyOf": [{"type": "string"}, log],
        "description": log["description"],
        "examples": ["incidents.csv", {"file": "incidents.csv", "covers": "90 d"}],
    }
    return schema
