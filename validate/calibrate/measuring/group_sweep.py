"""Collectives between real ranks: every operation over the groups that a plan uses, alone and all at once.

Sizes and bandwidths follow nccl-tests: all-gather and reduce-scatter count the total buffer, all-to-all one rank's
send buffer; a time is the slowest rank's.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from validate.calibrate.cases import GroupWanted, collective_cases
from validate.calibrate.measuring.products import Run, first_line, random
from validate.calibrate.measuring.timing import Clock, Deadline, Method, gpu_event, summary
from validate.calibrate.points import OUT_OF_MEMORY, BenchCase, MeasuredPoint, Points
from validate.calibrate.torch_ranks import PeerLost, RankPlace

BUS_FACTOR: dict[str, Callable[[int], float]] = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: (n - 1) / n,
    "reduce_scatter": lambda n: (n - 1) / n,
    "all_to_all": lambda n: (n - 1) / n,
    "all_to_all_skewed": lambda n: (n - 1) / n,
    "broadcast": lambda n: 1.0,
    "reduce": lambda n: 1.0,
    "send_recv": lambda n: 1.0,
}
SKEW = 3.0  # how many times its even share the first rank of a skewed all-to-all receives
ELEMENT_BYTES = 4
TIMEOUT_S = 120.0
BATCH_S, MOST_CALLS = 2e-3, 20  # calls between two events on a GPU: launching one alone would be in a short one's time


# ---- ranks and their groups


@dataclass(frozen=True, slots=True)
class World:
    """This process among all that measure. `device` is the torch device of this rank."""

    rank: int
    size: int
    per_node: int
    device: Any

    @property
    def kind(self) -> str:
        return str(self.device.type)


@dataclass(frozen=True, slots=True)
class Communicator:
    """One group that runs while its siblings of the same kind run too (`at_once` of them), or alone (1)."""

    wanted: GroupWanted
    group: Any
    member: bool
    nodes: int
    at_once: int


def join(place: RankPlace, device: Any, timeout_s: float = TIMEOUT_S) -> World:
    """Joins the other ranks: NCCL (RCCL) on GPUs, gloo on a CPU. Raises PeerLost where they do not come together."""
    import torch.distributed as dist

    backend = "nccl" if device.type == "cuda" else "gloo"
    if backend == "nccl" and not dist.is_nccl_available():
        raise PeerLost(
            "this torch has no NCCL: install a build of torch with it (pip's CUDA and ROCm wheels have), or "
            "measure single GPUs with `traincast calibrate` without torchrun"
        )
    timeout = datetime.timedelta(seconds=timeout_s)
    try:
        dist.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise PeerLost(
            f"{place.size} ranks did not come together within {timeout_s:g} s: {first_line(error)}"
        ) from None
    return World(place.rank, place.size, place.per_node, device)


def leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def communicators(world: World, wanted: GroupWanted) -> Iterator[Communicator]:
    """The groups of one kind that cover the world; the first alone, then all at once where there are several."""
    import torch.distributed as dist

    block = wanted.ranks * wanted.stride
    members = [
        [start + lane + wanted.stride * step for step in range(wanted.ranks)]
        for start in range(0, world.size, block)
        for lane in range(wanted.stride)
    ]
    groups = [dist.new_group(ranks) for ranks in members]
    nodes = len({rank // world.per_node for rank in members[0]})
    mine = next(index for index, ranks in enumerate(members) if world.rank in ranks)
    yield Communicator(wanted, groups[0], mine == 0, nodes, 1)
    if len(members) > 1:
        yield Communicator(wanted, groups[mine], True, nodes, len(members))


# ---- operations


def operation(name: str, elements: int, group: Any, ranks: int, device: Any) -> Run:
    """One collective over `elements` fp32 elements, as nccl-tests counts them; a call enqueues it."""
    import torch
    import torch.distributed as dist

    share = max(1, elements // ranks)
    whole = random(device, torch.float32, share * ranks)
    part = random(device, torch.float32, share)
    into = torch.empty_like(whole)
    me = dist.get_rank(group)
    first = dist.get_global_rank(group, 0)
    gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
    scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
    if name == "all_to_all_skewed":
        return skewed_exchange(whole, group, me, ranks)
    if name == "send_recv":
        return ring_shift(whole, into, group, me, ranks)
    runs: dict[str, Run] = {
        "all_reduce": lambda: dist.all_reduce(whole, group=group),
        "all_gather": lambda: gather(into, part, group=group),
        "reduce_scatter": lambda: scatter(part, whole, group=group),
        "all_to_all": lambda: dist.all_to_all_single(into, whole, group=group),
        "broadcast": lambda: dist.broadcast(whole, first, group=group),
    }
    return runs[name]


def skewed_exchange(sent: Any, group: Any, me: int, ranks: int) -> Run:
    """An all-to-all in which every rank sends most to the first, as unequal experts receive."""
    import torch
    import torch.distributed as dist

    sent_shares = skewed_shares(len(sent), ranks)
    received_shares = [sent_shares[me]] * ranks
    received = torch.empty(sum(received_shares), dtype=sent.dtype, device=sent.device)
    return lambda: dist.all_to_all_single(received, sent, received_shares, sent_shares, group=group)


def skewed_shares(elements: int, ranks: int) -> list[int]:
    """What every rank sends to each: `SKEW` even shares to the first, equal shares of the rest to the others."""
    if ranks == 1:
        return [elements]
    even = elements / ranks
    to_first = min(elements - (ranks - 1), int(even * min(SKEW, ranks - 0.5)))
    to_other = (elements - to_first) // (ranks - 1)
    others = [to_other] * (ranks - 1)
    return [elements - sum(others), *others]


def ring_shift(sent: Any, received: Any, group: Any, me: int, ranks: int) -> Run:
    """Every rank sends to the next and receives from the one before, as sendrecv of nccl-tests does."""
    import torch.distributed as dist

    following = dist.get_global_rank(group, (me + 1) % ranks)
    preceding = dist.get_global_rank(group, (me - 1) % ranks)

    def shift() -> None:
        send = dist.P2POp(dist.isend, sent, following, group)
        receive = dist.P2POp(dist.irecv, received, preceding, group)
        for work in dist.batch_isend_irecv([send, receive]):
            work.wait()

    return shift


# ---- the sweep


class GroupSweep:
    """Measures collectives on one world into the points of rank 0; every method is called by all ranks alike."""

    def __init__(
        self,
        world: World,
        points: Points,
        method: Method,
        where: Mapping[str, Any],
        clock: Clock = time.perf_counter,
    ) -> None:
        self.world = world
        self.points = points
        self.method = method
        self.where = where
        self.clock = clock

    def run(self, wanted: list[GroupWanted], tick: Callable[[str], None], deadline: Deadline) -> None:
        """All cases on all groups until the deadline (rank 0's)."""
        for each in wanted:
            for communicator in communicators(self.world, each):
                self._run_group(communicator, tick, deadline)

    def _run_group(self, communicator: Communicator, tick: Callable[[str], None], deadline: Deadline) -> None:
        wanted = communicator.wanted
        cases = collective_cases(self.world.kind, wanted.ranks, wanted.stride, communicator.nodes, communicator.at_once)
        for case in cases:
            if self.agreed(not self.points.has(case) and not deadline.passed):
                self._measure_case(case, communicator)
                tick(case.key)

    def agreed(self, wanted: bool) -> bool:
        """Rank 0 decides for all whether a case is measured."""
        return bool(self._share([float(wanted)])[0])

    def share_largest(self, values: list[float]) -> list[float]:
        """The largest of all ranks', element by element."""
        return self._share(values, largest=True)

    def gathered(self, values: list[float]) -> list[list[float]]:
        """The values of every rank."""
        size, mine = self.world.size, self.world.rank
        table = [values if rank == mine else [0.0] * len(values) for rank in range(size)]
        flat = self.share_largest([value for row in table for value in row])
        starts = range(0, len(flat), len(values))
        return [flat[start : start + len(values)] for start in starts]

    def _share(self, values: list[float], largest: bool = False) -> list[float]:
        """Rank 0's values on every rank; with `largest` the largest of all ranks'."""
        import torch
        import torch.distributed as dist

        dtype = torch.float64 if self.world.kind == "cpu" else torch.float32
        shared = torch.tensor(values, dtype=dtype, device=self.world.device)
        try:
            if largest:
                dist.all_reduce(shared, dist.ReduceOp.MAX)
            else:
                dist.broadcast(shared, 0)
        except RuntimeError as error:
            raise PeerLost(f"a rank no longer answers: {first_line(error)}") from None
        return [float(value) for value in shared.tolist()]

    def _measure_case(self, case: BenchCase, communicator: Communicator) -> None:
        """Times one case; all ranks of the world meet before and after, members repeat it in between."""
        work, fits = self._work_of(case, communicator)
        # One rank that cannot hold it is reason for all to skip it.
        if any(self.share_largest([float(not fits)])):
            self.keep(MeasuredPoint(case.family, case.dtype, case.shape, failed=OUT_OF_MEMORY, where=self.where))
            return
        try:
            seconds = self._repeat(work)
        except RuntimeError as error:
            raise PeerLost(f"{case.key}: a rank no longer answers: {first_line(error)}") from None
        self.keep(MeasuredPoint.timed(case, summary(seconds), self.where))

    def _work_of(self, case: BenchCase, communicator: Communicator) -> tuple[Run | None, bool]:
        """The work of this rank, None where it is no member; and whether its buffers fit into memory."""
        if not communicator.member:
            return None, True
        elements = case.shape["size_bytes"] // ELEMENT_BYTES
        ranks = communicator.wanted.ranks
        try:
            return operation(case.shape["operation"], elements, communicator.group, ranks, self.world.device), True
        except RuntimeError as error:
            if "out of memory" not in str(error).lower():
                raise
            return None, False

    def _repeat(self, work: Run | None) -> list[float]:
        """Seconds of the repetitions, each the slowest member's; as many as rank 0 has time for."""
        method = self.method
        for _ in range(method.warmup):
            self._timed(work, 1)
        once_s = max(self.share_largest([self._timed(work, 1)])[0], 1e-6)
        calls = int(np.clip(BATCH_S / once_s, 1, MOST_CALLS)) if self.world.kind == "cuda" else 1
        count = int(np.clip(method.budget_s / (once_s * calls), method.fewest, method.most))
        return self.share_largest([self._timed(work, calls) for _ in range(count)])

    def _timed(self, work: Run | None, calls: int) -> float:
        """Seconds of one call among `calls` that follow each other at once, as nccl-tests times them."""
        import torch
        import torch.distributed as dist

        dist.barrier()
        if work is None:
            return 0.0
        if self.world.kind == "cuda":
            start, stop = gpu_event(), gpu_event()
            start.record()
            for _ in range(calls):
                work()
            stop.record()
            torch.cuda.synchronize(self.world.device)
            return float(start.elapsed_time(stop)) * 1e-3 / calls
        begun_s = self.clock()
        work()
        return self.clock() - begun_s

    def keep(self, point: MeasuredPoint) -> None:
        """Rank 0 adds the point."""
        if self.world.rank == 0:
            self.points.add(point)


def bus_bandwidth(operation: str, size_bytes: float, ranks: int, seconds: float) -> tuple[float, float]:
    """(algbw, busbw) in bytes/s by nccl-tests' definitions."""
    algbw = size_bytes / seconds
    return algbw, algbw * BUS_FACTOR[operation](ranks)
