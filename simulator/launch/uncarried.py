"""Keys that a scenario sets and that no file of a launch carries, each with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from simulator.launch.express import Inexpressible
from simulator.launch.tables import Table, holds, stated_key
from simulator.plain import flat
from simulator.run.budget import AMOUNTS
from simulator.scenario.schema import Scenario

# Why these keys, or those below them, stand in no file: first those that change what runs, then what is only predicted.
CHANGES_WHAT_RUNS: Mapping[str, str] = {
    "run.checkpoint": "what runs saves as it does by itself; set it there",
    "run.evaluation": "no file sets up an evaluation; what runs evaluates as it does by itself",
    "run.evaluation.lasts": "how many batches fit into it is not known, so what runs takes as many as by default",
    "run.seq_length": "the training script decides how long sequences are",
    **{f"run.{amount}": "the training script decides how long it trains" for amount in AMOUNTS},
    "distillation": "no file starts a teacher or reads its logits: what runs learns from data alone",
    "local_sgd": "no file sets up an outer optimizer: what runs reduces its gradients over all replicas in every step",
    "parameter_server": "no file starts a server: what runs reduces its gradients over all replicas in every step",
}
ONLY_PREDICTED: Mapping[str, str] = {
    "run.failures": "what breaks on the machines",
    "run.fault_log": "what broke on the machines",
    "run.jobs": "other jobs of the cluster are launched from scenarios of their own",
    "run.maintenance": "when nodes are serviced is the operator's to plan",
    "run.prices": "what the machines cost",
    "run.recovery": "what happens while nodes are short is the scheduler's to decide",
    "run.restart": "how long a restart takes",
    "run.simulation": "how the run is simulated",
    "run.spares": "how long a spare takes to stand in",
    "input": "data loaders are the training software's own",
}
REASONS = {**CHANGES_WHAT_RUNS, **ONLY_PREDICTED}
SECTIONS = tuple(dict.fromkeys(key.partition(".")[0] for key in REASONS))
# What job files say: nodes that stand by, and a folder for each phase.
OF_THE_JOB = ("run.spares.hot", "run.spares.cold", "run.spares.within", "run.phases")


def uncarried(
    table: Table, scenario: Scenario, facts: Mapping[str, Any], refused: tuple[Inexpressible, ...]
) -> dict[str, str]:
    """Keys that the scenario's file sets and that neither a setting nor a job file says, with the reason.

    `refused` are keys that are named already. A target's own reason comes before the general one.
    """
    carried = {*_carried(table, facts), *OF_THE_JOB, *(each.key for each in refused)}
    own = {fixed.key: fixed.why for fixed in table.fixed.values() if fixed.free}
    found: dict[str, str] = {}
    for key in _written(scenario):
        if any(each == key or key.startswith(f"{each}.") for each in carried):
            continue
        reason = max((each for each in REASONS if key == each or key.startswith(f"{each}.")), key=len, default=None)
        # Keys whose fellows may be carried are named one by one, others by what they are part of.
        name = reason if reason in ONLY_PREDICTED or reason in SECTIONS else key
        found[str(name)] = own.get(key) or (REASONS[reason] if reason else "no file says it")
    return found


def change_what_runs(keys: Mapping[str, str]) -> list[str]:
    """Those of the keys whose absence makes another run than was predicted."""
    return [key for key in keys if any(key == each or key.startswith(f"{each}.") for each in CHANGES_WHAT_RUNS)]


def _written(scenario: Scenario) -> Iterator[str]:
    """Dotted keys of what the file sets about the run and what surrounds the step."""
    for section in SECTIONS:
        if scenario.written.get(section) is not None:
            yield from flat(scenario.written[section], section)


def _carried(table: Table, facts: Mapping[str, Any]) -> Iterator[str]:
    """Keys that the table has a setting for which the facts decide, or a value that the target runs with anyway."""
    for row in table.rows:
        if not row.import_only and not row.why and row.key in facts and holds(row.when, facts):
            yield stated_key(row.key)
            if row.key == "run.steps":
                yield from (f"run.{amount}" for amount in AMOUNTS)
    yield from (fixed.key for fixed in table.fixed.values() if not fixed.free)
