"""The fit of a failure model from a fault log: rates, repair times, lemon nodes, bursts, swings.

`python -m validate.failure_fit LOG.csv --nodes 400 --out model.yaml` writes it in the form of the shipped presets; a
scenario takes it as `run.failures: model.yaml`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simulator.run.fault_log import LogRow, read_log

DAY_S = 86400.0
CLOSE_S = 600.0  # faults that follow each other this fast are taken for one burst
WEEK_S = 7 * DAY_S
OWN_FIT = 20  # classes with at least so many faults get their own repair times, the others share one


@dataclass(frozen=True, slots=True)
class FailureFit:
    """What a fault log says: counts by class, repair times (median, mean) in seconds, and how faults come together.

    `log_likelihood` is that of the counts per node with lemons, `uniform_log_likelihood` with all nodes alike.
    """

    nodes: int
    span_s: float
    counts: Mapping[str, int]
    repair_s: Mapping[str, tuple[float, float]]
    lemon_fraction: float
    lemon_multiplier: float
    burst_mean: float
    burst_window_s: float
    swing_variance: float
    log_likelihood: float
    uniform_log_likelihood: float


def fit(log: Sequence[LogRow], nodes: int, span_s: float | None = None) -> FailureFit:
    """Fits a failure model to a log of `nodes` nodes over `span_s` (None: up to its last fault).

    Lemons: two kinds of nodes, maximum likelihood of the counts per node. Bursts: faults within ten minutes of the
    one before, beyond chance. Swings: dispersion of weekly counts beyond Poisson and bursts.
    """
    span = span_s or max(row.start_s for row in log)
    per_node = np.zeros(nodes, int)
    for node, count in Counter(row.node for row in log).items():
        per_node[node] = count
    fraction, multiplier, likelihood = fit_lemons(per_node)
    burst_mean, window = fit_bursts(np.array([row.start_s for row in log]), span)
    return FailureFit(
        nodes=nodes,
        span_s=span,
        counts=dict(Counter(row.component for row in log).most_common()),
        repair_s=fit_repairs(log),
        lemon_fraction=fraction,
        lemon_multiplier=multiplier,
        burst_mean=burst_mean,
        burst_window_s=window,
        swing_variance=fit_swings(np.array([row.start_s for row in log]), span, burst_mean),
        log_likelihood=likelihood,
        uniform_log_likelihood=float(_poisson_log(per_node, per_node.mean()).sum()),
    )


def fit_lemons(per_node: np.ndarray) -> tuple[float, float, float]:
    """(fraction, multiplier, log-likelihood) of the two-kind mixture with the observed mean, over a grid."""
    mean = per_node.mean()
    counts, nodes = np.unique(per_node, return_counts=True)
    fraction = np.arange(0.005, 0.5, 0.005)[:, None, None]
    multiplier = np.arange(1.25, 40.0, 0.25)[None, :, None]
    base = mean / (1 - fraction + fraction * multiplier)
    plain = _poisson_log(counts, base) + np.log(1 - fraction)
    lemon = _poisson_log(counts, base * multiplier) + np.log(fraction)
    total = (nodes * np.logaddexp(plain, lemon)).sum(axis=2)
    i, j = np.unravel_index(int(np.argmax(total)), total.shape)
    return float(fraction[i, 0, 0]), float(multiplier[0, j, 0]), float(total[i, j])


def _poisson_log(counts: np.ndarray, mean: np.ndarray | float) -> np.ndarray:
    factorial = np.array([math.lgamma(k + 1) for k in range(int(counts.max()) + 1)])
    computed: np.ndarray = counts * np.log(mean) - mean - factorial[counts]
    return computed


def fit_bursts(start_s: np.ndarray, span_s: float) -> tuple[float, float]:
    """(followers per fault, mean time after it): gaps under ten minutes in excess of an even rate's."""
    gaps = np.diff(np.sort(start_s))
    close = gaps < CLOSE_S
    by_chance = len(gaps) * -math.expm1(-CLOSE_S * len(start_s) / span_s)
    followers = max(float(close.sum()) - by_chance, 0.0) / len(start_s)
    window = float(gaps[close].mean()) if close.any() else CLOSE_S
    return followers / (1 - followers), max(window, 1.0)


