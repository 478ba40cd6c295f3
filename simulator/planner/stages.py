"""Seconds and bytes of stages in every shape of a chunk: what a stage holds, put together from its parts' prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware.arrays import Floats
from simulator.cost.blocks import NO_COST
from simulator.cost.layers import LayerCost
from simulator.cost.offload import host_link_s
from simulator.cost.seconds import Seconds
from simulator.cost.stages import StageCost, paired_stages, stage_cost
from simulator.cost.step_times import pair_speeds
from simulator.memory.activations import Kept
from simulator.memory.peak import pair_rise
from simulator.model.spec import Layer
from simulator.planner.columns import Ints
from simulator.planner.reads import PlanView, together
from simulator.planner.shapes import Setting, Shapes, dense, without_modules
from simulator.planner.structures import Content
from simulator.planner.trees import taken
from simulator.plans.layout import StageLayers
from simulator.workload.derive import Workload


@dataclass(frozen=True, slots=True)
class StageTable:
    """Seconds and bytes of one micro-batch on a stage, by shape [shapes].

    `seconds` by kind: a forward ("F"), an input gradient ("I"), a weight gradient ("W") of a content, or an overlapped
    pair ("FB") of two; `parts` are those of single halves by cause; `kept` by content.
    """

    shapes: Shapes
    seconds: Mapping[tuple[Any, ...], Floats]
    parts: Mapping[tuple[str, Content], Seconds]
    kept: Mapping[Content, Kept]

    @property
    def count(self) -> int:
        return len(self.shapes.columns)

    def rise(self, ahead: Content, back: Content) -> Floats:
        """Bytes that an overlapped pair holds beyond what it began with."""
        return np.asarray(pair_rise(self.kept[ahead], self.kept[back]))


def stage_table(
    setting: Setting, shapes: Shapes, stages: Mapping[Content, StageLayers], pairs: Sequence[tuple[Content, Content]]
) -> StageTable:
    """Seconds and bytes of these stages, by their content, and of these pairs."""
    kept = {content: kept_of(setting, shapes, stage) for content, stage in stages.items()}

    def alone(costs: StageCosts) -> tuple[Any, ...]:
        return tuple(costs.halves(content) for content in stages)

    def paired(costs: StageCosts) -> tuple[Any, ...]:
        return tuple(costs.pair(*pair).total_s for pair in pairs)

    every = np.arange(len(shapes.columns))
    parts: dict[tuple[str, Content], Seconds] = {}
    for content, halves in zip(stages, by_shape(setting, shapes, stages, kept, alone, every), strict=True):
        parts |= {(name, content): found for name, found in zip("FIW", halves, strict=True)}
    seconds: dict[tuple[Any, ...], Floats] = {key: np.asarray(part.total_s) for key, part in parts.items()}
    in_pairs = np.flatnonzero(shapes.columns.numbers("is_paired"))
    if pairs and len(in_pairs):
        for pair, found in zip(pairs, by_shape(setting, shapes, stages, kept, paired, in_pairs), strict=True):
            whole = np.zeros(len(every))
            whole[in_pairs] = found
            seconds["FB", *pair] = whole
    return StageTable(shapes, seconds, parts, kept)


def by_shape(
    setting: Setting,
    shapes: Shapes,
    stages: Mapping[Content, StageLayers],
    kept: Mapping[Content, Kept],
    of: Callable[[StageCosts], tuple[Any, ...]],
    chosen: Ints,
) -> tuple[Any, ...]:
    """What whole stages make of their parts, for the chosen shapes."""
    columns = without_modules(shapes.columns).take(chosen)

    def run(view: PlanView, rows: Ints) -> tuple[Any, ...]:
        return of(StageCosts(setting, shapes, stages, kept, view, chosen[rows]))

    return dense(together(setting.base, columns, run, own=True), len(chosen))  # type: ignore[no-any-return]


@dataclass(slots=True)
class StageCosts:
    """The stages of plans of some shapes, put together from the parts' costs in these `rows`."""

    setting: Setting
    shapes: Shapes
    stages: Mapping[Content, StageLayers]
    kept: Mapping[Content, Kept]
    view: PlanView
    rows: Ints
    costs: dict[Content, StageCost] = field(default_factory=dict)
    layers: dict[tuple[Layer, bool], LayerCost] = field(default_factory=dict)
    ends: dict[str, LayerCost] = field(default_factory=dict)

    def stage(self, content: Content) -> StageCost:
        if content not in self.costs:
            self.costs[content] = self._stage(content)
        return self.costs[content]

    def _stage(self, content: Content) -> StageCost:
        setting, view = self.setting, self.view
        moved_s: Any = 0.0
        if view.offload.modules:
            moved_s = host_link_s(taken(self.kept[content].offloaded, self.rows), setting.cluster(view))
        parts = workload_like(setting, view).parts(self.stages[content], self.layer, self.end)
        return stage_cost(parts, view, setting.prices(view), moved_s)  # type: ignore[arg-type]

    def halves(self, content: Content) -> tuple[Seconds, Seconds, Seconds]:
        """Seconds of a forward, an input gradient and a weight gradient."""
        cost = self.stage(content)
        return cost.forward, cost.input, cost.weight

    def pair(self, ahead: Content, back: Content) -> Any:
        beside = pair_speeds(self.view, self.setting.cluster(self.view))  # type: ignore[arg-type]
        return paired_stages(self.stage(ahead), self.stage(back), self.view, beside)  # type: ignore[arg-type]

    def layer(self, layer: Layer, again: bool) -> LayerCost:
        again = again and self.view.reruns_layers
        key = (layer, again)
        if key not in self.layers:
            shapes = self.shapes
            first, second = layer.halves
            mixer = taken(shapes.mixers[first, again], self.rows) if first else NO_COST
            ffn = taken(shapes.ffns[second, again], self.rows) if second else NO_COST
            self.layers[key] = LayerCost(mixer, ffn)
        return self.layers[key]

    def end(self, name: str) -> LayerCost:
        if name not in self.ends:
            self.ends[name] = LayerCost(taken(self.shapes.ends[name], self.rows))
        return self.ends[name]


def workload_like(setting: Setting, view: PlanView) -> Workload:
    """A workload of which only the order of a stage's parts is asked."""
    return Workload(setting.model, setting.shape(view), (), (), {}, {}, {})


def kept_of(setting: Setting, shapes: Shapes, stage: StageLayers) -> Kept:
    """Bytes of one micro-batch on a stage, by shape."""
    columns = without_modules(shapes.columns)

    def run(view: PlanView, rows: Ints) -> Kept:
        def layer(spec: Layer, again: bool) -> Kept:
            return shapes.kept_layers[spec, again and view.reruns_layers]

        total = sum(workload_like(setting, view).parts(stage, layer, shapes.kept_ends.__getitem__), Kept())
        return taken(total, rows)  # type: ignore[no-any-return]

    found: Kept = dense(together(setting.base, columns, run, own=True), len(columns))
    return replace(found, layers=stage.layer_count + stage.mtp)
