"""The frameworks that a launch can be written for: one record each, with the tables of its releases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulator.launch.deepspeed import deepspeed_files
from simulator.launch.express import Inexpressible
from simulator.launch.recipes import bridge_files, fits_torchtitan, registered, torchtitan_files
from simulator.launch.tables import Table, table
from simulator.launch.text import render
from simulator.launch.told import Told
from simulator.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Target:
    """One framework: its releases, newest first, and its files.

    `unfit` finds what beside settings it cannot be told. `mock`: its launch can run on synthetic data.
    `has_registry`: models come from the framework's own.
    """

    releases: tuple[str, ...]
    files: Callable[[Told], dict[str, str]]
    unfit: Callable[[Table, Scenario, Mapping[str, Any]], list[Inexpressible]]
    mock: bool = False
    has_registry: bool = False

    @property
    def offered(self) -> tuple[str, ...]:
        """Its releases as people number them."""
        return tuple(table(name).release for name in self.releases)

    def table_for(self, wanted: str | None, stack: str) -> Table:
        """The table of a release: the one asked for, else the one that is the scenario's stack, else the newest.

        Raises ValueError for a release that is not offered.
        """
        tables = [table(name) for name in self.releases]
        if wanted is None:
            return next((each for each in tables if each.stack == stack), tables[0])
        return tables[self.offered.index(wanted)]

    def offers(self, wanted: str) -> bool:
        return wanted in self.offered


def _megatron_files(told: Told) -> dict[str, str]:
    arguments = render("arguments.sh.j2", title=told.table.title, settings=told.expressed.settings)
    script = "pretrain_hybrid.py" if "model.hybrid" in told.facts else "pretrain_gpt.py"
    train = render("train_megatron.sh.j2", job=told.job, fault_tolerant=told.fault_tolerant, script=script)
    return {"arguments.sh": arguments, "train.sh": train}


def _any_model(table: Table, scenario: Scenario, facts: Mapping[str, Any]) -> list[Inexpressible]:
    return []


TARGETS: dict[str, Target] = {
    "megatron": Target(("megatron-core-0.19", "megatron-core-0.16"), _megatron_files, _any_model, mock=True),
    "bridge": Target(("megatron-bridge-0.6",), bridge_files, registered, has_registry=True),
    "torchtitan": Target(("torchtitan-0.3",), torchtitan_files, fits_torchtitan, has_registry=True),
    "deepspeed": Target(("deepspeed-0.19",), deepspeed_files, _any_model),
}
