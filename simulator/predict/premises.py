"""What a prediction rests on beside model, cluster and plan: every figure that decides it, with its source.

Those that the scenario gives are stated; all others, the catalogue's included, are assumed and named in one place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import exp, isfinite
from typing import Any

from hardware.catalogue import GIVEN
from hardware.facility import network_power_w, pue, water_l_per_kwh
from hardware.units import (
    format_bytes,
    format_count,
    format_flops_rate,
    format_fraction,
    format_power,
    format_rate,
    format_seconds,
    format_usd,
)
from simulator.cost.constants import constants_for
from simulator.cost.slowest import slowest_of
from simulator.model.parameters import total_parameters
from simulator.predict.balancing import balancing
from simulator.predict.power import POWER_SOURCE
from simulator.predict.storage import SOURCE as STORAGE_SOURCE
from simulator.predict.storage import storage_of
from simulator.run.faults import FailureModel, mean_time_between_s
from simulator.run.read import RunPolicies
from simulator.run.result import RunResult
from simulator.run.specs import RunSpec
from simulator.scenario.spec import Scenario
from simulator.stack import DEFAULT

LATE_RANKS = "fitted to published runs, whose collectives take longer than the same alone"
YEAR_S = 365.25 * 86400
AUTO_SPARES = "the count with which the run takes the fewest GPU-hours, theirs included (run.spares.hot)"


@dataclass(frozen=True, slots=True)
class Premise:
    """One thing that a prediction rests on: `text` says what, `source` where it comes from; `assumed`: the scenario
    does not give it."""

    topic: str
    text: str
    source: str
    assumed: bool


def premises(scenario: Scenario, spec: RunSpec | None, result: RunResult | None) -> tuple[Premise, ...]:
    """Everything that the prediction rests on, in the order in which a reader asks."""
    found = [*_stack(scenario), *_accelerator(scenario), *_network(scenario), *_late_ranks(scenario)]
    found += [*_routing(scenario), *_teacher(scenario)]
    policies = scenario.run.policies
    if spec is not None and result is not None and policies is not None:
        found += [
            *_price(scenario, policies, spec),
            _failures(scenario, spec),
            _checkpoints(scenario, spec, result),
            *_evaluation(policies, spec),
            *_storage(scenario),
            _spares(scenario, policies, result),
            *_unused(scenario, spec),
            _restart(scenario, spec),
            *_power(scenario),
        ]
    return tuple(found)


def _given(scenario: Scenario, *path: str) -> bool:
    """Whether the scenario's file holds the key."""
    here: Any = scenario.written
    for key in path:
        if not isinstance(here, Mapping) or key not in here:
            return False
        here = here[key]
    return True


def _is_given(source: str) -> bool:
    """Whether a figure of the machines comes from the user."""
    return source.startswith(GIVEN)


def _of_base(scenario: Scenario, key: str) -> str:
    """Words for a figure that an accelerator of the user's own takes from the shipped part that it changes; none where
    it writes its own, or is a shipped part."""
    part = scenario.cluster.accelerator
    return "" if part.base is None or key in part.own_keys else f" (of its base {part.base})"


def _accelerator(scenario: Scenario) -> Iterable[Premise]:
    """What prices the step of an accelerator of the user's own and is not written of it."""
    part = scenario.cluster.accelerator
    if part.base is None:
        return
    kept = {
        **{
            f"peak.{name}": format_flops_rate(peak)
            for name, peak in part.peak_flops_per_s.items()
            if peak == (part.data_sheet or {}).get(name)
        },
        "memory_capacity": format_bytes(part.memory_capacity_bytes),
        "memory_bandwidth": format_rate(part.memory_bandwidth_bytes_per_s),
        "sm_count": f"{part.sm_count}",
        "host_bandwidth": format_rate(part.host_bandwidth_bytes_per_s),
    }
    words = [f"{key} {value}" for key, value in kept.items() if key not in part.own_keys]
    if words:
        text = f"{part.name} has of its base {part.base}: {', '.join(words)}"
        yield Premise("accelerator", text, f"traincast hardware show {part.base}", True)


def _stack(scenario: Scenario) -> Iterable[Premise]:
    if scenario.stack_choice == "default":
        default = "the default, the newest release of Megatron-Core"
        taken = default if scenario.plan.stack.name == DEFAULT else "that of the launch, as none is named"
        why = f"{taken}; plan.stack (or plan.stack.base) names another"
        yield Premise("stack", scenario.plan.stack.name, why, True)
    elif scenario.stack_choice == "newest of framework":
        framework = scenario.plan.stack.framework
        why = f"the newest release of {framework}, as only the framework is named; plan.stack.base names another"
        yield Premise("stack", scenario.plan.stack.name, why, True)


USUAL_FABRIC = "the plainest catalogue network with the node's ports that reaches as far; cluster.fabric names another"


