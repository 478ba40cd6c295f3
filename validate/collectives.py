"""Published collective measurements against the model: read, predicted, summed up, as a document, a table and a plot.

`python -m validate.collectives MEASUREMENTS.csv [--plot FILE.html]` prints the comparison.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hardware.collectives import OPERATIONS, ExpertExchange, Group, Links, collective_s, combine_s, dispatch_s
from hardware.collectives.closed_form import MEASURED_LINK_S
from hardware.collectives.experts import copies, token_bytes

COLUMNS = ("sweep_id", "op", "gpu", "n_gpus", "n_nodes", "size_bytes", "time_us", "algbw_GBps", "fabric", "source")
NUMBERS = ("n_gpus", "n_nodes", "size_bytes", "time_us", "algbw_GBps")
OPERATION = {"alltoall": "all_to_all", "sendrecv": "send_recv", "ep_dispatch": "dispatch", "ep_combine": "combine"}
PUBLISHED = Path(__file__).parent / "published" / "collectives.csv"


@dataclass(frozen=True, slots=True)
class Machine:
    """What a measured machine was, as far as its source tells: links of one GPU, per direction.

    `domain_gpus`: of a scale-up domain that spans servers (NVL72); 0 where a server is one.
    """

    generation: str
    scale_up_bytes_per_s: float
    multicast: bool
    cpu_vendor: str = "intel"
    domain_gpus: int = 0
    mesh_gpus: int = 0


# NVLink per direction and NVSwitch multicast by part: vendor figures as in the hardware catalogue.
MACHINES = {
    "A100-SXM-40GB": Machine("ampere", 300e9, False, "amd"),
    "A100-SXM-80GB": Machine("ampere", 300e9, False),
    "H100-SXM-80GB": Machine("hopper", 450e9, True),
    "H200-SXM-141GB": Machine("hopper", 450e9, True),
    "H800-SXM": Machine("hopper", 200e9, True),
    "B200-SXM-180GB": Machine("blackwell", 900e9, True),
    "H20-SXM-96GB": Machine("hopper", 450e9, True),
    "B300-SXM-288GB": Machine("blackwell", 900e9, True),
    "GB200-NVL72": Machine("blackwell", 900e9, True, "nvidia", 72),
    "GB300-NVL72": Machine("blackwell", 900e9, True, "nvidia", 72),
    "MI300X": Machine("cdna3", 448e9, False, "amd", 0, 8),
    "MI325X": Machine("cdna3", 448e9, False, "amd", 0, 8),
}
# Scale-out port per GPU by the fabric column: bytes/s, technology, one-way latency. EFA packet latency 9 us (v1) and
# 6.5 us (v2, v3), RoCE across leaves 5.6 us, InfiniBand 2.8 us; TCPX goes through host memory and has no such figure.
PORTS = {
    "EFA v1": (6.25e9, "efa_v1", 9e-6),
    "EFA v2": (50e9, "efa", 6.5e-6),
    "EFA v3": (50e9, "efa", 6.5e-6),
    "RoCE": (25e9, "roce", 5.6e-6),
    "xGMI": (50e9, "roce", 3.6e-6),
    "GPUDirect-TCPXO": (25e9, "tcpxo", 11e-6),
    "GPUDirect-TCPX": (12.5e9, "tcpx", 5.6e-6),
    "CX7": (50e9, "infiniband", 2.8e-6),
    "CX8": (100e9, "infiniband", 2.8e-6),
    "InfiniBand": (50e9, "infiniband", 2.8e-6),
    "HDR": (25e9, "infiniband", 2.8e-6),
    "NDR": (50e9, "infiniband", 2.8e-6),
    "XDR": (100e9, "infiniband", 2.8e-6),
    "NVLink": (50e9, "infiniband", 2.8e-6),
}


# Ports of a server as a fabric states them: "32x100G/node", "3200G/node"; and of one GPU: "400G".
PORTS_OF_A_NODE = re.compile(r"(?:(\d+)x)?(\d+) ?G(?:b/s|bps)?/node")
PORT_OF_A_GPU = re.compile(r"\b(\d+) ?G(?:b/s|bps)?\b(?!/)")


def port_of(fabric: str) -> tuple[float, str, float]:
    """(bytes/s, technology, latency) of a measured fabric. ValueError lists those that are known."""
    for name, port in PORTS.items():
        if str(fabric).startswith(name):
            return port
    raise ValueError(f"fabric {fabric!r}: known are those that start with {', '.join(PORTS)}")


def stated_port_bytes_per_s(fabric: str, gpus_per_node: float) -> float | None:
    """A GPU's share of the ports that a fabric states in Gb/s; None where it states none."""
    node = PORTS_OF_A_NODE.search(fabric)
    if node:
        return int(node[1] or 1) * int(node[2]) * 1e9 / 8 / gpus_per_node
    gpu = PORT_OF_A_GPU.search(fabric)
    return int(gpu[1]) * 1e9 / 8 if gpu else None


