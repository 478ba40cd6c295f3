"""`plan.layout: auto`: layers, embedding, MTP and head on stages by what they cost and hold, priced item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hardware.specs import Cluster
from simulator.cost.stages import StageCost, paired_stages
from simulator.cost.step_times import SlotTimes, slot_times
from simulator.memory import memory_report
from simulator.memory.activations import stage_kept
from simulator.memory.states import state_bytes
from simulator.model.spec import Model
from simulator.plans.allocation import allocated
from simulator.plans.layout import StageLayers, even_layout, format_layout, schedule_name, stage_count, stages_of_ranks
from simulator.plans.layout_auto import Floats, Items, Stages, split
from simulator.plans.rules import layers_must_divide
from simulator.plans.spec import AUTO, Plan
from simulator.scenario.phases import phases_of
from simulator.scenario.spec import Scenario
from simulator.schedules import Schedule, live_counts, make_schedule
from simulator.workload.derive import Workload, workload_of
from simulator.workload.states import stage_parameters

MOST_ITEMS = 400  # the tables have stages x items^2 entries
MOST_ROUNDS = 12  # of narrower budgets, until every rank fits
NO_LIMIT = float("inf")


def with_even_layout(model: Model, plan: Plan) -> Plan:
    """The plan with layers spread evenly where it asks for a layout and can have one."""
    if not asks_for_layout(model, plan):
        return plan
    if fault_of_auto(model, plan) is None:
        return provisional(model, plan)
    return replace(plan, layout=None) if plan.layout == AUTO else plan


def with_even_layouts(scenario: Scenario) -> tuple[Scenario, list[tuple[str, str]]]:
    """The scenario with layers spread evenly wherever a plan asks for a layout, and why those cannot be that say auto,
    as (key, message)."""
    model, faults = scenario.model, []
    plans = _plans(scenario)
    for key, plan in plans.items():
        plans[key] = with_even_layout(model, plan)
        fault = fault_of_auto(model, plan) if plan.layout == AUTO else None
        if fault is not None:
            faults.append((f"{key}.layout", fault))
    return _with_plans(scenario, plans), faults


def with_best_layouts(even: Scenario, asked: Scenario) -> tuple[Scenario, tuple[str, ...]]:
    """The legal scenario with the best layout in place of every one that was spread evenly for `asked`, and remarks on
    those that nobody asked for by name."""
    plans, remarks = _plans(even), []
    lengths = {phase.key: phase.seq_length for phase in phases_of(even)}
    for key, before in _plans(asked).items():
        if plans[key] is before:
            continue
        length = lengths.get(key.removesuffix(".plan"), even.run.seq_length)
        best = best_layout(even.model, even.cluster, plans[key], length)
        plans[key] = replace(plans[key], layout=best.fitting)
        if before.layout != AUTO:
            stages = f"{len(even.model.layers)} layers do not divide into pp x vpp = {before.pp * before.vpp} stages"
            remarks.append(f"{key}.layout: {stages}, so they are spread by their cost{best.words}")
    return _with_plans(even, plans), tuple(remarks)


def _plans(scenario: Scenario) -> dict[str, Plan]:
    """The scenario's plan and those of its phases, by their keys."""
    phases = {f"run.phases.{number}.plan": plan for number, plan in scenario.phase_plans.items()}
    return {"plan": scenario.plan, **phases}


def _with_plans(scenario: Scenario, plans: Mapping[str, Plan]) -> Scenario:
    phases = {number: plans[f"run.phases.{number}.plan"] for number in scenario.phase_plans}
    return replace(scenario, plan=plans["plan"], phase_plans=phases)


def asks_for_layout(model: Model, plan: Plan) -> bool:
    """Whether the plan says `layout: auto`, or says nothing of the split and the layers do not divide as they must."""
    if plan.layout == AUTO:
        return True
    unsaid = plan.layout is None and plan.first_stage_layers is None and plan.last_stage_layers is None
    counted = plan.account_for_embedding or plan.account_for_loss
    if not unsaid or counted or not layers_must_divide(plan):
        return False
    return len(model.layers) % (plan.pp * plan.vpp) > 0


