"""Measures cases one after another under a time budget; whatever goes wrong, what was measured is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from validate.calibrate.machine import Machine, Sampler
from validate.calibrate.passes import launch, streaming, transfer
from validate.calibrate.points import OUT_OF_MEMORY, Case, Point, Points, Shape
from validate.calibrate.products import Run, Unsupported, attention, first_line, gemm, grouped_gemm
from validate.calibrate.timing import Clock, Method

FAMILIES: dict[str, Callable[[Shape, str, Any], Run]] = {
    "gemm": gemm,
    "grouped_gemm": grouped_gemm,
    "attention": attention,
    "streaming": streaming,
    "transfer": transfer,
    "launch": launch,
}
FEWER = 0.3  # of the time left that one case may take at most


def measure(
    cases: Iterable[Case],
    points: Points,
    machine: Machine,
    method: Method,
    deadline: float,
    tick: Callable[[str], None],
) -> list[str]:
    """Adds a point for every case that is not there yet, until `deadline` (of `time.monotonic`); returns what was
    skipped for want of time. A case that this device cannot do, or cannot hold, becomes a point that says so."""
    import torch

    clock = Clock(torch.device(machine.device), method)
    skipped = []
    with Sampler(machine) as sampler:
        for case in cases:
            if points.has(case):
                tick(case.key)
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                skipped.append(case.key)
                continue
            clock.method = replace(method, budget_s=min(method.budget_s, FEWER * left))
            points.add(one(case, clock, {**machine.where, **sampler.latest()}))
            tick(case.key)
    return skipped


def one(case: Case, clock: Clock, where: dict[str, Any]) -> Point:
    """The point of one case, or the point that says why there is none."""
    import torch

    failed = ""
    try:
        timing = clock.time(FAMILIES[case.family](case.shape, case.dtype, clock.device))
        return Point(case.family, case.dtype, case.shape, timing.seconds, timing.low_s, timing.high_s,
                     timing.repetitions, where=where)  # fmt: skip
    except Unsupported as error:
        failed = str(error)
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        failed = OUT_OF_MEMORY if is_out_of_memory(error) else first_line(error)
    if clock.device.type == "cuda":
        torch.cuda.empty_cache()
    return Point(case.family, case.dtype, case.shape, failed=failed, where=where)


def is_out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words
