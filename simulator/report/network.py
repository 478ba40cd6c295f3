"""Collectives and networks as documents, and on the terminal: nccl-tests' columns, a network's counts and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from hardware.collectives.gradients import BucketTime, Reduction
from hardware.collectives.size_table import SizeRow
from hardware.specs import Cluster
from hardware.topology.summary import NetworkSummary
from hardware.units import format_bytes, format_power, format_rate, format_seconds, format_usd

FLOAT_BYTES = 4  # nccl-tests counts elements of its default type, float


def collective_document(operation: str, cluster: Cluster, gpus: int, rows: Sequence[SizeRow]) -> dict[str, Any]:
    """One collective on one cluster over sizes."""
    return {
        "operation": operation,
        "cluster": cluster.name,
        "fabric": cluster.fabric.name,
        "gpus": gpus,
        "rows": [row.to_dict() for row in rows],
    }


def print_collective(document: Mapping[str, Any]) -> None:
    """nccl-tests' table: size in bytes, count in elements, time in microseconds, bandwidths in GB/s."""
    where = f"{document['gpus']} ranks of {document['cluster']} on {document['fabric']}"
    lines = [
        f"# {document['operation']}, {where}; predicted",
        "#",
        f"#{'size':>12}{'count':>14}{'type':>8}{'redop':>8}{'time':>12}{'algbw':>10}{'busbw':>10}  chosen",
        f"#{'(B)':>12}{'(elements)':>14}{'':>8}{'':>8}{'(us)':>12}{'(GB/s)':>10}{'(GB/s)':>10}",
    ]
    reduces = "sum" if "reduce" in document["operation"] else "none"
    for row in document["rows"]:
        size = int(row["size_bytes"])
        lines.append(
            f"{size:>13}{size // FLOAT_BYTES:>14}{'float':>8}{reduces:>8}{row['time_s'] * 1e6:>12.2f}"
            f"{row['algbw_bytes_per_s'] / 1e9:>10.2f}{row['busbw_bytes_per_s'] / 1e9:>10.2f}"
            f"  {row['algorithm']}/{row['protocol']}"
        )
    busbw = [row["busbw_bytes_per_s"] for row in document["rows"]]
    lines.append(f"# Avg bus bandwidth    : {sum(busbw) / len(busbw) / 1e9:.4f}")
    print("\n".join(lines))


def gradients_document(
    cluster: Cluster, gpus: int, how: Reduction, backward_s: float, rows: Sequence[BucketTime]
) -> dict[str, Any]:
    """Gradients reduced in buckets on one cluster."""
    return {
        "operation": "gradients",
        "cluster": cluster.name,
        "fabric": cluster.fabric.name,
        "gpus": gpus,
        "scheme": how.scheme,
        "compression": how.compression,
        "backward_s": backward_s,
        "size_bytes": sum(row.size_bytes for row in rows),
        "sent_bytes": sum(row.sent_bytes for row in rows),
        "seconds": sum(row.compress_s + row.exchange_s for row in rows),
        "exposed_s": sum(row.exposed_s for row in rows),
        "rows": [row.to_dict() for row in rows],
    }


def print_gradients(document: Mapping[str, Any]) -> None:
    """A bucket a line, times in microseconds from the start of backward, bandwidths in GB/s; then the sums."""
    where = f"{document['gpus']} ranks of {document['cluster']} on {document['fabric']}"
    columns = ("tensors", "size", "sent", "ready", "start", "end", "compress", "exchange", "exposed", "busbw")
    units = ("", "(B)", "(B)", "(us)", "(us)", "(us)", "(us)", "(us)", "(us)", "(GB/s)")
    lines = [
        f"# gradients by {document['scheme']}, compression {document['compression']}, {where}; predicted",
        "#" + "".join(f"{name:>13}" for name in columns),
        "#" + "".join(f"{unit:>13}" for unit in units),
    ]
    for row in document["rows"]:
        times = (row[f"{key}_s"] * 1e6 for key in ("ready", "start", "end", "compress", "exchange", "exposed"))
        counts = (row["tensors"], row["size_bytes"], row["sent_bytes"])
        cells = [f"{count:>13.0f}" for count in counts] + [f"{time:>13.1f}" for time in times]
        lines.append(f" {''.join(cells)}{row['busbw_bytes_per_s'] / 1e9:>13.2f}")
    total, exposed = format_seconds(document["seconds"]), format_seconds(document["exposed_s"])
    lines.append(f"# {format_bytes(document['size_bytes'])} reduced in {total}, {exposed} of it exposed after backward")
    print("\n".join(lines))


def print_network(summary: NetworkSummary) -> None:
    """A network's tiers, links, bisection, diameter, cost and power."""
    console = Console(highlight=False, soft_wrap=True, width=100)
    console.print(Text(f"network {summary.name}", style="bold cyan"))
    nodes = f" in {summary.nodes:,} nodes" if summary.nodes else ""
    console.print(f"  {summary.gpus:,} GPUs{nodes}, {summary.switches:,} switches")
    for tier, count in summary.switches_by_tier.items():
        console.print(f"    {tier:<12} {count:>9,} switches")
    for link in summary.link_classes:
        each, total = format_rate(link.link_bytes_per_s), format_rate(link.total_bytes_per_s)
        console.print(f"    {link.name:<24} {link.links:>9,} links of {each:<12} {total} in all")
    half = f"{summary.bisection_fraction:.0%} of what half the GPUs can send"
    console.print(f"  bisection {format_rate(summary.bisection_bytes_per_s)}, {half}")
    console.print(f"  diameter {summary.diameter_hops} links, {format_seconds(summary.diameter_latency_s)}")
    if summary.cost_usd is not None:
        console.print(f"  cost {format_usd(summary.cost_usd)} ({summary.cost_source})")
    if summary.power_w is not None:
        console.print(f"  power {format_power(summary.power_w)} ({summary.power_source})")
