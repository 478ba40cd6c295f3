"""From a simulated step to the whole run: work, machines, checkpoint size, paths and power of the scenario's job."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd

from hardware.units import format_rate
from simulator.model.parameters import model_parameters
from simulator.predict.degraded import ReplicaSpeeds, speed_with_links
from simulator.predict.simulate import Simulated, step_time_s
from simulator.run.checkpoints import HOST_COPIES
from simulator.run.job_facts import JobFacts, run_spec, segments
from simulator.run.read import RunPolicies
from simulator.run.specs import Power, RunSpec
from simulator.scenario.schema import Scenario
from simulator.workload.states import adapter_parameters, optimizer_bytes, parameter_bytes

# Storage beside a cluster that names none: NVIDIA's H100 reference architecture, best tier, per 256 GPUs.
STORAGE_WRITE_BYTES_PER_S = 62e9 / 256
STORAGE_READ_BYTES_PER_S = 125e9 / 256


# (global_batch_size, seq_length) -> seconds of a step
StepTime = Callable[[int, int], float]


def whole_run_spec(done: Simulated) -> RunSpec | None:
    """The run of a simulated step to its last token; None where the scenario has no policies."""
    scenario, step = done.scenario, done.step
    policies = scenario.run.policies
    if policies is None:
        return None
    compute_fraction = step.breakdown()["compute"] / step.step_time_s
    return run_spec(policies, job_facts(scenario, policies, partial(step_time_s, scenario, step), compute_fraction))


def job_facts(scenario: Scenario, policies: RunPolicies, step_time_s: StepTime, compute_fraction: float) -> JobFacts:
    """Facts of the run; the GPUs compute `compute_fraction` of a step. Each phase's step is simulated once."""
    cluster, plan, node, run = scenario.cluster, scenario.plan, scenario.cluster.node, scenario.run
    has_experts = plan.ep > 1
    # A shrinking job drops whole copies of the model: with experts, replicas that hold whole sets of them.
    copies = gcd(plan.expert_dp, plan.dp) if has_experts else plan.dp
    replicas = gcd(copies, cluster.nodes)
    whole_step_s = step_time_s(plan.global_batch_size, run.seq_length)
    reach = [tier.reach_gpus for tier in cluster.fabric.tiers]
    return JobFacts(
        segments=segments(policies.phases, run.tokens, plan.global_batch_size, run.seq_length, step_time_s),
        job_nodes=cluster.nodes,
        gpus_per_node=node.gpus,
        replicas=replicas,
        replica_speed=ReplicaSpeeds(scenario, whole_step_s, replicas),
        slow_speed=slow_speeds(scenario, policies, whole_step_s),
        dp=plan.dp,
        state_bytes=state_bytes(scenario),
        storage_write_bytes_per_s=cluster.storage_write_bytes_per_s or STORAGE_WRITE_BYTES_PER_S * cluster.gpus,
        storage_read_bytes_per_s=cluster.storage_read_bytes_per_s or STORAGE_READ_BYTES_PER_S * cluster.gpus,
        host_bytes_per_s=cluster.accelerator.host_bandwidth_bytes_per_s,
        nic_bytes_per_s=node.nic.bandwidth_bytes_per_s,
        power=power(scenario, compute_fraction),
        nodes_per_rack=max(1, node.scale_up.domain_gpus // node.gpus),
        nodes_per_pod=max(1, min(reach[0] if reach else cluster.gpus, cluster.gpus) // node.gpus),
        price_usd_per_gpu_hour=cluster.accelerator.price_usd_per_hour,
        assumptions=assumptions(scenario),
    )


def slow_speeds(scenario: Scenario, policies: RunPolicies, whole_step_s: float) -> dict[str, float]:
    """Speed under each class of faults that leaves a node's links a share of their bandwidth; each share once."""
    shares = {c.name: c.link_fraction for c in policies.failures.classes if c.link_fraction is not None}
    speed = {share: speed_with_links(scenario, whole_step_s, share) for share in sorted(set(shares.values()))}
    return {name: speed[share] for name, share in shares.items()}


def assumptions(scenario: Scenario) -> tuple[str, ...]:
    """Inputs that the scenario leaves open."""
    cluster = scenario.cluster
    if cluster.storage_write_bytes_per_s and cluster.storage_read_bytes_per_s:
        return ()
    write, read = STORAGE_WRITE_BYTES_PER_S * cluster.gpus, STORAGE_READ_BYTES_PER_S * cluster.gpus
    return (
        f"cluster.storage_write and storage_read are not given; {format_rate(write)} and {format_rate(read)} assumed, "
        "NVIDIA's best reference tier for this many GPUs",
    )


def state_bytes(scenario: Scenario) -> float:
    """A whole checkpoint: weights, master copy and moments of every trained parameter, multi-token prediction included.

    Of a model with adapters, theirs alone.
    """
    counted = model_parameters(scenario.model)
    count = counted.main.total + sum(module.total for module in counted.mtp)
    if scenario.plan.adapters is not None:
        count = adapter_parameters(scenario.model, scenario.plan)
    return count * (parameter_bytes(scenario.plan) + optimizer_bytes(scenario.plan.optimizer))


def host_copy_bytes(scenario: Scenario) -> float:
    """Bytes of checkpoints that wait in host memory behind each GPU."""
    policies = scenario.run.policies
    if policies is None:
        return 0.0
    return HOST_COPIES[policies.checkpoint.policy] * state_bytes(scenario) / scenario.cluster.gpus


def power(scenario: Scenario, compute_fraction: float) -> Power:
    """Watts per GPU with its share of server and fabric; a GPU draws its TDP while it computes, idle power else."""
    cluster, part = scenario.cluster, scenario.cluster.accelerator
    share_w = cluster.node.overhead_power_w / cluster.node.gpus + cluster.fabric.power_w_per_endpoint
    busy_w = part.idle_w + compute_fraction * (part.tdp_w - part.idle_w)
    return Power(busy_w + share_w, part.idle_w + share_w, cluster.pue)
