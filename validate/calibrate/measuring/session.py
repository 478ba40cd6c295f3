"""One session of measuring: groups of ranks first, then kernels case by case; what was measured is always kept."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from validate.calibrate.machine import MeasuredMachine, Sampler, busy_with, find_machine
from validate.calibrate.measuring.passes import launch, streaming, transfer
from validate.calibrate.measuring.products import (
    Run,
    UnsupportedKernel,
    attention,
    first_line,
    gemm,
    grouped_gemm,
)
from validate.calibrate.measuring.timing import Clock, Deadline, Method, Stopwatch
from validate.calibrate.options import Options, scenario_of
from validate.calibrate.points import OUT_OF_MEMORY, BenchCase, MeasuredPoint, Points, Shape
from validate.calibrate.torch_ranks import PeerLost, rank_place

Tick = Callable[[str], None]
GROUP_SHARE = 0.5  # of the budget, where kernels are measured too
LEFT_SHARE = 0.3  # of the time left that one case may take at most
METHODS = {"cuda": Method(least_s=0.1), "cpu": Method(warmup=1, fewest=5)}
FAMILIES: dict[str, Callable[[Shape, str, Any], Run]] = {
    "gemm": gemm,
    "grouped_gemm": grouped_gemm,
    "attention": attention,
    "streaming": streaming,
    "transfer": transfer,
    "launch": launch,
}


def calibrate(options: Options, clock: Clock = time.monotonic) -> list[str]:
    """Measures what this process' place among the ranks asks of it; returns the cases skipped for want of time.

    `clock` tells when the budget is spent. Raises InputError and PeerLost; what was measured stays in the points.
    """
    place = rank_place()
    machine = find_machine(options.device, place.rank % place.per_node, options.part)
    if not options.shared:
        check_idle(machine)
    scenario = scenario_of(options)
    points = Points(options.points_file if place.rank == 0 else Path(os.devnull))
    method = replace(METHODS[machine.kind], budget_s=options.case_s)
    begun_s = clock()
    lost: PeerLost | None = None
    skipped: list[str] = []
    # Groups first: no rank has to wait for another that measures alone.
    if place.size > 1 and "collectives" in options.parts:
        share = GROUP_SHARE if "kernels" in options.parts else 1.0
        deadline = Deadline(begun_s + share * options.budget_s, clock)
        try:
            measure_groups(machine, scenario, points, method, deadline)
        except PeerLost as error:
            lost = error
    if "kernels" in options.parts and place.rank == 0:
        deadline = Deadline(begun_s + options.budget_s, clock)
        skipped = measure_kernels(machine, scenario, points, method, deadline)
    if lost:
        raise lost
    return skipped


def check_idle(machine: MeasuredMachine) -> None:
    """Raises InputError where other work runs on the device."""
    busy = busy_with(machine)
    if not busy:
        return
    message = (
        f"{busy}: times would not be its own. Wait, take another (CUDA_VISIBLE_DEVICES), or measure all the same "
        "with --shared"
    )
    raise InputError([Problem(machine.device, None, "", message)])


def measure_groups(machine: MeasuredMachine, scenario: Any, points: Points, method: Method, deadline: Deadline) -> None:
    """Joins the other ranks and measures jitter, overlap and every group of ranks. Raises PeerLost."""
    import torch

    from validate.calibrate.cases import groups_wanted
    from validate.calibrate.measuring.group_sweep import GroupSweep, join, leave
    from validate.calibrate.measuring.overlap import measure_jitter, measure_overlap

    device = torch.device(machine.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = join(rank_place(), device)
    try:
        wanted = groups_wanted(world.size, world.per_node, scenario)
        with progress("collectives", None, world.rank == 0) as tick:
            sweep = GroupSweep(world, points, method, machine.where)
            measure_jitter(sweep, Stopwatch(device, method), tick)
            measure_overlap(sweep, tick)
            sweep.run(wanted, tick, deadline)
    finally:
        leave()


def measure_kernels(
    machine: MeasuredMachine, scenario: Any, points: Points, method: Method, deadline: Deadline
) -> list[str]:
    """Measures the scenario's kernels and the general grid; returns what was skipped for want of time."""
    from validate.calibrate.cases import kernel_cases

    cases = kernel_cases(machine.kind, scenario)
    with progress("kernels", len(cases)) as tick:
        return measure(cases, points, machine, method, deadline, tick)


def measure(
    cases: Iterable[BenchCase],
    points: Points,
    machine: MeasuredMachine,
    method: Method,
    deadline: Deadline,
    tick: Tick,
) -> list[str]:
    """Adds a point for every case that is not there yet, until the deadline; returns what was skipped.

    A case that this device cannot do, or cannot hold, becomes a point that says so.
    """
    import torch

    stopwatch = Stopwatch(torch.device(machine.device), method)
    skipped = []
    with Sampler(machine) as sampler:
        for case in cases:
            if points.has(case):
                tick(case.key)
                continue
            left_s = deadline.left_s
            if left_s <= 0:
                skipped.append(case.key)
                continue
            budget_s = min(method.budget_s, LEFT_SHARE * left_s)
            stopwatch.method = replace(method, budget_s=budget_s)
            points.add(measured_point(case, stopwatch, {**machine.where, **sampler.latest()}))
            tick(case.key)
    return skipped


def measured_point(case: BenchCase, stopwatch: Stopwatch, where: dict[str, Any]) -> MeasuredPoint:
    """The point of one case, or the point that says why there is none."""
    import torch

    try:
        work = FAMILIES[case.family](case.shape, case.dtype, stopwatch.device)
        timing = stopwatch.time(work)
        return MeasuredPoint.timed(case, timing, where)
    except UnsupportedKernel as error:
        failed = str(error)
    except (RuntimeError, NotImplementedError, MemoryError) as error:
        failed = OUT_OF_MEMORY if is_out_of_memory(error) else first_line(error)
    if stopwatch.device.type == "cuda":
        torch.cuda.empty_cache()
    return MeasuredPoint(case.family, case.dtype, case.shape, failed=failed, where=where)


def is_out_of_memory(error: Exception) -> bool:
    words = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in words or "can't allocate memory" in words


@contextmanager
def progress(what: str, total: int | None, shown: bool = True) -> Iterator[Tick]:
    """A bar on stderr where that is a terminal; nothing elsewhere."""
    if not (shown and sys.stderr.isatty()):
        yield lambda key: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda key: bar.update(task, advance=1, description=f"{what}: {key[:60]}")
