"""What every slot of a plan does layer by layer, from the costs of its stages' layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from simulator.cost.blocks import BlockCost
from simulator.cost.layers import Beside, LayerCost, exposed_routing_s, handover_s, phases
from simulator.cost.seconds import NO_TIME, Seconds
from simulator.cost.stages import StageCost, paired_stages
from simulator.cost.step_times import SlotTimes
from simulator.plans.spec import Plan
from simulator.schedules import Schedule
from simulator.step.inequality import InequalityReport, study
from simulator.step.phases import HOST, Op, Phase, Program
from simulator.step.ranks import Grid
from simulator.step.spread import Spread
from simulator.step.timeline import Timeline
from simulator.workload.operators import Number


@dataclass(frozen=True, slots=True)
class Programs:
    """The phases of every slot; `of` is what the rank-resolved simulation asks."""

    times: SlotTimes
    plan: Plan

    def of(self, kind: str, stage: int, backward_stage: int) -> Program:
        """The phases of a slot: forward on `stage` (F, FB), backward on `backward_stage` (B, I, W, FB)."""
        beside = self.times.beside
        ahead, back = numbered(self.times.stages, stage), numbered(self.times.stages, backward_stage)
        if kind == "FB" and beside is not None:
            return pair_program(ahead, back, self.plan, beside)
        phases: Program = ()
        if kind in ("F", "FB"):
            phases += forward_program(ahead, self.plan)
        if kind in ("B", "I", "FB"):
            phases += input_program(back, self.plan)
        if kind in ("B", "W", "FB"):
            phases += weight_program(back)
        return phases


@dataclass(frozen=True, slots=True)
class Numbered:
    """A stage with the model's number of each of its layers that have experts (-1: it has none)."""

    cost: StageCost
    layers: tuple[tuple[int, LayerCost], ...]


def numbered(stages: Sequence[StageCost], stage: int) -> Numbered:
    """Stage `stage`; layers with experts are counted from the first stage on."""
    number = sum(has_experts(layer) for before in stages[:stage] for layer in before.layers) - 1
    found = []
    for layer in stages[stage].layers:
        number += has_experts(layer)
        found.append((number if has_experts(layer) else -1, layer))
    return Numbered(stages[stage], tuple(found))


def has_experts(layer: LayerCost) -> bool:
    return bool(layer.ffn.routing_forward.total_s)


def grid_of(plan: Plan, gpus_per_node: int) -> Grid:
    """The ranks of one pipeline stage of a plan."""
    return Grid(plan.pp, plan.dp, plan.tp, plan.cp, plan.ep, plan.etp, gpus_per_node)


def study_plan(
    timeline: Timeline, schedule: Schedule, programs: Programs, gpus_per_node: int, spread: Spread, seeds: Sequence[int]
) -> InequalityReport:
    """Every GPU of a simulated plan, with what makes them unequal."""
    grid = grid_of(programs.plan, gpus_per_node)
    return study(timeline.graph, schedule.stage_of_chunk, programs.of, grid, spread, seeds)


def forward_program(stage: Numbered, plan: Plan) -> Program:
    """Every layer: mixer, tokens to the experts, ffn, tokens back."""
    ops = [op for index, layer in stage.layers for op in _forward_ops(layer, plan, index)]
    return (Phase(tuple(ops) + _ops(stage.cost.lost.forward, "ffn", -1)), *_host(stage.cost.forward))


def input_program(stage: Numbered, plan: Plan) -> Program:
    """Every layer from the last: gradients to the experts, ffn, gradients back, mixer."""
    ops = [op for index, layer in stage.layers[::-1] for op in _input_ops(layer, plan, index)]
    return (Phase(tuple(ops) + _backward(_ops(stage.cost.lost.input, "ffn", -1))), *_host(stage.cost.input))


def weight_program(stage: Numbered) -> Program:
    """Weight gradients of every layer from the last."""
    ops = [op for index, layer in stage.layers[::-1] for op in _weight_ops(layer, index)]
    lost = _backward(_ops(stage.cost.lost.weight, "ffn", -1))
    return (Phase(tuple(ops) + lost), *_host(stage.cost.weight))


