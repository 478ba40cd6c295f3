"""Terminal table of the phases of a run: each one's share, speed and memory, and what its plan changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import format_bytes, format_count, format_fraction, format_seconds
from simulator.report.beyond import step_seconds

COLUMNS = ("phase", "tokens", "in", "step", "tokens/s", "MFU", "allocated")


def of_phase(document: Mapping[str, Any]) -> str:
    """Words for the phase that the figures at the top are of; empty for a run without phases."""
    name = document.get("headline_phase")
    return f", phase {name}" if name else ""


def phases_table(document: Mapping[str, Any]) -> RenderableType:
    """A row for every phase, and below it what its batch, length and plan are."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for number, column in enumerate(COLUMNS):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for phase in document["phases"]:
        table.add_row(*_cells(phase))
    notes = [Text(f"{phase['name']}: {_words(phase, document)}") for phase in document["phases"]]
    head = Text.assemble(("Phases", "bold"), "  without failures")
    parts: list[RenderableType] = [table, *notes]
    return Group("", head, *(Padding(part, (0, 0, 0, 2)) for part in parts))


def _cells(phase: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        phase["name"],
        format_count(phase["tokens"]),
        format_seconds(phase["training_time_s"]),
        step_seconds(phase["step_time_s"]),
        format_count(phase["tokens_per_s"]),
        format_fraction(phase["mfu_fraction"]),
        format_bytes(phase["peak_memory_bytes"]),
    )


def _words(phase: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """Its batch, whether it fits, and the keys of its plan that differ from the scenario's."""
    batch = f"{phase['global_batch_size']:,} sequences of {phase['seq_length']:,}"
    used, capacity = phase["device_memory_bytes"], document["memory_capacity_bytes"]
    fits = "fits" if phase["fits"] else "does not fit"
    memory = f"{fits}: {format_bytes(used)} of {format_bytes(capacity)} with what is outside the allocator"
    return "; ".join([batch, memory, *changed_keys(phase["plan_changes"])])


def changed_keys(changes: Mapping[str, Any]) -> list[str]:
    """What a phase's plan changes, in the words of a scenario file."""
    return [f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in changes.items()]
