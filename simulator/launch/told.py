"""What a target's files are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.launch.express import Expressed
from simulator.launch.job import Job
from simulator.launch.tables import Table
from simulator.scenario.schema import Scenario


@dataclass(frozen=True, slots=True)
class Told:
    """A launch before it is written. `fault_tolerant`: started by nvidia-resiliency-ext's launcher."""

    table: Table
    scenario: Scenario
    facts: Mapping[str, Any]
    expressed: Expressed
    job: Job
    fault_tolerant: bool

    def value(self, name: str, default: Any = None) -> Any:
        """The value of a setting by name; `default` where it is not written."""
        return next((each.value for each in self.expressed.settings if each.name == name), default)
