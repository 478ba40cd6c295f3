"""Collective coefficients of one machine from its points, by the fits of the published sweeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from hardware.collectives import OPERATIONS, closed_form
from hardware.collectives.group import Links
from validate.calibrate.fit import with_intervals
from validate.calibrate.points import Point
from validate.collective_fit import curve_s, fit_curve, fit_network, scale_up_sweeps

FOLDS = 5
FEWEST = 3  # sizes of one pair on one machine: latency, bandwidth and a check; published sweeps need more


def table_of(points: Iterable[Point]) -> pd.DataFrame:
    """Points of collectives in the columns of the published sweeps; groups that ran beside others are left out."""
    rows = [
        {
            "sweep_id": point.source,
            "op": point.shape["operation"],
            "operation": point.shape["operation"],
            "gpu": point.where.get("gpu", ""),
            "fabric": point.where.get("fabric", ""),
            "n_gpus": point.shape["n_gpus"],
            "n_nodes": point.shape["n_nodes"],
            "size_bytes": point.shape["size_bytes"],
            "measured_s": point.seconds,
            "reason": "",
            "latency_us": point.seconds * 1e6,
        }
        for point in points
        if point.family == "collective" and point.usable and point.shape.get("at_once", 1) == 1
        and point.shape["operation"] in OPERATIONS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def fit_collectives(points: Iterable[Point], links: Links, technology: str, source: str) -> dict[str, Any] | None:
    """The document of a profile's collectives.json; None where no group was measured.

    Curves inside a node by operation and the pair that NCCL's tuner takes; across nodes one NIC technology.
    """
    points = list(points)
    table = table_of(points)
    if table.empty:
        return None
    scale_up: dict[str, Any] = {}
    quality: dict[str, Any] = {"held_out": {}, "interval": {}}
    notes = []
    for generation, operation, pair, rows in scale_up_sweeps(table, links, fewest=1):
        if len(rows) < FEWEST:
            notes.append(f"{generation} {operation} {pair}: {len(rows)} points, {FEWEST} are the fewest to fit")
            continue
        rows = rows.reset_index(drop=True)
        fit, seconds = fit_of(operation, pair.split("/")[0])
        apart = folds_of(rows)
        name, curves = f"{generation} {operation} {pair}", scale_up.setdefault(generation, {}).setdefault(operation, {})
        if apart is None:
            curves[pair] = fit(rows)
            continue
        curves[pair], found = with_intervals(rows, apart, fit, seconds)
        quality["held_out"][name], quality["interval"][name] = found["held_out"]["fit"], found["interval"]
    across = table[table.n_nodes > 1]
    networks = {technology: own_network(across, links, technology, source)} if len(across) >= 12 else {}
    return {
        "source": source,
        "scale_up": scale_up,
        "network": networks,
        **quality,
        "measured_range": ranges(table),
        "contention": contention(points),
        "notes": notes,
    }


def fit_of(operation: str, algorithm: str) -> tuple[Callable[..., list[float]], Callable[..., np.ndarray]]:
    """The fit of one pair, and what it predicts, as functions of rows."""

    def fit(rows: pd.DataFrame) -> list[float]:
        return fit_curve(rows, operation, algorithm, rows["link"].to_numpy(float))

    def seconds(rows: pd.DataFrame, curve: list[float]) -> np.ndarray:
        return curve_s(rows, operation, algorithm, rows["link"].to_numpy(float), curve)

    return fit, seconds


def folds_of(rows: pd.DataFrame) -> np.ndarray | None:
    """What is left out together: whole sizes, single rows where there are few sizes; None where there are few rows."""
    sizes = np.unique(rows.size_bytes, return_inverse=True)[1]
    if sizes.max() + 1 >= FOLDS:
        return sizes
    return np.arange(len(rows)) if len(rows) >= FOLDS else None


def own_network(table: pd.DataFrame, links: Links, technology: str, source: str) -> dict[str, Any]:
    """The network entry of this machine. The shipped one, on which the fit starts, is put back afterwards."""
    networks = closed_form.efficiencies()["network"]
    shipped = networks.get(technology)
    networks[technology] = copy.deepcopy(shipped or networks["infiniband"])
    closed_form.forget()
    try:
        fitted = copy.deepcopy(fit_network(table, technology, links))
    finally:
        if shipped is None:
            del networks[technology]
        else:
            networks[technology] = shipped
        closed_form.forget()
    return {**fitted, "evidence": "fitted", "source": source}


def ranges(table: pd.DataFrame) -> dict[str, Any]:
    """operation -> [smallest, largest] size and ranks measured."""
    return {
        str(operation): {"size_bytes": [int(rows.size_bytes.min()), int(rows.size_bytes.max())],
                         "ranks": [int(rows.n_gpus.min()), int(rows.n_gpus.max())]}
        for operation, rows in table.groupby("operation")
    }  # fmt: skip


def contention(points: Iterable[Point]) -> dict[str, float]:
    """How much longer the two take beside each other: products beside a collective, the collective beside products."""
    ratios: dict[str, list[float]] = {}
    for point in points:
        if point.family == "overlap" and point.usable and "alone_s" in point.where:
            ratios.setdefault(str(point.shape["slowed"]), []).append(point.seconds / point.where["alone_s"])
    return {name: float(f"{np.median(values):.4g}") for name, values in sorted(ratios.items())}


def bandwidth_reached(points: Iterable[Point]) -> float:
    """The best bus bandwidth of any collective in a node, bytes/s; 0 where none was measured."""
    from validate.calibrate.groups import bus_bandwidth

    table = table_of(points)
    inside = table[table.n_nodes == 1] if len(table) else table
    return max(
        (bus_bandwidth(row["operation"], row["size_bytes"], row["n_gpus"], row["measured_s"])[1]
         for row in inside.to_dict("records")), default=0.0)  # fmt: skip