def part_of(gpu: str) -> str:
    """The known part that a file calls `gpu`: its name in any case, or the part of it before the form or the memory,
    as in "H20" or "GB200 NVL72". ValueError lists those that are known."""
    wanted = "-".join(str(gpu).upper().replace("_", "-").split())
    for name in (wanted, *(name for name in MACHINES if name.startswith(f"{wanted}-"))):
        if name in MACHINES:
            return name
    raise ValueError(f"gpu {gpu!r}: known are {', '.join(MACHINES)}")


def links_of_row(gpu: str, fabric: str, gpus_per_node: float = 8.0, places: float = 2.0) -> Links:
    """Links of a measured machine. ValueError names a part, or a fabric between `places`, that is not known."""
    machine = MACHINES[part_of(gpu)]
    bandwidth, technology, latency_s = PORTS["NVLink"] if places == 1 else port_of(fabric)
    bandwidth = stated_port_bytes_per_s(str(fabric), gpus_per_node) or bandwidth
    return Links(
        generation=machine.generation,
        cpu_vendor=machine.cpu_vendor,
        scale_up_bytes_per_s=machine.scale_up_bytes_per_s,
        scale_up_latency_s=MEASURED_LINK_S,
        multicast=machine.multicast,
        nic_bytes_per_s=bandwidth,
        nic_technology=technology,
        tier_latencies_s=(latency_s,),
        tier_oversubscription=(1.0,),
        in_network_reduction=False,
        mesh_gpus=machine.mesh_gpus,
    )


def read_measurements(path: str | Path) -> pd.DataFrame:
    """Every row, with `operation`, `measured_s` and `reason`: why it cannot be predicted, or empty.

    ValueError lists the columns that a file lacks. Times that are not given follow from bandwidths; a cell that should
    be a number and is not counts as not given.
    """
    table = pd.read_csv(path)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path}: columns missing: {', '.join(missing)}")
    table[list(NUMBERS)] = table[list(NUMBERS)].apply(pd.to_numeric, errors="coerce")
    table["operation"] = table["op"].replace(OPERATION)
    table["notes"] = table["notes"].astype(object).fillna("") if "notes" in table.columns else ""
    table["measured_s"] = table["time_us"].fillna(table["size_bytes"] / (table["algbw_GBps"] * 1e3)) * 1e-6
    table["reason"] = [_reason(row) for row in table.to_dict("records")]
    for i in table.index[table["reason"].eq("") & table["operation"].isin(("dispatch", "combine"))]:
        table.loc[i, "measured_s"] = _exchange_seconds(table.loc[i].to_dict())
    return table


def _reason(row: Mapping[Hashable, Any]) -> str:
    """Why a row cannot be predicted; empty where it can."""
    between_experts = row["operation"] in ("dispatch", "combine")
    if not between_experts and row["operation"] not in OPERATIONS:
        return f"operation {row['op']} is not modelled"
    try:
        part_of(row["gpu"])
    except ValueError as reason:
        return str(reason)
    uneven = _uneven(row["n_gpus"], row["n_nodes"])
    if uneven:
        return uneven
    try:
        _links(row)
    except ValueError as reason:
        return str(reason)
    if between_experts:
        known = _exchange(row)
        if known is None:
            return "tokens, hidden size and top-k are not in the notes"
        if not _routes(*known):
            return "the notes state a routing that no model has: counts of at least 1, and top-k below the experts"
        return "" if row["measured_s"] > 0 or row["algbw_GBps"] > 0 else "has no time and no bandwidth"
    measured = 1 <= row["size_bytes"] < np.inf and 0 < row["measured_s"] < np.inf
    return "" if measured else "has no size or no time"


def _uneven(gpus: float, nodes: float) -> str:
    """Why so many GPUs cannot lie on so many nodes; empty where they can."""
    if not (0 < gpus < np.inf and 0 < nodes < np.inf):
        return "has no number of GPUs and nodes"
    if gpus < 2:
        return "one GPU exchanges nothing"
    if gpus % nodes or nodes % 1:
        return f"{gpus:g} GPUs do not lie evenly on {nodes:g} nodes"
    return ""


