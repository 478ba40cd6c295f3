"""The space of a search: which keys are kept, searched or freed, and all legal plans in chunks of columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.problems import InputError, Problem, one_of
from simulator.planner.candidates import FOLLOWING, FREED, KEYS, SEARCHED, own_value
from simulator.planner.columns import CODE, NO_KEYS, Columns, Ints
from simulator.planner.legality import Judge
from simulator.planner.reads import PlanView, alike, one_by_one
from simulator.plans.case import ModelFacts, model_facts
from simulator.plans.layout import balanced, format_layout, layer_counts, stage_count
from simulator.plans.spec import Plan
from simulator.scenario.legal import beyond_part
from simulator.scenario.spec import Scenario

SPLIT_KEYS = ("layout", "first_stage_layers", "last_stage_layers", "account_for_embedding", "account_for_loss")
NO_SPLIT = (None, None, None, False, False)
# Keys that decide where ranks stand, and the schedule; all others are settings. Plans of a chunk share the first two.
DEGREES = ("tp", "cp", "pp", "micro_batch_size", "sequence_parallel", "ep", "etp", "schedule", "vpp")
CHUNK = ("tp", "cp")
# Keys whose values need number formats that not every GPU has.
BOUND_TO_PART = ("precision", "optimizer")
MOST_PLANS = 1_000_000
# Combinations that are searched before all others, so that there is an answer at once, and what counts as near.
FIRST_PLANS = 20_000
NEAREST = ("tp", "cp", "pp", "micro_batch_size", "ep", "vpp")


@dataclass(frozen=True, slots=True)
class Space:
    """What is searched for a scenario: candidates by key. Its own plan gives everything else.

    `refused`: values that were asked for and that the scenario's GPU cannot run, and why."""

    scenario: Scenario
    facts: ModelFacts
    candidates: Mapping[str, tuple[Any, ...]]
    refused: tuple[str, ...] = ()

    @property
    def base(self) -> Plan:
        return self.scenario.plan

    @property
    def searched(self) -> tuple[str, ...]:
        """Keys with several candidates."""
        return tuple(key for key, values in self.candidates.items() if len(values) > 1)

    def judge(self) -> Judge:
        scenario = self.scenario
        return Judge(self.base, self.facts, scenario.cluster.gpus, scenario.run.seq_length, frozenset(self.searched))

    def holds_own(self) -> bool:
        """Whether the scenario's own plan, in its own spelling, is one of those that are searched."""
        own = {key: own_value(self.base, key) for key in KEYS}
        if any(own[key] not in self.candidates[key] for key in KEYS):
            return False
        column = NO_KEYS
        for key, value in own.items():
            column = column.crossed(key, [value])
        for key in ("dp", *SPLIT_KEYS):
            column = column.crossed(key, [getattr(self.base, key)])
        judge = self.judge()
        legal, _ = judge.legal(column, frozenset(), tuple(judge.rules()))
        return len(legal) == 1


def space_of(
    scenario: Scenario, keep: Sequence[str] = (), free: Mapping[str, Sequence[Any] | None] | None = None
) -> Space:
    """The space around a scenario's plan.

    `keep`: keys that stay as the plan has them. `free`: further keys to search, with the values to try (None: the usual
    ones). Raises InputError for keys that cannot be kept or freed, and where the GPU runs no value of a key.
    """
    free = free or {}
    _check_keys(scenario, keep, free)
    facts = model_facts(scenario.model)
    candidates: dict[str, tuple[Any, ...]] = {}
    for key in KEYS:
        own = own_value(scenario.plan, key)
        if key in keep or (key in FREED and key not in free):
            candidates[key] = (own,)
            continue
        given = free.get(key)
        offered = (SEARCHED | FREED)[key](scenario, facts) if given is None else given
        candidates[key] = tuple(dict.fromkeys([*offered, *([own] if given is None else [])]))
    refused: list[str] = []
    for key in BOUND_TO_PART:
        candidates[key], why = able_values(scenario, key, candidates[key])
        refused += why
    return Space(scenario, facts, candidates, tuple(refused))


