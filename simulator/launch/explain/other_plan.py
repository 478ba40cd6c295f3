"""Where a log's own settings are not the scenario's: another plan, model or framework; what makes them one.

A job's printed settings are read through the tables of launch targets, as `import` reads launch files.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from hardware.documents import Document
from hardware.problems import InputError, Place
from simulator.launch.explain.records import Job
from simulator.launch.explain.work import logged_gpus
from simulator.launch.importing.assemble import flat_plan, plan_defaults
from simulator.launch.importing.backwards import add_defaults, read_back
from simulator.launch.importing.derived import derive
from simulator.launch.importing.dialects import DATA, dialects, in_table_words
from simulator.launch.importing.models import model_of
from simulator.launch.importing.named import by_words
from simulator.launch.importing.statements import Keys, Origin, Statement
from simulator.launch.model_facts import model_facts
from simulator.launch.nearest import value_text
from simulator.launch.tables import as_text, holds, table
from simulator.model.catalogue import load
from simulator.model.parameters import total_parameters
from simulator.scenario.overrides import apply_overrides
from simulator.scenario.schema import Scenario, read_scenario

# The frameworks of stacks whose jobs print a log's lines, and the dialect whose stack runs such a job.
# Megatron-DeepSpeed prints Megatron's; PyTorch's FSDP without a framework may be torchtitan.
FRAMEWORKS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "megatron": (("megatron-core", "deepspeed"), "megatron"),
    "torchtitan": (("torchtitan", "fsdp"), "torchtitan"),
    "deepspeed": (("deepspeed",), "deepspeed"),
}
# Keys of a plan that decide a step most, in the order in which a difference is named.
FIRST_KEYS = ("plan.tp", "plan.cp", "plan.pp", "plan.vpp", "plan.ep", "plan.etp", "plan.micro_batch_size",
              "plan.precision", "plan.sharding", "plan.recompute.granularity")  # fmt: skip
# Settings that a whole list of arguments holds at least.
WHOLE_LIST = 100
# The step's batch is the log's own already; a framework's words for these say less than a plan does.
NOT_COMPARED = ("plan.global_batch_size", "plan.rank_order", "plan.vocab_divisible_by", "plan.schedule")
# Sizes by which a model is told from another.
MODEL_KEYS = ("model.hidden", "model.layers", "model.mixer.heads", "model.mixer.kv_heads", "model.dense.width",
              "model.moe.experts", "model.moe.top_k", "model.moe.width")  # fmt: skip
SAME_MODEL_FRACTION = 0.02


@dataclass(frozen=True, slots=True)
class Difference:
    """A key whose value in the log is not the scenario's; `override`: what --set says (empty: nothing can)."""

    key: str
    log: Any
    scenario: Any
    override: str = ""

    @property
    def text(self) -> str:
        return f"{self.key} is {as_text(self.log)} in the log and {as_text(self.scenario)} in the scenario"


@dataclass(frozen=True, slots=True)
class OtherPlan:
    """What the job ran otherwise than the scenario. `scenario` is the scenario as the log ran it; where it cannot be
    (None), `why_not` says why."""

    differences: tuple[Difference, ...]
    scenario: Scenario | None
    why_not: str = ""

    @property
    def overrides(self) -> tuple[str, ...]:
        """What --set takes to make the scenario the log's."""
        return tuple(each.override for each in self.differences if each.override)

    @property
    def comparable(self) -> bool:
        """Whether the job trains the scenario's model on as many GPUs, so that their steps can be set side by side."""
        return not any(_tells_work(each.key) for each in self.differences)

    @property
    def text(self) -> str:
        return "the log ran another plan: " + "; ".join(each.text for each in self.differences)


def _tells_work(key: str) -> bool:
    return key == "cluster.gpus" or key.partition(".")[0] == "model"