def _links(row: Mapping[Hashable, Any]) -> Links:
    """Links of a row's machine, whose network counts only where its GPUs lie in several places."""
    group = group_of_row(row)
    return links_of_row(row["gpu"], row["fabric"], row["n_gpus"] / row["n_nodes"], float(group.domains))


def _exchange(row: Mapping[Hashable, Any]) -> tuple[ExpertExchange, int] | None:
    """(routing, SMs) of an expert exchange as its notes state it; DeepEP's own benchmark has 256 experts, 24 SMs."""
    notes = str(row["notes"])
    tokens = re.search(r"tokens=(\d+) hidden=(\d+) topk=(\d+) experts=(\d+) sms=(\d+)", notes)
    if tokens:
        count, hidden, topk, experts, sms = (int(value) for value in tokens.groups())
        return ExpertExchange(count, hidden, experts, topk), sms
    batch = re.search(r"normal kernels: (\d+) tok/batch, hidden (\d+), top-(\d+) groups top-(\d+) experts", notes)
    if batch:
        count, hidden, limit, topk = (int(value) for value in batch.groups())
        return ExpertExchange(count, hidden, 256, topk, limit), 24
    return None


def _routes(exchange: ExpertExchange, sms: int) -> bool:
    """Whether counts that notes state make a routing."""
    counts = (exchange.tokens, exchange.hidden, exchange.topk, sms)
    return bool(min(counts) >= 1 and exchange.topk < exchange.experts)


def _exchange_seconds(row: Mapping[Hashable, Any]) -> float:
    """The measured time, or the bytes that DeepEP's logical bandwidth counts, over that bandwidth: copies to distinct
    GPUs in a node, to distinct nodes across, the rank's own included."""
    if row["measured_s"] > 0:
        return float(row["measured_s"])
    known = _exchange(row)
    assert known is not None
    domains, gpus = copies(known[0], group_of_row(row))
    counted = known[0].tokens * (gpus if row["n_nodes"] == 1 else domains)
    return float(counted * token_bytes(known[0].hidden, row["operation"] == "dispatch") / (row["algbw_GBps"] * 1e9))


def group_of_row(row: Mapping[Hashable, Any]) -> Group:
    """The communicator of a row; servers of one scale-up domain (NVL72) count as one place.

    A part that is not known, as of a machine that is measured here, has domains of its servers.
    """
    try:
        domain = MACHINES[part_of(row["gpu"])].domain_gpus
    except ValueError:
        domain = 0
    places = min(row["n_nodes"], np.ceil(row["n_gpus"] / domain)) if domain else row["n_nodes"]
    return Group(float(row["n_gpus"]), row["n_gpus"] / places)


def _prediction(row: Mapping[Hashable, Any], machine: Links | None) -> tuple[float, float, str, str]:
    links = machine or _links(row)
    group = group_of_row(row)
    if row["operation"] in OPERATIONS:
        time = collective_s(row["operation"], row["size_bytes"], group, links)
        return float(time.seconds), float(time.bound_s), time.algorithm, time.protocol
    known = _exchange(row)
    assert known is not None
    exchange, sms = known
    if row["operation"] == "dispatch":
        moved = dispatch_s(exchange, group, links, "deepep", True, sms)
    else:
        moved = combine_s(exchange, group, links, "deepep", sms)
    return float(moved.seconds), float(moved.bound_s), "deepep", ""


def predict(table: pd.DataFrame, machine: Links | None = None) -> pd.DataFrame:
    """The rows that can be predicted, with predicted_s, bound_s, algorithm and error beside them.

    `machine`: the links of the one machine that all rows were measured on; otherwise by the columns gpu and fabric.
    """
    out = table[table["reason"].eq("")].copy()
    found = [_prediction(row, machine) for row in out.to_dict("records")]
    out[["predicted_s", "bound_s", "chosen", "chosen_protocol"]] = found if found else np.empty((0, 4))
    out = out.astype({"predicted_s": float, "bound_s": float, "measured_s": float})
    out["error_fraction"] = out["predicted_s"] / out["measured_s"] - 1
    out["generation"] = [machine.generation if machine else MACHINES[part_of(gpu)].generation for gpu in out["gpu"]]
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


