"""What several dialects work out of found keys: replicas, virtual stages, whether modules are named."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.launch.importing.statements import Keys, Statement
from simulator.plans.choices import GRANULARITIES
from simulator.plans.layout import parse_layout

# The granularity under which a plan names modules.
NAMED_MODULES = next(name for name, each in GRANULARITIES.items() if each.named_modules)


def replicas(keys: Keys) -> int | None:
    """Data-parallel replicas, where GPUs and degrees are known."""
    gpus = keys.value("cluster.gpus")
    degrees = [keys.value(f"plan.{name}", 1) or 1 for name in ("tp", "cp", "pp")]
    if not isinstance(gpus, int) or not all(isinstance(degree, int) for degree in degrees):
        return None
    model_parallel = degrees[0] * degrees[1] * degrees[2]
    return gpus // model_parallel if gpus % model_parallel == 0 else None


def virtual_stages(keys: Keys, statements: Sequence[Statement]) -> None:
    """vpp from a layout's segments, or from the layers of a virtual stage."""
    layout, pp = keys.value("plan.layout"), keys.value("plan.pp", 1)
    if isinstance(layout, str):
        try:
            segments = len(parse_layout(layout))
        except ValueError:
            keys.notes.append(f"the pipeline layout {layout!r} cannot be read")
            return
        if isinstance(pp, int) and segments % pp == 0 and segments > pp:
            keys.add("plan.vpp", segments // pp, keys.origins("plan.layout"), f"{segments} segments over pp {pp}")
        return
    chunk, layers = keys.value("plan.layers_per_chunk"), keys.value("model.layers")
    counts = (chunk, layers, pp)
    if all(isinstance(count, int) for count in counts) and layers % (pp * chunk) == 0 and layers > pp * chunk:
        keys.add("plan.vpp", layers // (pp * chunk), keys.origins("plan.layers_per_chunk"), f"{chunk} layers each")
    if keys.value("plan.vpp") in (0, 1):
        keys.found.pop("plan.vpp", None)
    if isinstance(pp, int) and pp == 1:
        keys.found.pop("plan.vpp", None)


def names_modules(keys: Keys) -> bool:
    """Whether what is recomputed is given by modules."""
    return bool(keys.value("plan.recompute.granularity") == NAMED_MODULES)