def fit_swings(start_s: np.ndarray, span_s: float, burst_mean: float) -> float:
    """Variance of the weekly rate: (dispersion of the counts - that of bursts) / mean count.

    A Poisson burst of 1 + Poisson(b) faults has dispersion ((1 + b)^2 + b) / (1 + b).
    """
    weeks = int(span_s // WEEK_S)
    counts = np.histogram(start_s, np.arange(weeks + 1) * WEEK_S)[0]
    if weeks < 2 or not counts.any():
        return 0.0
    bursts = ((1 + burst_mean) ** 2 + burst_mean) / (1 + burst_mean)
    return max(float((counts.var(ddof=1) / counts.mean() - bursts) / counts.mean()), 0.0)


def fit_repairs(log: Sequence[LogRow]) -> dict[str, tuple[float, float]]:
    """(median, mean) of the finished repairs of each class; classes with few faults share one pair."""
    away: dict[str, list[float]] = {}
    for row in log:
        if math.isfinite(row.end_s):
            away.setdefault(row.component, []).append(row.end_s - row.start_s)
    pooled = [t for times in away.values() if len(times) < OWN_FIT for t in times]
    found = {}
    for name in {row.component for row in log}:
        times = away.get(name, [])
        own = times if len(times) >= OWN_FIT else pooled or [0.0]
        found[name] = (float(np.median(own)), float(np.mean(own)))
    return found


def as_document(fitted: FailureFit, gpus_per_node: int, about: str, source: str) -> str:
    """The fit as YAML, in the form that `simulator.run.read_failures` reads."""
    import yaml

    classes: dict[str, Any] = {}
    for name, count in fitted.counts.items():
        median, mean = (t / DAY_S for t in fitted.repair_s[name])
        repair = {"median": f"{median:.4g} d", "mean": f"{max(mean, median):.4g} d"} if median > 0 else "none"
        classes[name] = {"count": count, "repair": repair}
    document = {
        "about": about,
        "source": source,
        "exposure": {"gpus": fitted.nodes * gpus_per_node, "time": f"{fitted.span_s / DAY_S:.6g} d"},
        "lemons": {"fraction": round(fitted.lemon_fraction, 4), "multiplier": round(fitted.lemon_multiplier, 3)},
        "bursts": {"mean": round(fitted.burst_mean, 4), "window": f"{fitted.burst_window_s:.4g} s"},
        "swings": {"variance": round(fitted.swing_variance, 4), "period": "7 d"},
        "defaults": {"kind": "crash", "scope": "node", "detect": "30 s"},
        "classes": classes,
    }
    return str(yaml.safe_dump(document, sort_keys=False, width=118, allow_unicode=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m validate.failure_fit", description=__doc__)
    parser.add_argument("log", help="fault log (CSV)")
    parser.add_argument(
        "--nodes", type=int, required=True, help="nodes the log covers; it names only those that failed"
    )
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--days", type=float, help="days that the log covers (default: to its last fault)")
    parser.add_argument("--out", help="file for the fitted model (default: the terminal)")
    given = parser.parse_args(arguments)
    fitted = fit(read_log(given.log), given.nodes, given.days and given.days * DAY_S)
    text = as_document(fitted, given.gpus_per_node, f"Fitted to {given.log}", str(given.log))
    if given.out is None:
        print(text, end="")
    else:
        _write(given.out, text)


def _write(path: str, text: str) -> None:
    """Aside, then renamed: a reader never sees half a file."""
    aside = f"{path}.{os.getpid()}.tmp"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


if __name__ == "__main__":
    main()
