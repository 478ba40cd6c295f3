"""One rank's step in a profiler's trace (Kineto's JSON): computing, communication that nothing hides, idle time.

Times of a rank's streams are put together: what computes, what communicates while nothing computes, by group, and when
nothing runs at all. Where the trace marks profiler steps, those after the first are averaged.
"""

from __future__ import annotations

import gzip
import json
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.problems import InputError, Problem

MOST_BYTES = 2 << 30
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
TABLE = Path(__file__).parent / "traces.toml"
Spans = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TracedStep:
    """Seconds of one step on one rank: `compute_s`, `exposed_s` of communication by cause, `idle_s`; they add up.

    `hidden_s` is communication that ran beside computing, by cause; `rank` is -1 where the trace does not say.
    """

    rank: int
    steps: int
    step_time_s: float
    compute_s: float
    exposed_s: Mapping[str, float]
    hidden_s: Mapping[str, float]
    idle_s: float


def read_trace(path: str | Path) -> TracedStep:
    """The step in a trace file, .json or .json.gz. Raises InputError where it cannot be read or holds no kernels."""
    data = _loaded(Path(path))
    events = [each for each in data.get("traceEvents", ()) if isinstance(each, dict)]
    windows = _windows(events)
    kernels = [each for each in events if each.get("cat") in ON_DEVICE and _is_span(each)]
    if not kernels:
        raise InputError([Problem(str(path), None, "--trace", "holds no GPU kernels; profile with CUDA activities")])
    if not windows:
        first = min(each["ts"] for each in kernels)
        windows = [(first, max(each["ts"] + each["dur"] for each in kernels))]
    steps = [_step(kernels, window) for window in windows]
    return _mean(steps, _rank(data))


@cache
def words() -> Mapping[str, Any]:
    """The table of words in traces, as the file has it."""
    return tomllib.loads(TABLE.read_text(encoding="utf-8"))


def _loaded(path: Path) -> dict[str, Any]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise InputError([Problem(str(path), None, "--trace", "is larger than 2 GiB; trace fewer steps")])
        data = json.loads(raw)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError([Problem(str(path), None, "--trace", f"cannot be read: {reason}")]) from None
    except (ValueError, EOFError):
        message = "is no whole JSON document; was the profiler stopped while it wrote?"
        raise InputError([Problem(str(path), None, "--trace", message)]) from None
    if not isinstance(data, dict) or not isinstance(data.get("traceEvents"), list):
        raise InputError([Problem(str(path), None, "--trace", "has no traceEvents; Kineto's traces have")])
    return data


def _is_span(event: Mapping[str, Any]) -> bool:
    return all(isinstance(event.get(key), int | float) and math.isfinite(event[key]) for key in ("ts", "dur"))


def _rank(data: Mapping[str, Any]) -> int:
    about = data.get("distributedInfo")
    rank = about.get("rank") if isinstance(about, dict) else None
    return rank if isinstance(rank, int) else -1


def _windows(events: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Start and end of the marked steps on the device, else on the host; the first, which may be cut, left out."""
    for kind in ("gpu_user_annotation", "user_annotation"):
        found = sorted(
            (each["ts"], each["ts"] + each["dur"])
            for each in events
            if each.get("cat") == kind and str(each.get("name", "")).startswith("ProfilerStep") and _is_span(each)
        )
        if found:
            return found[1:] or found
    return []


def _step(kernels: list[dict[str, Any]], window: tuple[float, float]) -> TracedStep:
    begin, end = window
    compute: list[tuple[float, float]] = []
    by_cause: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for event in kernels:
        span = max(begin, event["ts"]), min(end, event["ts"] + event["dur"])
        if span[1] <= span[0]:
            continue
        cause = cause_of(event)
        (compute if cause is None else by_cause[cause]).append(span)
    computing = _union(compute)
    exposed, hidden, covered = {}, {}, computing
    for cause, spans in sorted(by_cause.items()):
        traffic = _union(spans)
        left = _length(_union_of(covered, traffic)) - _length(covered)
        exposed[cause] = left * 1e-6
        hidden[cause] = (_length(traffic) - left) * 1e-6
        covered = _union_of(covered, traffic)
    whole_s = (end - begin) * 1e-6
    idle_s = whole_s - _length(covered) * 1e-6
    return TracedStep(-1, 1, whole_s, _length(computing) * 1e-6, exposed, hidden, max(0.0, idle_s))


def cause_of(event: Mapping[str, Any]) -> str | None:
    """The cause of a communication kernel by its process group, else by its collective; None for other kernels."""
    name = str(event.get("name", "")).lower()
    if not any(word in name for word in words()["communication"]):
        return None
    args = event.get("args")
    about = args if isinstance(args, dict) else {}
    group = str(about.get("Process Group Description") or about.get("Process Group Name") or "").lower()
    found: str | None = next((cause for word, cause in words()["groups"].items() if word in group), None)
    if found is not None:
        return found
    operation = f"{about.get('Collective name', '')} {name}".lower().replace("_", "")
    return next((str(cause) for word, cause in words()["collectives"].items() if word in operation), "communication")


def _union(spans: list[tuple[float, float]]) -> Spans:
    """Spans put together, as rows (begin, end) in order without overlap."""
    if not spans:
        return np.empty((0, 2))
    rows = np.array(sorted(spans))
    latest = np.maximum.accumulate(rows[:, 1])
    begins = np.concatenate([[True], rows[1:, 0] > latest[:-1]])
    ends = np.concatenate([begins[1:], [True]])
    return np.column_stack([rows[begins, 0], latest[ends]])


def _union_of(one: Spans, other: Spans) -> Spans:
    return _union([(float(a), float(b)) for a, b in np.concatenate([one, other])])


def _length(spans: Spans) -> float:
    return float((spans[:, 1] - spans[:, 0]).sum())


def _mean(steps: list[TracedStep], rank: int) -> TracedStep:
    count = len(steps)

    def mean_of(parts: list[Mapping[str, float]]) -> dict[str, float]:
        causes = sorted({cause for part in parts for cause in part})
        return {cause: sum(part.get(cause, 0.0) for part in parts) / count for cause in causes}

    return TracedStep(
        rank=rank,
        steps=count,
        step_time_s=sum(each.step_time_s for each in steps) / count,
        compute_s=sum(each.compute_s for each in steps) / count,
        exposed_s=mean_of([each.exposed_s for each in steps]),
        hidden_s=mean_of([each.hidden_s for each in steps]),
        idle_s=sum(each.idle_s for each in steps) / count,
    )
