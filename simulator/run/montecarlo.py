"""The run over many seeds: in batches, on one process or several, with the same answer either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from simulator.executor import map_chunks
from simulator.run.arrays import Ints
from simulator.run.batch_player import play
from simulator.run.checkpoint_interval import best_by_simulation_s, settle_intervals, whole
from simulator.run.checkpoints import Saving
from simulator.run.evaluation import with_evaluation
from simulator.run.fault_source import fault_source, log_ends_s
from simulator.run.faults import mean_time_between_s
from simulator.run.outcome import Outcome, RunEvent, joined, with_hopeless
from simulator.run.result import RunResult
from simulator.run.specs import RunSpec
from simulator.run.summary import summarise

BATCH = 500  # runs at once: a round costs nearly the same for one run as for hundreds
NODES_AT_ONCE = 4_000_000  # over all runs of a batch: bounds its memory to some 50 MB
Progress = Callable[[int, int], None]  # (runs done, runs in all)


def simulate(spec: RunSpec, progress: Progress | None = None) -> RunResult:
    """Plays `spec.simulation.runs` runs and sums them up; one where a fault log covers the whole run.

    The result does not depend on the number of workers. With several workers the caller must be importable
    (`if __name__ == "__main__"`).
    """
    saving = saving_of(spec)
    return summarise(spec, saving, outcomes(spec, saving, progress))


def saving_of(spec: RunSpec) -> Saving:
    """The checkpoint tiers with their intervals settled for this run."""
    mtbf_s = mean_time_between_s(spec.failures, spec.job_gpus)
    return settle_intervals(spec.checkpoint, spec.paths, mtbf_s, spec.work_s, spec.longest_step_s)


def outcomes(spec: RunSpec, saving: Saving, progress: Progress | None = None) -> Outcome:
    """Raw outcomes of all runs, in the order of their numbers."""
    play_runs = partial(play, spec, saving, fault_source(spec))
    if spec.fault_log and spec.uncertainty.is_none:
        replay = play_runs(np.arange(1))
        if replay.elapsed_s[0] <= log_ends_s(spec):
            # The log leaves nothing to chance.
            return with_hopeless(spec, with_evaluation(replay, spec.evaluation_fraction))
    batches = _batches(spec)
    parts: dict[int, Outcome] = {}
    done = 0
    if progress is not None and spec.simulation.workers == 1:
        # On this process a batch tells of its runs as they end, so that long ones are not silent.
        told = progress
        play_runs = partial(play_runs, tell=lambda ended: told(done + ended, spec.simulation.runs))
    for number, part in map_chunks(play_runs, batches, spec.simulation.workers):
        parts[number] = part
        done += len(part.finish_s)
        if progress is not None:
            progress(done, spec.simulation.runs)
    together = joined([parts[number] for number in range(len(batches))])
    return with_hopeless(spec, with_evaluation(together, spec.evaluation_fraction))


def _batches(spec: RunSpec) -> list[Ints]:
    """The numbers of the runs, in batches that fit memory and leave no worker idle."""
    runs, workers = spec.simulation.runs, spec.simulation.workers
    share = -(-runs // workers)
    size = max(1, min(BATCH, NODES_AT_ONCE // spec.machines.nodes, share))
    return [np.arange(first, min(first + size, runs)) for first in range(0, runs, size)]


def story(spec: RunSpec, run: int = 0) -> tuple[RunEvent, ...]:
    """What happens in one of the runs, event by event (or in the replay of the fault log)."""
    from simulator.run.event_player import play_one

    return play_one(spec, saving_of(spec), fault_source(spec), run)[1]


def saving_every(spec: RunSpec, every_s: float) -> RunSpec:
    """The run with this interval in the tier that saves most often; a tier behind it follows in multiples."""
    has_fast_tier = len(saving_of(spec).tiers) > 1
    if has_fast_tier:
        return replace(spec, checkpoint=replace(spec.checkpoint, fast_every_s=every_s))
    return replace(spec, checkpoint=replace(spec.checkpoint, every_s=every_s))


def best_interval_by_simulation_s(spec: RunSpec, low_s: float, high_s: float, tolerance: float = 0.01) -> float:
    """The finest tier's interval of greatest mean goodput, over the same seeds at every trial, in whole steps."""

    def goodput(every_s: float) -> float:
        trial = saving_every(spec, every_s)
        outcome = outcomes(trial, saving_of(trial))
        return float(outcome.work_s.sum() / outcome.elapsed_s.sum())

    return whole(best_by_simulation_s(goodput, low_s, high_s, tolerance), spec.longest_step_s)