def collectives_document(path: str | Path = PUBLISHED) -> dict[str, Any]:
    """The comparison as one JSON document: a row per measurement, and errors in all and by group."""
    table = read_measurements(path)
    predicted = predict(table)
    rows = [
        {
            "id": row["sweep_id"],
            "status": "unsupported" if row["reason"] else "ok",
            "reason": row["reason"] or None,
            "quantity": f"{row['operation']}_time_s",
            "n_gpus": int(row["n_gpus"]) if np.isfinite(row["n_gpus"]) else None,
            "size_bytes": None if pd.isna(row["size_bytes"]) else float(row["size_bytes"]),
            "measured": None if pd.isna(row["measured_s"]) else float(row["measured_s"]),
            **_found(predicted, i),
            "interval": None,
            "assumptions": [],
        }
        for i, row in zip(table.index, table.to_dict("records"), strict=True)
    ]
    error = predicted["error_fraction"]
    summary = {
        "n": len(table),
        "supported": len(predicted),
        "median_abs_error": _figure(error.abs().median()),
        "mean_abs_error": _figure(error.abs().mean()),
        "p90_abs_error": _figure(error.abs().quantile(0.9)),
        "bias": _figure(error.median()),
        "by": {
            " and ".join(by): summarise(predicted, by).to_dict("records")
            for by in (["generation", "where"], ["generation", "where", "operation"], ["sweep_id"])
        },
    }
    return {"rows": rows, "summary": summary}


def _figure(value: Any) -> float | None:
    """A figure of the summary; None where no row could be predicted."""
    return None if pd.isna(value) else float(value)


def _found(predicted: pd.DataFrame, i: Hashable) -> dict[str, Any]:
    if i not in predicted.index:
        return {"predicted": None, "error_fraction": None, "algorithm": None, "protocol": None}
    row: Any = predicted.loc[[i]].iloc[0]
    return {
        "predicted": float(row["predicted_s"]),
        "error_fraction": float(row["error_fraction"]),
        "algorithm": row["chosen"],
        "protocol": row["chosen_protocol"] or None,
    }


def collectives_text(document: Mapping[str, Any]) -> str:
    """The summary of a document as plain text."""
    summary = document["summary"]
    lines = [f"{summary['supported']} of {summary['n']} measurements predicted"]
    for title, groups in summary["by"].items():
        lines += ["", f"{'by ' + title:<44}{'n':>6}{'median':>9}{'p90':>9}{'bias':>9}"]
        for group in groups:
            label = "  ".join(str(group[key]) for key in title.split(" and "))
            figures = (group["median_abs_error"], group["p90_abs_error"], group["bias"])
            lines.append(f"{label:<44}{group['n']:>6}" + "".join(f"{100 * figure:>8.1f}%" for figure in figures))
    return "\n".join(lines) + "\n"


def write_plot(document: Mapping[str, Any], path: str | Path) -> None:
    """Measured (points) and predicted (lines) time over size, a panel per sweep: one HTML file that opens offline."""
    from plotly.subplots import make_subplots

    sweeps: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        if row["status"] == "ok" and row["size_bytes"]:
            sweeps.setdefault(row["id"], []).append(row)
    wide = {name: rows for name, rows in sweeps.items() if len({row["size_bytes"] for row in rows}) > 2}
    figure = make_subplots(rows=-(-len(wide) // 3), cols=3, subplot_titles=list(wide))
    for number, rows in enumerate(wide.values()):
        rows = sorted(rows, key=lambda row: row["size_bytes"])
        size = [row["size_bytes"] for row in rows]
        place = {"row": number // 3 + 1, "col": number % 3 + 1}
        figure.add_scatter(x=size, y=[row["measured"] for row in rows], mode="markers", name="measured",
                           marker={"color": "#444", "size": 4}, showlegend=number == 0, **place)  # fmt: skip
        figure.add_scatter(x=size, y=[row["predicted"] for row in rows], mode="lines", name="predicted",
                           text=[f"{row['algorithm']} {row['protocol']}" for row in rows],
                           line={"color": "#c33"}, showlegend=number == 0, **place)  # fmt: skip
    figure.update_xaxes(type="log", title="bytes").update_yaxes(type="log", title="seconds")
    figure.update_layout(height=260 * -(-len(wide) // 3), title="Collectives, measured and predicted")
    aside = Path(f"{path}.new")
    figure.write_html(aside, include_plotlyjs=True)
    os.replace(aside, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measurements", nargs="?", default=PUBLISHED)
    parser.add_argument("--plot", metavar="FILE.html")
    options = parser.parse_args()
    document = collectives_document(options.measurements)
    print(collectives_text(document), end="")
    if options.plot:
        write_plot(document, options.plot)


if __name__ == "__main__":
    main()