def fault_of_auto(model: Model, plan: Plan) -> str | None:
    """Why `layout: auto` cannot be; None where it can."""
    pinned = plan.first_stage_layers is not None or plan.last_stage_layers is not None
    if pinned or plan.account_for_embedding or plan.account_for_loss:
        return "auto says the split already; drop first/last_stage_layers and account_for_*"
    items, count = _item_symbols(model), stage_count(plan)
    if len(items) > MOST_ITEMS:
        return f"auto splits at most {MOST_ITEMS} layers, the model has {len(model.layers)}; write a layout"
    if len(items) < count:
        most = len(items) // (count // plan.pp)
        parts = f"the model has {len(items)} parts (layers and ends)"
        return f"auto needs something for each of {count} stages, and {parts}; pp {most} or less"
    return None


def provisional(model: Model, plan: Plan) -> Plan:
    """The plan with layers spread evenly, so that all else of it can be judged."""
    return replace(plan, layout=even_layout(len(model.layers), len(model.mtp), stage_count(plan)))


def with_best_layout(model: Model, cluster: Cluster, plan: Plan, seq_length: int) -> Plan:
    """The plan with the split that makes its longest stage shortest among those that fit every rank's memory.

    `plan.layout` is not looked at. Where nothing fits, the split that comes nearest.
    """
    return replace(plan, layout=best_layout(model, cluster, plan, seq_length).fitting)


@dataclass(frozen=True, slots=True)
class BestLayout:
    """The best split that fits every rank's memory, and the best whatever memory it takes."""

    fitting: str
    by_cost: str

    @property
    def words(self) -> str:
        """The split, and where memory decided on it, the one that cost alone would give."""
        if self.fitting == self.by_cost:
            return f": {self.fitting}"
        return f" and memory: {self.fitting}. By cost alone it would be {self.by_cost}, which does not fit"


def best_layout(model: Model, cluster: Cluster, plan: Plan, seq_length: int) -> BestLayout:
    """The split of `with_best_layout`, beside that of cost alone."""
    start = provisional(model, plan)
    workload = workload_of(model, start, seq_length)
    cluster = allocated(start, cluster)
    schedule = make_schedule(schedule_name(plan), plan.pp, plan.vpp, plan.microbatches, plan.microbatch_group_size)
    fitting, by_cost = _splits(workload, cluster, schedule, priced_items(workload, cluster))
    return BestLayout(format_layout(fitting), format_layout(by_cost))


def priced_items(workload: Workload, cluster: Cluster) -> Items:
    """Every item as if it were a stage of its own."""
    model, plan = workload.model, workload.plan
    symbols = _item_symbols(model)
    alone = _single_item_stages(symbols)
    parts = replace(workload, stages=alone, parameters=stage_parameters(model, plan, alone))
    kept = stage_kept(parts)
    offloaded = [each.offloaded for each in kept] if plan.offload.modules else []
    times = slot_times(parts, cluster, offloaded=offloaded)
    return Items(
        symbols,
        np.array([_micro_batch_s(cost, times, plan) for cost in times.stages]),
        np.array([sum(state_bytes([held], plan).values()) for held in parts.parameters]),
        np.array([float(each.until_backward) for each in kept]),
    )


def _item_symbols(model: Model) -> tuple[str, ...]:
    modules = ("m" * len(model.mtp),) if model.mtp else ()
    return ("E", *("t" for _ in model.layers), *modules, "L")


def _single_item_stages(symbols: Sequence[str]) -> tuple[StageLayers, ...]:
    layers_before = np.cumsum([0, *(item.count("t") for item in symbols)])
    return tuple(
        StageLayers(index, int(first), item.count("t"), item == "E", item.count("m"), item == "L")
        for index, (item, first) in enumerate(zip(symbols, layers_before, strict=False))
    )


