"""Published failures against the simulated ones, and the fit of a failure model from a fault log.

`python -m validate.failures` prints measured beside predicted; `python -m validate.failures --fit LOG.csv --nodes 400
--out model.yaml` writes a failure model in the form of the shipped presets.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.run.checkpoints import CheckpointPolicy, SavePaths
from simulator.run.durations import lognormal
from simulator.run.fault_log import LogRow, read_log
from simulator.run.faults import Machines, draw, draw_lemons, mean_time_between_s
from simulator.run.montecarlo import simulate
from simulator.run.read_failures import failure_model, preset
from simulator.run.spares import spares_needed
from simulator.run.specs import Recovery, Restart, RunSpec, Segment, Simulation

DAY_S = 86400.0
HOUR_S = 3600.0
CLOSE_S = 600.0  # faults that follow each other this fast are taken for one burst
WEEK_S = 7 * DAY_S
OWN_FIT = 20  # classes with at least so many faults get their own repair times, the others share one
LLAMA = "Llama 3 Herd of Models (arXiv 2407.21783), section 3.3"
RSC = "arXiv 2410.21680"
STEPFUN = "StepFun InfiniteHBD trace, 400 nodes, 348 days"


@dataclass(frozen=True, slots=True)
class Row:
    """One published figure and what the simulator says: `interval` is the 10th to 90th percentile over runs.

    `status`: "predicted", "in-sample" (the model was made from this figure), or "bound" (at least `measured`).
    """

    id: str
    status: str
    quantity: str
    measured: float
    predicted: float
    interval: tuple[float, float]
    assumptions: str
    source: str

    @property
    def error_fraction(self) -> float:
        """Predicted over measured, less one; for a bound only what is missing counts."""
        error = self.predicted / self.measured - 1
        return min(error, 0.0) if self.status == "bound" else error

    def to_dict(self) -> dict[str, Any]:
        names = ("id", "status", "quantity", "measured", "predicted", "error_fraction", "assumptions", "source")
        return {name: getattr(self, name) for name in names} | {"interval": list(self.interval)}


def rows(runs: int = 200, seed: int = 0) -> list[Row]:
    """Every published figure with its prediction."""
    return [*_llama_rows(runs, seed), *_rsc_rows(runs, seed), _bloom_row(), *_stepfun_rows(runs, seed)]


def _llama_rows(runs: int, seed: int) -> list[Row]:
    """Counts by cause over 54 days (in-sample: the rates are the table's), and the effective time it reports."""
    model, span = preset("llama-3"), 54 * DAY_S
    machines = Machines(2048, 0, 8)
    rng = np.random.default_rng(seed)
    names = [c.name for c in model.classes]
    drawn = (draw(model, machines, (0.0, span), np.empty(0, int), rng) for _ in range(runs))
    counts = np.array([np.bincount(timeline.component, minlength=len(names)) for timeline in drawn])
    published = [round(c.rate_per_gpu_s * 16384 * span) for c in model.classes]
    given = "preset llama-3, 16,384 GPUs, 54 days"
    found = [_row("llama-3-unexpected", "in-sample", "count", 419, counts.sum(axis=1), given, LLAMA)]
    found += [
        _row(f"llama-3-{name.replace(' ', '-')}", "in-sample", "count", published[i], counts[:, i], given, LLAMA)
        for i, name in enumerate(names)
    ]
    return [*found, _llama_goodput(runs, seed)]


def llama_run(runs: int, seed: int) -> RunSpec:
    """Llama 3 405B as described: 16,384 H100 over some 54 days, sharded state of 14 B per parameter to 2 TB/s of
    storage, automated recovery, planned stops once a day (47 in 54 days)."""
    model = preset("llama-3")
    spares = spares_needed(model, 16384)
    step_s = 10.0
    return RunSpec(
        segments=(Segment("main", 50 * DAY_S / step_s, 1.0, step_s),),
        job_nodes=2048,
        gpus_per_node=8,
        replicas=128,
        checkpoint=CheckpointPolicy("sharded", None),
        paths=SavePaths(405e9 * 14, 16384, 128, 2e12, 2e12, 2e9, 50e9, 50e9, 3e9),
        failures=model,
        recovery=Recovery(hot_spares=spares, maintenance_every_s=54 / 47 * DAY_S, maintenance_s=1800.0),
        simulation=Simulation(runs=runs, seed=seed),
    )


def _llama_goodput(runs: int, seed: int) -> Row:
    result = simulate(llama_run(runs, seed))
    spread = result.goodput_quantiles
    return Row(
        "llama-3-effective-time", "bound", "goodput_fraction", 0.90, result.goodput_fraction, (spread.p10, spread.p90),
        "restart, planned stops of 30 min, repair times, enough spares are assumed; storage 2 TB/s as published", LLAMA,
    )  # fmt: skip


def _rsc_rows(runs: int, seed: int) -> list[Row]:
    """Mean times to failure from one rate, and the effective time ratio with five-minute checkpoints."""
    model = preset("rsc-1")
    found = []
    for gpus, hours, kind in ((8, 47.7 * 24, "predicted"), (1024, 7.9, "predicted"), (16384, 1.80, "in-sample"),
                              (131072, 0.225, "in-sample")):  # fmt: skip
        predicted = mean_time_between_s(model, gpus) / HOUR_S
        what = (
            "observed; the paper's projections use a rate that its own small jobs exceed" if kind == "predicted" else ""
        )
        given = f"6.50 per 1,000 node-days; {what or 'projected by the paper from this rate'}"
        found.append(Row(f"rsc-1-mttf-{gpus}", kind, "mttf_h", hours, predicted, (predicted, predicted), given, RSC))
    result = simulate(rsc_run(runs, seed))
    spread = result.goodput_quantiles
    given = "16,384 GPUs, non-blocking writes every 5 min, restart 5 min, no waiting for nodes"
    etr = Row("rsc-1-ettr-5min", "predicted", "goodput_fraction", 0.93, result.goodput_fraction,
              (spread.p10, spread.p90), given, RSC)  # fmt: skip
    return [*found, etr]


def rsc_run(runs: int, seed: int) -> RunSpec:
    """RSC-1's largest job with five-minute checkpoints, as in the paper's projection: u0 = 5 min, nothing else lost."""
    given = preset("rsc-1")
    failure = replace(given.classes[0], detect=lognormal(1e-9, 1e-9), repair=None, scope="job")
    return RunSpec(
        segments=(Segment("main", 30 * DAY_S, 1.0, 1.0),),
        job_nodes=2048,
        gpus_per_node=8,
        replicas=128,
        checkpoint=CheckpointPolicy("async", 300.0, overhead_s=0.0),
        paths=SavePaths(1.0, 16384, 128, 1e12, 1e12, 2e9, 50e9, 50e9, 3e9),
        failures=replace(given, classes=(failure,), burst_mean=0.0),
        restart=Restart(process_start_s=300.0, init_s_per_gpu=0.0, warm_up_s=0.0),
        simulation=Simulation(runs=runs, seed=seed),
    )


def _bloom_row() -> Row:
    """BLOOM wrote 2.3 TB in 40 s every three hours."""
    spec = RunSpec(
        segments=(Segment("main", 90 * DAY_S / 100, 1.0, 100.0),),
        job_nodes=48,
        gpus_per_node=8,
        replicas=8,
        checkpoint=CheckpointPolicy("sharded", 3 * HOUR_S),
        paths=SavePaths(2.3e12, 384, 48, 57.5e9, 57.5e9, 2e9, 12e9, 25e9, 3e9),
        failures=failure_model("none"),
        simulation=Simulation(runs=1),
    )
    result = simulate(spec)
    overhead = result.lost_s["checkpoint"] / result.ideal_s
    given = "384 GPUs, 2.3 TB to storage of 57.5 GB/s every 3 h, all ranks wait"
    source = "stas00/ml-engineering, fault-tolerance and storage chapters"
    return Row(
        "bloom-checkpoint-overhead", "predicted", "lost_fraction", 0.0037, overhead, (overhead, overhead), given, source
    )


def _stepfun_rows(runs: int, seed: int) -> list[Row]:
    """The whole 348 days of the trace from a model fitted on its first 174: half of every figure was not seen."""
    model = preset("stepfun")
    machines, span = Machines(400, 0, 8), 348 * DAY_S
    rng = np.random.default_rng(seed)
    drawn = [draw(model, machines, (0.0, span), draw_lemons(model, machines, rng), rng) for _ in range(runs)]
    given = "fitted on days 0 to 174, figures of days 0 to 348"
    measures: dict[str, tuple[float, Callable[[Any], float]]] = {
        "faults": (584, len),
        "nodes-hit": (231, lambda t: len(np.unique(t.node))),
        "repair-mean-days": (5.54, lambda t: t.repair_s.mean() / DAY_S),
        "repair-median-days": (0.85, lambda t: float(np.median(t.repair_s)) / DAY_S),
        "repair-p90-days": (13.0, lambda t: float(np.quantile(t.repair_s, 0.9)) / DAY_S),
    }
    return [
        _row(f"stepfun-{name}", "predicted", name, measured, np.array([of(t) for t in drawn]), given, STEPFUN)
        for name, (measured, of) in measures.items()
    ]


def _row(name: str, status: str, quantity: str, measured: float, runs: np.ndarray, given: str, source: str) -> Row:
    low, high = np.quantile(runs, (0.1, 0.9))
    return Row(name, status, quantity, measured, float(runs.mean()), (float(low), float(high)), given, source)


# -- fit -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
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


def fit(log: Sequence[LogRow], nodes: int, span_s: float | None = None) -> Fit:
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
    return Fit(
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
    return counts * np.log(mean) - mean - factorial[counts]


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


def as_document(fitted: Fit, about: str, source: str) -> str:
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
        "exposure": {"gpus": fitted.nodes * 8, "time": f"{fitted.span_s / DAY_S:.6g} d"},
        "lemons": {"fraction": round(fitted.lemon_fraction, 4), "multiplier": round(fitted.lemon_multiplier, 3)},
        "bursts": {"mean": round(fitted.burst_mean, 4), "window": f"{fitted.burst_window_s:.4g} s"},
        "swings": {"variance": round(fitted.swing_variance, 4), "period": "7 d"},
        "defaults": {"kind": "crash", "scope": "node", "detect": "30 s"},
        "classes": classes,
    }
    return str(yaml.safe_dump(document, sort_keys=False, width=118, allow_unicode=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m validate.failures", description=__doc__)
    parser.add_argument("--fit", metavar="LOG", help="fault log (CSV) to fit instead of comparing")
    parser.add_argument("--nodes", type=int, help="nodes that the log covers")
    parser.add_argument("--days", type=float, help="days that the log covers (default: to its last fault)")
    parser.add_argument("--out", help="file for the fitted model (default: the terminal)")
    parser.add_argument("--runs", type=int, default=200)
    given = parser.parse_args(arguments)
    if given.fit is None:
        for row in rows(given.runs):
            figures = f"{row.measured:10.4g} {row.predicted:10.4g} {100 * row.error_fraction:+7.1f} %"
            print(f"{row.id:38} {row.status:10} {figures}")
        return
    if given.nodes is None:
        parser.error("--fit needs --nodes: a log names only the nodes that failed")
    fitted = fit(read_log(given.fit), given.nodes, given.days and given.days * DAY_S)
    text = as_document(fitted, f"Fitted to {given.fit}", str(given.fit))
    if given.out is None:
        print(text, end="")
    else:
        _write(given.out, text)


def _write(path: str, text: str) -> None:
    """Aside, then renamed: a reader never sees half a file."""
    import os

    aside = f"{path}.{os.getpid()}.tmp"
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


if __name__ == "__main__":
    main()
