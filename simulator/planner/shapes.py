"""Prices and memory of every part of the model, once for each distinct local shape of a chunk of plans.

A shape is what operators depend on: degrees, micro-batch, recomputation, dispatcher, overlaps. Stages, schedules and
sharding only combine what is priced here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from hardware.specs import Cluster
from simulator.cost.blocks import BlockCost, PricedWork, priced_work, put_together
from simulator.cost.constants import NEUTRAL, constants_for
from simulator.cost.groups import KINDS, plan_groups
from simulator.cost.price import Prices
from simulator.memory.activations import Kept, end_kept, layer_kept
from simulator.model.spec import Layer, Model
from simulator.planner.columns import CODE, Columns, Ints
from simulator.planner.reads import NUMBERED, Batches, PlanView, Unbound, one_by_one, together
from simulator.planner.trees import scattered, taken
from simulator.plans.allocation import gpus_per_domain, with_domains
from simulator.plans.quantized import with_16_bit_layers
from simulator.plans.spec import Plan, Recompute
from simulator.scenario.spec import Scenario
from simulator.workload.derive import ENDS, distinct_halves, end_work, ffn_half, mixer_half
from simulator.workload.operators import NOTHING, Work
from simulator.workload.shape import Shape, shape_of

# Keys that no operator's price depends on, other than through the columns that are derived from them.
OUTSIDE_SHAPES = (
    "pp",
    "dp",
    "vpp",
    "global_batch_size",
    "schedule",
    "sharding",
    "shard_group",
    "rank_order",
    "microbatch_group_size",
    "layout",
    "first_stage_layers",
    "last_stage_layers",
    "account_for_embedding",
    "account_for_loss",
)


class GroupsView:
    """The communicators of plans that are looked at, by kind."""

    __slots__ = ("_view",)

    def __init__(self, view: PlanView) -> None:
        self._view = view

    def __getitem__(self, kind: str) -> Any:
        self._view.column(f"form of group {kind}")  # groups of different forms are not priced together
        return self._view.column(f"group {kind}")


@dataclass(frozen=True, slots=True)
class Shapes:
    """The distinct shapes of a chunk: `columns` [shapes], and which of them every plan has (`index` [plans])."""

    columns: Columns
    index: Ints
    mixers: Mapping[tuple[Any, bool], BlockCost]
    ffns: Mapping[tuple[Any, bool], BlockCost]
    ends: Mapping[str, BlockCost]
    kept_layers: Mapping[tuple[Layer, bool], Kept]
    kept_ends: Mapping[str, Kept]


@dataclass(slots=True)
class Setting:
    """What all plans of a search share: scenario, and the cluster by how much of a domain a job takes."""

    scenario: Scenario
    clusters: dict[int, Cluster] = field(default_factory=dict)

    @property
    def base(self) -> Plan:
        return self.scenario.plan

    @property
    def model(self) -> Model:
        """The model, its layers marked as the plan's precision asks."""
        return with_16_bit_layers(self.scenario.model, self.base)

    def domain(self, plan: Any) -> int:
        """GPUs of a domain that a plan takes."""
        return gpus_per_domain(plan, self.scenario.cluster)

    def cluster(self, view: PlanView) -> Cluster:
        """The cluster as plans that take as much of a domain see it."""
        return self.cluster_of(view.column("domain"))

    def cluster_of(self, used: Any) -> Cluster:
        """The same by what they take."""
        if used not in self.clusters:
            self.clusters[used] = with_domains(self.scenario.cluster, used)
        return self.clusters[used]

    def shape(self, view: Any) -> Shape:
        return shape_of(self.model, view, self.scenario.run.seq_length)

    def prices(self, view: PlanView) -> Prices:
        """What operators of the plans in view are priced on."""
        groups: Any = GroupsView(view)
        return Prices(self.cluster(view), view, groups, view.column("constants"))  # type: ignore[arg-type]


def with_surroundings(setting: Setting, columns: Columns) -> Columns:
    """The plans with what their prices depend on beside their keys: domain, constants, communicators, pairs."""
    columns = derived(setting, columns, "domain", setting.domain)
    part = setting.scenario.cluster.accelerator
    columns = derived(setting, columns, "constants", lambda plan: constants_for(part, plan))
    columns = derived(setting, columns, "is_paired", lambda plan: plan.is_paired)
    columns = derived(setting, columns, "puts_off_weights", lambda plan: plan.puts_off_weights)
    outcomes = one_by_one(setting.base, columns, lambda plan: plan_groups(plan, setting.cluster(plan)))
    for kind in KINDS:
        groups = [found[kind] for found in outcomes.results]
        columns = with_values(columns, f"group {kind}", groups, outcomes.index)
        forms = [len(group.lower_blocks) for group in groups]
        columns = with_values(columns, f"form of group {kind}", forms, outcomes.index)
    return columns


def derived(setting: Setting, columns: Columns, key: str, of: Callable[[Any], Any]) -> Columns:
    """The plans with one more column, which follows from the others."""
    outcomes = one_by_one(setting.base, columns, of)
    return with_values(columns, key, outcomes.results, outcomes.index)


def with_values(columns: Columns, key: str, values: Any, index: Ints) -> Columns:
    """The plans with a column of `values[index]`, equal values once."""
    known = dict.fromkeys(values)
    place = {value: number for number, value in enumerate(known)}
    codes = np.array([place[value] for value in values], dtype=CODE)[index]
    return columns.with_key(key, tuple(known), codes)


