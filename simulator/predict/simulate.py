"""From a scenario to one simulated step: what stands where, what it costs, when all of it runs, what is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from simulator.cost.constants import Constants, constants_for
from simulator.cost.seconds import Seconds
from simulator.cost.step_times import pair_seconds, side_by_side, slot_times, update_times
from simulator.memory import RankMemory, memory_report
from simulator.memory.activations import stage_kept
from simulator.plans.allocation import allocated
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import schedule_name
from simulator.predict.evaluation_pass import evaluation_pause_s, mean_pause_s
from simulator.predict.outer_reports import surrounded
from simulator.predict.site import correction_of
from simulator.predict.step import Step
from simulator.predict.teacher import teacher_workload, with_teacher, with_teacher_memory
from simulator.scenario.phases import Phase, headline, phase_scenario, phases_of
from simulator.scenario.spec import Scenario
from simulator.schedules import SCHEDULES, make_schedule
from simulator.step.build import build_graph
from simulator.step.player import play
from simulator.step.times import DataParallel, StageTimes
from simulator.workload.derive import Workload, workload_of
from simulator.workload.states import gathers_as_reached, reduces_every_microbatch


@dataclass(frozen=True, slots=True)
class Simulated:
    """A scenario on the GPUs that its plan takes: its workload, the step, the memory of every pipeline rank, and one
    pause for evaluation."""

    scenario: Scenario
    workload: Workload
    step: Step
    memory: tuple[RankMemory, ...]
    phases: tuple[SimulatedPhase, ...] = ()
    evaluation_pause_s: float = 0.0

    @property
    def device_bytes(self) -> float:
        """What the fullest GPU shows."""
        return max(rank.device_bytes for rank in self.memory)

    @property
    def fits(self) -> bool:
        return self.device_bytes <= self.scenario.cluster.accelerator.memory_capacity_bytes


@dataclass(frozen=True, slots=True)
class SimulatedPhase:
    """A phase of the run and its own plan, simulated."""

    phase: Phase
    done: Simulated


def scenario_workload(scenario: Scenario) -> Workload:
    """What the scenario's plan does with its model."""
    return workload_of(scenario.model, scenario.plan, scenario.run.seq_length)


def simulate(scenario: Scenario) -> Simulated:
    """Place, price, simulate one step, weigh the memory; of the scenario's plan and of every phase's."""
    scenario = headline(scenario)
    done = _simulated(scenario)
    return replace(done, phases=_simulated_phases(scenario, done))


def _simulated_phases(scenario: Scenario, main: Simulated) -> tuple[SimulatedPhase, ...]:
    """Every phase by itself; equal plans and sequence lengths are simulated once."""
    known = [(scenario.plan, scenario.run.seq_length, main)]
    phases = []
    for phase in phases_of(scenario):
        done = next((d for plan, length, d in known if (plan, length) == (phase.plan, phase.seq_length)), None)
        if done is None:
            done = _simulated(phase_scenario(scenario, phase))
            known.append((phase.plan, phase.seq_length, done))
        phases.append(SimulatedPhase(phase, done))
    return tuple(phases)


def _simulated(scenario: Scenario) -> Simulated:
    scenario = replace(scenario, cluster=allocated(scenario.plan, scenario.cluster))
    workload = scenario_workload(scenario)
    step = simulate_step(scenario, workload)
    batch = scenario.plan.global_batch_size * step.around.clusters
    pause_s = evaluation_pause_s(scenario, workload, step)
    run = scenario.run.with_step_time(batch, step.step_time_s + mean_pause_s(scenario, pause_s))
    scenario = replace(scenario, run=run)
    memory = memory_report(workload, step.schedule.ranks)
    teacher = teacher_workload(scenario)
    if teacher is not None and scenario.distillation is not None:
        memory = with_teacher_memory(memory, step.schedule.ranks, teacher, scenario.distillation)
    return Simulated(scenario, workload, step, memory, evaluation_pause_s=pause_s)


def simulate_step(scenario: Scenario, workload: Workload | None = None, constants: Constants | None = None) -> Step:
    """Price every slot of the plan's schedule and play the step.

    `workload` None: derived from the scenario. `constants` None: those of the data file.
    """
    plan, cluster = scenario.plan, scenario.cluster
    workload = workload or scenario_workload(scenario)
    constants = constants or constants_for(cluster.accelerator, plan)
    offloaded = [kept.offloaded for kept in stage_kept(workload)] if plan.offload.modules else []
    slots = slot_times(workload, cluster, constants, offloaded)
    alone = update_times(workload, cluster, constants)
    stages, updates = side_by_side(slots.stages, alone, plan, cluster, constants)
    slots = replace(slots, stages=tuple(stages))
    teacher = teacher_workload(scenario)
    if teacher is not None:
        slots = with_teacher(slots, teacher, cluster, constants)
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
            gather_as_reached=gathers_as_reached(plan),
            grad_norm_s=updates.barrier_s,
            optimizer_s=updates.optimizer_s,
        ),
    )
    timeline = play(build_graph(schedule, times))
    return surrounded(scenario, Step(schedule, slots, timeline, cluster.gpus, correction_of(scenario.site).factor))


def by_cause(stages: Sequence[Seconds]) -> dict[str, np.ndarray]:
    """Seconds by cause as arrays over stages."""
    return {cause: np.array([float(s.by_cause()[cause]) for s in stages]) for cause in stages[0].by_cause()}
