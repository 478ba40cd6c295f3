"""What could explain the gap between a measured and a predicted step: each cause predicted again, alone.

A cause has a scale (how many times the experts' imbalance, how much of the network's bandwidth ...) from what the
scenario assumes to what is still plausible in the direction of the gap. Each is predicted at that limit, and at the
scale that would explain the whole gap if it can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from math import inf
from typing import Any

from hardware.wiring import with_sending_at
from simulator.cost.constants import CLOCKED, Constants, constants_for
from simulator.model.spec import MoE
from simulator.plans.rules import check
from simulator.plans.spec import Plan
from simulator.predict.simulate import simulate_step
from simulator.scenario.schema import Scenario
from simulator.stack import names, release

BISECTIONS = 7
# Judged: a change of the step below this is no explanation of anything.
LEAST_EFFECT_FRACTION = 0.002


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause: its scale from `now` to a plausible `limit`, and what to look at to confirm it.

    `explained_at` is the scale that explains the gap by itself (None: none up to the limit does); `effect_s` what the
    limit adds to the step, `explains_fraction` that over the gap, at most 1.
    """

    name: str
    scale: str
    now: float
    limit: float
    effect_s: float
    explains_fraction: float
    explained_at: float | None
    look_at: str


@dataclass(frozen=True, slots=True)
class StackChange:
    """Another behaviour or release of the software: what it would add to the step, and what remains of the gap."""

    name: str
    effect_s: float
    step_time_s: float
    explains_fraction: float


@dataclass(frozen=True, slots=True)
class Knob:
    """How a scenario is predicted at a value of a cause's scale.

    `slower`, `faster`: its plausible limit where a run is slower or faster than predicted (`faster` None: it makes no
    run faster), and `most` what is possible at all.
    """

    name: str
    scale: str
    now: Callable[[Scenario, Constants], float]
    slower: float
    faster: float | None
    applied: Callable[[Scenario, Constants, float], tuple[Scenario, Constants]]
    look_at: str
    holds: Callable[[Scenario], bool] = lambda scenario: True
    most: Callable[[Scenario], float] = lambda scenario: inf

    def limit(self, scenario: Scenario, is_slower: bool) -> float | None:
        """How far the scale may go in the direction of the gap; None where that leads nowhere."""
        return min(self.slower, self.most(scenario)) if is_slower else self.faster


def step_at(scenario: Scenario, constants: Constants) -> float:
    return simulate_step(replace(scenario, site=None), constants=constants).step_time_s


def causes(scenario: Scenario, measured_s: float, predicted_s: float) -> tuple[Cause, ...]:
    """Every cause that can explain some of the gap, the strongest first."""
    constants = constants_for(scenario.cluster.accelerator, scenario.plan)
    tried = (_cause(knob, scenario, constants, measured_s, predicted_s) for knob in KNOBS if knob.holds(scenario))
    gap_s, least_s = abs(measured_s - predicted_s), LEAST_EFFECT_FRACTION * predicted_s
    telling = [each for each in tried if each is not None and each.explains_fraction * gap_s > least_s]
    return tuple(sorted(telling, key=lambda each: -each.explains_fraction))


def _cause(knob: Knob, scenario: Scenario, constants: Constants, measured_s: float, predicted_s: float) -> Cause | None:
    now = knob.now(scenario, constants)
    limit = knob.limit(scenario, measured_s > predicted_s)
    if limit is None:
        return None
    gap_s = measured_s - predicted_s

    def effect_s(value: float) -> float:
        return step_at(*knob.applied(scenario, constants, value)) - predicted_s

    most_s = effect_s(limit)
    share = max(0.0, min(1.0, most_s / gap_s)) if gap_s else 0.0
    whole = _solve(effect_s, now, limit, gap_s) if gap_s and most_s / gap_s >= 1 else None
    return Cause(knob.name, knob.scale, now, limit, most_s, share, whole, knob.look_at)


