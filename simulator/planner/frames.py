"""Plans of a chunk that run the same schedule on the same stages, and what their ranks hold besides activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from hardware.arrays import Floats
from simulator.memory.outside import optimizer_step_bytes, outside_bytes
from simulator.memory.pipeline_buffers import PIPELINE_BUFFERS
from simulator.memory.states import frees_logits_before_layers, reduction_bytes, state_bytes
from simulator.planner.columns import Columns, Ints
from simulator.planner.reads import PlanView, Unbound, alike, one_by_one, together
from simulator.planner.shapes import Setting, dense, with_values
from simulator.planner.space import SPLIT_KEYS, plan_of
from simulator.planner.structures import Content, Holding, Structure, Walk, content_of, structure_of, walk_from
from simulator.planner.trees import taken
from simulator.plans.layout import StageLayers, schedule_name
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES
from simulator.workload.states import StageParameters, shares_states, stage_parameters

# Keys that states and buffers of a rank do not depend on, beside those of its stages.
OUTSIDE_STATES = (
    "recompute",
    "overlap.delay_wgrad",
    "overlap.shared_experts",
    "overlap.moe_ep",
    "order",
    "blocking",
    "vpp",
    *SPLIT_KEYS,
)
STRUCTURE = ("order", "pp", "vpp", "microbatches", "microbatch_group_size", "blocking", *SPLIT_KEYS)


@dataclass(frozen=True, slots=True)
class Order:
    """A schedule of given counts; `group`: micro-batches per chunk turn (None: the usual)."""

    name: str
    pp: int
    vpp: int
    microbatches: int
    group: int | None


@dataclass(frozen=True, slots=True)
class Frame:
    """Plans (`rows`) of one structure, and an example of them."""

    order: Order
    structure: Structure
    example: Plan
    rows: Ints


@dataclass(frozen=True, slots=True)
class States:
    """What one rank holds beside activations, bytes by plan of a frame: on the allocator for the whole step, outside of
    it, pipeline buffers; `reduced` is the least that a backward works with."""

    resident: Floats
    outside: Floats
    buffers: Floats
    reduced: Floats


def with_structure(setting: Setting, columns: Columns) -> Columns:
    """The plans with what their structure depends on: the order of slots, micro-batches, whether sends block."""
    found = {
        "order": schedule_name,
        "microbatches": lambda plan: plan.microbatches,
        "blocking": lambda plan: SCHEDULES[plan.schedule].p2p_mode(plan.overlap.p2p) == "blocking",
        "several": several_ranks,
        "shares": shares_of,
    }
    for key, of in found.items():
        outcomes = one_by_one(setting.base, columns, of)
        columns = with_values(columns, key, outcomes.results, outcomes.index)
    return columns


def several_ranks(plan: Any) -> tuple[bool, ...]:
    """Which communicators of a plan have several ranks: what else a rank holds depends on it."""
    sizes = (plan.tp, plan.cp, plan.dp * plan.cp, plan.pp, plan.ep * plan.etp, plan.expert_dp)
    return tuple(size > 1 for size in sizes)


def shares_of(plan: Any) -> tuple[bool, ...]:
    """Whether ranks share states, and a pipeline's buffers exist: plans that differ in it hold different things."""
    return shares_states(plan), plan.pp > 1


def frames_of(setting: Setting, columns: Columns) -> list[Frame]:
    """All plans, by structure."""
    keys = [key for key in STRUCTURE if key in columns.codes]
    buffers = setting.base.stack.pipeline_engine in PIPELINE_BUFFERS
    found = []
    for rows in alike(columns, np.arange(len(columns)), keys):
        row = columns.row(int(rows[0]))
        example = plan_from(setting.base, row)
        order = Order(row["order"], example.pp, example.vpp, row["microbatches"], example.microbatch_group_size)
        structure = structure_of(setting.model, example, known_walk(order, row["blocking"]), buffers)
        found.append(Frame(order, structure, example, rows))
    return found


def plan_from(base: Plan, row: dict[str, Any]) -> Plan:
    """The plan of a row that has other columns beside the plan's keys."""
    names = {*Plan.__dataclass_fields__}
    return plan_of(base, {key: row[key] for key in row if key in names or key.startswith("overlap.")})


@lru_cache(maxsize=4096)
def known_walk(order: Order, blocking: bool) -> Walk:
    return walk_from(order.name, order.pp, order.vpp, order.microbatches, order.group, blocking)


def states_of(setting: Setting, columns: Columns, frames: Sequence[Frame]) -> list[list[States]]:
    """What every kind of rank holds beside activations, by frame, by plan of the frame."""
    outside = set(OUTSIDE_STATES)
    while True:
        keys = [key for key in columns.codes if key not in outside]
        first, index = columns.distinct(keys)
        holder = Holder(setting, columns.take(first).only(keys), frozenset(outside), examples_of(setting, frames))
        try:
            return [holder.states(frame, index[frame.rows]) for frame in frames]
        except Unbound as key:
            outside.discard(str(key))


