"""The state of many runs at once: NumPy arrays with one element (or row) per run, by what they describe."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.run.arrays import Bools, Floats, Ints
from simulator.run.checkpoints import Saving
from simulator.run.fault_source import component_names
from simulator.run.specs import LOSSES, RunSpec
from simulator.run.uncertainty import step_factors

NO_CHECKPOINT = -1.0  # work of a checkpoint that does not exist
NO_NODE = -1


@dataclass(slots=True)
class JobState:
    """Where each job stands; shape (runs,) each.

    `work_s` is the useful work done, in seconds at the predicted speed; `stall_left_s` what is left of a save that
    stops the job. A job is down until the latest of the four marks; each mark has its own cause of loss, in this order.
    `component` is what failed last. A job that is `stuck` was given up.
    """

    now_s: Floats
    work_s: Floats
    stall_left_s: Floats
    detect_until_s: Floats
    planned_until_s: Floats
    available_at_s: Floats
    resume_at_s: Floats
    replicas: Ints
    component: Ints
    done: Bools
    stuck: Bools


@dataclass(slots=True)
class SaveState:
    """Checkpoints by tier; shape (tiers, runs) each.

    `safe_s` is the work in the newest checkpoint that is written, `pending_s` that of the one being written, and
    `pending_at_s` when it will be; NO_CHECKPOINT and infinity where there is none.
    """

    safe_s: Floats
    pending_s: Floats
    pending_at_s: Floats


@dataclass(slots=True)
class SlowState:
    """The slow parts of each job together: the worst `speed` governs until `until_s`; shape (runs,) each."""

    until_s: Floats
    speed: Floats


@dataclass(slots=True)
class ScheduledStop:
    """A stop that follows an unseen fault once it is found (infinity: none is due); shape (runs,) each.

    `clean_work_s` is the work of the newest checkpoint from before a corruption; evictions lose none.
    """

    at_s: Floats
    node: Ints
    repair_s: Floats
    component: Ints
    clean_work_s: Floats


@dataclass(slots=True)
class NodeState:
    """The nodes of each run; shape (runs, nodes) unless said otherwise.

    A node is usable from `ready_s` on. `place` is its slot in the job (0 and up), or its place b on the bench as
    -1 - b. `bench` (runs, spares) names the node at each place of the bench, hot places first, and `swap_s` (spares,)
    is what a spare there needs to be in place. `failures` counts how often each node failed, where
    `evict_after` limits it.
    `short` (runs,) marks jobs with an empty slot.
    """

    ready_s: Floats
    place: Ints
    bench: Ints
    swap_s: Floats
    failures: Ints
    short: Bools


@dataclass(slots=True)
class Losses:
    """What was lost to what: `by_cause` maps causes to (runs,), the others are (runs, components); `faults` and
    `repairs_s` (runs,)."""

    by_cause: dict[str, Floats]
    by_component_s: Floats
    stops_by_component: Ints
    faults: Ints
    repairs_s: Floats


@dataclass(slots=True)
class Batch:
    """All runs of one call of the batch player.

    `replica_speed` (replicas + 1,) is the job's speed by number of replicas, filled in for those in `known_replicas`.
    `step_factor` (runs,): by how much each run's step is longer than predicted.
    """

    spec: RunSpec
    saving: Saving
    runs: Ints
    job: JobState
    saves: SaveState
    slow: SlowState
    eviction: ScheduledStop
    corruption: ScheduledStop
    regrow_at_s: Floats
    nodes: NodeState
    losses: Losses
    step_factor: Floats
    replica_speed: Floats
    known_replicas: set[int]

    @property
    def halted(self) -> Bools:
        """Runs that play no further."""
        return self.job.done | self.job.stuck

    def speeds(self) -> tuple[Floats, Floats]:
        """Speed left by missing replicas and by slow parts, (runs,) each; the job runs at their product."""
        is_slow = self.slow.until_s > self.job.now_s
        return self.replica_speed[self.job.replicas], np.where(is_slow, self.slow.speed, 1.0)


def new_batch(spec: RunSpec, saving: Saving, runs: Ints) -> Batch:
    """The given runs at their start: whole, nothing done, an empty checkpoint in storage."""
    count = len(runs)
    return Batch(
        spec=spec,
        saving=saving,
        runs=runs,
        job=_new_jobs(spec, count),
        saves=_new_saves(len(saving.tiers), count),
        slow=SlowState(until_s=np.zeros(count), speed=np.ones(count)),
        eviction=_nothing_scheduled(count),
        corruption=_nothing_scheduled(count),
        regrow_at_s=np.full(count, np.inf),
        nodes=_new_nodes(spec, count),
        losses=_no_losses(len(component_names(spec)), count),
        step_factor=step_factors(spec.uncertainty, spec.simulation.seed, runs),
        replica_speed=np.ones(spec.replicas + 1),
        known_replicas={spec.replicas},
    )


def _new_jobs(spec: RunSpec, count: int) -> JobState:
    return JobState(
        now_s=np.zeros(count),
        work_s=np.zeros(count),
        stall_left_s=np.zeros(count),
        detect_until_s=np.zeros(count),
        planned_until_s=np.zeros(count),
        available_at_s=np.zeros(count),
        resume_at_s=np.zeros(count),
        replicas=np.full(count, spec.replicas),
        component=np.zeros(count, int),
        done=np.zeros(count, bool),
        stuck=np.zeros(count, bool),
    )


def _new_saves(tiers: int, count: int) -> SaveState:
    shape = (tiers, count)
    saves = SaveState(
        safe_s=np.full(shape, NO_CHECKPOINT),
        pending_s=np.full(shape, NO_CHECKPOINT),
        pending_at_s=np.full(shape, np.inf),
    )
    saves.safe_s[-1] = 0.0  # the start itself
    return saves


def _nothing_scheduled(count: int) -> ScheduledStop:
    return ScheduledStop(
        at_s=np.full(count, np.inf),
        node=np.full(count, NO_NODE),
        repair_s=np.zeros(count),
        component=np.zeros(count, int),
        clean_work_s=np.zeros(count),
    )


def _new_nodes(spec: RunSpec, count: int) -> NodeState:
    machines, recovery = spec.machines, spec.recovery
    spares = np.arange(machines.spare_nodes)
    slots = np.arange(machines.job_nodes)
    counted = (count, machines.nodes) if recovery.evict_after is not None else (0, 0)
    places = np.concatenate([slots, -1 - spares]).astype(np.int32)
    return NodeState(
        ready_s=np.zeros((count, machines.nodes)),
        place=np.tile(places, (count, 1)),
        bench=np.tile(machines.job_nodes + spares, (count, 1)),
        swap_s=np.where(spares < recovery.hot_spares, recovery.hot_swap_s, recovery.cold_start_s),
        failures=np.zeros(counted, np.int16),
        short=np.zeros(count, bool),
    )


def _no_losses(components: int, count: int) -> Losses:
    return Losses(
        by_cause={cause: np.zeros(count) for cause in LOSSES},
        by_component_s=np.zeros((count, components)),
        stops_by_component=np.zeros((count, components), int),
        faults=np.zeros(count, int),
        repairs_s=np.zeros(count),
    )
