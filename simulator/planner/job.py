"""One job as a purchase: its best plan, its whole run over all seeds, and the scenario that evaluates to the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.documents import Document
from hardware.problems import Place
from simulator.predict.run_spec import run_spec_before_spares, whole_run_spec
from simulator.predict.simulate import Simulated, simulate
from simulator.run.arrays import Floats
from simulator.run.montecarlo import outcomes, saving_of
from simulator.run.quantiles import quantile
from simulator.run.result import RunResult
from simulator.run.specs import RunSpec
from simulator.run.summary import summarise
from simulator.run.uncertainty import Uncertainty
from simulator.scenario.resolved import resolved
from simulator.scenario.schema import read_scenario
from simulator.scenario.spec import Scenario

NO_POLICIES = "the scenario has no run policies; read it from a file"


@dataclass(frozen=True, slots=True)
class Job:
    """A scenario whose cluster is the job's GPUs, simulated; `finish_s` of every run, infinite where it never ends."""

    simulated: Simulated
    spec: RunSpec
    result: RunResult
    finish_s: Floats

    @property
    def scenario(self) -> Scenario:
        return self.simulated.scenario

    @property
    def gpus(self) -> int:
        """GPUs of the job and its spares."""
        return self.spec.gpus

    @property
    def power_w(self) -> float:
        """At the meter while the job trains and its spares stand by."""
        power = self.spec.power
        if power is None:
            return 0.0
        spares = self.spec.gpus - self.spec.job_gpus
        return power.pue * (self.spec.job_gpus * power.busy_w + spares * power.idle_w)

    def finish_at(self, confidence: float) -> float:
        """Seconds within which that share of the runs ends, as the result's quantiles have it; infinite where fewer
        end."""
        return quantile(self.finish_s, confidence)

    def chance(self, within_s: float) -> float:
        """Share of the runs that end within so long."""
        return float((self.finish_s <= within_s).mean())


def with_sized_spares(scenario: Scenario) -> Scenario:
    """The scenario with as many spares as suffice, beside the job's GPUs, unless it writes their number."""
    policies = scenario.run.policies
    if policies is None:
        raise ValueError(NO_POLICIES)
    run = scenario.written.get("run", {})
    recovery = replace(policies.recovery, spares_within_cluster=False)
    sized = replace(policies, recovery=recovery, auto_spares=policies.auto_spares or "spares" not in run)
    return replace(scenario, run=replace(scenario.run, policies=sized))


def with_spares(scenario: Scenario, nodes: int) -> Scenario:
    """The scenario with so many hot spares beside the job's GPUs."""
    policies = scenario.run.policies
    if policies is None:
        raise ValueError(NO_POLICIES)
    recovery = replace(policies.recovery, hot_spares=nodes, cold_spares=0, spares_within_cluster=False)
    counted = replace(policies, recovery=recovery, auto_spares=False)
    return replace(scenario, run=replace(scenario.run, policies=counted))


def play_job(scenario: Scenario) -> Job:
    """Simulates the step and the whole run."""
    return job_of(simulate(scenario))


def job_of(simulated: Simulated) -> Job:
    """The whole run of a simulated step. Raises InputError for policies that the job cannot have."""
    return run_job(simulated, run_spec_of(simulated))


def run_spec_of(simulated: Simulated) -> RunSpec:
    """What the whole run of a simulated step is played from. Raises InputError for policies that it cannot have."""
    spec = whole_run_spec(simulated)
    if spec is None:
        raise ValueError(NO_POLICIES)
    return spec


def run_job(simulated: Simulated, spec: RunSpec) -> Job:
    """The run as `spec` has it."""
    saving = saving_of(spec)
    outcome = outcomes(spec, saving)
    finish_s = np.broadcast_to(outcome.finish_s, (len(outcome.finish_s),))
    return Job(simulated, spec, summarise(spec, saving, outcome), finish_s)


def with_step(job: Job, simulated: Simulated, uncertainty: Uncertainty | None = None) -> Job:
    """The job with another step in the place of its own, over the same tokens with the same spares; the step may be off
    by `uncertainty` (None: by its own)."""
    spec = run_spec_before_spares(simulated)
    if spec is None:
        raise ValueError(NO_POLICIES)
    pairs = zip(spec.segments, job.spec.segments, strict=True)
    segments = tuple(replace(each, tokens=own.tokens) for each, own in pairs)
    uncertainty = uncertainty or spec.uncertainty
    return run_job(simulated, replace(spec, segments=segments, recovery=job.spec.recovery, uncertainty=uncertainty))


def with_tokens(job: Job, factor: float) -> Job:
    """The job with so many times the tokens, in whole steps."""
    segments = []
    for segment in job.spec.segments:
        steps = max(1.0, np.floor(segment.tokens * factor / segment.tokens_per_step))
        segments.append(replace(segment, tokens=float(steps * segment.tokens_per_step)))
    return run_job(job.simulated, replace(job.spec, segments=tuple(segments)))


def purchase(job: Job) -> Scenario:
    """The scenario of everything bought, spares within, as `evaluate` takes it. Raises InputError where the fabric does
    not reach the spares too."""
    scenario, recovery = job.scenario, job.spec.recovery
    data = resolved(scenario)
    data["cluster"] = {**data["cluster"], "gpus": job.gpus}
    run: dict[str, Any] = dict(data["run"])
    written = run.get("spares")
    kept = {key: value for key, value in written.items() if key != "auto"} if isinstance(written, dict) else {}
    run["spares"] = {**kept, "hot": recovery.hot_spares, "cold": recovery.cold_spares, "within": True}
    if job.spec.tokens != scenario.run.tokens:
        for amount in ("steps", "samples", "days"):
            run.pop(amount, None)
        run["tokens"] = job.spec.tokens
    data["run"] = run
    data.pop("published", None)
    return read_scenario(Document(data, Place(scenario.file)), scenario.name)
