"""From a scenario to one simulated step: what stands where, what it costs, when all of it runs, what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log, sqrt

import numpy as np

from simulator.cost.constants import Constants, constants_for
from simulator.cost.seconds import Seconds
from simulator.cost.step_times import SlotTimes, pair_seconds, slot_times, update_times, with_lost
from simulator.memory import RankMemory, memory_report
from simulator.memory.activations import stage_kept
from simulator.plan.allocation import allocated
from simulator.plan.choices import SHARDINGS
from simulator.plan.spec import Plan
from simulator.scenario.schema import Scenario
from simulator.schedules import SCHEDULES, Schedule, make_schedule
from simulator.step.build import build_graph
from simulator.step.player import play
from simulator.step.timeline import Timeline
from simulator.step.times import DataParallel, StageTimes
from simulator.workload.derive import Workload, workload_of
from simulator.workload.states import reduces_every_microbatch


@dataclass(frozen=True, slots=True)
class Step:
    """A simulated step: its schedule, the costs of its stages, and when everything ran."""

    schedule: Schedule
    slots: SlotTimes
    timeline: Timeline
    gpus: int

    @property
    def straggler_s(self) -> float:
        """What the job waits for its slowest rank: the latest of n with spread s is about s sqrt(2 ln n) late."""
        return self.timeline.step_time_s * self.slots.constants.rank_noise * sqrt(2 * log(self.gpus))

    @property
    def step_time_s(self) -> float:
        return self.timeline.step_time_s + self.straggler_s

    def breakdown(self) -> dict[str, float]:
        """Seconds of the step by cause, mean over pipeline ranks; they add up to its time."""
        return self.timeline.breakdown() | {"straggler": self.straggler_s}

    def by_rank(self) -> list[dict[str, float]]:
        """The same of every pipeline rank."""
        spent = self.timeline.by_rank()
        return [
            {cause: float(seconds[rank]) for cause, seconds in spent.items()} | {"straggler": self.straggler_s}
            for rank in range(self.schedule.pp)
        ]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A scenario on the GPUs that its plan takes: its workload, the step, and the memory of every pipeline rank."""

    scenario: Scenario
    workload: Workload
    step: Step
    memory: tuple[RankMemory, ...]


def scenario_workload(scenario: Scenario) -> Workload:
    """What the scenario's plan does with its model."""
    return workload_of(scenario.model, scenario.plan, scenario.run.seq_length)


def simulate(scenario: Scenario) -> Simulated:
    """Place, price, simulate one step, weigh the memory."""
    scenario = replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))
    workload = scenario_workload(scenario)
    step = simulate_step(scenario, workload)
    run = scenario.run.with_step_time(scenario.plan.global_batch_size, step.step_time_s)
    scenario = replace(scenario, run=run)
    return Simulated(scenario, workload, step, memory_report(workload, step.schedule.ranks))


def simulate_step(scenario: Scenario, workload: Workload | None = None, constants: Constants | None = None) -> Step:
    """Price every slot of the plan's schedule and play the step.

    `workload` None: derived from the scenario. `constants` None: those of the data file.
    """
    plan, cluster = scenario.plan, scenario.cluster
    workload = workload or scenario_workload(scenario)
    constants = constants or constants_for(cluster.accelerator, plan)
    offloaded = [kept.offloaded for kept in stage_kept(workload)] if plan.offload.modules else []
    slots = slot_times(workload, cluster, constants, offloaded)
    updates = update_times(workload, cluster, constants)
    slots = replace(slots, stages=tuple(with_lost(slots.stages, updates, plan, constants)))
    schedule = make_schedule(schedule_name(plan), plan.pp, plan.vpp, plan.microbatches, plan.microbatch_group_size)
    times = StageTimes(
        forward_s=by_cause([stage.forward for stage in slots.stages]),
        input_backward_s=by_cause([stage.input for stage in slots.stages]),
        weight_backward_s=by_cause([stage.weight for stage in slots.stages]),
        pair_s=pair_seconds(slots, plan),
        send_forward_s=np.full(len(workload.stages), slots.send_s),
        send_backward_s=np.full(len(workload.stages), slots.send_s),
        p2p=SCHEDULES[plan.schedule].p2p_mode(plan.overlap.p2p),
        data_parallel=DataParallel(
            gather_s=updates.gather_s,
            reduce_s=updates.reduce_s,
            gather_overlap=plan.overlap.param_gather,
            reduce_overlap=plan.overlap.grad_reduce,
            gather_every_microbatch=SHARDINGS[plan.sharding].shards_weights,
            reduce_every_microbatch=reduces_every_microbatch(plan),
            grad_norm_s=updates.barrier_s,
            optimizer_s=updates.optimizer_s,
        ),
    )
    return Step(schedule, slots, play(build_graph(schedule, times)), cluster.gpus)


def step_time_s(scenario: Scenario, step: Step, global_batch_size: int, seq_length: int) -> float:
    """Seconds of a step of `scenario` with another batch or sequence length; the plan's own is `step`."""
    plan, run = scenario.plan, scenario.run
    if (global_batch_size, seq_length) == (plan.global_batch_size, run.seq_length):
        return step.step_time_s
    changed = replace(
        scenario, plan=replace(plan, global_batch_size=global_batch_size), run=replace(run, seq_length=seq_length)
    )
    return simulate_step(changed).step_time_s


def schedule_name(plan: Plan) -> str:
    """The order of slots: with overlapped expert traffic Megatron's schedules pair forwards and backwards."""
    paired_as = SCHEDULES[plan.schedule].paired_as
    return paired_as if plan.is_paired and paired_as is not None else plan.schedule


def by_cause(stages: Sequence[Seconds]) -> dict[str, np.ndarray]:
    """Seconds by cause as arrays over stages."""
    return {cause: np.array([float(s.by_cause()[cause]) for s in stages]) for cause in stages[0].by_cause()}
