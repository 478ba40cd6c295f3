"""The plan's software stack: a release by name, behaviours changed on top, and the plan settings that it brings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from hardware.precisions import FORMATS
from hardware.problems import InputError, Place, known_name, one_of
from hardware.sections import Section
from simulator.fields import json_schema, read_fields
from simulator.plans.choices import GRANULARITIES
from simulator.stack import DEFAULT, Release, Stack, names, newest, release
from simulator.stack.releases import LIKE_WEIGHTS
from simulator.stack.spec import Framework

# How a scenario came to its release: it names it, or a framework alone, or neither.
Choice = Literal["named", "newest of framework", "default"]
ASSUMED = "assumed"
UNCHOSEN: tuple[Choice, ...] = ("newest of framework", "default")


@dataclass(frozen=True, slots=True)
class ChosenStack:
    """The stack of a plan, the release that it is or changes, and how the scenario came to that release."""

    stack: Stack
    release: Release
    choice: Choice

    @property
    def changed(self) -> dict[str, Any]:
        """Behaviours that the scenario sets otherwise than the release."""
        return changed_behaviours(self.stack, self.release)


def changed_behaviours(stack: Stack, base: Release) -> dict[str, Any]:
    """Behaviours of a stack that differ from a release's."""
    own = {spec.name: getattr(stack, spec.name) for spec in fields(Stack) if spec.name != "name"}
    return {name: value for name, value in own.items() if value != getattr(base.stack, name)}


def read_stack(written: Any, at: Place) -> ChosenStack:
    """The stack that a scenario names: a release, {base: release, behaviours ...}, or nothing (the default).

    `{framework: torchtitan}` is short for the newest release of that framework. `assumed: default` beside a base, as
    resolved scenarios have it, says that nobody chose the release. Raises InputError with every problem.
    """
    if written is None:
        return ChosenStack(release(DEFAULT).stack, release(DEFAULT), "default")
    if isinstance(written, str):
        base = _release(written, at)
        return ChosenStack(base.stack, base, "named")
    if not isinstance(written, Mapping):
        raise InputError([at.problem(f"must be the name of a release, as {DEFAULT}, or {{base: {DEFAULT}, ...}}")])
    section = Section(written, at)
    base, choice = _base(section)
    known = {"name": base.name, "framework": base.stack.framework}
    behaviours = {spec.name: getattr(base.stack, spec.name) for spec in fields(Stack) if spec.name not in known}
    section.data = {**behaviours, **section.data}
    stack = read_fields(Stack, section, known=known)
    section.raise_problems()
    return ChosenStack(stack, base, choice)


def _base(section: Section) -> tuple[Release, Choice]:
    """The release that a mapping builds on, and how it came to it."""
    at, written = section.place, dict(section.data)
    base, framework = written.pop("base", None), written.pop("framework", None)
    section.seen |= {"base", "framework", ASSUMED}
    if written.pop(ASSUMED, None) is not None:
        choice = section.choice(ASSUMED, UNCHOSEN)
        section.data = written
        return _release(base, at.under("base")), choice
    section.data = written
    if base is not None and framework is not None:
        raise InputError([at.under("framework").problem("follows from base; leave it out")])
    if base is not None:
        return _release(base, at.under("base")), "named"
    if framework is None:
        return release(DEFAULT), "default"
    if framework not in get_args(Framework):
        raise InputError([at.under("framework").problem(one_of(framework, get_args(Framework)))])
    return newest(framework), "newest of framework"


def _release(name: Any, at: Place) -> Release:
    if not isinstance(name, str):
        raise InputError([at.problem(f"must be the name of a release, as {DEFAULT}, not {name!r}")])
    if name in get_args(Framework):
        raise InputError([at.problem(f"{name!r} is a framework; write a release of it, as {newest(name).name}")])
    known = known_name(name, names())
    if known not in names():
        raise InputError([at.problem(one_of(name, names()))])
    return release(known)


def misplaced_framework(framework: Any) -> str:
    """What to write where a plan names its software as `framework`."""
    known = framework in get_args(Framework)
    name = newest(framework).name if known else DEFAULT
    return f"is no key of a plan: its software is plan.stack, the name of a release. Write stack: {name}"


def written_stack(stack: Stack, choice: Choice = "named") -> str | dict[str, Any]:
    """A stack as a scenario file names it, and that nobody chose it."""
    base = release(stack.name or DEFAULT)
    changed = changed_behaviours(stack, base)
    if choice in UNCHOSEN:
        changed = {ASSUMED: choice, **changed}
    return {"base": base.name, **changed} if changed else base.name


