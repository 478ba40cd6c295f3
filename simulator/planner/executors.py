"""Where the chunks of a search run: in this process, in several, or on a Ray cluster. Results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from hardware.problems import InputError, Problem
from simulator.executor import map_chunks

T = TypeVar("T")
R = TypeVar("R")
# A chunk whose worker is lost is done again so many times.
RETRIES = 3


class Executor(Protocol):
    """Runs work on chunks and gives results as they come; `prepare` is asked for each chunk when its turn comes."""

    def run(self, work: Callable[[T], R], chunks: Sequence[T], prepare: Callable[[T], T]) -> Iterator[R]: ...


@dataclass(frozen=True, slots=True)
class Serial:
    """One chunk after the other, in this process."""

    def run(self, work: Callable[[T], R], chunks: Sequence[T], prepare: Callable[[T], T]) -> Iterator[R]:
        for chunk in chunks:
            yield work(prepare(chunk))


@dataclass(frozen=True, slots=True)
class Processes:
    """Several processes of this machine; a worker that is lost is replaced and its chunk done again."""

    workers: int

    def run(self, work: Callable[[T], R], chunks: Sequence[T], prepare: Callable[[T], T]) -> Iterator[R]:
        # The first chunk runs here: what it reaches spares the others work.
        yield from (work(prepare(chunk)) for chunk in chunks[:1])
        for _, result in map_chunks(work, chunks[1:], self.workers, prepare):
            yield result


@dataclass(frozen=True, slots=True)
class Ray:
    """Workers of a Ray cluster; chunks of workers that are lost are done again."""

    address: str | None = None

    def run(self, work: Callable[[T], R], chunks: Sequence[T], prepare: Callable[[T], T]) -> Iterator[R]:
        ray = _ray()
        started = not ray.is_initialized()
        if started:
            ray.init(address=self.address, log_to_driver=False)
        try:
            remote = ray.remote(max_retries=RETRIES)(work)
            waiting = [remote.remote(prepare(chunk)) for chunk in chunks]
            while waiting:
                ready, waiting = ray.wait(waiting, num_returns=1)
                yield from ray.get(ready)
        finally:
            if started:
                ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        message = 'needs Ray: pip install "traincast[ray]"'
        raise InputError([Problem("--executor ray", None, "", message)]) from None
    return ray
