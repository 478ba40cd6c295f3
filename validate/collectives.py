"""Published collective measurements: read, predicted, compared, and the fit of the efficiencies that predict them.

`python -m validate.collectives MEASUREMENTS.csv` prints the comparison; with `--fit FILE` it writes new efficiencies.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardware.collectives import OPERATIONS, closed_form
from hardware.collectives.algorithms import ALGORITHMS
from hardware.collectives.group import Group, Links

COLUMNS = ("sweep_id", "op", "gpu", "n_gpus", "n_nodes", "size_bytes", "time_us", "fabric", "source")
FEWEST_ROWS = 6  # that five coefficients are fitted to
OPERATION = {"alltoall": "all_to_all", "sendrecv": "send_recv"}


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measured machine was, as far as its source tells: links of one GPU, per direction."""

    generation: str
    scale_up_bytes_per_s: float
    multicast: bool
    cpu_vendor: str = "intel"


# NVLink per direction and NVSwitch multicast by part: vendor figures as in the hardware catalogue.
MACHINES = {
    "A100-SXM-40GB": Machine("ampere", 300e9, False, "amd"),
    "A100-SXM-80GB": Machine("ampere", 300e9, False),
    "H100-SXM-80GB": Machine("hopper", 450e9, True),
    "H200-SXM-141GB": Machine("hopper", 450e9, True),
    "H800-SXM": Machine("hopper", 200e9, True),
    "B200-SXM-180GB": Machine("blackwell", 900e9, True),
}
# Scale-out port per GPU by the fabric column: bytes/s, technology, one-way latency. EFA packet latency 9 us (v1) and
# 6.5 us (v2, v3), RoCE across leaves 5.6 us, InfiniBand 2.8 us; TCPX goes through host memory and has no such figure.
PORTS = {
    "EFA v1": (6.25e9, "efa_v1", 9e-6),
    "EFA v2": (50e9, "efa", 6.5e-6),
    "RoCE": (25e9, "roce", 5.6e-6),
    "GPUDirect-TCPX": (12.5e9, "tcpx", 5.6e-6),
    "CX7": (50e9, "infiniband", 2.8e-6),
    "NVLink": (50e9, "infiniband", 2.8e-6),
}


def links_of_row(gpu: str, fabric: str) -> Links:
    """Links of a measured machine. ValueError names a part or a fabric that is not known."""
    port = next((PORTS[name] for name in PORTS if str(fabric).startswith(name)), None)
    if gpu not in MACHINES or port is None:
        raise ValueError(f"gpu {gpu!r} on fabric {fabric!r}: known are {sorted(MACHINES)} on {sorted(PORTS)}")
    machine, (bandwidth, technology, latency_s) = MACHINES[gpu], port
    return Links(machine.generation, machine.cpu_vendor, machine.scale_up_bytes_per_s, 0.9e-6, machine.multicast,
                 bandwidth, technology, (latency_s,), (1.0,), False)  # fmt: skip