def pair_program(ahead: Numbered, back: Numbered, plan: Plan, beside: Beside) -> Program:
    """An overlapped pair: first layer of the one with the last of the other; layers without a partner run alone."""
    found: list[Phase] = []
    for first, last in zip_longest(ahead.layers, back.layers[::-1]):
        if first is None:
            found.append(Phase(_input_ops(last[1], plan, last[0]) + _weight_ops(last[1], last[0])))
        elif last is None:
            found.append(Phase(_forward_ops(first[1], plan, first[0])))
        else:
            found += _paired_layers(first, last, beside)
    return (*found, *_host(paired_stages(ahead.cost, back.cost, plan, beside)))


def _paired_layers(first: tuple[int, LayerCost], last: tuple[int, LayerCost], beside: Beside) -> list[Phase]:
    """The phases of the cost model's overlapped layer pair; hand-overs and recomputed traffic after them."""
    (i, ahead), (j, back) = first, last
    mixer_ahead, *experts, mixer_back = phases(ahead, back, beside)
    experts_back, experts_ahead = (part for phase in experts for part in phase.computing)
    out_s, home_s = (size for phase in experts for size in phase.moving)
    of_back = _backward(_ops(experts_back, _kernel(back.ffn), j)), _exchange(out_s, i)
    of_ahead = _ops(experts_ahead, _kernel(ahead.ffn), i), _backward(_exchange(home_s, j))
    joint = Phase(of_back[0] + of_ahead[0], of_back[1] + of_ahead[1])
    again = _backward(_exchange(back.ffn.routing_recompute_s + handover_s(ahead, back), j))
    return [
        Phase(_ops(mixer_ahead.computing[0], "mixer", i), _backward(_exchange(mixer_ahead.moving_s, j))),
        *([joint] if len(experts) == 1 else [Phase(*of_back), Phase(*of_ahead)]),
        Phase(_backward(_ops(mixer_back.computing[0], "mixer", j)), _exchange(mixer_back.moving_s, i)),
        *([Phase(again)] if again else []),
    ]


def _forward_ops(layer: LayerCost, plan: Plan, index: int) -> tuple[Op, ...]:
    out_s, home_s = _exposed(layer.ffn, plan, backward=False)
    towards = _ops(layer.mixer.forward, "mixer", index) + _exchange(out_s, index)
    return towards + _ops(layer.ffn.forward, _kernel(layer.ffn), index) + _exchange(home_s, index)


def _input_ops(layer: LayerCost, plan: Plan, index: int) -> tuple[Op, ...]:
    out_s, home_s = _exposed(layer.ffn, plan, backward=True)
    towards = _exchange(layer.ffn.routing_recompute_s, index) + _exchange(out_s, index)
    ffn = _ops(layer.ffn.input, _kernel(layer.ffn), index) + _exchange(home_s, index)
    return _backward(towards + ffn + _ops(layer.mixer.input, "mixer", index))


def _weight_ops(layer: LayerCost, index: int) -> tuple[Op, ...]:
    return _backward(_ops(layer.ffn.weight, _kernel(layer.ffn), index) + _ops(layer.mixer.weight, "mixer", index))


def _exposed(ffn: BlockCost, plan: Plan, backward: bool) -> tuple[Number, Number]:
    """Seconds towards and back from the experts, shortened in proportion where the shared expert hides a part."""
    routing = ffn.routing_backward if backward else ffn.routing_forward
    if not routing.total_s:
        return 0.0, 0.0
    left = exposed_routing_s(routing.total_s, ffn.shared_s[backward], plan) / routing.total_s
    return routing.out_s * left, routing.home_s * left


def _ops(seconds: Seconds, kernel: str, layer: int) -> tuple[Op, ...]:
    """Compute of this kernel class, then what of its communication is exposed, then what the host takes."""
    named = {
        kernel: seconds.compute_s,
        "tp": seconds.tp_s,
        "cp": seconds.cp_s,
        "ep": seconds.ep_s,
        HOST: seconds.host_s,
    }
    return tuple(Op(float(value), name, layer) for name, value in named.items() if value)


def _exchange(seconds: Number, layer: int) -> tuple[Op, ...]:
    return (Op(float(seconds), "ep", layer),) if seconds else ()


def _host(seconds: Seconds) -> Program:
    """The wait for the host that a whole slot has beyond its layers."""
    return (Phase(_ops(replace(NO_TIME, host_s=seconds.host_s), HOST, -1)),) if seconds.host_s else ()


def _backward(ops: tuple[Op, ...]) -> tuple[Op, ...]:
    return tuple(op._replace(backward=True) for op in ops)


def _kernel(ffn: BlockCost) -> str:
    return "experts" if ffn.routing_forward.total_s else "ffn"
