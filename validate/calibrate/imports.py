"""Points from logs that are already there: nccl-tests output (text or JSON), published tables, PyTorch traces.

What a log says of its environment (variables, host names, process ids, user paths) is dropped on reading.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hardware.collectives import OPERATIONS
from hardware.problems import InputError, Problem
from validate.calibrate.points import Point
from validate.calibrate.traces import trace_points

MOST_BYTES = 2 << 30
PROGRAMS = {"all_reduce": "all_reduce", "all_gather": "all_gather", "reduce_scatter": "reduce_scatter",
            "alltoall": "all_to_all", "sendrecv": "send_recv", "broadcast": "broadcast",
            "reduce": "reduce"}  # fmt: skip
STARTING = re.compile(r"#\s*Collective test starting:\s*(\S+)|^(?:\S*/)?(\w+)_perf\b")
DEVICE = re.compile(r"#\s*Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*)")
VERSION = re.compile(r"nccl-library=(\d+)")
OUT_OF_PLACE = 5  # columns before the out-of-place time: size, count, type, redop, root


def read_log(path: Path) -> list[Point]:
    """The points in one file, by what it turns out to hold. Raises InputError for a file that holds none."""
    text = read_text(path)
    kind = kind_of(text)
    if kind is None:
        raise InputError([Problem(str(path), None, "", "is neither nccl-tests output (text or -J JSON), nor a PyTorch "
                                  "profiler trace, nor a table with the published columns")])  # fmt: skip
    points = READERS[kind](text, path)
    if not points:
        raise InputError(
            [Problem(str(path), None, "", f"looks like {kind}, but holds no measurement that can be used")]
        )
    return points


def read_text(path: Path) -> str:
    """The file's text, unpacked where its name ends in .gz."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError([Problem(str(path), None, "", "is larger than 2 GiB; profile fewer steps")])
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return raw.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise InputError([Problem(str(path), None, "", f"cannot be read: {error}")]) from None


def kind_of(text: str) -> str | None:
    head = text.lstrip()[:4000]
    if head.startswith("{"):
        return "a PyTorch trace" if '"traceEvents"' in text else "nccl-tests JSON" if '"results"' in text else None
    if "algbw" in text and "busbw" in text and "#" in text:
        return "nccl-tests text"
    first = head.splitlines()[0] if head else ""
    if {"op", "size_bytes", "n_gpus"} <= set(first.split(",")):
        return "a table of collectives"
    return "a table of products" if {"m", "n", "k", "latency_us"} <= set(first.split(",")) else None


# ---- nccl-tests


def nccl_text(text: str, path: Path) -> list[Point]:
    """Out-of-place times of an nccl-tests run; several runs may follow each other in one file."""
    operation, version = named_in(path.stem), ""
    devices: dict[int, tuple[str, str]] = {}
    points: dict[str, Point] = {}
    for line in text.splitlines():
        if line.startswith("# Using devices"):
            devices = {}
        if found := STARTING.search(line):
            operation = named_in(found.group(1) or found.group(2) or "") or operation
        if found := VERSION.search(line):
            version = found.group(1)
        if found := DEVICE.match(line):
            devices[int(found.group(1))] = (found.group(2), found.group(3).strip())
        fields = line.split()
        if len(fields) > OUT_OF_PLACE + 2 and fields[0].isdigit() and fields[1].isdigit():
            point = nccl_point(
                operation, devices.values(), int(fields[0]), number_in(fields[OUT_OF_PLACE]), version, path
            )
            points[point.key] = point
    return [point for point in points.values() if point.usable]


def nccl_json(text: str, path: Path) -> list[Point]:
    """Out-of-place times of `-J`; of the document only devices' models, sizes and times are looked at."""
    try:
        raw = json.loads(text)
        results = raw["results"]
        arguments = raw.get("args") or [""]
        devices = [
            (str(each.get("hostname", "")), str(each.get("device_info", "")).strip())
            for each in raw["config"]["devices"]
        ]
        rows = [(int(each["size"]), each.get("out_of_place") or each.get("in_place") or {}) for each in results]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError([Problem(str(path), None, "", f"is not the JSON that nccl-tests writes: {error!r}")]) from None
    operation = named_in(Path(str(arguments[0])).name) or named_in(path.stem)
    version = str(raw.get("nccl_version", ""))
    points = {}
    for size, timed in rows:
        point = nccl_point(operation, devices, size, number_in(timed.get("time")), version, path)
        points[point.key] = point
    return [point for point in points.values() if point.usable]


