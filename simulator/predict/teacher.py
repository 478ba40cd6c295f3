"""A teacher beside its student: its forward in every forward of the step, its weights and logits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hardware.specs import Cluster
from simulator.cost.constants import Constants
from simulator.cost.stages import StageCost
from simulator.cost.step_times import SlotTimes, slot_times
from simulator.memory import RankMemory
from simulator.memory.activations import layer_kept
from simulator.memory.peak import ScheduleSlot, most_in_flight
from simulator.memory.states import layer_bytes
from simulator.plans.layout import stages_of_ranks
from simulator.scenario.distillation_section import Distillation
from simulator.scenario.spec import Scenario
from simulator.scenario.teacher_plan import teacher_plan
from simulator.workload.derive import Workload, workload_of
from simulator.workload.shape import padded_vocab

LOGIT_BYTES = 2  # bf16, as the head's product leaves them
INDEX_BYTES = 4  # of a kept logit's token


def teacher_workload(scenario: Scenario) -> Workload | None:
    """What the teacher does in the student's plan; None without a teacher."""
    if scenario.distillation is None:
        return None
    teacher = scenario.distillation.teacher
    return workload_of(teacher, teacher_plan(teacher, scenario.plan), scenario.run.seq_length)


def with_teacher(slots: SlotTimes, teacher: Workload, cluster: Cluster, constants: Constants) -> SlotTimes:
    """Slots whose forwards run the teacher's first, and whose sends carry its activations too.

    Its own loss stands for the softmax of its logits, which the student's loss reads in place of labels.
    """
    beside = slot_times(teacher, cluster, constants)
    stages = tuple(_joined(own, more) for own, more in zip(slots.stages, beside.stages, strict=True))
    return replace(slots, stages=stages, send_s=slots.send_s + beside.send_s)


def _joined(student: StageCost, teacher: StageCost) -> StageCost:
    """A stage with the teacher's forward; of its evidence only the forward's share counts."""
    whole_s = teacher.forward.total_s + teacher.input.total_s + teacher.weight.total_s
    share = teacher.forward.total_s / whole_s
    known = dict(student.evidence_s)
    for kind, seconds in teacher.evidence_s.items():
        known[kind] = known.get(kind, 0.0) + share * seconds
    return replace(student, forward=student.forward + teacher.forward, evidence_s=known)


def with_teacher_memory(
    memory: Sequence[RankMemory],
    ranks: Sequence[Sequence[ScheduleSlot]],
    teacher: Workload,
    distillation: Distillation,
) -> tuple[RankMemory, ...]:
    """Memory with the teacher's weights, one layer of its forward, and its logits until the student's loss."""
    held = stages_of_ranks(teacher.plan)
    return tuple(
        replace(rank, owners={**rank.owners, **_owners(teacher, distillation, stages, slots)})
        for rank, stages, slots in zip(memory, held, ranks, strict=True)
    )


def _owners(
    teacher: Workload, distillation: Distillation, stages: Sequence[int], slots: Sequence[ScheduleSlot]
) -> dict[str, float]:
    """Bytes of the teacher on one rank by owner; nothing of a forward outlives its layer but the logits."""
    parameters = [teacher.parameters[stage] for stage in dict.fromkeys(stages)]
    weights = sum(sum(layer_bytes(stage, teacher.plan)) for stage in parameters)
    layers = {teacher.model.layers[index] for stage in stages for index in teacher.stages[stage].layers}
    halves = [teacher.halves(layer) for layer in layers]
    running = [layer_kept(mixer + ffn, teacher.plan, False) for mixer, ffn in halves]
    in_flight = [most_in_flight(slots, chunk) for chunk, stage in enumerate(stages) if teacher.stages[stage].head]
    return {
        "teacher weights": float(weights),
        "forward of the teacher": max((float(kept.until_backward) for kept in running), default=0.0),
        "soft labels": sum(in_flight) * logits_bytes(teacher, distillation),
    }


def logits_bytes(teacher: Workload, distillation: Distillation) -> float:
    """Logits of one micro-batch on one rank of the last stage: of the rank's part of the vocabulary, or the largest of
    every token with their places."""
    tokens = float(teacher.shape.tokens)
    if distillation.top_logits is not None:
        return tokens * distillation.top_logits * (LOGIT_BYTES + INDEX_BYTES)
    return tokens * float(padded_vocab(teacher.model.vocab, teacher.plan)) / teacher.plan.tp * LOGIT_BYTES
