"""A simulated step in which things are unequal: every GPU by itself; transfers that slow what runs beside them."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.predict.simulate import Simulated
from simulator.step.contention import beside_communication
from simulator.step.inequality import InequalityReport
from simulator.step.layer_programs import Programs, study_plan
from simulator.step.player import play
from simulator.step.spread import Spread

TRANSFER_SMS = 16  # NCCL's channels for rings over a network: 16 to 32


def every_gpu(done: Simulated, samples: int) -> InequalityReport:
    """Every GPU by itself, `samples` steps with what the scenario says makes them unequal; where it says nothing,
    their speeds spread as published runs say."""
    scenario = done.scenario
    programs = Programs(done.step.slots, scenario.plan)
    node_gpus, spread = scenario.cluster.node.gpus, scenario.spread
    if spread is None:
        spread = Spread(gpu_sigma=done.step.slots.constants.rank_noise)
    return study_plan(done.step.timeline, done.step.schedule, programs, node_gpus, spread, range(samples))


@dataclass(frozen=True, slots=True)
class ContentionReport:
    """The step when transfers beside computation take `communication_sms` of its SMs and share their GPU's port, and by
    which fraction it is longer; the calibrated step holds such effects in its rates already."""

    step_time_s: float
    slowdown_fraction: float
    communication_sms: int


def contention(done: Simulated) -> ContentionReport:
    """Plays the step again with pipeline and data-parallel transfers that slow down what runs beside them."""
    timeline, sm_count = done.step.timeline, done.scenario.cluster.accelerator.sm_count
    slowed = play(timeline.graph, beside_communication(timeline.graph, sm_count, TRANSFER_SMS))
    return ContentionReport(slowed.step_time_s, slowed.step_time_s / timeline.step_time_s - 1, TRANSFER_SMS)
