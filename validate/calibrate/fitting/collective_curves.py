"""Collective coefficients of one machine from its points, by the fits of the published sweeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from hardware.collectives import OPERATIONS, closed_form
from hardware.collectives.links import Links
from validate.calibrate.fitting.held_out import with_intervals
from validate.calibrate.measuring.group_sweep import bus_bandwidth
from validate.calibrate.points import MeasuredPoint
from validate.collective_fit import curve_s, fit_curve, fit_network, scale_up_sweeps

FOLDS = 5
FEWEST = 3  # sizes of one pair on one machine: latency, bandwidth and a check; published sweeps need more
FEWEST_ACROSS = 12  # points across nodes that a network's coefficients are fitted to


def fit_collectives(
    points: Iterable[MeasuredPoint], links: Links, technology: str, source: str
) -> dict[str, Any] | None:
    """The document of a profile's collectives.json; None where no group was measured.

    Curves inside a node by operation and the pair that NCCL's tuner takes; across nodes one NIC technology.
    """
    points = list(points)
    table = table_of(points)
    if table.empty:
        return None
    notes: list[str] = []
    scale_up, quality = fit_scale_up(table, links, notes)
    across = table[table.n_nodes > 1]
    networks = {}
    if len(across) >= FEWEST_ACROSS:
        networks[technology] = own_network(across, links, technology, source)
    elif len(across):
        notes.append(f"network {technology}: {len(across)} points across nodes, {FEWEST_ACROSS} are the fewest to fit")
    return {
        "source": source,
        "scale_up": scale_up,
        "network": networks,
        **quality,
        "measured_range": measured_range(table),
        "contention": contention(points),
        "notes": notes,
    }


def table_of(points: Iterable[MeasuredPoint]) -> pd.DataFrame:
    """Points of collectives in the columns of the published sweeps; groups that ran beside others are left out."""
    rows = []
    for point in points:
        if point.family != "collective" or not point.usable or point.shape.get("at_once", 1) != 1:
            continue
        operation, ranks = point.shape["operation"], point.shape["n_gpus"]
        if operation not in OPERATIONS or ranks < max(2, point.shape["n_nodes"]):
            continue
        row = {
            "sweep_id": point.source,
            "op": operation,
            "operation": operation,
            "gpu": point.where.get("gpu", ""),
            "fabric": point.where.get("fabric", ""),
            "n_gpus": ranks,
            "n_nodes": point.shape["n_nodes"],
            "size_bytes": point.shape["size_bytes"],
            "measured_s": point.seconds,
            "reason": "",
            "latency_us": point.seconds * 1e6,
        }
        rows.append(row)
    return pd.DataFrame(rows)


# ---- inside a node


def fit_scale_up(table: pd.DataFrame, links: Links, notes: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(generation -> operation -> pair -> coefficients, held-out errors and intervals by name).

    A pair has a curve of its own from FEWEST points on. Where no pair of an algorithm has so many, but all of them
    together do, they share one.
    """
    curves: dict[str, Any] = {}
    quality: dict[str, Any] = {"held_out": {}, "interval": {}}
    by_algorithm: dict[tuple[str, str, str], dict[str, pd.DataFrame]] = {}
    for generation, operation, pair, rows in scale_up_sweeps(table, links, fewest=1):
        algorithm = pair.split("/")[0]
        by_algorithm.setdefault((generation, operation, algorithm), {})[pair] = rows
    for (generation, operation, algorithm), rows_of in by_algorithm.items():
        fit, predict = fit_of(operation, algorithm)
        for pairs, rows in shared_rows(rows_of):
            name = f"{generation} {operation} {' and '.join(pairs)}"
            if len(rows) < FEWEST:
                notes.append(f"{name}: {len(rows)} points, {FEWEST} are the fewest to fit")
                continue
            if len(pairs) > 1:
                notes.append(f"{name}: {len(rows)} points fitted together, too few for a curve each")
            folds = folds_of(rows)
            if folds is None:
                curve = fit(rows)
            else:
                curve, errors = with_intervals(rows, folds, fit, predict)
                quality["held_out"][name] = errors["held_out"]["fit"]
                quality["interval"][name] = errors["interval"]
            of_operation = curves.setdefault(generation, {}).setdefault(operation, {})
            of_operation |= dict.fromkeys(pairs, curve)
    return curves, quality


def shared_rows(rows_of: dict[str, pd.DataFrame]) -> list[tuple[list[str], pd.DataFrame]]:
    """(pairs, rows) of every curve of one algorithm: a pair each, or all together where none has enough."""
    together = pd.concat(rows_of.values(), ignore_index=True)
    enough_apart = any(len(rows) >= FEWEST for rows in rows_of.values())
    if enough_apart or len(together) < FEWEST:
        return [([pair], rows.reset_index(drop=True)) for pair, rows in rows_of.items()]
    return [(list(rows_of), together)]


def fit_of(operation: str, algorithm: str) -> tuple[Callable[..., list[float]], Callable[..., np.ndarray]]:
    """The fit of one pair, and what it predicts, as functions of rows."""

    def fit(rows: pd.DataFrame) -> list[float]:
        return fit_curve(rows, operation, algorithm, rows["link"].to_numpy(float))

    def predict(rows: pd.DataFrame, curve: list[float]) -> np.ndarray:
        return curve_s(rows, operation, algorithm, rows["link"].to_numpy(float), curve)

    return fit, predict


def folds_of(rows: pd.DataFrame) -> np.ndarray | None:
    """What is left out together: whole sizes, single rows where there are few sizes; None where there are few rows."""
    sizes: np.ndarray = np.unique(rows.size_bytes, return_inverse=True)[1]
    if sizes.max() + 1 >= FOLDS:
        return sizes
    return np.arange(len(rows)) if len(rows) >= FOLDS else None


# ---- across nodes


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


# ---- what else the points tell


def measured_range(table: pd.DataFrame) -> dict[str, Any]:
    """operation -> [smallest, largest] size and ranks measured."""
    ranges = {}
    for operation, rows in table.groupby("operation"):
        ranges[str(operation)] = {
            "size_bytes": [int(rows.size_bytes.min()), int(rows.size_bytes.max())],
            "ranks": [int(rows.n_gpus.min()), int(rows.n_gpus.max())],
        }
    return ranges


def contention(points: Iterable[MeasuredPoint]) -> dict[str, float]:
    """How much longer the two take beside each other: products beside a collective, the collective beside products."""
    ratios: dict[str, list[float]] = {}
    for point in points:
        alone_s = point.where.get("alone_s")
        if point.family == "overlap" and point.usable and isinstance(alone_s, int | float) and alone_s > 0:
            ratios.setdefault(str(point.shape["slowed"]), []).append(point.seconds / alone_s)
    return {name: float(f"{np.median(values):.4g}") for name, values in sorted(ratios.items())}


def bandwidth_reached(points: Iterable[MeasuredPoint]) -> float:
    """The best bus bandwidth of any collective in a node, bytes/s; 0 where none was measured."""
    best = 0.0
    table = table_of(points)
    for row in table.to_dict("records"):
        if row["n_nodes"] == 1:
            _, busbw = bus_bandwidth(row["operation"], row["size_bytes"], row["n_gpus"], row["measured_s"])
            best = max(best, busbw)
    return best
