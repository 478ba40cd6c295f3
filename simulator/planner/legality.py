"""The rules that judge one plan, on columns of plans: each runs once for every combination of keys that it reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from simulator.planner.columns import Columns
from simulator.planner.reads import Memory, PlanView, Unbound, one_by_one
from simulator.plans.case import Check, Fault, ModelFacts, PlanCase
from simulator.plans.layout import stage_count
from simulator.plans.rules import WITHOUT_EFFECT, rules_for
from simulator.plans.spec import Plan
from simulator.scenario.legal import MOST_SLOTS
from simulator.schedules import SCHEDULES, default_schedule


class Undecided:
    """What a rule says that asks for a key which the plans do not have yet."""


UNDECIDED = Undecided()


@dataclass(slots=True)
class Judge:
    """Every rule of one search; `rejected` counts by rule the combinations that it threw out."""

    base: Plan
    facts: ModelFacts
    gpus: int
    seq_length: int
    searched: frozenset[str]
    rejected: dict[str, int] = field(default_factory=dict)
    memories: dict[tuple[str, frozenset[str]], Memory] = field(default_factory=dict)

    def rules(self) -> dict[str, Check]:
        """Every rule by name, in the order of their cost."""
        return {**rules_for(self.base), **WITHOUT_EFFECT, **OF_SEARCH}

    def legal(
        self, columns: Columns, unbound: frozenset[str], pending: tuple[str, ...]
    ) -> tuple[Columns, tuple[str, ...]]:
        """The plans that none of the `pending` rules rejects, and the rules that need an `unbound` key to decide."""
        rules = self.rules()
        left = []
        for name in pending:
            columns, undecided = self._judged(name, rules[name], columns, unbound)
            if undecided:
                left.append(name)
        return columns, tuple(left)

    def _judged(self, name: str, rule: Check, columns: Columns, unbound: frozenset[str]) -> tuple[Columns, bool]:
        def run(view: PlanView) -> Fault | Undecided | None:
            try:
                fault = rule(PlanCase(self.facts, view, self.gpus, self.seq_length))  # type: ignore[arg-type]
            except Unbound:
                return UNDECIDED
            if fault is not None and name in WITHOUT_EFFECT and not self._is_searched(fault.key):
                return None
            return fault

        memory = self.memories.setdefault((name, unbound), Memory())
        outcomes = one_by_one(self.base, columns, run, unbound, memory)
        undecided = any(result is UNDECIDED for result in outcomes.results)
        legal = outcomes.array([not isinstance(result, Fault) for result in outcomes.results])
        if legal.all():
            return columns, undecided
        self.rejected[name] = self.rejected.get(name, 0) + int(np.sum(~legal))
        return columns.take(np.flatnonzero(legal)), undecided

    def _is_searched(self, key: str) -> bool:
        """Whether a key of the plan, or one above it, is searched."""
        own = key.removeprefix("plan.")
        return own in self.searched or own.partition(".")[0] in self.searched


def few_enough_slots(case: PlanCase) -> Fault | None:
    """The most slots of a step that are simulated (`simulator.scenario.legal`)."""
    plan = case.plan
    if plan.microbatches * plan.pp * plan.vpp <= MOST_SLOTS:
        return None
    return Fault("plan.micro_batch_size", plan.micro_batch_size, "more slots than are simulated", "a larger one")


def written_one_way(case: PlanCase) -> Fault | None:
    """Of several spellings of the same plan only the shortest is searched."""
    plan = case.plan
    if plan.pp == 1 and plan.schedule != default_schedule(1, 1):
        return Fault("plan.schedule", plan.schedule, "is the same without a pipeline", default_schedule(1, 1))
    chunks = SCHEDULES[plan.schedule].placement.chunks
    if chunks is not None and plan.vpp > 1:
        return Fault("plan.vpp", plan.vpp, f"{plan.schedule} has {chunks} chunks by itself", "vpp 1")
    return None


def stages_hold_layers(case: PlanCase) -> Fault | None:
    """Every virtual stage has a layer, the embedding or the head."""
    stages, most = stage_count(case.plan), case.facts.layers + len(("embedding", "head"))
    if stages <= most:
        return None
    return Fault("plan.vpp", case.plan.vpp, f"{stages} stages for {case.facts.layers} layers and two ends", "fewer")


# What only a search asks, beside the rules of every plan.
OF_SEARCH: dict[str, Check] = {
    "few_enough_slots": few_enough_slots,
    "written_one_way": written_one_way,
    "stages_hold_layers": stages_hold_layers,
}
