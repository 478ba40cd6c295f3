"""Terminal table of how far a step uses each class of links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hardware.units import format_fraction, format_rate

# Classes of links as people say them.
LINKS = {"scale_up": "within domains", "nic": "GPU to leaf", "leaf": "leaf to spine", "spine": "spine to core"}


def link_speeds(document: Mapping[str, Any]) -> str:
    """What each class of links lets a GPU send, by the names and figures of the table."""
    domain = document["scenario"]["cluster"]["scale_up_gpus"]
    parts = []
    for use in document["network"]["classes"]:
        name = LINKS[use["name"]] + (f" of {domain}" if use["name"] == "scale_up" else "")
        parts.append(f"{format_rate(use['gpu_bytes_per_s'])} {name}")
    return ", ".join(parts) + " (per GPU and direction)"


def links_table(network: Mapping[str, Any], phase: str) -> RenderableType:
    """How far the step uses each class of links, and for what; `phase` says of which phase, if any."""
    limit = LINKS.get(network["bottleneck"])
    head = Text.assemble(("Network  ", "bold"), f"busiest: {limit}" if limit else "idle", phase)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("links", no_wrap=True)
    for name in ("of", "mean use", "busiest"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("sent by")
    for use in network["classes"]:
        parts = sorted(((size, cause) for cause, size in use["bytes_by_cause"].items()), reverse=True)
        whole = sum(size for size, _ in parts)
        sent = ", ".join(f"{cause} {format_fraction(size / whole)}" for size, cause in parts if size >= 5e-4 * whole)
        each = format_rate(use["capacity_bytes_per_s"] / use["links"])
        shares = (format_fraction(use[name]) for name in ("mean_fraction", "busiest_fraction"))
        table.add_row(LINKS[use["name"]], f"{use['links']:,} x {each}", *shares, sent or "-")
    note = [Text(f"  {network['note']}")] if network["note"] else []
    return Group("", head, Padding(table, (0, 0, 0, 2)), *note)
