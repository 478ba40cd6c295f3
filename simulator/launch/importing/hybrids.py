"""Megatron-Core's hybrid layer pattern, read: layers, pipeline stages, prediction modules and the model written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from simulator.launch.hybrid import ATTENTION, DENSE, EXPERTS, MAMBA, MODULE, STAGE
from simulator.launch.importing.statements import Keys, Statement

KNOWN = frozenset((MAMBA, ATTENTION, DENSE, EXPERTS))
# A Mamba layer's inner width over the model's, where no heads are given; its convolution's taps.
EXPAND, TAPS = 2, 4


def hybrid_keys(keys: Keys, statements: Sequence[Statement]) -> None:
    """Adds what a pattern says of depth, modules and stages, and leaves it without its marks of stages."""
    written = keys.value("model.hybrid")
    if not isinstance(written, str):
        return
    origins = keys.origins("model.hybrid")
    main, *modules = written.split(MODULE)
    segments = main.split(STAGE)
    unknown = sorted(set("".join((*segments, *modules))) - KNOWN)
    if unknown:
        keys.notes.append(
            f"{keys.found['model.hybrid'].about}: blocks {' '.join(unknown)} of a pattern are not modelled"
        )
    whole = MODULE.join(("".join(segments), *modules))
    keys.add("model.hybrid", whole, origins, "pattern of blocks")
    keys.add("model.layers", len("".join(segments)), origins, "blocks of the pattern")
    keys.add("model.mtp", len(modules), origins, "modules of the pattern")
    hidden, width = keys.value("model.hidden"), keys.value("model.mamba.head_dim")
    if "model.mamba.heads" not in keys.found and isinstance(hidden, int) and isinstance(width, int):
        keys.add("model.mamba.heads", EXPAND * hidden // width, origins, f"not given: {EXPAND} x hidden / head_dim")
    _add_stages(keys, segments, len(modules))


def _add_stages(keys: Keys, segments: Sequence[str], modules: int) -> None:
    """The layout that marks of stages stand for."""
    pp = keys.value("plan.pp", 1)
    if len(segments) < 2 or not isinstance(pp, int):
        return
    stages = ["t" * len(segment) for segment in segments]
    stages[0] = f"E{stages[0]}"
    stages[-1] += "m" * modules + "L"
    origins = keys.origins("model.hybrid")
    keys.add("plan.layout", STAGE.join(stages), origins, "stages of the pattern")
    if len(segments) % pp == 0 and len(segments) > pp:
        keys.add("plan.vpp", len(segments) // pp, origins, f"{len(segments)} stages over pp {pp}")


def hybrid_layers(text: str, parts: Mapping[str, Mapping[str, Any] | None]) -> list[dict[str, Any]] | None:
    """Entries of `layers` for a row of symbols; `parts`: the record of each symbol (None: a size is missing)."""
    entries: list[dict[str, Any]] = []
    for symbol, run in groupby(text):
        part = parts.get(symbol)
        if part is None:
            return None
        role = "mixer" if symbol in (MAMBA, ATTENTION) else "ffn"
        entries.append({"repeat": len(list(run)), role: dict(part)})
    return entries


def mamba(keys: Keys) -> dict[str, Any] | None:
    """The Mamba mixer that the keys describe; None where a size is missing."""
    sizes = {name: keys.value(f"model.mamba.{name}") for name in ("heads", "head_dim", "groups", "state")}
    if not all(isinstance(size, int) for size in sizes.values()):
        return None
    return {"kind": "mamba2", **sizes, "conv_kernel": TAPS}


def hybrid_model(text: str, parts: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """`layers` and `mtp` of a model by its pattern; None where it holds what is not known."""
    main, *modules = text.split(MODULE)
    layers = hybrid_layers(main, parts)
    heads = [hybrid_layers(module, parts) for module in modules]
    if layers is None or any(head is None for head in heads):
        return None
    model: dict[str, Any] = {"layers": layers}
    mtp = [_joined(head) for head in heads if head]
    return model | ({"mtp": mtp} if mtp else {})


def _joined(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A prediction module is one layer: a mixer and a feed-forward."""
    return {key: value for block in blocks for key, value in block.items() if key != "repeat"}
