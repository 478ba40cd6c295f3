"""Rules on the pipeline: schedule and chunks, micro-batches in flight, layers by stage, layout strings."""

from __future__ import annotations

from simulator.plans.case import Check, Fault, PlanCase, divisors, near
from simulator.plans.layout import even_layout, parse_layout, stage_count
from simulator.schedules import SCHEDULES, default_schedule
from simulator.stack import newest

_ONE_CHUNK = default_schedule(pp=2, vpp=1)
_MORE_CHUNKS = default_schedule(pp=2, vpp=2)


def pipeline_has_schedule(case: PlanCase) -> Fault | None:
    plan = case.plan
    record = SCHEDULES[plan.schedule]
    if record.needs_one_rank and plan.pp > 1:
        remedy = f"{_ONE_CHUNK}, or {_MORE_CHUNKS} with vpp above 1"
        return Fault("plan.schedule", plan.schedule, f"pp = {plan.pp} needs a schedule", remedy)
    if record.needs_pipeline and plan.pp == 1:
        remedy = f"schedule {default_schedule(pp=1, vpp=1)}"
        return Fault("plan.schedule", plan.schedule, "there is no pipeline: pp = 1", remedy)
    return None


def chunks_match_schedule(case: PlanCase) -> Fault | None:
    plan = case.plan
    record = SCHEDULES[plan.schedule]
    chunks = record.placement.chunks
    if chunks is not None:
        if plan.vpp > chunks:
            why = f"{plan.schedule} always holds two chunks per rank"
            return Fault("plan.vpp", plan.vpp, why, f"vpp {chunks}, or leave it out")
    elif record.interleaves:
        if plan.vpp == 1:
            why = f"{plan.schedule} needs at least two chunks per rank"
            return Fault("plan.vpp", 1, why, f"vpp 2, or schedule {_ONE_CHUNK}")
    elif plan.vpp > 1:
        why = f"schedule {plan.schedule} has one chunk per rank"
        return Fault("plan.vpp", plan.vpp, why, f"vpp 1, or schedule {_MORE_CHUNKS}")
    return None


def mirrored_pipeline_is_even(case: PlanCase) -> Fault | None:
    """Micro-batches enter dualpipe at both ends, in equal numbers, by ranks that mirror each other."""
    plan = case.plan
    if not SCHEDULES[plan.schedule].needs_even_counts:
        return None
    if plan.pp % 2:
        why = f"{plan.schedule} needs an even number of ranks"
        return Fault("plan.pp", plan.pp, why, f"pp {plan.pp - 1} or {plan.pp + 1}")
    if plan.microbatches % 2:
        why = f"gives {plan.microbatches} micro-batches, {plan.schedule} needs an even number"
        return Fault(
            "plan.global_batch_size", plan.global_batch_size, why, "an even number of micro-batches per replica"
        )
    return None


def mirrored_pipeline_is_fed(case: PlanCase) -> Fault | None:
    plan = case.plan
    times = SCHEDULES[plan.schedule].least_microbatches_per_rank
    least = times * plan.pp
    if plan.microbatches >= least:
        return None
    share = plan.micro_batch_size * plan.dp
    why = f"gives {plan.microbatches} micro-batches, {plan.schedule} needs at least {times} x pp = {least}"
    return Fault("plan.global_batch_size", plan.global_batch_size, why, f"{least * share} or more")


def group_size_in_range(case: PlanCase) -> Fault | None:
    """Interleaved 1F1B: pp <= group <= micro-batches."""
    plan = case.plan
    if not SCHEDULES[plan.schedule].interleaves or plan.vpp == 1:
        return None
    group = plan.microbatch_group_size or plan.pp
    if plan.pp <= group <= plan.microbatches:
        return None
    why = f"groups of {group} micro-batches must lie between pp = {plan.pp} and the {plan.microbatches} of a step"
    if plan.microbatches < plan.pp:
        share = plan.micro_batch_size * plan.dp
        return Fault(
            "plan.global_batch_size", plan.global_batch_size, why, f"{plan.pp * share} or more, or a smaller pp"
        )
    return Fault("plan.microbatch_group_size", group, why, f"{plan.pp} to {plan.microbatches}")


def last_group_is_full_enough(case: PlanCase) -> Fault | None:
    plan = case.plan
    group = plan.microbatch_group_size or plan.pp
    if not SCHEDULES[plan.schedule].interleaves or plan.vpp == 1 or not plan.pp <= group <= plan.microbatches:
        return None
    rest = plan.microbatches % group
    if rest == 0 or rest >= plan.pp:
        return None
    fits = [
        g
        for g in range(plan.pp, plan.microbatches + 1)
        if plan.microbatches % g == 0 or plan.microbatches % g >= plan.pp
    ]
    why = f"{plan.microbatches} micro-batches leave a last group of {rest}, fewer than pp = {plan.pp}"
    return Fault("plan.microbatch_group_size", group, why, near(group, fits))


def layers_fit_ranks(case: PlanCase) -> Fault | None:
    """Without any other word on the split, every virtual stage holds equally many layers."""
    plan = case.plan
    pinned = plan.first_stage_layers is not None or plan.last_stage_layers is not None
    if plan.layout is not None or pinned:
        return None
    counted = case.facts.layers + plan.account_for_embedding + plan.account_for_loss
    stages = plan.pp * plan.vpp
    if counted % stages == 0:
        return None
    what = f"{counted} layers" + (" with embedding and loss counted" if counted > case.facts.layers else "")
    remedy = f"pp x vpp of {near(stages, divisors(counted))}, first/last_stage_layers, or a layout"
    return Fault("plan.pp", plan.pp, f"{what} do not divide into pp x vpp = {stages} stages", remedy)


