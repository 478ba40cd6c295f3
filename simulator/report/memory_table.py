"""Terminal table of memory by pipeline rank and owner, with the verdict above it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import format_bytes

GIB = 2**30
TABLE_WIDTH = 98  # of a terminal's line, after the indent
LAYERS_WIDTH, GAUGE_WIDTH = 8, 6
# Owners of memory, whole or by their first word, that are too long for a column; of one name they share it.
SHORT = {
    "forward of the teacher": "teacher",
    "soft labels": "teacher",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "quantized": "quant",
    "gathered": "gather",
    "working": "work",
}


def memory_table(document: Mapping[str, Any], blocks: bool, phase: str) -> RenderableType:
    """Memory of every pipeline rank; `phase` says of which phase of the run, if any."""
    capacity, used = document["memory_capacity_bytes"], document["device_memory_bytes"]
    on_device = used <= capacity
    spare = f"{format_bytes(abs(capacity - used))} {'to spare' if on_device else 'too much'}"
    head = Text.assemble(
        ("Memory  ", "bold"),
        _verdict(on_device),
        f": {format_bytes(used)} of {format_bytes(capacity)} on the fullest GPU, {spare}{phase}",
    )
    owners = [owner for owner in dict.fromkeys(o for s in document["stages"] for o in _columns(s))
              if any(_columns(stage).get(owner) for stage in document["stages"])]  # fmt: skip
    gauges = _width(owners) <= TABLE_WIDTH
    table = Table(box=SIMPLE_HEAD if blocks else None, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("GiB on", no_wrap=True)
    table.add_column("layers", min_width=6, max_width=14, overflow="fold")
    for owner in owners:
        table.add_column(owner, justify="right", no_wrap=True)
    table.add_column("used", justify="right", no_wrap=True)
    table.add_column("of capacity" if gauges else "full", no_wrap=True, justify="left" if gauges else "right")
    for stages in _alike(document["stages"]):
        table.add_row(*_memory_row(stages, owners, capacity, _gauge_width(gauges), blocks))
    return Group("", head, Padding(table, (0, 0, 0, 2)), *_host_memory(document["host_memory"]))


def _verdict(fits: bool) -> tuple[str, str]:
    return ("fits", "bold green") if fits else ("does not fit", "bold red")


def _host_memory(host: Mapping[str, Any]) -> Iterable[RenderableType]:
    """What the fullest node's CPUs hold, where the job needs their memory."""
    owners, capacity = host["owners"], host["capacity_bytes"]
    if not owners:
        return
    used = sum(owners.values())
    shares = ", ".join(f"{owner} {format_bytes(size)}" for owner, size in owners.items())
    if capacity is None:
        yield Text.assemble(("Host memory  ", "bold"), f"{format_bytes(used)} on the fullest node: {shares}")
        return
    amount = f": {format_bytes(used)} of {format_bytes(capacity)} on the fullest node: {shares}"
    yield Text.assemble(("Host memory  ", "bold"), _verdict(used <= capacity), amount)


def _memory_row(
    stages: list[Mapping[str, Any]], owners: list[str], capacity: float, width: int, blocks: bool
) -> Iterable[RenderableType]:
    first, last, used = stages[0], stages[-1], stages[0]["device_memory_bytes"]
    yield str(first["rank"]) + (f"-{last['rank']}" if last is not first else "")
    yield _layers(first["layers"])
    for owner in owners:
        held = _columns(first).get(owner, 0)
        yield _gib(held) if held else "-"
    yield _gib(used)
    yield _gauge(used / capacity, blocks, width)


def _gib(held: float) -> str:
    return f"{held / GIB:.1f}" if held < 100 * GIB else f"{held / GIB:,.0f}"


def held_bytes(stage: Mapping[str, Any]) -> dict[str, float]:
    """Memory by owner; what the device shows beyond the allocator in one."""
    return {**stage["memory_bytes"], "outside": sum(stage["outside_allocator_bytes"].values())}


def _columns(stage: Mapping[str, Any]) -> dict[str, float]:
    """Memory by column: owners of one short name together."""
    found: dict[str, float] = {}
    for owner, size in held_bytes(stage).items():
        name = SHORT.get(owner) or SHORT.get(owner.split()[0], owner.split()[0])
        found[name] = found.get(name, 0.0) + size
    return found


def _width(owners: list[str]) -> int:
    """Characters of a table with gauges, each column with its gap."""
    headers = ["GiB on", "x" * LAYERS_WIDTH, *owners, "used", "of capacity"]
    return sum(max(len(header), 5) + 2 for header in headers)


def _gauge_width(gauges: bool) -> int:
    return GAUGE_WIDTH if gauges else 0


def _layers(chunks: list[str]) -> str:
    """The chunks of a rank as Megatron writes layouts, long runs and equal neighbours counted: `Et*5 (tt)*6 tL`."""
    short = (re.sub(r"t{5,}", lambda run: f"t*{len(run[0])}", symbols) for symbols in chunks)
    counted = ((symbols, len(list(same))) for symbols, same in groupby(short))
    return " ".join(f"({symbols})*{count}" if count > 1 else symbols for symbols, count in counted)


def _alike(stages: list[Mapping[str, Any]]) -> Iterable[list[Mapping[str, Any]]]:
    """Consecutive stages that hold and use the same, together."""
    for _, group in groupby(stages, key=lambda s: (s["layers"], held_bytes(s))):
        yield list(group)


def _gauge(used: float, blocks: bool, width: int) -> Text:
    full, empty = ("█", "░") if blocks else ("#", ".")
    filled = min(round(used * width), width)
    style = "red" if used > 1 else "yellow" if used > 0.9 else "green"
    return Text.assemble((full * filled, style), (empty * (width - filled), "dim"), f" {100 * used:3.0f}%")