def _network(scenario: Scenario) -> Iterable[Premise]:
    if not _given(scenario, "cluster", "fabric"):
        yield Premise("fabric", scenario.cluster.fabric.name, USUAL_FABRIC, True)
    failed = asdict(scenario.cluster.failed)
    broken = ", ".join(f"{count} of its {part}" for part, count in failed.items() if count)
    if broken:
        yield Premise("network", f"the job goes on without {broken}", "given: cluster.failed", False)


def _late_ranks(scenario: Scenario) -> Iterable[Premise]:
    """What the collectives within a layer wait for their last rank, which is in the seconds of tp and cp."""
    plan = scenario.plan
    wait_s = constants_for(scenario.cluster.accelerator, plan).collective_wait_s
    for name, ranks in (("tp", plan.tp), ("cp", plan.cp)):
        late_s = wait_s * float(slowest_of(ranks))
        if late_s > 0:
            wait = format_seconds(late_s)
            text = f"each collective of {name} waits {wait} for the last of {ranks} ranks, counted as {name}"
            yield Premise("late ranks", text, LATE_RANKS, assumed=True)


def _routing(scenario: Scenario) -> Iterable[Premise]:
    """How evenly experts are loaded, where the plan states no number."""
    found = balancing(scenario)
    if found is None:
        return
    kind, why = found
    text = f"{kind.kind}: the hottest expert rank has {kind.hottest:g} of the mean, {kind.low:g} to {kind.high:g}"
    stated = _given(scenario, "plan", "expert_imbalance")
    yield Premise("routing", text, f"{why}; {kind.source}", kind.low != kind.high or not stated)


def _teacher(scenario: Scenario) -> Iterable[Premise]:
    distillation = scenario.distillation
    if distillation is None:
        return
    teacher, kept = distillation.teacher, distillation.top_logits
    logits = "all logits" if kept is None else f"its {kept:,} largest logits"
    size = format_count(total_parameters(teacher))
    text = f"{teacher.name}, {size} parameters in the student's plan; {logits} of a token"
    yield Premise("teacher", text, "given: distillation", False)


def _price(scenario: Scenario, policies: RunPolicies, spec: RunSpec) -> Iterable[Premise]:
    """What owning costs and what renting does, as far as each is known."""
    part, prices, given = scenario.cluster.accelerator, spec.prices, policies.prices
    if prices is None:
        how = "give run.prices.gpu_hour or run.prices.capital_per_gpu"
        yield Premise("price", f"none is known of {part.name}: no cost is given", how, True)
        return
    if prices.capital_usd_per_gpu:
        years = prices.life_s / YEAR_S
        life = "" if _given(scenario, "run", "prices", "life") else " (assumed)"
        machines = f"{format_usd(prices.capital_usd_per_gpu)} per owned GPU over {years:.3g} years{life}"
        used = (
            "" if prices.utilisation_fraction == 1 else f", {format_fraction(prices.utilisation_fraction)} of it in use"
        )
        paid = "" if _given(scenario, "run", "prices", "electricity") else " (assumed)"
        text = f"{machines}{used}, electricity at {prices.electricity_usd_per_kwh:g} USD/kWh{paid}"
        yield Premise("price", text, "given: run.prices", False)
    if prices.gpu_hour_usd is not None:
        is_own = given is not None and given.gpu_hour_usd is not None
        source = "given: run.prices.gpu_hour" if is_own else part.sources.get("price", "the accelerator's entry")
        inherited = "" if is_own else _of_base(scenario, "price")
        yield Premise("rent", f"{prices.gpu_hour_usd:g} USD per GPU-hour{inherited}", source, not _is_given(source))


def _failures(scenario: Scenario, spec: RunSpec) -> Premise:
    given = _given(scenario, "run", "failures") or _given(scenario, "run", "fault_log")
    model = spec.failures
    if spec.fault_log:
        return Premise(
            "failures", "replayed from the fault log, then drawn at its rates", "given: run.fault_log", False
        )
    if not model.classes:
        return Premise("failures", "none", "given: run.failures" if given else "the default", not given)
    between_s = mean_time_between_s(model, spec.job_gpus)
    every = f"a crash or hang every {format_seconds(between_s)}" if isfinite(between_s) else "no crash or hang"
    text = f"{model.name}: {every}{_made_for(model, scenario)}{_how_sure(model)}"
    named = "" if given else "assumed; "
    return Premise("failures", text, f"{named}{model.source or 'given: run.failures'}", not given)


def _made_for(model: FailureModel, scenario: Scenario) -> str:
    here = scenario.cluster.accelerator.generation.lower()
    if not model.generation:
        return ", accelerators not known"
    inherited = _of_base(scenario, "generation")
    if model.generation.lower() == here:
        return f", observed on this generation ({here}){inherited}"
    return f", observed on {model.generation}, not on {here}{inherited}: its rates are carried over"


def _how_sure(model: FailureModel) -> str:
    if not model.rate_sigma:
        return ", rate taken as known"
    return f", rate uncertain by a factor of {exp(model.rate_sigma):.2f} either way"