def able_values(scenario: Scenario, key: str, values: Sequence[Any]) -> tuple[tuple[Any, ...], list[str]]:
    """The values of a key that the scenario's GPU can run, and why it cannot run the others. Raises InputError where
    none is left."""
    able, refused = [], []
    for value in values:
        beyond = [
            (name, message)
            for name, message in beyond_part(replace(scenario.plan, **{key: value}), scenario.cluster.accelerator)
            if name.split(".")[1] == key
        ]
        refused += [f"{name}: {message}" for name, message in beyond]
        if not beyond:
            able.append(value)
    if not able:
        raise InputError([Problem(scenario.file, None, "", reason) for reason in refused])
    return tuple(able), refused


def _check_keys(scenario: Scenario, keep: Sequence[str], free: Mapping[str, Any]) -> None:
    problems = []
    for option, names in (("--keep", keep), ("--free", free)):
        for name in names:
            if name in FOLLOWING:
                message = "follows from the other keys; keep or free those"
            elif name not in KEYS:
                message = f"key {one_of(name, KEYS)}"
            elif option == "--free" and name in keep:
                message = "is kept; leave one of the two out"
            else:
                continue
            problems.append(Problem(f"{option} plan.{name}", None, "", message))
    if problems:
        raise InputError(problems)


@dataclass(frozen=True, slots=True)
class Tables:
    """All plans of a space: a row of `degrees` and one of `settings` together, where no `pending` rule rejects them."""

    degrees: Columns
    settings: Columns
    pending: tuple[str, ...]


def tables(space: Space, judge: Judge) -> Tables:
    """Every combination of degrees, schedule and stages, and every combination of settings, that can be legal."""
    every = frozenset((*KEYS, "dp", *SPLIT_KEYS))
    degrees, pending, unbound = NO_KEYS, tuple(judge.rules()), every
    for key in DEGREES:
        degrees = degrees.crossed(key, space.candidates[key])
        unbound -= {key}
        if key == "pp":
            degrees = with_replicas(degrees, space.scenario.cluster.gpus)
            unbound -= {"dp"}
        if key == "vpp":
            degrees, _ = judge.legal(degrees, unbound, pending)
            degrees = with_splits(space, degrees)
            unbound -= frozenset(SPLIT_KEYS)
        degrees, pending = judge.legal(degrees, unbound, pending)
    settings, unbound = NO_KEYS, every
    for key in KEYS:
        if key not in DEGREES:
            settings = settings.crossed(key, space.candidates[key])
            unbound -= {key}
            settings, _ = judge.legal(settings, unbound, pending)
    return Tables(degrees, settings, pending)


def with_replicas(columns: Columns, gpus: int) -> Columns:
    """Plans whose degrees divide the GPUs, with the data-parallel replicas that fill them."""
    replica = columns.numbers("tp") * columns.numbers("cp") * columns.numbers("pp")
    rows = np.flatnonzero(gpus % replica == 0)
    dp = gpus // replica[rows]
    values, codes = np.unique(dp, return_inverse=True)
    return columns.take(rows).with_key("dp", values.tolist(), codes.reshape(-1).astype(CODE))


