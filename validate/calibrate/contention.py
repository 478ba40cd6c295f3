"""What work does to other work: products beside a collective, a collective beside products, and GPU against GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from validate.calibrate.groups import ELEMENT_BYTES, Sweep, operation
from validate.calibrate.peers import PeerLost
from validate.calibrate.points import Case, Point
from validate.calibrate.products import Run, first_line, gemm
from validate.calibrate.timing import Clock, Timing, summary

SIZE_BYTES = {"cuda": 256 * 2**20, "cpu": 2**20}
EDGE = {"cuda": 8192, "cpu": 256}
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
REPEATS = 7


def measure_overlap(sweep: Sweep, tick: Callable[[str], None]) -> None:
    """Points of family overlap: seconds of the slowed part beside the other, with its seconds alone (`alone_s`)."""
    import torch.distributed as dist

    world = sweep.world
    edge, size = EDGE[world.kind], SIZE_BYTES[world.kind]
    product = gemm({"m": edge, "n": edge, "k": edge, "role": "forward"}, "bf16", world.device)
    for name in OPERATIONS:
        cases = {slowed: case_of(name, size, world.size, slowed) for slowed in ("compute", "communication")}
        if not sweep.agreed(not all(sweep.points.has(case) for case in cases.values())):
            continue
        move = operation(name, size // ELEMENT_BYTES, dist.group.WORLD, world.size, world.device)
        try:
            alone, beside = both_ways(sweep, product, move)
        except RuntimeError as error:
            raise PeerLost(f"overlap {name}: a rank no longer answers: {first_line(error)}") from None
        for slowed, case in cases.items():
            if world.rank == 0:
                found = summary(beside[slowed])
                where = {**sweep.where, "alone_s": float(np.median(alone[slowed]))}
                sweep.points.add(point_of(case, found, where))
            tick(case.key)


def case_of(name: str, size: int, ranks: int, slowed: str) -> Case:
    return Case("overlap", "bf16", {"operation": name, "size_bytes": size, "n_gpus": ranks, "slowed": slowed})


def point_of(case: Case, found: Timing, where: dict[str, Any]) -> Point:
    return Point(
        case.family, case.dtype, case.shape, found.seconds, found.low_s, found.high_s, found.repetitions, where=where
    )


def both_ways(sweep: Sweep, product: Run, move: Run) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each alone, and beside enough of the other to cover it; the slowest rank's."""
    lane = Lane(sweep.world.device)
    for work in (product, move):
        work()
    alone = {"compute": sweep.share_largest([lane.timed(product) for _ in range(REPEATS)]),
             "communication": sweep.share_largest([lane.timed(move) for _ in range(REPEATS)])}  # fmt: skip
    ratio = np.median(alone["communication"]) / np.median(alone["compute"])
    products, moves = int(np.clip(2 * ratio, 2, 500)), int(np.clip(2 / ratio, 2, 500))
    beside = {"compute": [lane.beside(product, move, moves) for _ in range(REPEATS)],
              "communication": [lane.beside(move, product, products) for _ in range(REPEATS)]}  # fmt: skip
    return alone, {slowed: sweep.share_largest(seconds) for slowed, seconds in beside.items()}


class Lane:
    """Times one piece of work while another runs beside it: on a second stream, or on a CPU in a second thread."""

    def __init__(self, device: Any) -> None:
        import torch

        self.torch, self.device = torch, device
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def timed(self, work: Run) -> float:
        if self.device.type != "cuda":
            begun = time.perf_counter()
            work()
            return time.perf_counter() - begun
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        stop.record()
        self.torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(stop)) * 1e-3

    def beside(self, work: Run, other: Run, count: int) -> float:
        """Seconds of `work` while `other` runs `count` times, begun a little before it."""
        if self.side is None:
            return self._in_threads(work, other, count)
        with self._aside():
            for _ in range(count):
                other()
        seconds = self.timed(work)
        self.torch.cuda.synchronize(self.device)
        return seconds

    def _aside(self) -> AbstractContextManager[Any]:
        return self.torch.cuda.stream(self.side) if self.side is not None else nullcontext()

    def _in_threads(self, work: Run, other: Run, count: int) -> float:
        from threading import Thread

        thread = Thread(target=lambda: [other() for _ in range(count)])
        thread.start()
        seconds = self.timed(work)
        thread.join()
        return seconds


def measure_jitter(sweep: Sweep, clock: Clock, tick: Callable[[str], None]) -> None:
    """Points of family jitter: the same product on every rank at once, with the spread of its repetitions."""
    world = sweep.world
    edge = EDGE[world.kind]
    case = Case("jitter", "bf16", {"m": edge, "n": edge, "k": edge, "rank": world.rank})
    found = clock.time(gemm({**case.shape, "role": "forward"}, "bf16", world.device))
    for rank, values in enumerate(sweep.gathered([found.seconds, found.low_s, found.high_s, float(found.repetitions)])):
        if world.rank == 0:
            shape = {**case.shape, "rank": rank}
            sweep.points.add(
                Point("jitter", "bf16", shape, values[0], values[1], values[2], int(values[3]), where=sweep.where)
            )
    tick(case.key)
