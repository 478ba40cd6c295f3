"""One collective over a range of sizes, in the columns of nccl-tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardware.arrays import Number
from hardware.collectives.closed_form import collective_s
from hardware.collectives.group import Group, strided_group
from hardware.specs import Cluster


@dataclass(frozen=True, slots=True)
class SizeRow:
    """One line of an nccl-tests table in SI units: what was asked, and what ran."""

    size_bytes: float
    time_s: float
    algbw_bytes_per_s: float
    busbw_bytes_per_s: float
    algorithm: str
    protocol: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def bus_factor(operation: str, ranks: Number) -> Number:
    """Bus over algorithm bandwidth as nccl-tests defines it: what each link carries per byte of size on a ring."""
    if operation == "all_reduce":
        return 2.0 * (ranks - 1) / ranks
    if operation in ("all_gather", "reduce_scatter", "all_to_all"):
        return (ranks - 1) / ranks
    return ranks * 0.0 + 1.0


def sizes_between(low_bytes: float, high_bytes: float, factor: float = 2.0) -> list[float]:
    """Sizes from the lowest to the highest by a factor, as nccl-tests -b -e -f steps them. ValueError for no range."""
    if not 0 < low_bytes <= high_bytes or not factor > 1:
        raise ValueError(f"sizes: 0 < min <= max and factor > 1 are wanted, not {low_bytes}, {high_bytes}, {factor}")
    steps = np.log(high_bytes / low_bytes) / np.log(factor)
    whole_steps = int(np.floor(steps + 1e-9))
    return [float(low_bytes * factor**i) for i in range(whole_steps + 1)]


def size_table(
    operation: str,
    cluster: Cluster,
    gpus: int,
    sizes_bytes: list[float],
    algorithm: str | None = None,
    protocol: str | None = None,
    group: Group | None = None,
) -> list[SizeRow]:
    """The collective at every size over the first `gpus` GPUs (or over `group`). ValueError as `collective_s`."""
    if gpus < 1:
        raise ValueError(f"gpus: one or more are wanted, not {gpus}")
    group = group or strided_group(cluster, gpus)
    sizes = np.asarray(sizes_bytes, dtype=float)
    times = collective_s(operation, sizes, group, cluster, algorithm, protocol)
    factor = float(bus_factor(operation, gpus))
    algorithms = np.broadcast_to(times.algorithm, sizes.shape).tolist()
    protocols = np.broadcast_to(times.protocol, sizes.shape).tolist()
    rows = []
    for size, seconds, ran, by in zip(sizes, np.asarray(times.seconds), algorithms, protocols, strict=True):
        rate = float(size / seconds) if seconds > 0 else 0.0
        rows.append(SizeRow(float(size), float(seconds), rate, rate * factor, ran, by))
    return rows
