"""How a teacher lies in its student's plan, and what keeps it from that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hardware.precisions import PRECISIONS
from hardware.specs import Cluster
from simulator.model.spec import Model
from simulator.plans.choices import SHARDINGS
from simulator.plans.rules import check
from simulator.plans.spec import LossChunks, Offload, Plan, Recompute
from simulator.scenario.auto_layout import asks_for_layout, provisional
from simulator.scenario.distillation_section import Distillation


def teacher_plan(teacher: Model, plan: Plan) -> Plan:
    """The plan of the teacher's forward: the student's degrees and precision, nothing kept for a backward.

    Layers that do not divide are spread evenly.
    """
    bare = replace(
        plan,
        layout=None,
        first_stage_layers=None,
        last_stage_layers=None,
        recompute=Recompute(),
        offload=Offload(),
        loss=LossChunks(),
        adapters=None,
    )
    return provisional(teacher, bare) if asks_for_layout(teacher, bare) else bare


def unfit_distillation(
    distillation: Distillation, student: Model, cluster: Cluster, plan: Plan, seq_length: int
) -> Iterator[tuple[str, str]]:
    """What keeps the teacher from running beside the student, as (key, message)."""
    teacher = distillation.teacher
    if teacher.vocab != student.vocab:
        sizes = f"has {teacher.vocab:,} tokens, the student {student.vocab:,}"
        yield "distillation.teacher", f"{teacher.name}: its vocabulary {sizes}; logits are compared token by token"
    if distillation.top_logits is not None and distillation.top_logits > teacher.vocab:
        yield "distillation.top_logits", f"is {distillation.top_logits:,} of {teacher.vocab:,}. Write fewer"
    if SHARDINGS[plan.sharding].shards_weights:
        yield "plan.sharding", "full gathers the student's layers alone; beside a teacher write optimizer"
    if plan.is_paired:
        yield "plan.overlap.moe_ep", "pairs forwards with backwards, which a teacher has none of. Write false"
    if PRECISIONS[plan.precision].lacks(cluster.accelerator.peak_flops_per_s):
        return
    for broken in check(teacher, teacher_plan(teacher, plan), gpus=cluster.gpus, seq_length=seq_length):
        yield broken.key, f"of the teacher {teacher.name}: {broken.message}"
