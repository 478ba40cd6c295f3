"""What the job says about the run, and policies and facts joined to a run that can be simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hardware.problems import InputError, Problem
from simulator.run.checkpoints import SavePaths
from simulator.run.fault_log import beyond_nodes, model_of
from simulator.run.faults import FailureModel, settled
from simulator.run.read import RunPolicies
from simulator.run.spares import best_spares
from simulator.run.specs import Power, Recovery, RunPrices, RunSpec, Segment


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What the model, the cluster and the plan say about the run: its segments, its machines, its state and its paths.

    `replicas` counts what a shrinking job can drop (with experts, whole expert-data-parallel groups); bandwidths are
    per GPU and direction except storage's. `power` is per GPU with its share of node and fabric.
    `slow_speed` gives the speed of the job under slow faults of a class by name, where the step was simulated with it.
    `unused_gpus` are those of scale-up domains that the job leaves without work.
    `assumptions` name inputs that nobody gave; the result warns of them.
    """

    segments: tuple[Segment, ...]
    job_nodes: int
    gpus_per_node: int
    replicas: int
    dp: int
    state_bytes: float
    storage_write_bytes_per_s: float
    storage_read_bytes_per_s: float
    host_bytes_per_s: float
    nic_bytes_per_s: float
    power: Power | None = None
    replica_speed: Sequence[float] | None = None
    nodes_per_rack: int = 1
    nodes_per_pod: int = 1
    price_usd_per_gpu_hour: float | None = None
    slow_speed: Mapping[str, float] = field(default_factory=dict)
    unused_gpus: int = 0
    assumptions: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        return self.job_nodes * self.gpus_per_node


def run_spec(policies: RunPolicies, facts: JobFacts) -> RunSpec:
    """Policies and facts together: a run that can be simulated. Raises InputError where they do not fit."""
    failures, prices = _failures(policies, facts), _prices(policies, facts)
    is_unused_free = prices is not None and not prices.pay_unused_slots
    recovery = _recovery(policies, facts, failures)
    _check_fit(policies, facts, recovery)
    return RunSpec(
        segments=facts.segments,
        job_nodes=facts.job_nodes,
        gpus_per_node=facts.gpus_per_node,
        replicas=facts.replicas,
        checkpoint=policies.checkpoint,
        paths=_paths(policies, facts),
        failures=_with_simulated_speeds(failures, facts.slow_speed),
        fault_log=policies.fault_log,
        fault_log_s=policies.fault_log_s,
        recovery=recovery,
        restart=policies.restart,
        prices=prices,
        power=facts.power,
        simulation=policies.simulation,
        replica_speed=facts.replica_speed,
        nodes_per_rack=facts.nodes_per_rack,
        nodes_per_pod=facts.nodes_per_pod,
        unused_gpus=0 if is_unused_free else facts.unused_gpus,
        assumptions=facts.assumptions,
    )


def _paths(policies: RunPolicies, facts: JobFacts) -> SavePaths:
    return SavePaths(
        state_bytes=facts.state_bytes,
        gpus=facts.gpus,
        writers=max(1, facts.gpus // facts.dp),
        storage_write_bytes_per_s=facts.storage_write_bytes_per_s,
        storage_read_bytes_per_s=facts.storage_read_bytes_per_s,
        writer_bytes_per_s=min(policies.checkpoint.writer_bandwidth_bytes_per_s, facts.nic_bytes_per_s),
        host_bytes_per_s=facts.host_bytes_per_s,
        nic_bytes_per_s=facts.nic_bytes_per_s,
        local_bytes_per_s=policies.checkpoint.local_bandwidth_bytes_per_s,
    )


def _failures(policies: RunPolicies, facts: JobFacts) -> FailureModel:
    """The model in rates of this job, or that of the log on the machines that it names."""
    log = policies.fault_log
    if not log:
        return settled(policies.failures, facts.job_nodes, facts.gpus_per_node)
    nodes = max(facts.job_nodes + policies.recovery.spares, 1 + max(row.node for row in log))
    return model_of(log, nodes, facts.gpus_per_node, policies.fault_log_s)


def _recovery(policies: RunPolicies, facts: JobFacts, failures: FailureModel) -> Recovery:
    """The recovery with as many spares as are worth their price, where the scenario leaves it open."""
    if not policies.auto_spares:
        return policies.recovery
    run_s = sum(segment.work_s for segment in facts.segments)
    hot_spares = best_spares(failures, facts.job_nodes, facts.gpus_per_node, run_s)
    return replace(policies.recovery, hot_spares=hot_spares)


def _with_simulated_speeds(failures: FailureModel, speeds: Mapping[str, float]) -> FailureModel:
    classes = tuple(replace(fault, speed=speeds.get(fault.name, fault.speed)) for fault in failures.classes)
    return replace(failures, classes=classes)


def _prices(policies: RunPolicies, facts: JobFacts) -> RunPrices | None:
    """The scenario's prices, with the rent that the catalogue knows where they give none."""
    given, rent = policies.prices, facts.price_usd_per_gpu_hour
    if given is None:
        return None if rent is None else RunPrices(gpu_hour_usd=rent)
    return given if given.gpu_hour_usd is not None else replace(given, gpu_hour_usd=rent)


def _too_many_replicas(least: int, facts: JobFacts) -> str:
    """Words on more replicas to go on with than there are: those that are only lost together count as one."""
    if facts.replicas == facts.dp:
        return f"is {least}; the job has {facts.replicas} replicas. Write {facts.replicas} or less"
    whole = f"of the {facts.dp} replicas (dp) those that share nodes or experts are lost together and count as one"
    return f"is {least}; {whole}: {facts.replicas} in all. Write {facts.replicas} or less"


def _check_fit(policies: RunPolicies, facts: JobFacts, recovery: Recovery) -> None:
    """Raises InputError for what only shows with the job."""
    problems: list[Problem] = []
    if recovery.min_replicas > facts.replicas:
        message = _too_many_replicas(recovery.min_replicas, facts)
        problems.append(policies.place.under("recovery.min_replicas").problem(message))
    prices = _prices(policies, facts)
    if prices is not None and prices.gpu_hour_usd is None and not prices.capital_usd_per_gpu:
        message = "is missing, and no rent of these GPUs is known: give it, or capital_per_gpu, life and electricity"
        problems.append(policies.place.under("prices.gpu_hour").problem(message))
    beyond = beyond_nodes(policies.fault_log, facts.job_nodes, recovery.spares)
    if beyond is not None:
        problems.append(policies.place.under("fault_log").problem(beyond))
    if problems:
        raise InputError(problems)