def shapes_of(setting: Setting, plans: Columns) -> Shapes:
    """Every distinct shape of the plans, priced and weighed."""
    outside = set(OUTSIDE_SHAPES)
    while True:
        keys = [key for key in plans.codes if key not in outside]
        rows, index = plans.distinct(keys)
        try:
            return _shapes(setting, plans.take(rows).only(keys), index, frozenset(outside))
        except Unbound as key:
            outside.discard(str(key))


def _shapes(setting: Setting, columns: Columns, index: Ints, outside: frozenset[str]) -> Shapes:
    model = setting.model
    distinct = dict.fromkeys([*model.layers, *model.mtp])
    mixers, ffns = distinct_halves(model)
    names = [name for name in ENDS if name != "mtp" or model.mtp]
    whole = any(recompute.whole_layers for recompute in columns.values.get("recompute", (setting.base.recompute,)))
    again = (False, True) if whole else (False,)

    def costs(work: Callable[..., Work], part: Any, turns: tuple[bool, ...]) -> list[BlockCost]:
        return block_costs(setting, columns, partial(work, part), turns, outside)

    found_mixers = {part: costs(mixer_half, part, again) for part in mixers}
    found_ffns = {part: costs(ffn_half, part, again) for part in ffns}
    found_ends = {name: costs(partial(end_of, model), name, (False,))[0] for name in names}
    return Shapes(
        columns=columns,
        index=index,
        mixers=by_turn(found_mixers, again),
        ffns=by_turn(found_ffns, again),
        ends=found_ends,
        kept_layers={
            (layer, turn): kept_of_layer(setting, columns, layer, turn, outside) for layer in distinct for turn in again
        },
        kept_ends={name: kept_of_end(setting, columns, name, outside) for name in names},
    )


def end_of(model: Model, name: str, shape: Shape) -> Work:
    return end_work(name, model, shape)


def by_turn(found: Mapping[Any, list[BlockCost]], again: tuple[bool, ...]) -> dict[tuple[Any, bool], BlockCost]:
    return {(part, turn): cost for part, costs in found.items() for turn, cost in zip(again, costs, strict=True)}


def block_costs(
    setting: Setting,
    columns: Columns,
    work: Callable[[Shape], Work],
    again: tuple[bool, ...],
    outside: frozenset[str],
) -> list[BlockCost]:
    """The cost of half a layer in every shape [shapes], without and with full recomputation as `again` asks."""

    def price(view: PlanView, rows: Ints) -> PricedWork:
        return priced_work(work(setting.shape(view)), setting.prices(view))

    priced = together(setting.base, columns, price, unbound=outside)
    batch, lane = priced.places()
    numbered = columns.with_key("batch", tuple(range(len(priced.items))), batch)
    numbered = numbered.with_key(f"{NUMBERED}batch", tuple(range(int(lane.max(initial=0)) + 1)), lane)

    def put(turn: bool, view: PlanView, rows: Ints) -> BlockCost:
        alone = priced.items[view.column("batch")].result
        lanes = view.column(f"{NUMBERED}batch")
        cost = put_together(taken(alone, lanes), setting.prices(view), turn)
        return replace(cost, evidence_s=())

    found = []
    for turn in again:
        batches = together(setting.base, numbered, partial(put, turn), unbound=outside)
        found.append(dense(batches, len(columns)))
    return found


def dense(batches: Batches, count: int) -> Any:
    """One tree of arrays by shape from runs over several."""
    items = batches.items
    rows, lanes = [item.rows for item in items], [item.lane for item in items]
    return scattered([item.result for item in items], rows, lanes, count)


def kept_of_layer(setting: Setting, columns: Columns, layer: Layer, again: bool, outside: frozenset[str]) -> Kept:
    """What one micro-batch leaves of a layer in every shape."""

    def weigh(view: PlanView, rows: Ints) -> Kept:
        shape = setting.shape(view)
        first, second = layer.halves
        mixer = mixer_half(first, shape) if first else NOTHING
        ffn = ffn_half(second, shape) if second else NOTHING
        return layer_kept(mixer + ffn, view, view.reruns_layers and again)  # type: ignore[arg-type]

    found: Kept = dense(together(setting.base, columns, weigh, unbound=outside), len(columns))
    return replace(found, layers=1)


def kept_of_end(setting: Setting, columns: Columns, name: str, outside: frozenset[str]) -> Kept:
    """What one micro-batch leaves of an end of the model in every shape."""

    def weigh(view: PlanView, rows: Ints) -> Kept:
        shape = setting.shape(view)
        return end_kept(name, end_work(name, setting.model, shape), setting.model, shape)

    found: Kept = dense(together(setting.base, columns, weigh, unbound=outside), len(columns))
    return replace(found, layers=0)


def without_modules(columns: Columns) -> Columns:
    """The shapes, where of recomputation only whole layers count, and of constants what a launch takes: what stages put
    together does not depend on more."""
    launches = [
        replace(NEUTRAL, host_s_per_kernel=each.host_s_per_kernel, host_overlap_loss=each.host_overlap_loss)
        for each in columns.values["constants"]
    ]
    columns = with_values(columns, "constants", launches, columns.codes["constants"])
    if "recompute" not in columns.codes:
        return columns
    values = [each if each.whole_layers else Recompute() for each in columns.values["recompute"]]
    return with_values(columns, "recompute", values, columns.codes["recompute"])
