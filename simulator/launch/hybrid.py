"""Models of Mamba layers beside attention and feed-forwards, as Megatron-Core's hybrid layer pattern has them.

One symbol stands for one block: M Mamba, * attention, - dense feed-forward, E experts; | parts pipeline stages, / opens
a prediction module (megatron/core/models/hybrid/hybrid_layer_allocation.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.model.spec import Attention, DenseFFN, Layer, Mamba2, Model, MoE
from simulator.plans.layout import stages
from simulator.plans.spec import Plan

MAMBA, ATTENTION, DENSE, EXPERTS, STAGE, MODULE = "M*-E|/"
_SYMBOLS: dict[type, str] = {Mamba2: MAMBA, Attention: ATTENTION, DenseFFN: DENSE, MoE: EXPERTS, type(None): ""}


def is_hybrid(model: Model) -> bool:
    """Whether some layers mix by a Mamba state."""
    return any(isinstance(layer.mixer, Mamba2) for layer in model.layers)


def unknown_blocks(model: Model) -> tuple[str, ...]:
    """Kinds of blocks that the pattern has no symbol for."""
    parts = [part for layer in (*model.layers, *model.mtp) for part in (layer.mixer, layer.ffn)]
    return tuple(sorted({type(part).__name__ for part in parts if type(part) not in _SYMBOLS}))


def symbols(layers: Sequence[Layer]) -> str:
    """A layer's mixer and feed-forward are a block each."""
    return "".join(_SYMBOLS[type(part)] for layer in layers for part in (layer.mixer, layer.ffn))


def pattern(model: Model, plan: Plan | None = None) -> str:
    """The whole model, cut where the plan's virtual stages begin (None: not cut)."""
    parts = [model.layers]
    if plan is not None and plan.pp > 1:
        parts = [model.layers[stage.layers.start : stage.layers.stop] for stage in stages(model, plan)]
    modules = [MODULE + symbols([layer]) for layer in model.mtp]
    return STAGE.join(symbols(part) for part in parts) + "".join(modules)
