"""How long training pauses for one evaluation: as the scenario says, or a forward pass through the plan's pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from simulator.cost.step_times import SlotTimes, slot_times, update_times
from simulator.plans.choices import SHARDINGS
from simulator.plans.layout import routes, stages_of_ranks
from simulator.plans.spec import Plan
from simulator.predict.step import Step
from simulator.run.evaluation import Evaluation
from simulator.scenario.spec import Scenario
from simulator.workload.derive import Workload


def evaluation_pause_s(scenario: Scenario, workload: Workload, step: Step) -> float:
    """Seconds of one pause; 0 where the run has no evaluation."""
    policies = scenario.run.policies
    evaluation = None if policies is None else policies.evaluation
    if evaluation is None:
        return 0.0
    if evaluation.pause_s is not None:
        return evaluation.pause_s
    microbatches = evaluation_microbatches(evaluation, scenario, step)
    slots = slot_times(workload, scenario.cluster, step.slots.constants) if scenario.distillation else step.slots
    forward_s = stage_forward_s(scenario, workload, slots)
    alone_s = forward_pass_s(scenario.plan, forward_s, slots.send_s, microbatches)
    return alone_s * step.alone_s / step.timeline.step_time_s  # stragglers and the site slow it as they do the step


def mean_pause_s(scenario: Scenario, pause_s: float) -> float:
    """Seconds of evaluation for each step, in the mean."""
    policies = scenario.run.policies
    if policies is None or policies.evaluation is None:
        return 0.0
    return pause_s / policies.evaluation.every_steps


def evaluation_microbatches(evaluation: Evaluation, scenario: Scenario, step: Step) -> int:
    """Micro-batches of every replica, the last of them filled up."""
    plan, clusters = scenario.plan, step.around.clusters
    tokens_at_once = scenario.run.seq_length * plan.micro_batch_size * plan.dp * clusters
    return max(1, ceil((evaluation.tokens or 0.0) / tokens_at_once))


def stage_forward_s(scenario: Scenario, workload: Workload, slots: SlotTimes) -> list[float]:
    """Seconds of each virtual stage's forward; sharded weights are gathered beside it, or before it without overlap."""
    plan = scenario.plan
    forward_s = [float(stage.forward.total_s) for stage in slots.stages]
    if not SHARDINGS[plan.sharding].shards_weights:
        return forward_s
    gathers = update_times(workload, scenario.cluster, slots.constants).gather_s
    if plan.overlap.param_gather:
        return [max(ahead_s, sum(row)) for ahead_s, row in zip(forward_s, gathers, strict=True)]
    return [ahead_s + sum(row) for ahead_s, row in zip(forward_s, gathers, strict=True)]


def forward_pass_s(plan: Plan, forward_s: Sequence[float], send_s: float, microbatches: int) -> float:
    """Seconds of `microbatches` forwards through the pipeline, nothing going back.

    The first micro-batch visits every stage; each further one holds the fullest rank up: with one stage a rank the
    makespan of a flow shop of equal jobs, sum of t + (n - 1) max t, sends within. Mirrored pipelines share the
    micro-batches between their routes.
    """
    paths = routes(plan)
    each = ceil(microbatches / len(paths))
    hops = sum(first != second for first, second in zip(paths[0], paths[0][1:], strict=False))
    fill_s = sum(forward_s) + hops * send_s
    busiest_s = max(sum(forward_s[stage] for stage in held) for held in stages_of_ranks(plan))
    return fill_s + (each - 1) * (busiest_s + (send_s if hops else 0.0))