def other_plan(scenario: Scenario, job: Job) -> OtherPlan | None:
    """Where the job's settings are not the scenario's; None where the log says nothing else."""
    found = (
        *_of_framework(scenario, job),
        *_of_model(scenario, job),
        *_of_cluster(scenario, job),
        *_of_plan(scenario, job),
    )
    if not found:
        return None
    other = OtherPlan(found, None)
    of_model = [each for each in found if each.key.partition(".")[0] == "model"]
    if of_model and not any(each.override for each in of_model):
        return replace(other, why_not=f"{of_model[0].key}: no model of the catalogue is the log's")
    try:
        logged = _with_overrides(scenario, other.overrides, job)
    except InputError as error:
        return replace(other, why_not=f"{error.problems[0].key}: {error.problems[0].message}")
    return replace(other, scenario=logged)


def _with_overrides(scenario: Scenario, overrides: tuple[str, ...], job: Job) -> Scenario:
    """The scenario as `--set` would change it, with the log's batch and sequence where it says them.

    Raises InputError as loading does.
    """
    data = deepcopy(dict(scenario.written))
    plan, run = scenario.plan, scenario.run
    batch, seq_length = job.batch or plan.global_batch_size, job.seq_length or run.seq_length
    own = [f"plan.global_batch_size={batch}", f"run.seq_length={seq_length}"]
    phased = "phases" in data["run"]
    apply_overrides(data, (*overrides, *own[: 1 if phased else 2]))
    document = Document(data, Place(scenario.file))
    changed = read_scenario(document, scenario.name)
    return replace(changed, run=replace(changed.run, policies=None))


# -- the framework --------------------------------------------------------------------------------------------------


def _of_framework(scenario: Scenario, job: Job) -> Iterator[Difference]:
    fitting, dialect = FRAMEWORKS.get(job.framework, ((), ""))
    own = scenario.plan.stack
    if not fitting or own.framework in fitting:
        return
    about = dialects()[dialect]
    stack = about.stack or table(about.table).stack
    yield Difference("plan.stack", f"a release of {about.title}", own.name, f"plan.stack={stack}")


# -- the model ------------------------------------------------------------------------------------------------------


def _of_model(scenario: Scenario, job: Job) -> Iterator[Difference]:
    yield from _by_sizes(scenario, job) or _by_name(scenario, job)


def _by_sizes(scenario: Scenario, job: Job) -> list[Difference]:
    """Sizes among a job's arguments that are not the model's, with the model that has them."""
    keys = logged_keys(scenario, job, "megatron")
    facts, _ = model_facts(scenario.model, scenario.run.seq_length)
    stated = {key: keys.value(key) for key in MODEL_KEYS if keys.value(key) is not None and facts.get(key) is not None}
    apart = {key: value for key, value in stated.items() if as_text(value) != as_text(facts[key])}
    if not apart:
        return []
    named = model_of(keys, (), None) if keys.value("model.hidden") is not None else None
    override = f"model={value_text(named.value)}" if named is not None and named.value is not None else ""
    first = Difference(*next((key, value, facts[key]) for key, value in apart.items()), override)
    return [first, *(Difference(key, value, facts[key]) for key, value in list(apart.items())[1:])]


def _by_name(scenario: Scenario, job: Job) -> list[Difference]:
    """A model that a job names, where it has another number of parameters than the scenario's."""
    own = total_parameters(scenario.model)
    params = job.settings.get(("torchtitan", "params"))
    name = job.settings.get(("torchtitan", "model"))
    known = by_words([name]) if name else None
    benchmark = job.settings.get(("mlperf", "submission_benchmark"))
    if benchmark is not None:
        rules = tomllib.loads((DATA / "mlperf.toml").read_text(encoding="utf-8"))["benchmarks"]
        known = name = rules.get(str(benchmark), {}).get("model")
    if params is None and known is not None:
        params = total_parameters(load(known))
    if not params or abs(params / own - 1) <= SAME_MODEL_FRACTION:
        return []
    own_name = scenario.model.name
    return [Difference("model", f"{name} of {params:,} parameters", f"{own_name} of {own:,}",
                       f"model={known}" if known else "")]  # fmt: skip