def together_fraction(found: Sequence[Cause], scenario: Scenario, measured_s: float, predicted_s: float) -> float:
    """The share of the gap that all causes at their limits explain together, at most 1; 0 without causes.

    Less than the sum of theirs: one hides behind another.
    """
    if not found:
        return 0.0
    constants = constants_for(scenario.cluster.accelerator, scenario.plan)
    limits = {each.name: each.limit for each in found}
    for knob in KNOBS:
        if knob.name in limits:
            scenario, constants = knob.applied(scenario, constants, limits[knob.name])
    share = (step_at(scenario, constants) - predicted_s) / (measured_s - predicted_s)
    return max(0.0, min(1.0, share))


def _solve(effect_s: Callable[[float], float], now: float, limit: float, gap_s: float) -> float:
    """The value between `now` and `limit` whose effect is the gap, by bisection: effects grow towards the limit."""
    near, far = now, limit
    for _ in range(BISECTIONS):
        middle = (near + far) / 2
        if effect_s(middle) / gap_s >= 1:
            far = middle
        else:
            near = middle
    return far


# -- what can be changed --------------------------------------------------------------------------------------------


def _scaled(names: Sequence[str], scenario: Scenario, constants: Constants, value: float) -> tuple[Scenario, Constants]:
    return scenario, replace(constants, **{name: getattr(constants, name) * value for name in names})


def _imbalance(scenario: Scenario, constants: Constants, value: float) -> tuple[Scenario, Constants]:
    return replace(scenario, plan=replace(scenario.plan, expert_imbalance=value)), constants


def _noise(scenario: Scenario, constants: Constants, value: float) -> tuple[Scenario, Constants]:
    return scenario, replace(constants, rank_noise=value)


def _nic(scenario: Scenario, constants: Constants, value: float) -> tuple[Scenario, Constants]:
    return replace(scenario, cluster=with_sending_at(scenario.cluster, value)), constants


def _scale_up(scenario: Scenario, constants: Constants, value: float) -> tuple[Scenario, Constants]:
    node = scenario.cluster.node
    faster = replace(node.scale_up, bandwidth_bytes_per_s=node.scale_up.bandwidth_bytes_per_s * value)
    return replace(scenario, cluster=replace(scenario.cluster, node=replace(node, scale_up=faster))), constants


def possible_imbalance(scenario: Scenario) -> float:
    """The most tokens of the hottest expert rank over the mean: it may get all, but of each token as many copies only
    as it has experts."""
    ep = scenario.plan.ep
    ffns = {layer.ffn for layer in scenario.model.layers if isinstance(layer.ffn, MoE)}
    return max((min(ep, ffn.experts / ffn.top_k) for ffn in ffns), default=1.0)


def _one(scenario: Scenario, constants: Constants) -> float:
    return 1.0


