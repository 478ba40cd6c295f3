"""What would make a plan fit that does not: changes of one thing each, tried out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from hardware.precisions import PRECISIONS
from simulator.memory import memory_report
from simulator.plans.allocation import allocated
from simulator.plans.case import model_facts
from simulator.plans.layout import schedule_name
from simulator.plans.rules import is_legal
from simulator.plans.spec import Plan, Recompute
from simulator.predict.simulate import scenario_workload
from simulator.scenario.spec import Scenario
from simulator.schedules import make_schedule

MOST_DOUBLINGS = 6


def remedies(scenario: Scenario, plan: Plan, headroom_fraction: float) -> tuple[str, ...]:
    """Changes after which the plan fits, in words."""
    facts, run = model_facts(scenario.model), scenario.run

    def helps(changed: Scenario) -> bool:
        legal = is_legal(facts, changed.plan, gpus=changed.cluster.gpus, seq_length=run.seq_length)
        return legal and _fits(changed, headroom_fraction)

    found = [words for words, changed in changes(scenario, plan) if helps(changed)]
    found += [words for words, changed in larger(scenario, plan) if helps(changed)][:1]
    if not found:
        found.append("nothing tried was enough: take GPUs with more memory, more of them, or a smaller model")
    return tuple(found)


def changes(scenario: Scenario, plan: Plan) -> Iterator[tuple[str, Scenario]]:
    """One change of the plan at a time, with the scenario that it makes."""

    def with_plan(changed: Plan) -> Scenario:
        return replace(scenario, plan=changed)

    low = replace(plan.optimizer, moments="bf16")
    yield "plan.optimizer.moments bf16", with_plan(replace(plan, optimizer=low))
    yield "plan.sharding full", with_plan(replace(plan, sharding="full"))
    yield "plan.recompute.granularity full", with_plan(replace(plan, recompute=Recompute(granularity="full")))
    away = replace(plan.offload, optimizer_fraction=1.0)
    yield "plan.offload.optimizer 100%", with_plan(replace(plan, offload=away))
    for name in ("fp8-blockwise", "fp8-tensorwise"):
        if not PRECISIONS[name].lacks(scenario.cluster.accelerator.peak_flops_per_s):
            low_plan = replace(plan, precision=name, fp8_param_gather=True)
            yield f"plan.precision {name} with fp8_param_gather", with_plan(low_plan)
            break


def larger(scenario: Scenario, plan: Plan) -> Iterator[tuple[str, Scenario]]:
    """Clusters of 2, 4, 8 ... times the GPUs: more replicas, wider expert parallelism, or both tp and replicas."""
    for doubling in range(1, MOST_DOUBLINGS + 1):
        times = 1 << doubling
        cluster = replace(scenario.cluster, gpus=scenario.cluster.gpus * times)
        for words, wider in (
            ("", replace(plan, dp=plan.dp * times)),
            (f" with plan.ep {plan.ep * times}", replace(plan, dp=plan.dp * times, ep=plan.ep * times)),
            (f" with plan.tp {plan.tp * times}", replace(plan, tp=plan.tp * times, sequence_parallel=True)),
        ):
            batch = wider.global_batch_size
            if batch % (wider.micro_batch_size * wider.dp):
                wider = replace(wider, global_batch_size=batch * times)
                words += f" and plan.global_batch_size {batch * times}"
            yield f"cluster.gpus {cluster.gpus}{words}", replace(scenario, cluster=cluster, plan=wider)


def _fits(scenario: Scenario, headroom_fraction: float) -> bool:
    """Whether a scenario's plan leaves enough of the GPU's memory free."""
    plan = scenario.plan
    scenario = replace(scenario, cluster=allocated(plan, scenario.cluster))
    schedule = make_schedule(schedule_name(plan), plan.pp, plan.vpp, plan.microbatches, plan.microbatch_group_size)
    ranks = memory_report(scenario_workload(scenario), schedule.ranks)
    capacity = scenario.cluster.accelerator.memory_capacity_bytes
    return max(rank.device_bytes for rank in ranks) <= (1 - headroom_fraction) * capacity
