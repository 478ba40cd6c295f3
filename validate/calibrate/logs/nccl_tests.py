"""Output of nccl-tests and rccl-tests, as text (with any launcher's prefixes) or as the JSON that `-J` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from validate.calibrate.logs.launchers import program_lines
from validate.calibrate.logs.reading import Reading, mappings_in, number_in, refusal, whole_in
from validate.calibrate.points import BenchCase, MeasuredPoint

PROGRAMS = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send_recv",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
STARTING = re.compile(r"#\s*Collective test starting:\s*(\S+)|(?:^|[\s/])(\w+)_perf\b")
RANK = re.compile(r"#\s*Rank\s+(\d+)\s+(?:Group\s+\d+\s+)?Pid\s+\d+\s+on\s+(\S+)\s+device\s+\d+\s+\[[^\]]*\]\s*(.*)")
VERSION = re.compile(r"nccl-library=(\d+)")
NUMBER = re.compile(r"[0-9]{1,19}")
OUT_OF_PLACE = 5  # columns before the out-of-place time: size, count, type, redop, root


@dataclass(slots=True)
class RunHead:
    """What the head of one run tells: the program, NCCL's version code, and (host, device name) by rank."""

    program: str
    version: str = ""
    devices: dict[int, tuple[str, str]] = field(default_factory=dict)


def nccl_text(text: str, path: Path) -> Reading:
    """Out-of-place times; several runs may follow each other in one file, and several ranks write into it at once.

    Raises InputError where the log does not tell the operation or the devices of a row.
    """
    reading = Reading()
    heads: dict[str, RunHead] = {}
    latest = RunHead(path.stem)
    for source, line in program_lines(text):
        head = heads.setdefault(source, RunHead(path.stem))
        read_head(line, head)
        if head.devices:
            latest = head
        fields = line.split()
        if is_row(fields):
            of_row = head if head.devices else latest
            size, time_us = int(fields[0]), number_in(fields[OUT_OF_PLACE])
            add_row(reading, of_row, size, time_us, path)
    if not reading.points and not reading.left_out:
        reading.leave_out("lines, no row of a table among them", len(text.splitlines()))
    return reading


def read_head(line: str, head: RunHead) -> None:
    """Takes what a line of the head tells."""
    if line.startswith("# Using devices"):
        head.devices = {}
    if match := STARTING.search(line):
        head.program = match.group(1) or f"{match.group(2)}_perf"
    if match := VERSION.search(line):
        head.version = match.group(1)
    if match := RANK.match(line):
        rank, host, device = match.groups()
        head.devices[int(rank[:9])] = (host, device.strip())


def is_row(fields: Sequence[str]) -> bool:
    """Whether a line is a row of the table: size and count, then type, operation, root, and three figures at least."""
    enough = len(fields) > OUT_OF_PLACE + 2
    return enough and all(NUMBER.fullmatch(each) for each in fields[:2])


def nccl_json(text: str, path: Path) -> Reading:
    """Out-of-place times of `-J`; of the document only devices' models, sizes and times are looked at."""
    try:
        raw = json.loads(text)
        results, devices = raw["results"], raw["config"]["devices"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refusal(path, f"is not the JSON that nccl-tests writes: {error!r}") from None
    if not isinstance(results, list) or not all(isinstance(row, dict) and "size" in row for row in results):
        raise refusal(path, "is not the JSON that nccl-tests writes: results must be a list of rows with a size")
    arguments = raw.get("args")
    program = str(arguments[0]) if isinstance(arguments, list) and arguments else ""
    named = Path(program).name if operation_of(Path(program).name) else path.stem
    head = RunHead(named, str(raw.get("nccl_version", "")))
    for rank, device in enumerate(mappings_in(devices)):
        host, name = str(device.get("hostname", "")), str(device.get("device_info", ""))
        head.devices[rank] = (host, name.strip())
    reading = Reading()
    for row in results:
        size = whole_in(row["size"])
        if size < 0:
            raise refusal(path, f"is not what nccl-tests writes: size {row['size']!r} is no number of bytes")
        timed = row.get("out_of_place") or row.get("in_place")
        time_us = number_in(timed.get("time")) if isinstance(timed, dict) else number_in(None)
        add_row(reading, head, size, time_us, path)
    if not results:
        reading.leave_out("rows under results", 0)
    return reading


def add_row(reading: Reading, head: RunHead, size: int, time_us: float, path: Path) -> None:
    """Takes one row. Raises InputError where the log does not tell the operation or the devices."""
    operation = operation_of(head.program)
    if not operation and head.program.endswith("_perf"):
        reading.leave_out(f"rows of {head.program[:40]}, an operation that is not modelled")
        return
    if not operation:
        raise refusal(path, "does not tell which collective it ran: name the file after it, as all_reduce.log")
    if not head.devices:
        raise refusal(path, "does not tell its devices: keep the lines from `# Using devices` on")
    if size == 0:
        reading.leave_out("rows of no bytes")
        return
    if len(head.devices) == 1:
        reading.leave_out("rows of one rank alone, where nothing is sent")
        return
    devices = list(head.devices.values())
    shape = {
        "operation": operation,
        "size_bytes": size,
        "n_gpus": len(devices),
        "stride": 1,
        "n_nodes": len({host for host, _ in devices}),
        "at_once": 1,
    }
    where = {"gpu": devices[0][1], "nccl": nccl_version(head.version)}
    case = BenchCase("collective", "fp32", shape)
    reading.add(MeasuredPoint.logged(case, time_us * 1e-6, f"nccl-tests, {path.name}", where))


def nccl_version(code: str) -> str:
    """NCCL's version code as people write it: 22304 is 2.23.4."""
    if not NUMBER.fullmatch(code) or int(code) < 10000:
        return code[:20]
    number = int(code)
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def operation_of(word: str) -> str:
    """The operation that a program's or file's name contains; "" where it names none."""
    bare = word.lower().replace("-", "_").replace("all_to_all", "alltoall").replace("send_recv", "sendrecv")
    longest_first = sorted(PROGRAMS, key=len, reverse=True)
    return next((PROGRAMS[name] for name in longest_first if name in bare), "")
