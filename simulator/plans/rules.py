"""Is a plan legal? Every rule by name, whose rule it is, and all violations of a plan at once.

Universal rules follow from arithmetic or from what is modelled; Megatron's are those its parser, its configuration
or its start-up enforce (Megatron-Core 0.20), and hold where `plan.stack.framework` is "megatron-core". Those of a
release are what its data says that it cannot do. Both hold where the stack does not lift them (`framework_rules`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from hardware.problems import Place, Problem
from simulator.model.spec import Model
from simulator.plans import (
    adapters,
    rules_degrees,
    rules_features,
    rules_gradients,
    rules_offload,
    rules_pipeline,
    rules_precision,
    rules_stack,
)
from simulator.plans.case import Check, Fault, ModelFacts, PlanCase, divisors, model_facts, near, written
from simulator.plans.spec import Plan

UNIVERSAL: dict[str, Check] = (
    rules_degrees.UNIVERSAL
    | rules_pipeline.UNIVERSAL
    | rules_features.UNIVERSAL
    | rules_precision.UNIVERSAL
    | rules_offload.UNIVERSAL
    | rules_gradients.UNIVERSAL
    | rules_stack.UNIVERSAL
    | adapters.UNIVERSAL
)
MEGATRON: dict[str, Check] = (
    rules_degrees.MEGATRON
    | rules_pipeline.MEGATRON
    | rules_features.MEGATRON
    | rules_precision.MEGATRON
    | rules_offload.MEGATRON
)
RELEASE: dict[str, Check] = rules_stack.RELEASE
WITHOUT_EFFECT: dict[str, Check] = (
    rules_features.WITHOUT_EFFECT
    | rules_precision.WITHOUT_EFFECT
    | rules_offload.WITHOUT_EFFECT
    | rules_stack.WITHOUT_EFFECT
)
# Counts come first and alone: the other rules divide by them.
FIRST: dict[str, Check] = {"counts_are_positive": rules_degrees.counts_are_positive}
RULES: dict[str, Check] = FIRST | UNIVERSAL | RELEASE | MEGATRON

Owner = Literal["universal", "release", "megatron-core"]


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken rule: its name and owner, the dotted key at fault and its value, why, and what would be right."""

    rule: str
    owner: Owner
    key: str
    value: Any
    why: str
    remedy: str

    @property
    def message(self) -> str:
        return f"{written(self.value)}: {self.why}; right would be: {self.remedy}"

    def problem(self, document: Place) -> Problem:
        """The violation as a problem of the scenario whose root is `document`."""
        return document.under(self.key).problem(self.message)


def check(model: Model, plan: Plan, *, gpus: int, seq_length: int) -> list[Violation]:
    """Every rule that the plan breaks for this model on `gpus` GPUs with sequences of `seq_length` tokens."""
    return violations(model_facts(model), plan, gpus=gpus, seq_length=seq_length)


def violations(facts: ModelFacts, plan: Plan, *, gpus: int, seq_length: int) -> list[Violation]:
    """As `check`, for a caller that judges many plans of one model and gathered its facts once."""
    case = PlanCase(facts, plan, gpus, seq_length)
    first = _broken(FIRST, case)
    if first:
        return first
    broken = _broken(_in_force(plan), case)
    legal = {key: _legal_values(case, key, broken) for key in {each.key for each in broken} & REFILLING.keys()}
    return [_with_legal_remedy(violation, legal) for violation in broken]


def is_legal(facts: ModelFacts, plan: Plan, *, gpus: int, seq_length: int) -> bool:
    """Whether no rule is broken; stops at the first that is."""
    case = PlanCase(facts, plan, gpus, seq_length)
    if rules_degrees.counts_are_positive(case) is not None:
        return False
    return all(rule(case) is None for rule in _in_force(plan).values())


def without_effect(model: Model, plan: Plan, *, gpus: int, seq_length: int) -> list[Violation]:
    """Settings that are legal but change nothing for this model and plan: worth a warning."""
    case = PlanCase(model_facts(model), plan, gpus, seq_length)
    return _broken(WITHOUT_EFFECT, case)


# Degrees that a remedy proposes a value of, and whether another value of theirs changes dp.
REFILLING = {"plan.tp": True, "plan.cp": True, "plan.pp": True, "plan.ep": False, "plan.etp": False}


def _legal_values(case: PlanCase, key: str, broken: list[Violation]) -> list[int]:
    """Values of one degree that break no rule, or, where none mends the others' faults, none that is kept now; dp fills
    the GPUs again."""
    every = _in_force(case.plan)
    others = {violation.rule for violation in broken if violation.key != key}
    kept = [rule for name, rule in every.items() if name not in others]
    values = [value for value in divisors(case.gpus) if _passes(case, key, value, kept)]
    return [value for value in values if _passes(case, key, value, list(every.values()))] or values


def _passes(case: PlanCase, key: str, value: int, rules: list[Check]) -> bool:
    changes: dict[str, Any] = {key.partition(".")[2]: value}
    plan = replace(case.plan, **changes)
    replica = plan.tp * plan.cp * plan.pp
    if REFILLING[key]:
        if case.gpus % replica or plan.global_batch_size % plan.micro_batch_size:
            return False
        plan = replace(plan, dp=case.gpus // replica)
    if plan.microbatches < 1:
        return False
    changed = replace(case, plan=plan)
    return all(rule(changed) is None for rule in rules)


def _with_legal_remedy(violation: Violation, legal: dict[str, list[int]]) -> Violation:
    """The violation with values that pass every rule, where a single degree can mend the plan."""
    values = legal.get(violation.key)
    if not values:
        return violation
    name = violation.key.partition(".")[2]
    now = violation.value if isinstance(violation.value, int) else 1
    return replace(violation, remedy=f"{name} {near(now, values)}")


_OF_RELEASE = UNIVERSAL | RELEASE
_OF_MEGATRON = _OF_RELEASE | MEGATRON


def layers_must_divide(plan: Plan) -> bool:
    """Whether layers that do not divide into the stages need a word on the split."""
    return "layers_fit_ranks" in _in_force(plan)


def rules_for(plan: Plan) -> dict[str, Check]:
    """The rules that hold for the plan's software stack."""
    return FIRST | _in_force(plan)


def _in_force(plan: Plan) -> dict[str, Check]:
    if not plan.stack.framework_rules:
        return UNIVERSAL
    return _OF_MEGATRON if plan.stack.framework == "megatron-core" else _OF_RELEASE


def _broken(rules: dict[str, Check], case: PlanCase) -> list[Violation]:
    found = ((name, rule(case)) for name, rule in rules.items())
    return [_violation(name, fault) for name, fault in found if fault is not None]


def _violation(name: str, fault: Fault) -> Violation:
    return Violation(name, _owner(name), fault.key, fault.value, fault.why, fault.remedy)


def _owner(rule: str) -> Owner:
    if rule in MEGATRON:
        return "megatron-core"
    return "release" if rule in RELEASE else "universal"