def examples_of(setting: Setting, frames: Sequence[Frame]) -> dict[Content, StageLayers]:
    """A stage of every content."""
    return {content_of(setting.model, stage): stage for frame in frames for stage in frame.structure.stages}


@dataclass(slots=True)
class Holder:
    """Works out what ranks hold for the distinct `plans`, as far as states depend on them; each kind of rank once."""

    setting: Setting
    plans: Columns
    unbound: frozenset[str]
    stages: Mapping[Content, StageLayers]
    parameters: dict[str, dict[Content, StageParameters]] = field(default_factory=dict)
    outside: Floats | None = None
    known: dict[tuple[Any, ...], list[Floats]] = field(default_factory=dict)

    def states(self, frame: Frame, rows: Ints) -> list[States]:
        """States of every kind of rank, by plan; `rows` number the distinct plans that they are."""
        found = []
        for holding in frame.structure.holdings:
            sizes = [size[rows] for size in self._sizes(frame, holding, rows)]
            found.append(States(*sizes))
        return found

    def _outside(self) -> Floats:
        """What lies outside the allocator, by distinct plan."""

        def run(view: PlanView, rows: Ints) -> Any:
            return sum(outside_bytes(view, {}).values())  # type: ignore[arg-type]

        if self.outside is None:
            base, plans = self.setting.base, self.plans
            batches = together(base, plans, run, apart=["several"], unbound=self.unbound)
            self.outside = batches.array(lambda found: found)
        return self.outside

    def _parameters(self, schedule: str) -> dict[Content, StageParameters]:
        """Parameters of every stage, by distinct plan: a schedule decides which stages keep a copy of the embedding."""
        setting = self.setting

        def run(view: PlanView, rows: Ints) -> tuple[StageParameters, ...]:
            return stage_parameters(setting.model, view, list(self.stages.values()))  # type: ignore[arg-type]

        if schedule not in self.parameters:
            base = replace(setting.base, schedule=schedule)
            plans = self.plans.only([key for key in self.plans.codes if key != "schedule"])
            found = dense(together(base, plans, run, unbound=self.unbound), len(plans))
            self.parameters[schedule] = dict(zip(self.stages, found, strict=True))
        return self.parameters[schedule]

    def _sizes(self, frame: Frame, holding: Holding, rows: Ints) -> list[Floats]:
        """The sizes of `States` of one kind of rank, by distinct plan; those of these rows are worked out."""
        structure, schedule = frame.structure, frame.example.schedule
        contents = tuple(structure.contents[structure.of_stage[stage]] for stage in holding.stages)
        key = (schedule, contents, holding.in_flight)
        sizes = self.known.setdefault(key, [np.full(len(self.plans), np.nan)] * 4)
        new = np.unique(rows[np.isnan(sizes[0][rows])])
        if len(new):
            added = self._worked_out(schedule, contents, holding, new)
            sizes = [size.copy() for size in sizes]
            for size, values in zip(sizes, added, strict=True):
                size[new] = values
            self.known[key] = sizes
        return sizes

    def _worked_out(self, schedule: str, contents: tuple[Content, ...], holding: Holding, chosen: Ints) -> list[Floats]:
        parameters = self._parameters(schedule)

        def run(view: PlanView, rows: Ints) -> tuple[Any, ...]:
            own = {content: taken(parameters[content], chosen[rows]) for content in dict.fromkeys(contents)}
            return rank_states(self.setting, view, [own[content] for content in contents], holding)

        part = self.plans.take(chosen)
        batches = together(self.setting.base, part, run, apart=["shares"], own=True, unbound=self.unbound)
        resident, steps, buffers, reduced = (batches.array(partial(_item, place)) for place in range(4))
        return [resident, self._outside()[chosen] + steps, buffers, reduced]


def _item(place: int, found: tuple[Any, ...]) -> Any:
    return found[place]


def rank_states(
    setting: Setting, view: Any, held: Sequence[StageParameters], holding: Holding
) -> tuple[Any, Any, Any, Any]:
    """Resident bytes, those of the optimizer's step, pipeline buffers, what reductions work with: of one kind of rank.

    `held`: parameters of each of its chunks.
    """
    stack = view.stack
    distinct = [held[holding.stages.index(stage)] for stage in dict.fromkeys(holding.stages)]
    step: Any = optimizer_step_bytes(held, view) if stack.optimizer_step == "flat_copies" else 0.0
    buffers: Any = 0.0
    if stack.pipeline_engine in PIPELINE_BUFFERS and view.pp > 1:
        counted = PIPELINE_BUFFERS[stack.pipeline_engine]
        buffers = counted(setting.model, setting.shape(view), holding.stages, holding.in_flight)
    reduced: Any = 0.0
    if frees_logits_before_layers(view) and shares_states(view):
        reduced = reduction_bytes(held[0], view)
    return sum(state_bytes(distinct, view).values()), step, buffers, reduced