def _of_cluster(scenario: Scenario, job: Job) -> Iterator[Difference]:
    own, logged = scenario.cluster.gpus, logged_gpus(scenario, job)
    if logged not in (0, own):
        yield Difference("cluster.gpus", logged, own, f"cluster.gpus={logged}")


# -- the plan -------------------------------------------------------------------------------------------------------


def logged_keys(scenario: Scenario, job: Job, dialect: str) -> Keys:
    """Scenario keys that the job's settings in one dialect stand for; defaults too where it prints every argument."""
    keys = Keys()
    own = {name: value for (of, name), value in job.settings.items() if of == dialect}
    if not own or dialect not in dialects():
        return keys
    about = dialects()[dialect]
    target = table(about.table)
    statements = [
        Statement(name, list(value) if isinstance(value, tuple) else value, Origin("log", 0))
        for name, value in own.items()
    ]
    read_back(target, in_table_words(statements, about), keys)
    if len(own) >= WHOLE_LIST:
        add_defaults(target, keys, plan_defaults(), about.title)
    keys.add("cluster.gpus", logged_gpus(scenario, job) or scenario.cluster.gpus)
    derive(keys, statements, dialect)
    return keys


def _of_plan(scenario: Scenario, job: Job) -> Iterator[Difference]:
    written = flat_plan(scenario.plan)
    found = {**_micro_batch(scenario, job)}
    for dialect in ("megatron", "bridge", "torchtitan", "deepspeed"):
        keys = logged_keys(scenario, job, dialect)
        found |= {key: each.value for key, each in keys.found.items() if each.origins and each.value is not None}
        if len(keys.found) > 1 and _is_whole(job, dialect):
            found |= {key: keys.value(key, default) for key, default in plan_defaults().items()
                      if key in _settable(dialect) and key not in found}  # fmt: skip
    facts = {**model_facts(scenario.model, scenario.run.seq_length)[0], **written, **found}
    ordered = sorted(found, key=lambda key: FIRST_KEYS.index(key) if key in FIRST_KEYS else len(FIRST_KEYS))
    for key in ordered:
        compared = key in written and key not in NOT_COMPARED and _matters(key, facts)
        if compared and not _agree(found[key], written[key]):
            yield Difference(key, found[key], written[key], f"{key}={value_text(found[key])}")


def _is_whole(job: Job, dialect: str) -> bool:
    return sum(of == dialect for of, _ in job.settings) >= WHOLE_LIST


def _settable(dialect: str) -> frozenset[str]:
    return frozenset(row.key for row in table(dialects()[dialect].table).rows)


def _matters(key: str, facts: Mapping[str, Any]) -> bool:
    """Whether a key does anything beside the others, by the conditions of Megatron's settings for it."""
    target = table(dialects()["megatron"].table)
    rows = [row for row in target.rows if row.key == key and not row.import_only]
    return not rows or any(holds(row.when, facts) for row in rows)


def _agree(logged: Any, own: Any) -> bool:
    """Whether a log's value and the scenario's mean the same."""
    if as_text(logged) == as_text(own):
        return True
    are_numbers = isinstance(logged, int | float) and isinstance(own, int | float)
    return are_numbers and float(logged) == float(own)


def _micro_batch(scenario: Scenario, job: Job) -> dict[str, Any]:
    """The micro-batch that an MLPerf log's accumulation leaves of a replica's batch."""
    steps = job.settings.get(("mlperf", "gradient_accumulation_steps"))
    sequences = scenario.plan.global_batch_size // scenario.plan.dp
    if not isinstance(steps, int) or steps < 1 or sequences % steps:
        return {}
    return {"plan.micro_batch_size": sequences // steps}
