"""The run over many seeds: in batches, on one process or several, with the same answer either way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial

import numpy as np

from simulator.run.arrays import Floats
from simulator.run.batch_player import play
from simulator.run.checkpoint_interval import best_by_simulation_s, settle_intervals, whole
from simulator.run.checkpoints import Saving
from simulator.run.fault_source import fault_source
from simulator.run.faults import mean_time_between_s
from simulator.run.outcome import Outcome, RunEvent, joined
from simulator.run.result import RunResult, summarise
from simulator.run.specs import RunSpec

BATCH = 500  # runs at once: a round costs nearly the same for one run as for hundreds
NODES_AT_ONCE = 4_000_000  # over all runs of a batch: bounds its memory to some 50 MB
Progress = Callable[[int, int], None]  # (runs done, runs in all)


def simulate(spec: RunSpec, progress: Progress | None = None) -> RunResult:
    """Plays `spec.simulation.runs` runs and sums them up.

    A fault log is played once. The result does not depend on the number of workers. With several workers the
    caller must be importable (`if __name__ == "__main__"`).
    """
    saving = saving_of(spec)
    return summarise(spec, saving, outcomes(spec, saving, progress))


def saving_of(spec: RunSpec) -> Saving:
    """The checkpoint tiers with their intervals settled for this run."""
    step = max(segment.step_time_s for segment in spec.segments)
    mtbf = mean_time_between_s(spec.failures, spec.job_gpus)
    return settle_intervals(spec.checkpoint, spec.paths, mtbf, spec.work_s, step)


def outcomes(spec: RunSpec, saving: Saving, progress: Progress | None = None) -> Outcome:
    """Raw outcomes of all runs, in the order of their numbers."""
    runs = np.arange(1 if spec.fault_log else spec.simulation.runs)  # a log leaves nothing to chance
    size = max(1, min(BATCH, NODES_AT_ONCE // spec.machines.nodes, -(-len(runs) // spec.simulation.workers)))
    batches = [runs[i : i + size] for i in range(0, len(runs), size)]
    parts: dict[int, Outcome] = {}
    done = 0
    for number, part in _played(partial(play, spec, saving, fault_source(spec)), batches, spec.simulation.workers):
        parts[number] = part
        done += len(part.finish_s)
        if progress is not None:
            progress(done, len(runs))
    return joined([parts[i] for i in range(len(batches))])


def _played(
    play_batch: Callable[[Floats], Outcome], batches: list[Floats], workers: int
) -> Iterator[tuple[int, Outcome]]:
    """Batches as they finish. Processes are spawned: safe beside threads, and the same on every system."""
    if min(workers, len(batches)) <= 1:
        for number, batch in enumerate(batches):
            yield number, play_batch(batch)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(batches)), mp_context=context) as pool:
        jobs = {pool.submit(play_batch, batch): number for number, batch in enumerate(batches)}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


def story(spec: RunSpec, run: int = 0) -> tuple[RunEvent, ...]:
    """What happens in one of the runs, event by event (or in the replay of the fault log)."""
    from simulator.run.event_player import play_one

    return play_one(spec, saving_of(spec), fault_source(spec), run)[1]


def saving_every(spec: RunSpec, every_s: float) -> RunSpec:
    """The run with this interval in the tier that saves most often; a tier behind it follows in multiples."""
    two = len(saving_of(spec).tiers) > 1
    policy = replace(spec.checkpoint, fast_every_s=every_s) if two else replace(spec.checkpoint, every_s=every_s)
    return replace(spec, checkpoint=policy)


def best_interval_by_simulation_s(spec: RunSpec, low_s: float, high_s: float, tolerance: float = 0.01) -> float:
    """The finest tier's interval of greatest mean goodput, over the same seeds at every trial, in whole steps."""
    step = max(segment.step_time_s for segment in spec.segments)

    def goodput(every_s: float) -> float:
        trial = saving_every(spec, every_s)
        outcome = outcomes(trial, saving_of(trial))
        return float(outcome.work_s.sum() / outcome.elapsed_s.sum())

    return whole(best_by_simulation_s(goodput, low_s, high_s, tolerance), step)
