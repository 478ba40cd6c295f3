"""Which linears of a plan compute in its low precision, and which stay in 16 bit: by module, and by layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hardware.precisions import PRECISIONS
from simulator.fields import Setting, setting
from simulator.model.parts import Linear
from simulator.model.spec import FFN, DenseFFN, Mixer, Model, MoE

if TYPE_CHECKING:
    from simulator.plans.spec import Plan


@dataclass(frozen=True, slots=True)
class Quantized:
    """Which linears compute in the plan's precision where that is below 16 bit; the others compute in 16 bit.

    A part that is false stays in 16 bit in every layer; the first and last layers named stay in 16 bit wholly, as
    Megatron-Core's first_last_layers_bf16 (its modules of multi-token prediction are neither first nor last: `mtp`).
    Routers and attention's core always compute in 16 bit or more.
    """

    attention: bool = setting(True, Setting("Projections of attention, and of other mixers, are quantised."))
    mlp: bool = setting(True, Setting("Linears of dense feed-forwards are quantised."))
    experts: bool = setting(True, Setting("Linears of routed experts are quantised."))
    shared_experts: bool = setting(True, Setting("Linears of shared experts are quantised."))
    mtp: bool = setting(True, Setting("Modules of multi-token prediction are quantised, as layers are."))
    head: bool = setting(False, Setting("The output projection is quantised."))
    bf16_layers_at_start: int = setting(
        0, Setting("First layers that stay in 16 bit; not beside precision.share.", example=1)
    )
    bf16_layers_at_end: int = setting(
        0, Setting("Last layers that stay in 16 bit; not beside precision.share.", example=1)
    )


PARTS = ("attention", "mlp", "experts", "shared_experts", "mtp", "head")
ALL_LINEARS = Quantized()


def part_of(component: Mixer | FFN, linear: Linear) -> str | None:
    """The part of `Quantized` that a matrix of a layer belongs to; None where it computes in 16 bit or more always."""
    if linear.role != "compute":
        return None
    if isinstance(component, MoE):
        return "shared_experts" if linear.name.startswith("shared_") else "experts"
    return "mlp" if isinstance(component, DenseFFN) else "attention"


def keeps_16_bit_parts(plan: Plan) -> bool:
    """Whether a plan below 16 bit leaves linears of its layers in 16 bit."""
    return PRECISIONS[plan.precision].quantized and replace(plan.quantized, head=False) != ALL_LINEARS


def with_16_bit_layers(model: Model, plan: Plan) -> Model:
    """The model with the layers marked that the plan leaves in 16 bit; the model itself where there are none."""
    if not keeps_16_bit_parts(plan):
        return model
    chosen, count = plan.quantized, len(model.layers)
    low = range(chosen.bf16_layers_at_start, count - chosen.bf16_layers_at_end)
    layers = tuple(replace(layer, in_16_bit=index not in low) for index, layer in enumerate(model.layers))
    modules = tuple(replace(layer, in_16_bit=not chosen.mtp) for layer in model.mtp)
    return replace(model, layers=layers, mtp=modules)
