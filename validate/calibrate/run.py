"""The whole calibration: what is asked, measured, fitted and shown. One process per GPU; rank 0 keeps the points."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hardware.problems import InputError, Problem
from validate.calibrate.asked import Options
from validate.calibrate.peers import PeerLost
from validate.calibrate.points import Points
from validate.calibrate.timing import Clock, Method

GROUP_SHARE = 0.5  # of the budget, where kernels are measured too
METHODS = {"cuda": Method(least_s=0.1), "cpu": Method(warmup=1, fewest=5)}


def points_file(out: Path) -> Path:
    return out / "points.jsonl"


def load(options: Options) -> Any:
    """The scenario that cases are chosen from, None where none was named."""
    if options.scenario is None:
        return None
    from simulator.scenario.schema import load_scenario

    return load_scenario(options.scenario, list(options.overrides))


def calibrate(options: Options) -> list[str]:
    """Measures as this process' place among the ranks says (torchrun's environment; alone without it).

    Returns the cases skipped for want of time. Raises InputError, PeerLost; what was measured stays in the points.
    """
    from validate.calibrate.machine import busy_with, find_machine

    rank, size, per_node = place()
    machine = find_machine(options.device, rank % per_node, options.part)
    busy = "" if options.shared else busy_with(machine)
    if busy:
        raise InputError([Problem(machine.device, None, "", f"{busy}: times would not be its own. Wait, take another "
                                  f"(CUDA_VISIBLE_DEVICES), or measure all the same with --shared")])  # fmt: skip
    scenario = load(options)
    points = Points(points_file(options.out)) if rank == 0 else Points(Path(os.devnull))
    method = replace(METHODS[machine.kind], budget_s=options.case_s)
    begun = time.monotonic()
    lost: PeerLost | None = None
    skipped: list[str] = []
    # Groups first: no rank has to wait for another that measures alone.
    if size > 1 and "collectives" in options.parts:
        share = GROUP_SHARE if "kernels" in options.parts else 1.0
        try:
            measure_groups(machine, scenario, points, method, begun + share * options.budget_s)
        except PeerLost as error:
            lost = error
    if "kernels" in options.parts and rank == 0:
        skipped = measure_kernels(machine, scenario, points, method, begun + options.budget_s)
    if lost:
        raise lost
    return skipped


def place() -> tuple[int, int, int]:
    """(rank, ranks, ranks per node) from torchrun's environment."""
    values = [
        os.environ.get(name, default)
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_WORLD_SIZE", ""))
    ]
    rank, size = int(values[0]), int(values[1])
    return rank, size, int(values[2] or size)


def measure_kernels(machine: Any, scenario: Any, points: Points, method: Method, deadline: float) -> list[str]:
    from validate.calibrate.measure import measure
    from validate.calibrate.shapes import kernel_cases

    cases = kernel_cases(machine.kind, scenario)
    with progress("kernels", len(cases)) as tick:
        return measure(cases, points, machine, method, deadline, tick)


def measure_groups(machine: Any, scenario: Any, points: Points, method: Method, deadline: float) -> None:
    import torch

    from validate.calibrate.contention import measure_jitter, measure_overlap
    from validate.calibrate.groups import Sweep, join, leave, wanted_groups

    rank, size, per_node = place()
    device = torch.device(machine.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = join(rank, size, per_node, device)
    try:
        wanted = wanted_groups(world, scenario)
        with progress("collectives", None, rank == 0) as tick:
            sweep = Sweep(world, points, method, machine.where)
            measure_jitter(sweep, Clock(device, method), tick)
            measure_overlap(sweep, tick)
            sweep.run(wanted, tick, deadline)
    finally:
        leave()


@contextmanager
def progress(what: str, total: int | None, shown: bool = True) -> Iterator[Callable[[str], None]]:
    """A bar on stderr where that is a terminal; nothing elsewhere."""
    if not (shown and sys.stderr.isatty()):
        yield lambda key: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda key: bar.update(task, advance=1, description=f"{what}: {key[:60]}")
