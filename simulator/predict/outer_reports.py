"""What surrounds a simulated step, and what it makes of it: reading data, and replicas that do not keep step.

These predict speed, staleness and traffic; what stale or rare exchange does to the loss they do not say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hardware.precisions import FORMATS
from hardware.wiring import injection_bytes_per_s
from simulator.model.parameters import model_parameters
from simulator.model.spec import Model
from simulator.outer_loop.input_pipeline import InputPipeline, mean_starved_s
from simulator.outer_loop.local_sgd import LocalSgd, simulate_local_sgd
from simulator.outer_loop.parameter_server import ParameterServer, ServerResult, simulate_server
from simulator.predict.step import Around, Step
from simulator.scenario.spec import Scenario
from simulator.workload.states import model_width

SEED = 0
INPUT_BATCHES = 2000
ROUNDS = 50
SERVER_STEPS = 20_000  # of all workers together, and at least 8 of each
OUTER_GRADIENT_BYTES = 4.0  # DiLoCo exchanges fp32 differences of parameters (arXiv 2311.08105)
# What keeps replicas in step, which workers of a parameter server do not have.
SYNCHRONOUS = ("dp", "optimizer", "barrier", "straggler")


@dataclass(frozen=True, slots=True)
class InputReport:
    """A step that waits for its data: `step_time_s` in the mean, of which `starved_fraction` is waiting; micro-batches
    per second that a replica's loaders deliver at most, and that it uses."""

    step_time_s: float
    starved_fraction: float
    delivered_per_s: float
    used_per_s: float


@dataclass(frozen=True, slots=True)
class LocalSgdReport:
    """Clusters like this one that train alone between exchanges: all of them together against as many kept in step
    without any exchange."""

    clusters: int
    steps_per_s: float
    tokens_per_s: float
    round_s: float
    waiting_fraction: float
    link_bytes_per_step: float
    synchronous_bytes_per_step: float


@dataclass(frozen=True, slots=True)
class ServerReport:
    """Replicas as workers of parameter servers: `staleness` are quantiles of how many updates old the parameters of an
    applied gradient were."""

    workers: int
    mode: str
    worker_steps_per_s: float
    tokens_per_s: float
    waiting_fraction: float
    traffic_bytes_per_s: float
    mean_staleness: float
    staleness: dict[str, int]


def surrounded(scenario: Scenario, step: Step) -> Step:
    """The step with all that surrounds it: it waits for its data first, then for clusters or servers."""
    around = scenario.around
    if around.input is not None:
        step = _fed(scenario, step, around.input)
    if around.parameter_server is not None:
        step = _served(scenario, step, around.parameter_server)
    if around.local_sgd is not None:
        step = _exchanging(scenario, step, around.local_sgd)
    return step


def _fed(scenario: Scenario, step: Step, pipeline: InputPipeline) -> Step:
    """One rank of every replica reads its micro-batches; those of a step are used at an even pace."""
    plan, cluster = scenario.plan, scenario.cluster
    storage = cluster.storage_read_bytes_per_s
    if storage is None:
        raise ValueError("cluster.storage_read is missing: the input pipeline reads from it")
    spec = replace(
        pipeline,
        readers=plan.dp,
        sequences=plan.micro_batch_size,
        storage_bytes_per_s=storage,
        rank_bytes_per_s=injection_bytes_per_s(cluster.node, cluster.fabric),
    )
    pace_s = step.step_time_s / plan.microbatches
    starved_s = mean_starved_s(spec, pace_s, INPUT_BATCHES, np.random.default_rng(SEED))
    fed_s = pace_s + starved_s
    report = InputReport(fed_s * plan.microbatches, starved_s / fed_s, spec.batches_per_s, 1 / pace_s)
    return _with(step, "input", starved_s * plan.microbatches, ("input", report))


def _exchanging(scenario: Scenario, step: Step, given: LocalSgd) -> Step:
    """Clusters of this kind, each taking the simulated step, joined by thin links."""
    inner_s, exchanged = step.step_time_s, parameter_count(scenario.model) * OUTER_GRADIENT_BYTES
    spec = replace(given, step_s=inner_s, exchange_bytes=exchanged)
    found = simulate_local_sgd(spec, ROUNDS, np.random.default_rng(SEED))
    report = LocalSgdReport(
        clusters=spec.clusters,
        steps_per_s=found.steps_per_s,
        tokens_per_s=found.steps_per_s * spec.clusters * step_tokens(scenario),
        round_s=float(found.round_s.mean()),
        waiting_fraction=found.waiting_fraction,
        link_bytes_per_step=found.link_bytes_per_step,
        synchronous_bytes_per_step=found.synchronous_bytes_per_step,
    )
    joined = _with(step, "exchange", 1 / found.steps_per_s - inner_s, ("local_sgd", report))
    return replace(joined, around=replace(joined.around, clusters=spec.clusters))


def _served(scenario: Scenario, step: Step, given: ParameterServer) -> Step:
    """Every replica is a worker, with the simulated step less what synchronous data parallelism adds to it."""
    plan, parameters = scenario.plan, parameter_count(scenario.model)
    gpu_bytes_per_s = injection_bytes_per_s(scenario.cluster.node, scenario.cluster.fabric)
    worker = replace(step, around=replace(step.around, replaced=SYNCHRONOUS))
    alone_s = sum(worker.breakdown().values())
    spec = replace(
        given,
        workers=plan.dp,
        step_s=alone_s,
        parameter_bytes=parameters * model_width(scenario.model, plan),
        gradient_bytes=parameters * FORMATS[plan.optimizer.grad_reduce].bytes,
        worker_bytes_per_s=gpu_bytes_per_s * plan.gpus / plan.dp,
        slow={number: factor for number, factor in given.slow.items() if number < plan.dp},
    )
    found = simulate_server(spec, max(8, SERVER_STEPS // plan.dp), np.random.default_rng(SEED))
    # A step of the job: every worker has taken one in the mean.
    paced_s = plan.dp / found.steps_per_s
    report = _server_report(scenario, spec, found)
    return _with(worker, "server", paced_s - alone_s, ("parameter_server", report))


def _server_report(scenario: Scenario, spec: ParameterServer, found: ServerResult) -> ServerReport:
    share = np.cumsum(found.staleness) / found.staleness.sum()
    return ServerReport(
        workers=spec.workers,
        mode=spec.mode,
        worker_steps_per_s=found.steps_per_s,
        tokens_per_s=found.steps_per_s * step_tokens(scenario) / spec.workers,
        waiting_fraction=found.waiting_fraction,
        traffic_bytes_per_s=found.traffic_bytes_per_s,
        mean_staleness=found.mean_staleness,
        staleness={f"p{percent}": int(np.searchsorted(share, percent / 100)) for percent in (10, 50, 90)},
    )


def _with(step: Step, cause: str, seconds: float, report: tuple[str, object]) -> Step:
    """The step that also waits for `cause`, with a section's report. Chance may leave less than nothing: none then."""
    around: Around = step.around
    waiting_s = {**around.waiting_s, cause: max(seconds, 0.0)}
    return replace(step, around=replace(around, waiting_s=waiting_s, reports=dict([*around.reports.items(), report])))


def reports(step: Step) -> dict[str, object]:
    """Details of what the scenario has sections for, by section."""
    return dict(step.around.reports)


def parameter_count(model: Model) -> int:
    """Parameters of the whole model, multi-token prediction included."""
    counted = model_parameters(model)
    return counted.main.total + sum(module.total for module in counted.mtp)


def step_tokens(scenario: Scenario) -> int:
    return scenario.plan.global_batch_size * scenario.run.seq_length
