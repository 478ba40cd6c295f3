"""Seconds and bytes of stages in every shape of a chunk: what a stage holds, put together from its parts' prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware.arrays import Floats
from simulator.cost.blocks import NO_COST
from simulator.cost.layers import LayerCost
from simulator.cost.offload import host_link_s
from simulator.cost.stages import StageCost, paired_stages, stage_cost
from simulator.cost.step_times import pair_speeds
from simulator.memory.activations import Kept
from simulator.memory.peak import pair_rise
from simulator.model.spec import Layer, Model
from simulator.plan.layout import StageLayers
from simulator.planner.columns import Ints
from simulator.planner.reads import PlanView, together
from simulator.planner.shapes import Setting, Shapes, dense, without_modules
from simulator.planner.structures import Content, content_of
from simulator.planner.trees import taken
from simulator.workload.derive import Workload

Part = Any


@dataclass(slots=True)
class StageTable:
    """Seconds and bytes of one micro-batch on a stage, by shape [shapes], worked out when they are first asked for."""

    setting: Setting
    shapes: Shapes
    stages: dict[Content, StageLayers] = field(default_factory=dict)
    seconds: dict[tuple[Any, ...], Floats] = field(default_factory=dict)
    kept: dict[Content, Kept] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.shapes.columns)

    def learn(self, stages: Sequence[StageLayers], model: Model) -> None:
        """Remembers a stage of each content."""
        for stage in stages:
            self.stages.setdefault(content_of(model, stage), stage)

    def slot_s(self, kind: str, content: Content) -> Floats:
        """Seconds of a forward ("F"), an input gradient ("I") or a weight gradient ("W")."""
        key = (kind, content)
        if key not in self.seconds:
            parts = self._run(lambda costs: tuple(each.total_s for each in costs.halves(self.stages[content])))
            for name, found in zip("FIW", parts, strict=True):
                self.seconds[name, content] = found
        return self.seconds[key]

    def pair_s(self, ahead: Content, back: Content) -> Floats:
        """Seconds of one stage's forward beside another's backward."""
        key = ("FB", ahead, back)
        if key not in self.seconds:
            pair = self.stages[ahead], self.stages[back]
            found = self._run(lambda costs: (costs.pair(*pair).total_s,), paired=True)
            self.seconds[key] = found[0]
        return self.seconds[key]

    def _run(self, of: Callable[[StageCosts], tuple[Any, ...]], paired: bool = False) -> tuple[Floats, ...]:
        """Numbers by shape that whole stages make of their parts; `paired`: only of shapes that run in pairs."""
        columns = without_modules(self.shapes.columns)
        chosen = np.arange(len(columns))
        if paired:
            chosen = np.flatnonzero(columns.numbers("is_paired"))

        def run(view: PlanView, rows: Ints) -> tuple[Any, ...]:
            return of(StageCosts(self, view, chosen[rows]))

        found = dense(together(self.setting.base, columns.take(chosen), run, own=True), len(chosen))
        if not paired:
            return tuple(found)
        whole = np.zeros((len(found), len(columns)))
        whole[:, chosen] = found
        return tuple(whole)

    def kept_of(self, content: Content) -> Kept:
        """Bytes of one micro-batch on a stage."""
        if content not in self.kept:
            self.kept[content] = dense_kept(self, self.stages[content])
        return self.kept[content]

    def rise(self, ahead: Content, back: Content) -> Floats:
        """Bytes that an overlapped pair holds beyond what it began with."""
        return np.asarray(pair_rise(self.kept_of(ahead), self.kept_of(back)))


@dataclass(slots=True)
class StageCosts:
    """The stages of plans of some shapes, put together from the parts' costs in these `rows`."""

    table: StageTable
    view: PlanView
    rows: Ints
    layers: dict[tuple[Layer, bool], LayerCost] = field(default_factory=dict)
    ends: dict[str, LayerCost] = field(default_factory=dict)

    def stage(self, stage: StageLayers) -> StageCost:
        setting = self.table.setting
        moved_s: Any = 0.0
        if self.view.offload.modules:
            content = next(c for c, each in self.table.stages.items() if each == stage)
            moved_s = host_link_s(self.table.kept_of(content).offloaded[self.rows], setting.cluster(self.view))  # type: ignore[index]
        parts = workload_like(setting, self.view).parts(stage, self.layer, self.end)
        return stage_cost(parts, self.view, setting.prices(self.view), moved_s)  # type: ignore[arg-type]

    def halves(self, stage: StageLayers) -> tuple[Any, Any, Any]:
        cost = self.stage(stage)
        return cost.forward, cost.input, cost.weight

    def pair(self, ahead: StageLayers, back: StageLayers) -> Any:
        beside = pair_speeds(self.view, self.table.setting.cluster(self.view))  # type: ignore[arg-type]
        return paired_stages(self.stage(ahead), self.stage(back), self.view, beside)  # type: ignore[arg-type]

    def layer(self, layer: Layer, again: bool) -> LayerCost:
        again = again and self.view.recompute.whole_layers
        key = (layer, again)
        if key not in self.layers:
            shapes = self.table.shapes
            mixer = taken(shapes.mixers[layer.mixer, again], self.rows) if layer.mixer else NO_COST
            ffn = taken(shapes.ffns[layer.ffn, again], self.rows) if layer.ffn else NO_COST
            self.layers[key] = LayerCost(mixer, ffn)
        return self.layers[key]

    def end(self, name: str) -> LayerCost:
        if name not in self.ends:
            self.ends[name] = LayerCost(taken(self.table.shapes.ends[name], self.rows))
        return self.ends[name]


def workload_like(setting: Setting, view: PlanView) -> Workload:
    """A workload of which only the order of a stage's parts is asked."""
    return Workload(setting.model, setting.shape(view), (), (), {}, {}, {})


def dense_kept(table: StageTable, stage: StageLayers) -> Kept:
    """Bytes of one micro-batch on a stage, by shape."""
    setting, shapes = table.setting, table.shapes
    columns = without_modules(shapes.columns)

    def run(view: PlanView, rows: Ints) -> Kept:
        def layer(spec: Layer, again: bool) -> Kept:
            return shapes.kept_layers[spec, again and view.recompute.whole_layers]

        total = sum(workload_like(setting, view).parts(stage, layer, shapes.kept_ends.__getitem__), Kept())
        return taken(total, rows)  # type: ignore[no-any-return]

    found: Kept = dense(together(setting.base, columns, run, own=True), len(columns))
    return replace(found, layers=stage.layer_count + stage.mtp)
