"""What a step of the logged job trains, and the scenario as the log has it: its own batch and sequence."""

from __future__ import annotations

from dataclasses import replace

from simulator.launch.explain.records import Job
from simulator.launch.explain.steady import Workpiece
from simulator.model.flops import flops_per_token
from simulator.plans.rules import check
from simulator.scenario.schema import Scenario


def logged_gpus(scenario: Scenario, job: Job) -> int:
    """GPUs of the log's job, 0 where it does not say; replicas that it prints are as large as the scenario's."""
    plan = scenario.plan
    return job.gpus(plan.tp * plan.pp * plan.cp)


def workpiece(scenario: Scenario, job: Job) -> Workpiece:
    """Sequences and tokens of the log's step; what the log does not say is the scenario's."""
    batch = job.batch or scenario.plan.global_batch_size
    seq_length = job.seq_length or scenario.run.seq_length
    return Workpiece(batch, batch * seq_length, logged_gpus(scenario, job) or scenario.cluster.gpus)


def as_logged(scenario: Scenario, job: Job) -> Scenario:
    """The scenario with the log's batch and sequence where its plan is legal with them, else as it is.

    A run is left without failures: a log draws them no better.
    """
    run = replace(scenario.run, policies=None)
    own = replace(scenario, run=run)
    plan = replace(scenario.plan, global_batch_size=job.batch or scenario.plan.global_batch_size)
    logged = replace(own, plan=plan, run=replace(run, seq_length=job.seq_length or run.seq_length))
    broken = check(logged.model, logged.plan, gpus=logged.cluster.gpus, seq_length=logged.run.seq_length)
    return own if broken else logged


def flops_ratio(logged: Scenario, job: Job) -> float:
    """Model FLOPs of a GPU in the log's step over those in the predicted one: 1 where the log's step was predicted."""
    seq_length = job.seq_length or logged.run.seq_length
    batch = job.batch or logged.plan.global_batch_size
    per_token = flops_per_token(logged.model, seq_length) / flops_per_token(logged.model, logged.run.seq_length)
    tokens = batch * seq_length / (logged.plan.global_batch_size * logged.run.seq_length)
    gpus = (logged_gpus(logged, job) or logged.cluster.gpus) / logged.cluster.gpus
    return float(per_token * tokens / gpus)


def work_notes(scenario: Scenario, logged: Scenario, job: Job, predicted: bool = False) -> tuple[str, ...]:
    """Where the log's job is not the scenario's, and which of them was predicted: `predicted` says the log's."""
    gpus, own = scenario.cluster.gpus, logged_gpus(scenario, job)
    if own in (0, gpus):
        return amount_notes(scenario, logged, job)
    told = f"the log is of {own} GPUs where the scenario's cluster.gpus is {gpus}; "
    if predicted:
        end = "figures are set beside the prediction of what the log ran"
    else:
        end = f"the prediction is of {gpus}, so the two steps are no comparison"
    return (
        f"{told}{end}: is it the right scenario?",
        *amount_notes(scenario, logged, job),
    )


def _amounts_apart(scenario: Scenario, job: Job) -> dict[str, tuple[int, int, str]]:
    """Keys of a step's amounts that the log has otherwise: its own, the scenario's, and what they count."""
    stated = {
        "plan.global_batch_size": (job.batch, scenario.plan.global_batch_size, "sequences a step"),
        "run.seq_length": (job.seq_length, scenario.run.seq_length, "tokens a sequence"),
    }
    return {key: each for key, each in stated.items() if each[0] and each[0] != each[1]}


def work_apart(scenario: Scenario, job: Job) -> str:
    """The amounts of the log's step that are not the scenario's, in words; empty where all are."""
    apart = _amounts_apart(scenario, job)
    return " and ".join(
        f"{own} {unit} where the scenario's {key} is {planned}" for key, (own, planned, unit) in apart.items()
    )


def amount_notes(scenario: Scenario, logged: Scenario, job: Job) -> tuple[str, ...]:
    """Where the log's step trains another amount than the scenario's, and which of them was predicted."""
    apart = _amounts_apart(scenario, job)
    if not apart:
        return ()
    told = work_apart(scenario, job)
    written = " ".join(f"--set {key}={own}" for key, (own, _, _) in apart.items())
    if (logged.plan.global_batch_size, logged.run.seq_length) == (
        scenario.plan.global_batch_size,
        scenario.run.seq_length,
    ):
        end = "the plan is not legal with that, so the prediction is the scenario's: is it the right scenario?"
    else:
        end = f"predicted with the log's, as by {written}: is it the right scenario?"
    return (f"the log has {told}; {end}",)
