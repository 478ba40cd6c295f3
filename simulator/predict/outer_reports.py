"""What surrounds a simulated step, simulated with it: reading data, and replicas that do not keep step.

These predict speed, staleness and traffic; what stale or rare exchange does to the loss they do not say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hardware.precisions import FORMATS
from simulator.model.parameters import model_parameters
from simulator.outer_loop.input_pipeline import simulate_input
from simulator.outer_loop.local_sgd import simulate_local_sgd
from simulator.outer_loop.parameter_server import simulate_server
from simulator.predict.simulate import Simulated
from simulator.workload.states import parameter_bytes

SEED = 0
INPUT_BATCHES = 2000
ROUNDS = 50
SERVER_STEPS = 20_000  # of all workers together, and at least 8 of each
OUTER_GRADIENT_BYTES = 4.0  # DiLoCo exchanges fp32 differences of parameters (arXiv 2311.08105)


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


def input_report(done: Simulated) -> InputReport | None:
    """One rank of every replica reads its micro-batches; those of a step are used at an even pace."""
    scenario, spec = done.scenario, done.scenario.around.input
    storage = scenario.cluster.storage_read_bytes_per_s
    if spec is None or storage is None:
        return None
    plan = scenario.plan
    spec = replace(
        spec,
        readers=plan.dp,
        sequences=plan.micro_batch_size,
        storage_bytes_per_s=storage,
        rank_bytes_per_s=scenario.cluster.node.nic.bandwidth_bytes_per_s,
    )
    pace_s = done.step.step_time_s / plan.microbatches
    batches = max(plan.microbatches, INPUT_BATCHES)
    found = simulate_input(spec, pace_s, batches, np.random.default_rng(SEED))
    starved_s = float(found.starved_s[1:].mean())  # the first batch is read before training starts
    mean_s = pace_s + starved_s
    return InputReport(mean_s * plan.microbatches, starved_s / mean_s, spec.batches_per_s, 1 / pace_s)


def local_sgd_report(done: Simulated) -> LocalSgdReport | None:
    """Clusters of this kind, each taking the simulated step, joined by thin links."""
    spec = done.scenario.around.local_sgd
    if spec is None:
        return None
    exchanged = parameter_count(done) * OUTER_GRADIENT_BYTES
    spec = replace(spec, step_s=done.step.step_time_s, exchange_bytes=exchanged)
    found = simulate_local_sgd(spec, ROUNDS, np.random.default_rng(SEED))
    return LocalSgdReport(
        clusters=spec.clusters,
        steps_per_s=found.steps_per_s,
        tokens_per_s=found.steps_per_s * spec.clusters * step_tokens(done),
        round_s=float(found.round_s.mean()),
        waiting_fraction=found.waiting_fraction,
        link_bytes_per_step=found.link_bytes_per_step,
        synchronous_bytes_per_step=found.synchronous_bytes_per_step,
    )


def server_report(done: Simulated) -> ServerReport | None:
    """Every replica is a worker, with the simulated step less what synchronous data parallelism adds to it."""
    scenario, spec = done.scenario, done.scenario.around.parameter_server
    if spec is None:
        return None
    plan, spent, parameters = scenario.plan, done.step.breakdown(), parameter_count(done)
    spec = replace(
        spec,
        workers=plan.dp,
        step_s=done.step.step_time_s - spent["dp"] - spent["optimizer"] - spent["barrier"] - spent["straggler"],
        parameter_bytes=parameters * parameter_bytes(plan),
        gradient_bytes=parameters * FORMATS[plan.optimizer.grad_reduce].bytes,
        worker_bytes_per_s=scenario.cluster.node.nic.bandwidth_bytes_per_s * plan.gpus / plan.dp,
    )
    found = simulate_server(spec, max(8, SERVER_STEPS // plan.dp), np.random.default_rng(SEED))
    share = np.cumsum(found.staleness) / found.staleness.sum()
    return ServerReport(
        workers=plan.dp,
        mode=spec.mode,
        worker_steps_per_s=found.steps_per_s,
        tokens_per_s=found.steps_per_s * step_tokens(done) / plan.dp,
        waiting_fraction=found.waiting_fraction,
        traffic_bytes_per_s=found.traffic_bytes_per_s,
        mean_staleness=found.mean_staleness,
        staleness={f"p{percent}": int(np.searchsorted(share, percent / 100)) for percent in (10, 50, 90)},
    )


def reports(done: Simulated) -> dict[str, object]:
    """What the scenario has sections for, by section."""
    found = {
        "input": input_report(done),
        "local_sgd": local_sgd_report(done),
        "parameter_server": server_report(done),
    }
    return {name: report for name, report in found.items() if report is not None}


def parameter_count(done: Simulated) -> int:
    """Parameters of the whole model, multi-token prediction included."""
    counted = model_parameters(done.scenario.model)
    return counted.main.total + sum(module.total for module in counted.mtp)


def step_tokens(done: Simulated) -> int:
    return done.scenario.plan.global_batch_size * done.scenario.run.seq_length
