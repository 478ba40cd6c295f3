"""What work does to other work: products beside a collective, a collective beside products, and GPU against GPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Thread
from typing import Any

import numpy as np

from validate.calibrate.measuring.group_sweep import ELEMENT_BYTES, GroupSweep, operation
from validate.calibrate.measuring.products import Run, first_line, gemm
from validate.calibrate.measuring.timing import Clock, Stopwatch, gpu_event, summary
from validate.calibrate.points import BenchCase, MeasuredPoint, Timing
from validate.calibrate.torch_ranks import PeerLost

SIZE_BYTES = {"cuda": 256 * 2**20, "cpu": 2**20}
EDGE = {"cuda": 8192, "cpu": 256}
OPERATIONS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
REPEATS = 7
MOST_BESIDE = 500  # repetitions of the other work that one piece is timed beside
Seconds = Mapping[str, list[float]]


def measure_overlap(sweep: GroupSweep, tick: Callable[[str], None]) -> None:
    """Points of family overlap: seconds of the slowed part beside the other, with its seconds alone (`alone_s`).

    Raises PeerLost where a rank no longer answers.
    """
    import torch.distributed as dist

    world = sweep.world
    edge, size = EDGE[world.kind], SIZE_BYTES[world.kind]
    product = gemm({"m": edge, "n": edge, "k": edge, "role": "forward"}, "bf16", world.device)
    for name in OPERATIONS:
        cases = {slowed: overlap_case(name, size, world.size, slowed) for slowed in ("compute", "communication")}
        if not sweep.agreed(not all(sweep.points.has(case) for case in cases.values())):
            continue
        collective = operation(name, size // ELEMENT_BYTES, dist.group.WORLD, world.size, world.device)
        try:
            alone, together = alone_and_together(sweep, product, collective)
        except RuntimeError as error:
            raise PeerLost(f"overlap {name}: a rank no longer answers: {first_line(error)}") from None
        for slowed, case in cases.items():
            where = {**sweep.where, "alone_s": float(np.median(alone[slowed]))}
            sweep.keep(MeasuredPoint.timed(case, summary(together[slowed]), where))
            tick(case.key)


def overlap_case(name: str, size: int, ranks: int, slowed: str) -> BenchCase:
    return BenchCase("overlap", "bf16", {"operation": name, "size_bytes": size, "n_gpus": ranks, "slowed": slowed})


def alone_and_together(sweep: GroupSweep, product: Run, collective: Run) -> tuple[Seconds, Seconds]:
    """Seconds of each alone, and beside enough of the other to cover it; the slowest rank's."""
    timer = OverlapTimer(sweep.world.device)
    for work in (product, collective):
        work()
    alone = {
        "compute": sweep.share_largest([timer.timed(product) for _ in range(REPEATS)]),
        "communication": sweep.share_largest([timer.timed(collective) for _ in range(REPEATS)]),
    }
    ratio = np.median(alone["communication"]) / np.median(alone["compute"])
    products = int(np.clip(2 * ratio, 2, MOST_BESIDE))
    collectives = int(np.clip(2 / ratio, 2, MOST_BESIDE))
    together = {
        "compute": [timer.timed_with(product, collective, collectives) for _ in range(REPEATS)],
        "communication": [timer.timed_with(collective, product, products) for _ in range(REPEATS)],
    }
    return alone, {slowed: sweep.share_largest(seconds) for slowed, seconds in together.items()}


class OverlapTimer:
    """Times one piece of work while another runs beside it: on a second stream, or on a CPU in a second thread."""

    def __init__(self, device: Any, clock: Clock = time.perf_counter) -> None:
        import torch

        self.torch = torch
        self.device = device
        self.clock = clock
        cuda: Any = torch.cuda
        self.side = cuda.Stream(device) if device.type == "cuda" else None

    def timed(self, work: Run) -> float:
        """Seconds of one call."""
        if self.side is None:
            begun_s = self.clock()
            work()
            return self.clock() - begun_s
        start, stop = gpu_event(), gpu_event()
        start.record()
        work()
        stop.record()
        self.torch.cuda.synchronize(self.device)
        return float(start.elapsed_time(stop)) * 1e-3

    def timed_with(self, work: Run, other: Run, count: int) -> float:
        """Seconds of `work` while `other` runs `count` times, begun a little before it."""
        if self.side is None:
            return self._timed_with_thread(work, other, count)
        with self.torch.cuda.stream(self.side):
            for _ in range(count):
                other()
        seconds = self.timed(work)
        self.torch.cuda.synchronize(self.device)
        return seconds

    def _timed_with_thread(self, work: Run, other: Run, count: int) -> float:
        thread = Thread(target=lambda: [other() for _ in range(count)])
        thread.start()
        seconds = self.timed(work)
        thread.join()
        return seconds


def measure_jitter(sweep: GroupSweep, stopwatch: Stopwatch, tick: Callable[[str], None]) -> None:
    """Points of family jitter: the same product on every rank at once, with the spread of its repetitions."""
    world = sweep.world
    edge = EDGE[world.kind]
    product = {"m": edge, "n": edge, "k": edge}
    timing = stopwatch.time(gemm({**product, "role": "forward"}, "bf16", world.device))
    mine = [timing.seconds, timing.low_s, timing.high_s, float(timing.repetitions)]
    for rank, (seconds, low_s, high_s, repetitions) in enumerate(sweep.gathered(mine)):
        case = BenchCase("jitter", "bf16", {**product, "rank": rank})
        of_rank = Timing(seconds, low_s, high_s, int(repetitions))
        sweep.keep(MeasuredPoint.timed(case, of_rank, sweep.where))
    tick(BenchCase("jitter", "bf16", {**product, "rank": world.rank}).key)
