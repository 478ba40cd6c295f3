"""From a simulated step to the whole run: work, machines, checkpoint size, paths and power of the scenario's job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd

from hardware.wiring import injection_bytes_per_s
from simulator.executor import usable_cores
from simulator.plans.allocation import unused_gpus
from simulator.predict.degraded import ReplicaSpeeds, speed_with_links, speed_without
from simulator.predict.evidence import step_interval_s
from simulator.predict.outer_reports import parameter_count
from simulator.predict.power import job_power
from simulator.predict.simulate import Simulated
from simulator.predict.storage import storage_of
from simulator.run.auto_spares import with_best_spares
from simulator.run.checkpoints import HOST_COPIES
from simulator.run.job_facts import JobFacts, run_spec
from simulator.run.read import RunPolicies
from simulator.run.specs import RunSpec, Segment
from simulator.run.uncertainty import step_uncertainty
from simulator.scenario.spec import Scenario
from simulator.workload.states import adapter_parameters, model_width, optimizer_bytes

NODES_PLAYED = 10_000_000  # over all runs: some 15 s
FEWEST_RUNS = 10


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the run, the step that it takes, and what its plan says of the job."""

    segment: Segment
    done: Simulated

    @property
    def state_bytes(self) -> float:
        return state_bytes(self.done.scenario)

    @property
    def copies(self) -> int:
        """Whole copies of the model, which a shrinking job can drop: with experts, sets of replicas that hold all."""
        plan = self.done.scenario.plan
        return gcd(plan.expert_dp, plan.dp) if plan.ep > 1 else plan.dp


def whole_run_spec(done: Simulated, interval_s: tuple[float, float] | None = None) -> RunSpec | None:
    """The run of a simulated step to its last token; None where the scenario has no policies.

    Spares that the scenario leaves open are as many as make it take the fewest GPU-hours. `interval_s`: the 80 %
    interval of the step (None: found here).
    """
    spec = run_spec_before_spares(done, interval_s)
    policies = done.scenario.run.policies
    if spec is None or policies is None or not policies.auto_spares:
        return spec
    return with_best_spares(spec)


def run_spec_before_spares(done: Simulated, interval_s: tuple[float, float] | None = None) -> RunSpec | None:
    """The same run before spares that the scenario leaves open are settled: with as many as Erlang's formula gives."""
    policies = done.scenario.run.policies
    if policies is None:
        return None
    spec = on_usable_cores(affordable(run_spec(policies, job_facts(done, policies))))
    interval_s = interval_s or step_interval_s(done)
    uncertainty = step_uncertainty(done.step.step_time_s, interval_s, spec.failures.rate_sigma)
    return replace(spec, uncertainty=uncertainty)


