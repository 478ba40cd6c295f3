"""Chunks of work on one process or several, with the same results either way.

Processes are spawned: safe beside threads, and the same on every system. The caller must be importable
(`if __name__ == "__main__"`), and work, chunks and results must be picklable.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection
from typing import TypeVar

Chunk = TypeVar("Chunk")
Result = TypeVar("Result")
MOST_LOSSES = 3  # of workers in a row, without a chunk done in between: the work itself kills them


def usable_cores() -> int:
    """Cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerLost(RuntimeError):
    """Worker processes end again and again before any chunk is done."""


def map_chunks(
    work: Callable[[Chunk], Result],
    chunks: Sequence[Chunk],
    workers: int = 1,
    prepare: Callable[[Chunk], Chunk] = lambda chunk: chunk,
) -> Iterator[tuple[int, Result]]:
    """(number, result) of each chunk as it is done, in any order.

    `prepare` is asked for each chunk when its turn comes. One worker: in this process. Several: a worker that ends
    early, killed for want of memory for instance, is replaced and its chunk done again; when this process ends, however
    it does, so do the workers. Raises WorkerLost after MOST_LOSSES losses in a row, and whatever `work` raises.
    """
    workers = min(workers, len(chunks))
    if workers <= 1:
        return ((number, work(prepare(chunk))) for number, chunk in enumerate(chunks))
    return _map_in_processes(work, dict(enumerate(chunks)), workers, prepare)


def _map_in_processes(
    work: Callable[[Chunk], Result], waiting: dict[int, Chunk], workers: int, prepare: Callable[[Chunk], Chunk]
) -> Iterator[tuple[int, Result]]:
    """Starts a new pool for what is left whenever one loses a worker."""
    losses = 0
    while waiting:
        try:
            for number, result in _map_in_pool(work, waiting, workers, prepare):
                del waiting[number]
                losses = 0
                yield number, result
        except BrokenProcessPool:
            losses += 1
            if losses == MOST_LOSSES:
                raise WorkerLost(
                    f"{losses} times in a row a worker process ended before its work was done; memory may be too "
                    f"small for {workers} workers. Use fewer."
                ) from None


def _map_in_pool(
    work: Callable[[Chunk], Result], chunks: Mapping[int, Chunk], workers: int, prepare: Callable[[Chunk], Chunk]
) -> Iterator[tuple[int, Result]]:
    """Keeps every worker busy and one chunk at hand for each. Raises BrokenProcessPool when a worker is lost."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(chunks)), mp_context=context, initializer=_start_worker)
    queue = iter(dict(chunks).items())
    jobs: dict[Future[Result], int] = {}
    try:
        while True:
            for number, chunk in islice(queue, 2 * workers - len(jobs)):
                jobs[pool.submit(work, prepare(chunk))] = number
            if not jobs:
                return
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                yield jobs.pop(job), job.result()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        _end_workers()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_workers() -> None:
    """Whoever waits for the results is gone: work that has begun is not waited for."""
    for worker in multiprocessing.active_children():
        worker.terminate()


def _start_worker() -> None:
    """An interrupt from the keyboard is the parent's to handle; a worker without a parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
