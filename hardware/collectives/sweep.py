"""One collective over a range of sizes, in the columns of nccl-tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hardware.collectives.closed_form import collective_s
from hardware.collectives.group import Group, Number, strided_group
from hardware.specs import Cluster


@dataclass(frozen=True, slots=True)
class SweepRow:
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
    steps = int(np.floor(np.log(high_bytes / low_bytes) / np.log(factor) + 1e-9))
    return [float(low_bytes * factor**i) for i in range(steps + 1)]


def sweep(
    operation: str,
    cluster: Cluster,
    gpus: int,
    sizes_bytes: list[float],
    algorithm: str | None = None,
    protocol: str | None = None,
    group: Group | None = None,
) -> list[SweepRow]:
    """The collective at every size over the first `gpus` GPUs (or over `group`). ValueError as `collective_s`."""
    if gpus < 1:
        raise ValueError(f"gpus: one or more are wanted, not {gpus}")
    where = group or strided_group(cluster, gpus)
    sizes = np.asarray(sizes_bytes, dtype=float)
    times = collective_s(operation, sizes, where, cluster, algorithm, protocol)
    factor = bus_factor(operation, gpus)
    names = zip(
        np.broadcast_to(times.algorithm, sizes.shape), np.broadcast_to(times.protocol, sizes.shape), strict=True
    )
    rows = []
    for size, seconds, (ran, with_protocol) in zip(sizes.tolist(), times.seconds.tolist(), names, strict=True):
        rate = size / seconds if seconds > 0 else 0.0
        rows.append(SweepRow(size, seconds, rate, rate * factor, str(ran), str(with_protocol)))
    return rows