def _checkpoints(scenario: Scenario, spec: RunSpec, result: RunResult) -> Premise:
    if spec.checkpoint.policy == "none":
        return Premise("checkpoints", "none: each failure starts the run over", "given: run.checkpoint", False)
    given = _given(scenario, "run", "checkpoint", "every")
    saves = [f"{tier} every {format_seconds(s)}" for tier, s in result.checkpoint_every_s.items() if isfinite(s)]
    text = f"{spec.checkpoint.policy}, {_size(spec.paths.state_bytes)} to {' and '.join(saves) or 'nowhere'}"
    if given:
        return Premise("checkpoints", text, "given: run.checkpoint.every", False)
    least = format_seconds(spec.checkpoint.least_every_s)
    why = f"assumed: Daly's best interval, but no save to storage within {least} (run.checkpoint.least_every)"
    return Premise("checkpoints", text, why, True)


def _evaluation(policies: RunPolicies, spec: RunSpec) -> Iterable[Premise]:
    evaluation = policies.evaluation
    if evaluation is None:
        return
    pauses = ", ".join(dict.fromkeys(format_seconds(each.evaluation_pause_s) for each in spec.segments))
    over = "" if evaluation.tokens is None else f", a forward pass over {format_count(evaluation.tokens)} tokens"
    yield Premise(
        "evaluation", f"every {evaluation.every_steps:,} steps for {pauses}{over}", "given: run.evaluation", False
    )


def _size(state_bytes: float) -> str:
    """Bytes in decimal units, as storage is bought."""
    return format_rate(state_bytes).removesuffix("/s")


def _storage(scenario: Scenario) -> Iterable[Premise]:
    storage = storage_of(scenario.cluster)
    bandwidths = {"storage_write": storage.write_bytes_per_s, "storage_read": storage.read_bytes_per_s}
    for assumed in (False, True):
        keys = [key for key in bandwidths if (key in storage.assumed) == assumed]
        text = ", ".join(f"{format_rate(bandwidths[key])} {key.removeprefix('storage_')}" for key in keys)
        source = STORAGE_SOURCE if assumed else "given: " + ", ".join(f"cluster.{key}" for key in keys)
        if keys:
            yield Premise("storage", text, source, assumed)


def _spares(scenario: Scenario, policies: RunPolicies, result: RunResult) -> Premise:
    where = "among cluster.gpus" if policies.recovery.spares_within_cluster else "on top of cluster.gpus"
    nodes = f"{result.spares:,} spare node{'' if result.spares == 1 else 's'}"
    paid = "one GPU is" if result.paid_gpus == 1 else f"{result.paid_gpus:,} GPUs are"
    text = f"{nodes} {where}; {paid} paid for in all"
    if policies.auto_spares:
        return Premise("spares", text, f"assumed: {AUTO_SPARES}", True)
    given = _given(scenario, "run", "spares")
    return Premise("spares", text, "given: run.spares" if given else "the default", not given)


def _unused(scenario: Scenario, spec: RunSpec) -> Iterable[Premise]:
    if not spec.unused_gpus:
        return
    domain = scenario.cluster.node.scale_up.installed_gpus
    unused = spec.paid_gpus - spec.gpus
    filled = spec.unused_gpus - unused
    text = f"domains of {domain} leave {spec.unused_gpus:,} GPUs without work: {filled:,} stand in as spares, "
    text += f"{unused:,} are paid for and off"
    yield Premise("unused slots", text, "assumed: whole domains are paid for (run.prices.pay_unused_slots)", True)


def _restart(scenario: Scenario, spec: RunSpec) -> Premise:
    given = _given(scenario, "run", "restart")
    text = f"{format_seconds(spec.restart_s)} from nodes in place to the first step, without loading"
    source = "given: run.restart" if given else "assumed: 60 s of start, 3 ms per GPU (MegaScale), 60 s of warm-up"
    return Premise("restart", text, source, not given)


def _power(scenario: Scenario) -> Iterable[Premise]:
    cluster = scenario.cluster
    part, factor, network = cluster.accelerator, pue(cluster), network_power_w(cluster)
    yield Premise(
        "GPU power",
        f"{format_power(part.power_w)} computing{_of_base(scenario, 'tdp')}, "
        f"{format_power(part.idle_w)} idle{_of_base(scenario, 'idle')}",
        POWER_SOURCE,
        True,
    )
    server_w = cluster.node.overhead_power_w / cluster.node.gpus
    source = cluster.node.sources.get("overhead_power", "the node's entry")
    yield Premise("server power", f"{format_power(server_w)} per GPU beside it", source, not _is_given(source))
    yield Premise(
        "network power", f"{format_power(network.value)} per GPU", network.source, not _is_given(network.source)
    )
    cooled = "" if cluster.pue is not None else f" ({cluster.node.cooling} cooling)"
    yield Premise("PUE", f"{factor.value:g}{cooled}", factor.source, cluster.pue is None)
    water = water_l_per_kwh(cluster)
    litres = f"{water.value:g} L per kWh of IT energy" if water.value else "none"
    yield Premise("water", litres, water.source, cluster.water_l_per_kwh is None)