def split_is_said_once(case: PlanCase) -> Fault | None:
    plan = case.plan
    pinned = plan.first_stage_layers is not None or plan.last_stage_layers is not None
    counted = plan.account_for_embedding or plan.account_for_loss
    if plan.layout is not None and (pinned or counted):
        return Fault(
            "plan.layout", plan.layout, "says the split already", "drop first/last_stage_layers and account_for_*"
        )
    if pinned and counted:
        name = "first_stage_layers" if plan.first_stage_layers is not None else "last_stage_layers"
        return Fault(
            f"plan.{name}", getattr(plan, name), "excludes account_for_embedding and _loss", "one of the two ways"
        )
    return None


def pinned_ends_leave_even_middle(case: PlanCase) -> Fault | None:
    plan = case.plan
    first, last = plan.first_stage_layers, plan.last_stage_layers
    if plan.layout is not None or (first is None and last is None):
        return None
    name = "first_stage_layers" if first is not None else "last_stage_layers"
    ranks = plan.pp - (first is not None) - (last is not None)
    layers = case.facts.layers - (first or 0) - (last or 0)
    if ranks < 0 or layers < 0 or bool(ranks) != bool(layers) or (ranks and layers % ranks):
        left = f"{layers} layers" if layers >= 0 else f"{-layers} layers too few"
        why = f"leaves {left} for {ranks} middle ranks"
        return Fault(f"plan.{name}", getattr(plan, name), why, "values that leave an equal share for each middle rank")
    shares = [share for share in (first, last, layers // ranks if ranks else None) if share is not None]
    chunks = stage_count(plan) // plan.pp
    if any(share % chunks for share in shares):
        why = f"the ranks' shares {shares} do not divide into {chunks} chunks"
        return Fault(f"plan.{name}", getattr(plan, name), why, f"multiples of {chunks}")
    return None


def layout_is_whole(case: PlanCase) -> Fault | None:
    """The string parses, has one segment per virtual stage, and places everything exactly once in model order."""
    plan, facts = case.plan, case.facts
    if plan.layout is None:
        return None
    remedy = f"auto, or {even_layout(facts.layers, facts.mtp, stage_count(plan))}"
    try:
        stages = parse_layout(plan.layout)
    except ValueError as problem:
        return Fault("plan.layout", plan.layout, str(problem), remedy)
    line = "".join(stages)
    problems = [
        (len(stages) != stage_count(plan), f"has {len(stages)} stages, the plan {stage_count(plan)} (pp x chunks)"),
        (line.count("E") != 1 or not stages[0].startswith("E"), "must begin with its only E (embedding)"),
        (line.count("L") != 1 or not stages[-1].endswith("L"), "must end with its only L (loss)"),
        (line.count("t") != facts.layers, f"places {line.count('t')} layers, the model has {facts.layers}"),
        (line.count("m") != facts.mtp, f"places {line.count('m')} MTP modules, the model has {facts.mtp}"),
        ("t" in line.partition("m")[2], "places a decoder layer after an MTP module"),
        (sum("m" in stage for stage in stages) > 1, "spreads the MTP modules over several stages"),
    ]
    found = [text for wrong, text in problems if wrong]
    return Fault("plan.layout", plan.layout, "; ".join(found), remedy) if found else None


def layout_keeps_mtp_in_last_chunk(case: PlanCase) -> Fault | None:
    plan = case.plan
    if plan.layout is None or plan.layout.count("m") == 0:
        return None
    try:
        stages = parse_layout(plan.layout)
    except ValueError:
        return None
    if any("m" in stage for stage in stages[: len(stages) - plan.pp]):
        return Fault(
            "plan.layout",
            plan.layout,
            "MTP stands before the last chunk of its rank",
            f"m in the last {plan.pp} stages",
        )
    return None


def megatron_schedules(case: PlanCase) -> Fault | None:
    if SCHEDULES[case.plan.schedule].in_megatron_core:
        return None
    why = f"Megatron-Core plays only {_ONE_CHUNK} and {_MORE_CHUNKS}"
    return Fault("plan.schedule", case.plan.schedule, why, f"one of those, or plan.stack {newest('deepseek').name}")


def interleaving_without_overlap_needs_three_ranks(case: PlanCase) -> Fault | None:
    plan = case.plan
    if not SCHEDULES[plan.schedule].interleaves or plan.vpp == 1 or plan.overlap.p2p or plan.pp != 2:
        return None
    why = "two ranks would exchange several messages at once when transfers are not overlapped"
    return Fault("plan.overlap.p2p", False, why, "overlap.p2p true, or pp above 2")


UNIVERSAL: dict[str, Check] = {
    "pipeline_has_schedule": pipeline_has_schedule,
    "chunks_match_schedule": chunks_match_schedule,
    "mirrored_pipeline_is_even": mirrored_pipeline_is_even,
    "mirrored_pipeline_is_fed": mirrored_pipeline_is_fed,
    "group_size_in_range": group_size_in_range,
    "last_group_is_full_enough": last_group_is_full_enough,
    "split_is_said_once": split_is_said_once,
    "pinned_ends_leave_even_middle": pinned_ends_leave_even_middle,
    "layout_is_whole": layout_is_whole,
}
MEGATRON: dict[str, Check] = {
    "megatron_schedules": megatron_schedules,
    "interleaving_without_overlap_needs_three_ranks": interleaving_without_overlap_needs_three_ranks,
    "layers_fit_ranks": layers_fit_ranks,
    "layout_keeps_mtp_in_last_chunk": layout_keeps_mtp_in_last_chunk,
}
