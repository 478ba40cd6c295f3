"""What the run of any plan of a scenario is not below, given the least that its step takes: money, energy and time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.predict.confidence import step_time_interval_s
from simulator.predict.power import gpu_power_w
from simulator.predict.prediction import model_flops_per_s_per_gpu
from simulator.predict.run_spec import run_spec_before_spares
from simulator.predict.simulate import Simulated
from simulator.run.auto_spares import with_hot_spares
from simulator.run.money import cost_usd, energy_j
from simulator.run.quantiles import quantiles
from simulator.run.specs import Power, RunSpec
from simulator.run.uncertainty import Uncertainty, mean_step_factor, step_factors, step_uncertainty
from simulator.scenario.spec import Scenario

WORST_EVIDENCE, BEST_EVIDENCE = 1.0, 0.0  # share of a step that rests on assumptions


def least_value(objective: str, done: Simulated, step_time_s: float) -> float | None:
    """What no run of a plan of `done`'s scenario with a step of `step_time_s` or more stays below, of runs that end.

    Runs are taken without failures, saves, evaluations, unused GPUs and spares that are left open, their steps as far
    off the prediction as those of the same number are. GPUs compute the model's FLOPs at the highest peak of the part
    and wait the rest of the step, which draws least. None where the scenario does not say what is minimised.
    """
    spec = run_spec_before_spares(done)
    policies = done.scenario.run.policies
    if spec is None or policies is None:
        return None
    if policies.auto_spares:
        spec = with_hot_spares(spec, spec.recovery.cold_spares)
    steps = sum(segment.steps for segment in spec.segments)
    ideal_s, widest = steps * step_time_s, widest_uncertainty(done.scenario, spec)
    factors = step_factors(widest, spec.simulation.seed, np.arange(spec.simulation.runs))
    if objective == "finish":
        return quantiles(ideal_s * factors).p50
    # Means of few runs are theirs, of many by weights that give the step's factor its known mean.
    mean_s = ideal_s * min(float(factors.mean()), mean_step_factor(widest))
    power = None if spec.power is None else least_power(done, spec.power, step_time_s)
    energy = None if power is None else energy_j({"work": mean_s}, spec.job_gpus, spec.gpus, power)
    if objective == "energy":
        return energy
    return None if spec.prices is None else cost_usd(mean_s, energy, spec.gpus, spec.prices, power)


def widest_uncertainty(scenario: Scenario, spec: RunSpec) -> Uncertainty:
    """By which the step of each run is longer than predicted at least, whatever the plan.

    Of two plans of a scenario the one that rests more on assumptions has the wider interval: the lowest end is that of
    a plan of assumptions alone, the least high end that of one without.
    """
    low_s = step_time_interval_s(scenario, 1.0, WORST_EVIDENCE)[0]
    high_s = step_time_interval_s(scenario, 1.0, BEST_EVIDENCE)[1]
    return step_uncertainty(1.0, (low_s, high_s), spec.uncertainty.rate_sigma)


def least_power(done: Simulated, power: Power, step_time_s: float) -> Power:
    """The power of a job whose step takes so long and does no more than the model's arithmetic."""
    part = done.scenario.cluster.accelerator
    flops = model_flops_per_s_per_gpu(done) * done.step.step_time_s
    computing = min(1.0, flops / max(part.peak_flops_per_s.values()) / step_time_s)
    watts = {
        "compute": computing * gpu_power_w(part, "compute"),
        "waiting": (1 - computing) * gpu_power_w(part, "waiting"),
    }
    return replace(power, busy_w=sum(watts.values()) + power.server_w + power.fabric_w, step_w=watts)