def stack_schema() -> dict[str, Any]:
    """The JSON Schema of `plan.stack`."""
    behaviours = json_schema(Stack)
    named = {"enum": list(names()), "description": "A release of training software (traincast stacks)."}
    unchosen = {"enum": list(UNCHOSEN), "description": "That nobody chose the base, as resolved scenarios say it."}
    properties = {**behaviours["properties"], "base": named, ASSUMED: unchosen}
    del properties["name"]
    changed = {**behaviours, "properties": properties, "required": []}
    return {"description": "What the software does by itself.", "anyOf": [named, changed]}


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What decides whether a release's plan setting applies: degrees as far as written, the model's experts, and the
    precision, of which `weights` is the format of what is not quantised and `fp8` says that gathers move its bytes."""

    tp: int
    cp: int
    pp: int
    ep: int
    gpus: int
    experts: bool
    quantized: bool
    eight_bit: bool
    fp8: bool
    weights: str


def stack_settings(chosen: ChosenStack, plan: Mapping[str, Any], facts: PlanFacts) -> dict[str, Any]:
    """Plan keys, dotted, that the release sets and the plan does not write, but for those that would do nothing."""
    wanted = dict(chosen.release.plan)
    if facts.pp > 1:
        wanted |= chosen.release.plan_with_pipeline
    settings = {key: setting.value for key, setting in wanted.items() if not _is_written(plan, key)}
    settings = {
        key: DERIVED[value](facts) if isinstance(value, str) and value in DERIVED else value
        for key, value in settings.items()
    }
    settings = {key: value for key, value in settings.items() if not _is_of_other_precision(key, value, facts)}
    sequence_parallel = settings.get("sequence_parallel", plan.get("sequence_parallel", False))
    if facts.tp == 1 or sequence_parallel is not True:
        settings.pop("overlap.tp_comm", None)
    granularity = GRANULARITIES.get(str(_value_of(plan, settings, "recompute.granularity")))
    if granularity is None or not granularity.named_modules:
        settings.pop("recompute.modules", None)
    return {key: value for key, value in settings.items() if key not in NEEDS or NEEDS[key](facts)}


# What a plan needs for a release's setting to mean anything.
NEEDS: dict[str, Callable[[PlanFacts], bool]] = {
    "sequence_parallel": lambda facts: facts.tp > 1,
    "cp_comm": lambda facts: facts.cp > 1,
    "overlap.p2p": lambda facts: facts.pp > 1,
    "schedule": lambda facts: facts.pp > 1,
    "etp": lambda facts: facts.experts,
    "dispatcher": lambda facts: facts.experts,
    "overlap.moe_ep": lambda facts: facts.experts and facts.pp > 1,
    "dispatch_fp8": lambda facts: facts.experts and facts.fp8,
    "fp8_param_gather": lambda facts: facts.eight_bit,
    "activation_fp8_input_store": lambda facts: facts.quantized,
}


def _like_tp(facts: PlanFacts) -> int:
    """Expert tensor parallelism as wide as tensor parallelism, where the expert ranks divide so."""
    inside = facts.gpus // facts.pp
    return facts.tp if inside % (facts.ep * facts.tp) == 0 else 1


# Words of a release that stand for a value which follows from the rest.
DERIVED: dict[str, Callable[[PlanFacts], Any]] = {"tp": _like_tp, LIKE_WEIGHTS: lambda facts: facts.weights}
_OF_GRADIENTS = ("optimizer.grads", "optimizer.grad_reduce")


def _derived(value: Any, facts: PlanFacts) -> Any:
    return DERIVED[value](facts) if isinstance(value, str) and value in DERIVED else value


def _is_of_other_precision(key: str, value: Any, facts: PlanFacts) -> bool:
    """Whether gradients would be in a 16-bit format that is not the weights'."""
    return key in _OF_GRADIENTS and not FORMATS[value].full_width and value != facts.weights


def _is_written(plan: Mapping[str, Any], key: str) -> bool:
    name, _, below = key.partition(".")
    if not below:
        return name in plan
    return name in plan and (not isinstance(plan[name], Mapping) or below in plan[name])


def _value_of(plan: Mapping[str, Any], settings: Mapping[str, Any], key: str) -> Any:
    name, _, below = key.partition(".")
    written = plan.get(name)
    return written.get(below, settings.get(key)) if isinstance(written, Mapping) else settings.get(key)


def with_settings(plan: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The plan as written with a release's settings under the keys that it leaves out."""
    merged = dict(plan)
    for key, value in settings.items():
        name, _, below = key.partition(".")
        merged[name] = {**merged.get(name, {}), below: value} if below else value
    return merged