def affordable(spec: RunSpec) -> RunSpec:
    """The run played as often as its nodes allow: of very large jobs chance averages out within few runs."""
    nodes, simulation = spec.machines.nodes, spec.simulation
    most = max(FEWEST_RUNS, NODES_PLAYED // nodes)
    if simulation.runs <= most:
        return spec
    told = f"{most} runs are played, not {simulation.runs:,}: each has {nodes:,} nodes"
    return replace(spec, simulation=replace(simulation, runs=most), assumptions=(*spec.assumptions, told))


def on_usable_cores(spec: RunSpec) -> RunSpec:
    """The run shared by no more processes than there are cores to run them."""
    workers, cores = spec.simulation.workers, usable_cores()
    if workers <= cores:
        return spec
    told = f"run.simulation.workers: {workers} are more than the {cores} usable cores, so {cores} run. Write {cores}"
    return replace(
        spec, simulation=replace(spec.simulation, workers=cores), assumptions=(*spec.assumptions, f"{told} or less")
    )


def stretches(done: Simulated) -> tuple[Stretch, ...]:
    """The run's phases in their order, or all of it in one."""
    if not done.phases:
        return (stretch("main", done.scenario.run.tokens, done),)
    return tuple(stretch(each.phase.name, each.phase.tokens, each.done) for each in done.phases)


def stretch(name: str, tokens: float, done: Simulated) -> Stretch:
    policies = done.scenario.run.policies
    evaluation = None if policies is None else policies.evaluation
    segment = Segment(
        name=name,
        tokens=tokens,
        tokens_per_step=tokens_per_step(done),
        step_time_s=done.step.step_time_s,
        evaluation_every_steps=evaluation.every_steps if evaluation else None,
        evaluation_pause_s=done.evaluation_pause_s,
    )
    return Stretch(segment, done)


def tokens_per_step(done: Simulated) -> int:
    """Tokens of one step, of all clusters that take it at the same time."""
    scenario = done.scenario
    return scenario.plan.global_batch_size * scenario.run.seq_length * done.step.around.clusters


def job_facts(done: Simulated, policies: RunPolicies) -> JobFacts:
    """Facts of the run. What differs between phases is the mean over the work, which is exact for what saves cost: they
    are taken at even distances of work. Degraded speeds are those of the phase with most work."""
    parts = stretches(done)
    longest = max(parts, key=lambda part: part.segment.work_s).done
    scenario, cluster, clusters = longest.scenario, longest.scenario.cluster, longest.step.around.clusters
    node, reach = cluster.node, [tier.reach_gpus for tier in cluster.fabric.tiers]
    replicas = gcd(*(part.copies for part in parts), cluster.nodes)
    step_s = longest.step.step_time_s
    storage = storage_of(cluster)
    return JobFacts(
        segments=tuple(part.segment for part in parts),
        job_nodes=cluster.nodes * clusters,
        # A job on part of a server holds, pays for and powers that part.
        gpus_per_node=min(node.gpus, cluster.gpus),
        replicas=replicas,
        replica_speed=ReplicaSpeeds(scenario, step_s, replicas),
        slow_speed=slow_speeds(scenario, policies, step_s),
        dp=scenario.plan.dp,
        state_bytes=mean_over_work(parts, [part.state_bytes for part in parts]) * clusters,
        storage_write_bytes_per_s=storage.write_bytes_per_s * clusters,
        storage_read_bytes_per_s=storage.read_bytes_per_s * clusters,
        host_bytes_per_s=cluster.accelerator.host_bandwidth_bytes_per_s,
        nic_bytes_per_s=injection_bytes_per_s(node, cluster.fabric),
        power=job_power(scenario, mean_breakdown(parts)),
        nodes_per_rack=max(1, node.scale_up.domain_gpus // node.gpus),
        nodes_per_pod=max(1, min(reach[0] if reach else cluster.gpus, cluster.gpus) // node.gpus),
        price_usd_per_gpu_hour=cluster.accelerator.price_usd_per_hour,
        unused_gpus=unused_gpus(cluster) * clusters,
        assumptions=outer_assumptions(scenario),
    )


def mean_over_work(parts: tuple[Stretch, ...], values: list[float]) -> float:
    """The mean of a value of each stretch, weighted by its seconds of work."""
    if len(set(values)) == 1:
        return values[0]
    weighed = sum(part.segment.work_s * value for part, value in zip(parts, values, strict=True))
    return weighed / sum(part.segment.work_s for part in parts)


def mean_breakdown(parts: tuple[Stretch, ...]) -> dict[str, float]:
    """Shares of the work's time by cause, over all stretches."""
    spent: dict[str, float] = {}
    for part in parts:
        for cause, seconds in part.done.step.breakdown().items():
            spent[cause] = spent.get(cause, 0.0) + seconds * part.segment.steps
    return spent


def outer_assumptions(scenario: Scenario) -> tuple[str, ...]:
    """What the run simulation does not tell apart of replicas that do not keep step."""
    found = []
    if scenario.around.local_sgd is not None:
        found.append("a fault in one cluster of local_sgd is taken to stop all: they wait at the next exchange")
    if scenario.around.parameter_server is not None:
        found.append("a fault is taken to stop all workers; the servers' own machines are in no cost or energy")
    return tuple(found)


def slow_speeds(scenario: Scenario, policies: RunPolicies, whole_step_s: float) -> dict[str, float]:
    """Speed under each class of faults that takes bandwidth from the network: a share of a node's links, each share
    once, or a part that the job goes on without."""
    shares = {c.name: c.link_fraction for c in policies.failures.classes if c.link_fraction is not None}
    speed = {share: speed_with_links(scenario, whole_step_s, share) for share in sorted(set(shares.values()))}
    states = {c.name: c.network_state for c in policies.failures.classes if c.network_state is not None}
    without = {name: speed_without(scenario, whole_step_s, state) for name, state in states.items()}
    return {**{name: speed[share] for name, share in shares.items()}, **without}


def state_bytes(scenario: Scenario) -> float:
    """A whole checkpoint: weights, master copy and moments of every trained parameter, multi-token prediction included.

    Of a model with adapters, theirs alone.
    """
    count: float = parameter_count(scenario.model)
    if scenario.plan.adapters is not None:
        count = adapter_parameters(scenario.model, scenario.plan)
    return count * (model_width(scenario.model, scenario.plan) + optimizer_bytes(scenario.plan))


def host_copy_bytes(scenario: Scenario) -> float:
    """Bytes of checkpoints that wait in host memory behind each GPU."""
    policies = scenario.run.policies
    if policies is None:
        return 0.0
    return HOST_COPIES[policies.checkpoint.policy] * state_bytes(scenario) / scenario.cluster.gpus