def read_measurements(path: str | Path) -> pd.DataFrame:
    """Rows with a time (given, or from the bus bandwidth), sizes in bytes and times in seconds.

    ValueError lists the columns that a file lacks.
    """
    table = pd.read_csv(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: columns missing: {', '.join(missing)}")
    table["operation"] = table["op"].replace(OPERATION)
    table = table[table["operation"].isin(OPERATIONS) & table["size_bytes"].gt(0)].copy()
    from_bandwidth = table["size_bytes"] / (table["algbw_GBps"] * 1e3)
    table["measured_s"] = table["time_us"].fillna(from_bandwidth) * 1e-6
    return table[table["measured_s"].gt(0)].reset_index(drop=True)


def predict(table: pd.DataFrame, machine: Links | None = None) -> pd.DataFrame:
    """The measurements with predicted_s, bound_s, algorithm and protocol beside them.

    `machine`: the links of the one machine that all rows were measured on; otherwise by the columns gpu and fabric.
    """
    rows = []
    for row in table.to_dict("records"):
        links = machine or links_of_row(row["gpu"], row["fabric"])
        group = Group(float(row["n_gpus"]), row["n_gpus"] / row["n_nodes"])
        time = closed_form.collective_s(row["operation"], row["size_bytes"], group, links)
        rows.append((time.seconds, time.bound_s, time.algorithm, time.protocol))
    out = table.copy()
    out[["predicted_s", "bound_s", "chosen", "chosen_protocol"]] = rows
    out = out.astype({"predicted_s": float, "bound_s": float})
    out["error_fraction"] = out["predicted_s"] / out["measured_s"] - 1
    out["generation"] = [machine.generation if machine else MACHINES[gpu].generation for gpu in out["gpu"]]
    out["where"] = np.where(out["n_nodes"] > 1, "across nodes", "in a node")
    return out


def summarise(predicted: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """n, median and 90th percentile of the absolute error, and the signed median, by the given columns."""
    grouped = predicted.groupby(by)["error_fraction"]
    return pd.DataFrame(
        {
            "n": grouped.size(),
            "median_abs_error": grouped.apply(lambda e: e.abs().median()),
            "p90_abs_error": grouped.apply(lambda e: e.abs().quantile(0.9)),
            "bias": grouped.median(),
        }
    ).reset_index()


def _demands(rows: pd.DataFrame, operation: str, algorithm: str) -> tuple[np.ndarray, ...]:
    n = rows["n_gpus"].to_numpy(float)
    demand = ALGORITHMS[algorithm](operation, n, n / rows["n_nodes"].to_numpy(float), rows["n_nodes"].to_numpy(float))
    return n, *(np.broadcast_to(part, n.shape) for part in demand)


def curve_s(coefficients: list[float], work: tuple[np.ndarray, ...], bandwidth: float) -> np.ndarray:
    """Seconds by the five coefficients; work = (ranks, steps, share of the size on the busiest link, size)."""
    fixed_s, step_s, efficiency, copies, sharpness = coefficients
    n, steps, share, size = work
    transfer = size * (share + copies / n) / (efficiency * bandwidth)
    return ((fixed_s + steps * step_s) ** sharpness + transfer**sharpness) ** (1 / sharpness)


def predict_curve(
    rows: pd.DataFrame, operation: str, algorithm: str, bandwidth: float, curve: list[float]
) -> np.ndarray:
    """Seconds of rows inside a node by a fitted curve."""
    n, steps, _, share, *_ = _demands(rows, operation, algorithm)
    return curve_s(curve, (n, steps, share, rows["size_bytes"].to_numpy(float)), bandwidth)


def fit_curve(rows: pd.DataFrame, operation: str, algorithm: str, bandwidth: float) -> list[float]:
    """Five coefficients of one algorithm and protocol inside a node, by robust least squares on log times."""
    from scipy.optimize import least_squares

    n, steps, _, share, *_ = _demands(rows, operation, algorithm)
    size, measured = rows["size_bytes"].to_numpy(float), rows["measured_s"].to_numpy(float)

    def residual(x: np.ndarray) -> np.ndarray:
        scaled = [x[0] * 1e-6, x[1] * 1e-6, *x[2:]]
        return np.log(curve_s(scaled, (n, steps, share, size), bandwidth) / measured)

    start = [6.0, 1.0, 0.6, 0.2, 1.5]
    low, high = [0.1, 0.0, 0.02, 0.0, 1.0], [400.0, 60.0, 1.0, 2.0, 4.0]
    best = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.1, x_scale=[1, 1, 0.1, 0.1, 1])
    fixed, step, efficiency, copies, sharpness = (float(f"{value:.4g}") for value in best.x)
    return [fixed * 1e-6, step * 1e-6, efficiency, copies, sharpness]


def choices(table: pd.DataFrame, machine: Links | None = None) -> pd.Series:
    """The pair "algorithm/protocol" that the tuner picks for each row."""
    predicted = predict(table, machine)
    return predicted["chosen"] + "/" + predicted["chosen_protocol"]


def scale_up_sweeps(
    table: pd.DataFrame, machine: Links | None = None, fewest: int = FEWEST_ROWS
) -> Iterator[tuple[str, str, str, float, pd.DataFrame]]:
    """(generation, operation, pair, bytes/s per direction, rows) of every curve that sweeps in one node can give."""
    inside = table[table["n_nodes"] == 1].copy()
    if inside.empty:
        return
    inside["generation"] = [machine.generation if machine else MACHINES[gpu].generation for gpu in inside["gpu"]]
    inside["pair"] = choices(inside, machine)
    for key, rows in inside.groupby(["generation", "operation", "pair"]):
        generation, operation, pair = (str(part) for part in key)
        own = machine or MACHINES[rows["gpu"].iloc[0]]
        if len(rows) >= fewest:
            yield generation, operation, pair, own.scale_up_bytes_per_s, rows


def fit_scale_up(table: pd.DataFrame, machine: Links | None = None) -> dict[str, Any]:
    """Curves by generation, operation and pair from every sweep inside one node."""
    fitted: dict[str, Any] = {}
    for generation, operation, pair, bandwidth, rows in scale_up_sweeps(table, machine):
        curve = fit_curve(rows, operation, pair.split("/")[0], bandwidth)
        fitted.setdefault(generation, {}).setdefault(operation, {})[pair] = curve
    return fitted


def technology_of(fabric: object) -> str:
    return next(PORTS[name] for name in PORTS if str(fabric).startswith(name))[1]


def fit_network(table: pd.DataFrame, technology: str, machine: Links | None = None) -> dict[str, Any]:
    """Latencies, achieved bandwidth and overlap of one NIC technology, from its sweeps across nodes."""
    from scipy.optimize import least_squares

    alike = np.array([machine is not None or technology_of(fabric) == technology for fabric in table["fabric"]])
    rows = table[alike & (table["n_nodes"] > 1)]
    used = sorted({pair.split("/")[1] for pair in choices(rows, machine)})
    entry = closed_form.efficiencies()["network"][technology]

    def set_to(x: np.ndarray) -> None:
        entry["fixed_s"], entry["sharpness"] = float(f"{x[0]:.4g}") * 1e-6, float(f"{x[1]:.4g}")
        for i, protocol in enumerate(used):
            entry["step_s"][protocol] = float(f"{x[2 + 2 * i]:.4g}") * 1e-6
            entry["efficiency"][protocol] = float(f"{x[3 + 2 * i]:.4g}")
        closed_form._cached_tariff.cache_clear()

    def residual(x: np.ndarray) -> np.ndarray:
        set_to(x)
        predicted = predict(rows, machine)
        return np.log(predicted["predicted_s"].to_numpy(float) / predicted["measured_s"].to_numpy(float))

    start = [20.0, 1.5] + [10.0, 0.6] * len(used)
    low, high = [0.0, 1.0] + [0.0, 0.02] * len(used), [2000.0, 6.0] + [500.0, 1.0] * len(used)
    best = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.03, diff_step=1e-3)
    set_to(best.x)
    return entry


def _use(document: dict[str, Any]) -> None:
    """Let the closed form read these efficiencies from now on."""
    current = closed_form.efficiencies()
    current.clear()
    current.update(json.loads(json.dumps(document)))
    for cached in (closed_form.curve, closed_form.network, closed_form._cached_tariff):
        cached.cache_clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements")
    parser.add_argument("--fit", metavar="FILE")
    options = parser.parse_args()
    table = read_measurements(options.measurements)
    if options.fit:
        path = Path(options.fit)
        document = json.loads(path.read_text())
        for generation, operations in fit_scale_up(table).items():
            known = document["scale_up"].setdefault(generation, {})
            for operation, curves in operations.items():
                known.setdefault(operation, {}).update(curves)
        _use(document)
        for technology in ("efa", "efa_v1", "tcpx"):
            document["network"][technology] = fit_network(table, technology)
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(document, indent=1) + "\n")
        os.replace(aside, path)
        _use(document)
    predicted = predict(table)
    for by in (["generation", "where"], ["generation", "where", "operation"], ["sweep_id"]):
        print(summarise(predicted, by).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
