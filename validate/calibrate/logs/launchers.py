"""Lines as a program wrote them, from a log in which a launcher put ranks, hosts, pods or times before each line."""

from __future__ import annotations

import re
from collections.abc import Iterator

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# What tells no rank: dates and times of kubectl --timestamps, container runtimes ("stdout F") and loggers; levels.
TIMES = (
    re.compile(r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?\s?(?:std(?:out|err) [FP] )?"),
    re.compile(r"\[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?\s"),
    re.compile(r"(?:- )?\[?(?:DEBUG|INFO|WARNING|ERROR)\]?(?::| -|)\s"),
)
SOURCES = (
    re.compile(r"\[([^\]\s]*\d+,\d+)\](?:<std(?:out|err|diag)>)?:\s?"),  # mpirun --tag-output: [1,0]<stdout>:
    re.compile(r"\[([\w.:/-]*[A-Za-z0-9])\]:?\s?"),  # [rank0]: of torchrun, [0] of mpiexec, [pod/name/container]
    re.compile(r"\s*(\d+):(?:\s|$)"),  # srun --label: " 0: "
    re.compile(r"\(([^()]*\bpid=\d+[^()]*)\)\s?"),  # Ray: (TrainWorker pid=123, ip=10.0.0.1)
    re.compile(r"([\w.-]+)\s+\|\s?"),  # docker compose: "worker-0  | "
    re.compile(r"([A-Za-z0-9][\w.-]*):(?:\s|$)"),  # pdsh, clush: "node-a: "
    re.compile(r"([A-Za-z][\w.-]*(?: [\w.-]+)?) (?=\s*(?:#|\d+\s+\d+\s))"),  # stern: "pod container "
)
MOST_PREFIXES = 4  # a container runtime's time, a pod, a rank, a logger's time


def program_lines(text: str) -> Iterator[tuple[str, str]]:
    """(source, line) of every line: which rank, host or pod wrote it ("" where none is named), and what it wrote.

    Lines of different sources may stand in any order, as launchers interleave them.
    """
    for line in text.splitlines():
        yield without_prefix(COLOUR.sub("", line))


def without_prefix(line: str) -> tuple[str, str]:
    """(source, rest) of one line."""
    sources: list[str] = []
    for _ in range(MOST_PREFIXES):
        match = next((match for pattern in TIMES if (match := pattern.match(line))), None)
        if match is None:
            match = next((match for pattern in SOURCES if (match := pattern.match(line))), None)
            if match is None:
                break
            sources.append(match.group(1))
        line = line[match.end() :]
    return " ".join(sources), line