def _micro_batch_s(cost: StageCost, times: SlotTimes, plan: Plan) -> float:
    """Forward and backward of one micro-batch, beside each other where the schedule pairs them."""
    if times.beside is not None:
        return float(paired_stages(cost, cost, plan, times.beside).total_s)
    return float(cost.forward.total_s + cost.input.total_s + cost.weight.total_s)


def _splits(
    workload: Workload, cluster: Cluster, schedule: Schedule, items: Items
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The shortest split whose ranks fit, each round with budgets less by what the last one's ranks had too much; and
    that of the first round, which has no budgets."""
    plan, capacity = workload.plan, cluster.accelerator.memory_capacity_bytes
    of_ranks = stages_of_ranks(plan)
    live = _most_live(schedule, of_ranks, stage_count(plan))
    candidates: list[tuple[float, tuple[str, ...]]] = []
    limits = Stages(of_ranks, live, np.full(len(live), NO_LIMIT))
    for _ in range(MOST_ROUNDS):
        symbols = split(items, limits)
        if symbols is None:
            break
        excess = _device_bytes(workload, symbols, schedule) - capacity
        candidates.append((float(excess.max()), symbols))
        if excess.max() <= 0:
            return symbols, candidates[0][1]
        used = _stage_bytes(symbols, items, live)
        limits = replace(limits, budget_bytes=_budgets(limits.budget_bytes, used, excess, of_ranks))
    smallest = _smallest_split(items, limits)
    excess = _device_bytes(workload, smallest, schedule) - capacity
    candidates.append((float(excess.max()), smallest))
    return min(candidates, key=lambda candidate: candidate[0])[1], candidates[0][1]


def _smallest_split(items: Items, limits: Stages) -> tuple[str, ...]:
    """The split whose fullest stage holds least at the mean number of live micro-batches."""
    held_bytes = items.state_bytes + float(limits.live.mean()) * items.live_bytes
    free = replace(limits, budget_bytes=np.full(len(limits.live), NO_LIMIT))
    symbols = split(replace(items, seconds=held_bytes), free)
    if symbols is None:
        raise AssertionError("without limits every stage gets an item")
    return symbols


def _most_live(schedule: Schedule, of_ranks: Sequence[Sequence[int]], stages: int) -> Floats:
    """The most micro-batches that each stage keeps at once, (stages,)."""
    live = np.ones(stages)
    for slots, held in zip(schedule.ranks, of_ranks, strict=True):
        whole, _ = live_counts(slots, len(held))
        for chunk, stage in enumerate(held):
            live[stage] = max(live[stage], whole[:, chunk].max())
    return live


def _stage_bytes(symbols: tuple[str, ...], items: Items, live: Floats) -> Floats:
    """What the items of every stage hold under a split, (stages,)."""
    ends = np.cumsum([len(stage) - max(0, stage.count("m") - 1) for stage in symbols])
    held = [np.arange(first, last) for first, last in zip([0, *ends[:-1]], ends, strict=True)]
    state = [items.state_bytes[each].sum() for each in held]
    kept = [items.live_bytes[each].sum() for each in held]
    used: Floats = np.array(state) + live * np.array(kept)
    return used


def _budgets(before: Floats, used: Floats, excess: Floats, of_ranks: Sequence[Sequence[int]]) -> Floats:
    """Budgets that take what a rank holds too much off its fullest stage. Shape (stages,)."""
    budgets = before.copy()
    for rank, held in enumerate(of_ranks):
        if excess[rank] > 0:
            fullest = max(held, key=lambda stage: used[stage])
            budgets[fullest] = used[fullest] - excess[rank]
    return budgets


def _device_bytes(workload: Workload, symbols: tuple[str, ...], schedule: Schedule) -> Floats:
    """What the device of every pipeline rank shows under a split, (ranks,)."""
    plan = replace(workload.plan, layout=format_layout(symbols))
    whole = workload_of(workload.model, plan, workload.shape.seq)
    return np.array([rank.device_bytes for rank in memory_report(whole, schedule.ranks)])
