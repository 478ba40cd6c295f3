"""What a comparison says: the inputs that differ, a column for each scenario, and how each differs from the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from simulator.plain import flat, plain
from simulator.planner.verdict import Measure, Word


@dataclass(frozen=True, slots=True)
class Figures:
    """What was predicted of one column.

    `memory_bytes` are the owners on the fullest rank, what lies outside the allocator included: they add up to
    `device_memory_bytes`. `finish_s`, `cost_usd` and `energy_j` are of the whole run with failures (None: not
    simulated, or not known; cost and energy also where the run does not finish); `cost_usd` is as the run is paid for,
    `cost_error_usd` its standard error.
    """

    step_time_s: float
    step_time_interval_s: tuple[float, float]
    tokens_per_step: int
    tokens_per_s_per_gpu: float
    mfu_fraction: float
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    device_memory_bytes: float
    memory_capacity_bytes: float
    training_time_s: float
    finish_s: Mapping[str, float | None] | None
    goodput_fraction: float | None
    cost_usd: float | None
    cost_error_usd: float | None
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class Difference:
    """A column less the first one; None where one of them does not know the figure.

    `step_time_interval_s`: the 80 % interval of the difference, errors that both share left out.
    `training_time_interval_s`: the same for the time that all tokens take; `finish_interval_s`: for the median run's
    end. `verdict` is of the whole run, told by the measure `judged_by` (None: no measure tells them apart).
    """

    verdict: Word
    judged_by: Measure | None
    step_time_s: float
    step_time_interval_s: tuple[float, float]
    training_time_s: float
    training_time_interval_s: tuple[float, float]
    breakdown_s: Mapping[str, float]
    memory_bytes: Mapping[str, float]
    device_memory_bytes: float
    mfu_fraction: float
    finish_s: Mapping[str, float | None] | None
    finish_interval_s: tuple[float, float] | None
    cost_usd: float | None
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class Column:
    """One scenario: its figures, and their difference from the first column that has any.

    `refused`: every reason why it cannot be (it then has no figures); `unfit`: why the answer to it is no; `warnings`:
    those of its evaluation.
    """

    name: str
    inputs: Mapping[str, Any]
    refused: tuple[str, ...] = ()
    unfit: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: Figures | None = None
    difference: Difference | None = None

    @property
    def works(self) -> bool:
        return self.figures is not None and not self.unfit


@dataclass(frozen=True, slots=True)
class Comparison:
    """Columns side by side; `inputs` maps every dotted key that differs to its value in each column."""

    columns: tuple[Column, ...]
    inputs: Mapping[str, tuple[Any, ...]]

    def to_dict(self) -> dict[str, Any]:
        """The document of `traincast compare --json`."""
        reference = next((column.name for column in self.columns if column.figures), None)
        return {
            "reference": reference,
            "inputs": [{"key": key, "values": plain(values)} for key, values in self.inputs.items()],
            "columns": [
                {
                    "name": column.name,
                    "refused": list(column.refused),
                    "unfit": list(column.unfit),
                    "warnings": list(column.warnings),
                    "figures": plain(column.figures),
                    "difference": plain(column.difference),
                }
                for column in self.columns
            ],
        }

    def to_frame(self) -> Any:
        """A table with a row for every figure and a column for every scenario; figures in parts as breakdown_s.ep."""
        import pandas as pd

        figures = {column.name: flat(plain(column.figures) or {}) for column in self.columns}
        return pd.DataFrame(figures)