def nccl_point(
    operation: str, devices: Iterable[tuple[str, str]], size: int, time_us: float, version: str, path: Path
) -> Point:
    """One size as a point. Raises InputError where the log does not tell the operation or the devices."""
    devices = list(devices)
    if not operation or not devices:
        missing = (
            "which collective it ran: name the file after it, as all_reduce.log" if not operation else "its devices"
        )
        raise InputError([Problem(str(path), None, "", f"does not tell {missing}")])
    hosts = {host for host, _ in devices}
    shape = {
        "operation": operation,
        "size_bytes": size,
        "n_gpus": len(devices),
        "stride": 1,
        "n_nodes": len(hosts),
        "at_once": 1,
    }
    where = {"gpu": devices[0][1], "nccl": nccl_version(version)}
    seconds = time_us * 1e-6
    return Point("collective", "fp32", shape, seconds, seconds, seconds, 1, source=f"nccl-tests, {path.name}",
                 where={key: value for key, value in where.items() if value})  # fmt: skip


def nccl_version(code: str) -> str:
    """NCCL's version code as people write it: 22304 is 2.23.4."""
    if not code.isdigit() or int(code) < 10000:
        return code
    number = int(code)
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def named_in(word: str) -> str:
    """The operation that a program's or file's name contains."""
    bare = word.lower().replace("-", "_").replace("all_to_all", "alltoall").replace("send_recv", "sendrecv")
    return next((PROGRAMS[name] for name in sorted(PROGRAMS, key=len, reverse=True) if name in bare), "")


def number_in(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return float("nan")


# ---- published tables


def collective_table(text: str, path: Path) -> list[Point]:
    """Rows of the published column layout: sweep_id, op, gpu, n_gpus, n_nodes, size_bytes, time_us, algbw_GBps."""
    from validate.collectives import read_measurements

    try:
        table = read_measurements(path)
    except ValueError as error:
        raise InputError([Problem(str(path), None, "", str(error))]) from None
    points = []
    for row in table[table["reason"].eq("") & table["operation"].isin(OPERATIONS)].to_dict("records"):
        shape = {"operation": row["operation"], "size_bytes": int(row["size_bytes"]), "n_gpus": int(row["n_gpus"]),
                 "stride": 1, "n_nodes": int(row["n_nodes"]), "at_once": 1, "sweep": str(row["sweep_id"])}  # fmt: skip
        seconds = float(row["measured_s"])
        points.append(Point("collective", "fp32", shape, seconds, seconds, seconds, 1, source=str(row["source"]),
                            where={"gpu": str(row["gpu"]), "fabric": str(row["fabric"])}))  # fmt: skip
    return points


def product_table(text: str, path: Path) -> list[Point]:
    """Rows gpu, dtype, m, n, k, latency_us of forward products."""
    import pandas as pd

    table = pd.read_csv(path)
    points = []
    for row in table.to_dict("records"):
        shape = {"m": int(row["m"]), "n": int(row["n"]), "k": int(row["k"]), "role": str(row.get("role", "forward"))}
        seconds = float(row["latency_us"]) * 1e-6
        points.append(Point("gemm", str(row["dtype"]), shape, seconds, seconds, seconds, 1, source=path.name,
                            where={"gpu": str(row["gpu"])}))  # fmt: skip
    return points


def trace(text: str, path: Path) -> list[Point]:
    try:
        document: Mapping[str, Any] = json.loads(text)
    except ValueError as error:
        raise InputError([Problem(str(path), None, "", f"is not JSON: {error}")]) from None
    return trace_points(document, path.name)


READERS: dict[str, Callable[[str, Path], list[Point]]] = {
    "nccl-tests text": nccl_text,
    "nccl-tests JSON": nccl_json,
    "a table of collectives": collective_table,
    "a table of products": product_table,
    "a PyTorch trace": trace,
}
