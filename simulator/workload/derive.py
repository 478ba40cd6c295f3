"""What a plan does with a model, derived once: cost, memory, traffic and reports all read this one value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from simulator.model.spec import Half, Layer, Model
from simulator.plans.layout import StageLayers, stages
from simulator.plans.quantized import with_16_bit_layers
from simulator.plans.spec import Plan
from simulator.workload.adapters import frozen, with_adapters
from simulator.workload.ends import embedding_work, head_work, mtp_glue_work
from simulator.workload.ffns import ffn_work
from simulator.workload.mixers import mixer_work
from simulator.workload.operators import NOTHING, Work
from simulator.workload.shape import Shape, shape_of
from simulator.workload.states import StageParameters, stage_parameters

Part = TypeVar("Part")  # what is known of a layer or an end: its cost, its traffic, the bytes it keeps
# What stands before and behind the decoder layers, and between them and a prediction module.
ENDS: dict[str, Callable[[Model, Shape], Work]] = {
    "embedding": embedding_work,
    "head": head_work,
    "mtp": mtp_glue_work,
}


@dataclass(frozen=True, slots=True)
class Workload:
    """The work of one micro-batch on one rank of every virtual stage.

    `stages` says which layers and ends each holds, `parameters` how many parameters; `mixers`, `ffns` and `ends` hold
    the operators and saved tensors of each distinct part. The model's layers are marked as the plan's precision asks.
    """

    model: Model
    shape: Shape
    stages: tuple[StageLayers, ...]
    parameters: tuple[StageParameters, ...]
    mixers: Mapping[Half, Work]
    ffns: Mapping[Half, Work]
    ends: Mapping[str, Work]

    @property
    def plan(self) -> Plan:
        return self.shape.plan

    def halves(self, layer: Layer) -> tuple[Work, Work]:
        """The mixer's and the ffn's work of a layer; nothing where it has none."""
        mixer, ffn = layer.halves
        return self.mixers[mixer] if mixer else NOTHING, self.ffns[ffn] if ffn else NOTHING

    def parts(self, stage: StageLayers, layer: Callable[[Layer, bool], Part], end: Callable[[str], Part]) -> list[Part]:
        """What a stage does, in order: embedding, decoder layers, MTP modules (each with its own head), head.

        `layer` is asked with whether full recomputation runs the layer again: by "block" only the first layers of each
        stage are.
        """
        recompute = self.plan.recompute
        by_block = recompute.method == "block"
        limit = recompute.layers if by_block else stage.layer_count
        parts = [end("embedding")] if stage.embedding else []
        parts += [layer(self.model.layers[index], position < limit) for position, index in enumerate(stage.layers)]
        for module in self.model.mtp[: stage.mtp]:
            parts += [end("mtp"), layer(module, not by_block), end("head")]
        return [*parts, end("head")] if stage.head else parts

    def content(self, stage: StageLayers) -> tuple[object, ...]:
        """What makes two stages alike: the same layers and ends."""
        layers = tuple(self.model.layers[index] for index in stage.layers)
        return stage.embedding, layers, stage.mtp, stage.head


def workload_of(model: Model, plan: Plan, seq_length: int) -> Workload:
    """The workload of a plan on sequences of `seq_length` tokens. Raises ValueError for layers that fit no stage."""
    model = with_16_bit_layers(model, plan)
    shape = shape_of(model, plan, seq_length)
    held = stages(model, plan)
    mixers, ffns = distinct_halves(model)
    names = [name for name in ENDS if name != "mtp" or model.mtp]
    return Workload(
        model=model,
        shape=shape,
        stages=held,
        parameters=stage_parameters(model, plan, held),
        mixers={mixer: mixer_half(mixer, shape) for mixer in mixers},
        ffns={ffn: ffn_half(ffn, shape) for ffn in ffns},
        ends={name: end_work(name, model, shape) for name in names},
    )


def distinct_halves(model: Model) -> tuple[list[Half], list[Half]]:
    """The distinct mixers' and ffns' halves of a model's layers, multi-token prediction's too."""
    halves = [layer.halves for layer in dict.fromkeys([*model.layers, *model.mtp])]
    mixers = dict.fromkeys(mixer for mixer, _ in halves if mixer)
    ffns = dict.fromkeys(ffn for _, ffn in halves if ffn)
    return list(mixers), list(ffns)


def mixer_half(half: Half, shape: Shape) -> Work:
    """The mixer's half of a layer, with its adapters."""
    mixer: Any = half.part
    work = mixer_work(mixer, shape.of_half(half).of_part("attention"))
    return with_adapters(work, mixer, shape)


def ffn_half(half: Half, shape: Shape) -> Work:
    """The feed-forward's half of a layer, with its adapters."""
    ffn: Any = half.part
    return with_adapters(ffn_work(ffn, shape.of_half(half)), ffn, shape)


def end_work(name: str, model: Model, shape: Shape) -> Work:
    """One of `ENDS`; beside adapters its weights are frozen."""
    work = ENDS[name](model, shape)
    return work if shape.plan.adapters is None else frozen(work)