KNOBS: tuple[Knob, ...] = (
    Knob(
        "imbalance of experts",
        "hottest rank's tokens over the mean",
        lambda scenario, constants: scenario.plan.expert_imbalance,
        slower=2.5,
        faster=1.0,
        applied=_imbalance,
        look_at="count tokens per expert over some steps; write the counts as spread.experts.histogram, or "
        "plan.expert_imbalance",
        holds=lambda scenario: scenario.plan.ep > 1,
        most=possible_imbalance,
    ),
    Knob(
        "stragglers",
        "spread of a rank's step, as a fraction",
        lambda scenario, constants: constants.rank_noise,
        slower=0.08,
        faster=0.0,
        applied=_noise,
        look_at="time one step on every rank (Megatron: --log-straggler) and name slow GPUs in spread.slow_gpus",
    ),
    Knob(
        "host",
        "times the seconds that the host takes to launch a kernel",
        _one,
        slower=5.0,
        faster=0.2,
        applied=partial(_scaled, ("host_s_per_kernel",)),
        look_at="look in a trace for gaps between kernels; bind processes to their NUMA node, collect garbage by hand, "
        "capture CUDA graphs",
    ),
    Knob(
        "network between nodes",
        "times the NICs' bandwidth as predicted",
        _one,
        slower=0.25,
        faster=1.5,
        applied=_nic,
        look_at="run nccl-tests over the job's own groups (NCCL_TESTS_SPLIT) and compare with 'traincast collective'; "
        "check GPUDirect, adaptive routing, NIC affinity and other jobs on the fabric",
        holds=lambda scenario: scenario.cluster.gpus > scenario.cluster.node.scale_up.domain_gpus,
    ),
    Knob(
        "links inside the node",
        "times the scale-up bandwidth as predicted",
        _one,
        slower=0.4,
        faster=1.2,
        applied=_scale_up,
        look_at="run nccl-tests on one node; check 'nvidia-smi topo -m', NVLink errors and NCCL_NVLS_ENABLE",
        holds=lambda scenario: scenario.cluster.gpus > 1,
    ),
    Knob(
        "clocks",
        "times the sustained clock of products",
        _one,
        slower=0.6,
        # The sustained clock is that of parts at their power; nothing watched there makes a run faster.
        faster=None,
        applied=partial(_scaled, CLOCKED),
        look_at="watch SM clocks, power and throttle reasons under load (nvidia-smi -q -d CLOCK,POWER,PERFORMANCE)",
    ),
    Knob(
        "memory-bound kernels",
        "times their sustained speed",
        _one,
        slower=0.5,
        faster=1.3,
        applied=partial(_scaled, ("streaming_rate",)),
        look_at="look in a trace for norms, activations and casts that are not fused, or run eagerly",
    ),
)


# -- another stack --------------------------------------------------------------------------------------------------

# Behaviours that a launch can lose unnoticed: what they are named by, and the value that is looked at.
LOST_BEHAVIOURS: Mapping[str, tuple[str, Any]] = {
    "flash attention is not used": ("flash_attention", False),
    "kernels are not fused": ("fused_kernels", False),
    "CUDA graphs are not captured": ("cuda_graphs", "none"),
    "the loss is not fused": ("fused_loss", False),
    "dropout is on": ("dropout", True),
    "gradients are not added by the product": ("gradient_accumulation", "hook"),
}


def stack_changes(scenario: Scenario, measured_s: float, predicted_s: float) -> tuple[StackChange, ...]:
    """Behaviours, overlaps and releases other than the scenario's that would move the step towards the measured one."""
    gap_s = measured_s - predicted_s
    found = []
    for name, plan in _other_plans(scenario.plan):
        changed = replace(scenario, plan=plan, site=None)
        if check(scenario.model, plan, gpus=scenario.cluster.gpus, seq_length=scenario.run.seq_length):
            continue
        step_s = step_at(changed, constants_for(scenario.cluster.accelerator, plan))
        effect_s = step_s - predicted_s
        share = effect_s / gap_s if gap_s else 0.0
        if abs(effect_s) > LEAST_EFFECT_FRACTION * predicted_s and share > 0:
            found.append(StackChange(name, effect_s, step_s, min(1.0, share)))
    return tuple(sorted(found, key=lambda each: abs(each.step_time_s - measured_s)))


def _other_plans(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """The plan with one thing of its software changed at a time."""
    for name, (behaviour, value) in LOST_BEHAVIOURS.items():
        if getattr(plan.stack, behaviour) != value:
            yield name, replace(plan, stack=replace(plan.stack, **{behaviour: value}))
    for overlap in fields(plan.overlap):
        on = getattr(plan.overlap, overlap.name)
        word = "off" if on else "on"
        yield (
            f"overlap.{overlap.name} is {word}",
            replace(plan, overlap=replace(plan.overlap, **{overlap.name: not on})),
        )
    for name in names():
        stack = release(name).stack
        if stack.framework == plan.stack.framework and name != plan.stack.name:
            yield f"the release is {name}", replace(plan, stack=stack)
