"""Fits the collective efficiencies in hardware/data/collectives/efficiencies.json to published sweeps.

`python -m validate.collective_fit [MEASUREMENTS.csv]` fits and rewrites the file, and prints the errors that are left;
with `--held-out 4` it writes nothing and tells how well sweeps of 4 GPUs follow from the others.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from hardware.arrays import Number
from hardware.collectives import OPERATIONS, PROTOCOLS, Links, closed_form
from hardware.collectives.algorithms import ALGORITHMS
from hardware.collectives.tuner import DATA, constants
from validate.collectives import (
    MACHINES,
    PUBLISHED,
    collectives_document,
    collectives_text,
    port_of,
    predict,
    read_measurements,
    summarise,
)

# RoCE's only sweep is bound by NVLink and says nothing of the NICs; InfiniBand has none.
FITTED_NETWORKS = ("efa", "efa_v1", "tcpx")
FEWEST_ROWS = 6
# Known apart from the sweeps: 32 B200 over 4 nodes reduce 4 GiB in 22.05 ms, 94 % of what their EFA ports carry
# (stas00/ml-engineering network/README.md). The two-node sweeps are bound by NVLink and cannot tell.
KNOWN_EFFICIENCY = {("efa", "Simple"): 0.94}


def curve_s(
    rows: pd.DataFrame, operation: str, algorithm: str, bandwidth: Number, coefficients: Sequence[float]
) -> np.ndarray:
    """Seconds of rows inside a node by the five coefficients of a curve; `bandwidth` in bytes/s, one or one per row."""
    n, k = rows["n_gpus"].to_numpy(float), rows["n_nodes"].to_numpy(float)
    demand = ALGORITHMS[algorithm](operation, n, n / k, k)
    fixed_s, step_s, efficiency, copies, sharpness = coefficients
    transfer = rows["size_bytes"].to_numpy(float) * (demand.scale_up + copies / n) / (efficiency * bandwidth)
    return ((fixed_s + demand.scale_up_steps * step_s) ** sharpness + transfer**sharpness) ** (1 / sharpness)


def fit_curve(rows: pd.DataFrame, operation: str, algorithm: str, bandwidth: Number) -> list[float]:
    """Five coefficients of one algorithm and protocol inside a node, by robust least squares on log times."""
    from scipy.optimize import least_squares

    measured = rows["measured_s"].to_numpy(float)

    def residual(x: np.ndarray) -> np.ndarray:
        computed: np.ndarray = np.log(
            curve_s(rows, operation, algorithm, bandwidth, [x[0] * 1e-6, x[1] * 1e-6, *x[2:]]) / measured
        )
        return computed

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
) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
    """(generation, operation, pair, rows) of every curve that sweeps in one node can give; rows have a column `link`,
    what one GPU can send inside the node, bytes/s."""
    inside = table[table["n_nodes"].eq(1)].copy()
    if inside.empty:
        return
    inside["generation"] = [machine.generation if machine else MACHINES[gpu].generation for gpu in inside["gpu"]]
    inside["pair"] = choices(inside, machine)
    if machine:
        inside["link"] = machine.scale_up(inside["n_gpus"].to_numpy(float))
    else:
        inside["link"] = [MACHINES[gpu].scale_up_bytes_per_s for gpu in inside["gpu"]]
    for key, rows in inside.groupby(["generation", "operation", "pair"]):
        generation, operation, pair = (str(part) for part in key)
        if len(rows) >= fewest:
            yield generation, operation, pair, rows


def fit_scale_up(table: pd.DataFrame, machine: Links | None = None) -> dict[str, Any]:
    """Curves by generation, operation and pair from every sweep inside one node."""
    fitted: dict[str, Any] = {}
    for generation, operation, pair, rows in scale_up_sweeps(table, machine):
        curve = fit_curve(rows, operation, pair.split("/")[0], rows["link"].to_numpy(float))
        fitted.setdefault(generation, {}).setdefault(operation, {})[pair] = curve
    return fitted


def fit_network(table: pd.DataFrame, technology: str, machine: Links | None = None) -> dict[str, Any]:
    """Latencies, achieved bandwidth and overlap of one NIC technology, from its sweeps across nodes."""
    from scipy.optimize import least_squares

    ours = np.array([machine is not None or port_of(fabric)[1] == technology for fabric in table["fabric"]])
    rows = table[ours & table["n_nodes"].gt(1).to_numpy()]
    used = sorted({pair.split("/")[1] for pair in choices(rows, machine)})
    entry = closed_form.efficiencies()["network"][technology]

    def set_to(x: np.ndarray) -> None:
        entry["sharpness"] = float(f"{x[0]:.4g}")
        for i, protocol in enumerate(used):
            fixed, step, efficiency = (float(f"{value:.4g}") for value in x[1 + 3 * i : 4 + 3 * i])
            entry["fixed_s"][protocol], entry["step_s"][protocol] = fixed * 1e-6, step * 1e-6
            known = efficiency if machine else KNOWN_EFFICIENCY.get((technology, protocol), efficiency)
            entry["efficiency"][protocol] = known
        closed_form.forget()

    def residual(x: np.ndarray) -> np.ndarray:
        set_to(x)
        predicted = predict(rows, machine)
        computed: np.ndarray = np.log(
            predicted["predicted_s"].to_numpy(float) / predicted["measured_s"].to_numpy(float)
        )
        return computed

    # All sweeps are of two nodes, where a fixed time and one per hop look alike: hops are held near NCCL's own.
    hops = [3 * constants()["network_hop_us"]["ring"][PROTOCOLS.index(protocol)] for protocol in used]
    start = [1.5] + [part for hop in hops for part in (20.0, hop / 3, 0.6)]
    low = [1.0] + [0.0, 0.0, 0.02] * len(used)
    high = [6.0] + [part for hop in hops for part in (2000.0, hop, 1.0)]
    best = least_squares(residual, start, bounds=(low, high), loss="soft_l1", f_scale=0.03, diff_step=1e-3)
    set_to(best.x)
    computed: dict[str, Any] = entry
    return computed


def use(curves: dict[str, Any]) -> None:
    """Lets the closed form in this process price with these curves on top of its own."""
    current = closed_form.efficiencies()["scale_up"]
    for generation, operations in curves.items():
        for operation, found in operations.items():
            current.setdefault(generation, {}).setdefault(operation, {}).update(found)
    closed_form.forget()


def held_out(table: pd.DataFrame, gpus: int = 4) -> pd.DataFrame:
    """Errors on in-node sweeps of `gpus` GPUs by generation, fitted to the sweeps of all other counts only."""
    inside = table[table["n_nodes"].eq(1)]
    away = inside["n_gpus"].eq(gpus)
    try:
        use(fit_scale_up(inside[~away]))
        return summarise(predict(inside[away]), ["generation"])
    finally:
        closed_form.efficiencies.cache_clear()
        closed_form.forget()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", nargs="?", default=PUBLISHED)
    parser.add_argument("--held-out", type=int, metavar="GPUS", help="fit without sweeps of so many GPUs, predict them")
    options = parser.parse_args()
    table = read_measurements(options.measurements)
    table = table[table["reason"].eq("") & table["operation"].isin(OPERATIONS)]
    if options.held_out:
        print(held_out(table, options.held_out).round(3).to_string(index=False))
        return
    use(fit_scale_up(table))
    for technology in FITTED_NETWORKS:
        fit_network(table, technology)
    aside = DATA / "efficiencies.json.new"
    aside.write_text(json.dumps(closed_form.efficiencies(), indent=1) + "\n")
    os.replace(aside, DATA / "efficiencies.json")
    print(collectives_text(collectives_document(options.measurements)), end="")


if __name__ == "__main__":
    main()