def chunks(found: Tables, rows: Ints | None = None) -> list[Ints]:
    """Rows of the degrees (None: all) that are searched together: those that share what prices depend on most."""
    rows = np.arange(len(found.degrees)) if rows is None else rows
    if not len(rows) or not len(found.settings):
        return []
    most = max(1, MOST_PLANS // len(found.settings))
    parts = alike(found.degrees, rows, CHUNK)
    return [part for whole in parts for part in np.array_split(whole, -(-len(whole) // most))]


def first_rows(space: Space, found: Tables) -> Ints:
    """Rows of the degrees nearest to the scenario's own, one chunk of few plans."""
    most = max(1, FIRST_PLANS // max(1, len(found.settings)))
    shared = np.zeros(len(found.degrees), dtype=np.int64)
    for place, key in enumerate(reversed(NEAREST)):
        own = getattr(space.base, key)
        is_own = np.array([value == own for value in found.degrees.values[key]])
        shared += is_own[found.degrees.codes[key]].astype(np.int64) << place
    best_first = np.argsort(-shared, kind="stable")
    groups = alike(found.degrees, best_first, CHUNK) if len(best_first) else []
    nearest = next((group for group in groups if best_first[0] in group), best_first)
    return np.sort(nearest[:most])


def plans_of(judge: Judge, found: Tables, rows: Ints) -> Columns:
    """Every legal plan with the degrees of these rows."""
    columns, _ = judge.legal(found.degrees.take(rows).crossed_with(found.settings), frozenset(), found.pending)
    return columns


def with_splits(space: Space, columns: Columns) -> Columns:
    """Every plan with each of the splits of layers over its stages that are tried."""
    outcomes = one_by_one(space.base, columns, lambda view: splits(space, view))
    known: dict[tuple[Any, ...], int] = {}
    numbers = [[known.setdefault(split, len(known)) for split in found] for found in outcomes.results]
    counts = np.array([len(found) for found in numbers], dtype=np.int64)[outcomes.index]
    rows = np.repeat(np.arange(len(columns)), counts)
    turn = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.zeros((len(numbers), max(map(len, numbers), default=0)), dtype=CODE)
    for index, found in enumerate(numbers):
        table[index, : len(found)] = found
    split = table[outcomes.index[rows], turn]
    columns = columns.take(rows)
    for place, key in enumerate(SPLIT_KEYS):
        values = tuple(dict.fromkeys(each[place] for each in known))
        codes = np.array([values.index(each[place]) for each in known], dtype=CODE)
        columns = columns.with_key(key, values, codes[split] if len(known) else split)
    return columns


def splits(space: Space, plan: PlanView) -> list[tuple[Any, ...]]:
    """Splits of the layers over a plan's stages, as values of SPLIT_KEYS: the scenario's own where it fits, an even
    one, and uneven ones that count the prediction modules, these and the head, or both ends as layers."""
    layers, mtp = space.facts.layers, space.facts.mtp
    stages = stage_count(plan)  # type: ignore[arg-type]
    found: dict[tuple[int, ...], tuple[Any, ...]] = {}
    base = space.base
    if stages == stage_count(base) and plan.pp == base.pp and _own_counts(space) is not None:
        found[_own_counts(space) or ()] = tuple(getattr(base, key) for key in SPLIT_KEYS)
    if layers % stages == 0:
        found.setdefault((layers // stages,) * stages, NO_SPLIT)
    for front, back in ((0, mtp), (0, mtp + 1), (1, mtp + 1)):
        counts = spread(layers, front, back, stages)
        if counts is not None:
            found.setdefault(counts, (layout_of(counts, mtp), *NO_SPLIT[1:]))
    return list(found.values())


def spread(layers: int, front: int, back: int, stages: int) -> tuple[int, ...] | None:
    """Layers by stage where the first stage holds as much as `front` layers more, the last as much as `back` more; None
    where a stage would be empty."""
    first, *others = balanced(layers + front, back, stages)
    counts = (first - front, *others)
    return counts if min(counts) >= 0 and all(counts[1:-1]) else None


def _own_counts(space: Space) -> tuple[int, ...] | None:
    """Layers by stage as the scenario's own plan splits them; None where that is contradictory."""
    try:
        return layer_counts(space.facts.layers, space.facts.mtp, space.base)
    except ValueError:
        return None


def layout_of(counts: Sequence[int], mtp: int) -> str:
    """Layers by stage in Megatron's notation, prediction modules and head on the last."""
    symbols = ["t" * count for count in counts]
    symbols[0] = "E" + symbols[0]
    symbols[-1] += "m" * mtp + "L"
    return format_layout(tuple(symbols))


def plan_of(base: Plan, row: Mapping[str, Any]) -> Plan:
    """The plan of one row."""
    switches = {key.removeprefix("overlap."): value for key, value in row.items() if key.startswith("overlap.")}
    others = {key: value for key, value in row.items() if not key.startswith("overlap.")}
    return replace(base, overlap=replace(base.overlap, **switches), **others)
